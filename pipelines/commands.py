"""Every command: its name, its flags, and what it runs."""

from __future__ import annotations

import argparse
import dataclasses
import logging
import sys
from collections.abc import Callable, Sequence
from typing import Any

from pipelines import flags as flags_of
from pipelines import parsed
from rag_ops import storage
from rag_ops.errors import InputError

logger = logging.getLogger("ragbeam")


@dataclasses.dataclass(frozen=True)
class Command:
    """A command of the command line."""

    name: str
    summary: str
    description: str
    add_flags: Callable[[argparse.ArgumentParser], None]
    run: Callable[[argparse.Namespace, Sequence[str]], int]
    takes_beam_flags: bool = True


def _say(line: str) -> None:
    sys.stdout.write(line + "\n")
    sys.stdout.flush()


def _run_chunk(flags: argparse.Namespace, rest: Sequence[str], output: str | None = None) -> int:
    from pipelines import chunk

    done = chunk.run(parsed.chunk_options(flags, output or flags.output), rest)
    dropped = ", ".join(
        f"{count:,} {reason.replace('_', ' ')}" for reason, count in done.manifest.info["dropped"].items()
    )
    _say(done.summary("passages"))
    _say(f"  from {done.manifest.info['articles']:,} articles; dropped: {dropped or 'none'}")
    return 0


def _run_embed(flags: argparse.Namespace, rest: Sequence[str]) -> int:
    _embed(parsed.embed_options(flags, flags.passages, flags.output, flags.previous), rest)
    return 0


def _embed(options: Any, rest: Sequence[str]) -> None:
    from pipelines import embed

    done = embed.run(options, rest)
    _say(done.summary("passages"))
    counts = embed.vector_counts(done.metrics)
    if options.previous and any(counts.values()):
        _say(
            f"  {counts['reused']:,} vectors of {options.previous}, {counts['computed']:,} computed, "
            f"{counts['checked']:,} compared"
        )


def _run_index(flags: argparse.Namespace, rest: Sequence[str]) -> int:
    _index(parsed.index_options(flags, flags.embeddings, flags.output, flags.num_shards), rest)
    return 0


def _index(options: Any, rest: Sequence[str]) -> None:
    from pipelines import index

    done = index.run(options, rest)
    _say(done.summary("vectors"))
    _say(f"  {index.describe(done.manifest)}")


def _run_answer(flags: argparse.Namespace, rest: Sequence[str]) -> int:
    _answer(parsed.answer_options(flags, flags.index, flags.output, flags.num_shards), rest)
    return 0


def _answer(options: Any, rest: Sequence[str]) -> None:
    from pipelines import answer

    done = answer.run(options, rest)
    _say(f"{done.summary('questions')}; {answer.describe_errors(done.manifest)}")
    for warning in answer.warnings(done.manifest):
        logger.warning("%s", warning)


def _run_all(flags: argparse.Namespace, rest: Sequence[str]) -> int:
    from pipelines.corpus import check_parts

    passages, embeddings, indexed, answered = (
        storage.join(flags.workspace, name) for name in ("passages", "embeddings", "index", "answers")
    )
    # Everything that can be refused is refused before the first stage starts.
    from pipelines import runners

    previous = storage.join(flags.previous, "embeddings") if flags.previous else None
    embedding = parsed.embed_options(flags, passages, embeddings, previous)
    indexing = parsed.index_options(flags, embeddings, indexed, None)
    answering = parsed.answer_options(flags, indexed, answered, None)
    runners.check(rest, [flags.workspace], [flags.model, flags.encoder], answering.resources)
    check_parts(flags.questions, answering.reading, flags.model, flags.encoder)
    _run_chunk(flags, rest, passages)
    _embed(embedding, rest)
    _index(indexing, rest)
    _answer(answering, rest)
    return 0


def _run_verify(flags: argparse.Namespace, rest: Sequence[str]) -> int:
    from rag_ops import integrity

    found = integrity.verify(flags.directory)
    for finding in found:
        _say(finding.line())
    return 1 if any(finding.problems for finding in found) else 0


def _run_demo(flags: argparse.Namespace, rest: Sequence[str]) -> int:
    from pipelines import demo

    return demo.run(flags, rest, _run_all)


def _run_evaluate(flags: argparse.Namespace, rest: Sequence[str]) -> int:
    from pipelines import evaluate

    return evaluate.run(parsed.evaluate_options(flags))


def _run_compose(flags: argparse.Namespace, rest: Sequence[str]) -> int:
    from rag_ops import composing

    if not storage.is_local(flags.output):
        raise InputError("--output must be on this machine", value=flags.output, expected="a local directory")
    if flags.warm_start:
        composing.compose_warm_started(
            flags.question_encoder,
            flags.output,
            decoder_layers=flags.decoder_layers,
            score_scale=flags.score_scale,
        )
        _say(f"compose: an untrained model, saved to {flags.output}")
        return 0
    composing.compose(
        flags.question_encoder,
        flags.generator,
        flags.output,
        context_encoder=flags.context_encoder,
        score_scale=flags.score_scale,
    )
    _say(f"compose: saved to {flags.output}")
    return 0


def _run_finetune(flags: argparse.Namespace, rest: Sequence[str]) -> int:
    from pipelines import finetune

    return finetune.run(flags, parsed.question_options(flags))


def _run_import(flags: argparse.Namespace, rest: Sequence[str]) -> int:
    from pipelines.options import check_choice
    from rag_ops import legacy

    check_choice("--format", flags.format, ("dpr", "wiki_dpr"))
    if flags.dtype is not None:
        check_choice("--dtype", flags.dtype, ("float16", "float32"))
    made_with = legacy.MadeWith(flags.encoder)
    wanted = ("index", "passages") if flags.format == "dpr" else ("input",)
    if missing := [name for name in wanted if not getattr(flags, name)]:
        raise InputError(f"--format {flags.format} needs --{missing[0]}")
    if flags.format == "dpr":
        made = legacy.import_dpr(flags.index, flags.passages, flags.output, made_with, flags.dtype or "float32")
    else:
        made = legacy.import_parquet(flags.input, flags.output, made_with, flags.dtype or "float16")
    _say(f"import: {made.rows:,} passages with their vectors, in {flags.output}")
    return 0


def _run_plan(flags: argparse.Namespace, rest: Sequence[str]) -> int:
    from pipelines import plan

    return plan.run(flags)


def _run_workers(flags: argparse.Namespace, rest: Sequence[str]) -> int:
    from pipelines import workers

    workers.serve(flags.port)
    return 0


def _run_export(flags: argparse.Namespace, rest: Sequence[str]) -> int:
    from rag_ops import legacy

    if not storage.is_local(flags.output):
        raise InputError("--output must be on this machine", value=flags.output, expected="a local directory")
    _say(f"export: {legacy.export_custom(flags.index, flags.output)}")
    return 0


COMMANDS = (
    Command(
        "chunk",
        "Wikipedia into passages of 100 words",
        "Reads MediaWiki dumps, JSONL, Parquet, psgs_w100.tsv or Hugging Face datasets; writes passages with titles.",
        flags_of.chunk_flags,
        _run_chunk,
    ),
    Command(
        "embed",
        "passages into vectors",
        "Encodes each passage, title and text as a pair, with a DPR context encoder or a sentence-transformers model.",
        flags_of.embed_flags,
        _run_embed,
    ),
    Command(
        "index",
        "vectors into a FAISS index",
        "Trains a FAISS index once and fills it shard by shard, by inner product.",
        flags_of.build_index_flags,
        _run_index,
    ),
    Command(
        "answer",
        "question files into a Parquet table of answers",
        "Encodes questions, finds passages in every index shard, and answers with the RAG-Token model.",
        flags_of.answer_job_flags,
        _run_answer,
    ),
    Command(
        "evaluate",
        "EM, F1 and recall@k of answers, as JSON, a table and a report",
        "Scores answers by their gold answers; --sweep generates again from fewer or more passages.",
        flags_of.evaluate_flags,
        _run_evaluate,
        takes_beam_flags=False,
    ),
    Command(
        "run",
        "all four stages in one workspace directory",
        "chunk, embed, index and answer, into passages, embeddings, index and answers there; what is done is reused.",
        flags_of.run_flags,
        _run_all,
    ),
    Command(
        "verify",
        "whether what stages wrote is whole and goes together",
        "Checks sizes, SHA-256 digests, rows, and which stage was made from which; exit code 1 where one is not well.",
        flags_of.verify_flags,
        _run_verify,
        takes_beam_flags=False,
    ),
    Command(
        "demo",
        "ragbeam run on what the demo extra installs, then prints the answers",
        "Runs all stages on the Wikipedia excerpt of the gensim package and prints question, answer and passages.",
        flags_of.demo_flags,
        _run_demo,
    ),
    Command(
        "compose",
        "a RAG-Token model from a question encoder and a generator",
        "Saves a RAG-Token model in Hugging Face's own layout.",
        flags_of.compose_flags,
        _run_compose,
        takes_beam_flags=False,
    ),
    Command(
        "finetune",
        "trains a RAG-Token model on questions with answers",
        "Question encoder and generator learn through the marginal loss; the index stays. Needs ragbeam[finetune].",
        flags_of.finetune_flags,
        _run_finetune,
        takes_beam_flags=False,
    ),
    Command(
        "import",
        "takes over another project's passages, vectors and index",
        "DPR's own index files, or the Parquet files of the wiki_dpr dataset. Pickles of plain data only are read.",
        flags_of.import_flags,
        _run_import,
        takes_beam_flags=False,
    ),
    Command(
        "export",
        "writes an index as transformers' RagRetriever opens it",
        'A datasets directory and a FAISS file, for index_name="custom".',
        flags_of.export_flags,
        _run_export,
        takes_beam_flags=False,
    ),
    Command(
        "plan",
        "says what the stages will take before anything runs",
        "Disk, peak memory of a worker, and time, for each stage; and the index that fits.",
        flags_of.plan_flags,
        _run_plan,
        takes_beam_flags=False,
    ),
    Command(
        "workers",
        "a pool of Python workers for a Flink cluster",
        "Serves --environment_type EXTERNAL, for all task managers of this machine, until it is told to end.",
        flags_of.workers_flags,
        _run_workers,
        takes_beam_flags=False,
    ),
)
