"""The search command: its options, its run and what it prints."""

from __future__ import annotations

import logging
from collections.abc import Sequence

from pipelines.console.command import Command, say
from pipelines.search.options import SearchOptions

logger = logging.getLogger("ragbeam")


def run(options: SearchOptions, beam_arguments: Sequence[str]) -> None:
    """Runs the job and prints a summary of its result."""
    from pipelines.search import job  # with Beam

    done = job.run(options, beam_arguments)
    info = done.manifest.info
    errors = sum(info["errors"].values())
    say(f"{done.summary()}; {info['questions']:,} questions, {f'{errors:,}' if errors else 'none'} with an error")
    for warning in job.warnings(done.manifest):
        logger.warning("%s", warning)


COMMAND = Command.of(
    "search",
    "question files into a Parquet table of ranked passages",
    "Encodes questions, finds passages in every index shard, and writes the best of each question with their scores.",
    SearchOptions,
    run,
)
