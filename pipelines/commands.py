"""The four jobs as commands: what each takes and prints."""

from __future__ import annotations

import logging
from collections.abc import Sequence

from pipelines.console.command import Command, say
from pipelines.console.options import (
    AnswerOptions,
    ChunkOptions,
    EmbedOptions,
    IndexOptions,
    answer_flags,
    answer_options,
)

logger = logging.getLogger("ragbeam")


def _chunk(chosen: ChunkOptions, beam_arguments: Sequence[str]) -> int:
    from pipelines.chunk import job

    done = job.run(chosen, beam_arguments)
    dropped = ", ".join(
        f"{count:,} {reason.replace('_', ' ')}" for reason, count in done.manifest.info["dropped"].items()
    )
    say(done.summary("passages"))
    say(f"  from {done.manifest.info['articles']:,} articles; dropped: {dropped or 'none'}")
    return 0


def _embed(chosen: EmbedOptions, beam_arguments: Sequence[str]) -> int:
    from pipelines.embed import job

    done = job.run(chosen, beam_arguments)
    say(done.summary("passages"))
    counts = job.vector_counts(done.metrics)
    if chosen.previous and any(counts.values()):
        say(
            f"  {counts['reused']:,} vectors of {chosen.previous}, {counts['computed']:,} computed, "
            f"{counts['checked']:,} compared"
        )
    return 0


def _index(chosen: IndexOptions, beam_arguments: Sequence[str]) -> int:
    from pipelines.index import job

    done = job.run(chosen, beam_arguments)
    say(done.summary("vectors"))
    say(f"  {job.describe(done.manifest)}")
    return 0


def _answer(chosen: AnswerOptions, beam_arguments: Sequence[str]) -> int:
    from pipelines.answer import job

    done = job.run(chosen, beam_arguments)
    say(f"{done.summary('questions')}; {job.describe_errors(done.manifest)}")
    for warning in job.warnings(done.manifest):
        logger.warning("%s", warning)
    return 0


CHUNK = Command.of(
    "chunk",
    "Wikipedia into passages of 100 words",
    "Reads MediaWiki dumps, JSONL, Parquet, psgs_w100.tsv or Hugging Face datasets; writes passages with titles.",
    ChunkOptions,
    _chunk,
)
EMBED = Command.of(
    "embed",
    "passages into vectors",
    "Encodes each passage, title and text as a pair, with a DPR context encoder or a sentence-transformers model.",
    EmbedOptions,
    _embed,
)
INDEX = Command.of(
    "index",
    "vectors into a FAISS index",
    "Trains a FAISS index once and fills it shard by shard, by inner product.",
    IndexOptions,
    _index,
)
ANSWER = Command(
    "answer",
    "question files into a Parquet table of answers",
    "Encodes questions, finds passages in every index shard, and answers with the RAG-Token model.",
    answer_flags,
    answer_options,
    _answer,
)
