"""The answer command: its options, its run and what it prints."""

from __future__ import annotations

import logging
from collections.abc import Sequence

from pipelines.answer.options import AnswerOptions, answer_flags, answer_options
from pipelines.console.command import Command, say

logger = logging.getLogger("ragbeam")


def run(options: AnswerOptions, beam_arguments: Sequence[str]) -> None:
    """Runs the job and prints a summary of its result."""
    from pipelines.answer import job  # with Beam

    done = job.run(options, beam_arguments)
    errors = sum(done.manifest.info["errors"].values())
    held = done.manifest.info.get("abstained")
    more = "" if held is None else f", {held:,} not answered (--max_error)"
    say(f"{done.summary()}; {f'{errors:,}' if errors else 'none'} with an error{more}")
    for warning in job.warnings(done.manifest):
        logger.warning("%s", warning)


COMMAND = Command(
    "answer",
    "question files into a Parquet table of answers",
    "Encodes questions, finds passages in every index shard, and answers with the RAG model.",
    answer_flags,
    answer_options,
    run,
)
