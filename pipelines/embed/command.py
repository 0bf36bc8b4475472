"""The embed command: its options, its run and what it prints."""

from __future__ import annotations

import logging
from collections.abc import Sequence

from pipelines.console.command import Command, say
from pipelines.embed.options import EmbedOptions

logger = logging.getLogger("ragbeam")


def run(options: EmbedOptions, beam_arguments: Sequence[str]) -> None:
    """Runs the job and prints a summary of its result."""
    from pipelines.embed import job  # with Beam

    done = job.run(options, beam_arguments)
    say(done.summary())
    counts = job.vector_counts(done.metrics)
    if options.previous and any(counts.values()):
        say(
            f"  {counts['reused']:,} vectors of {options.previous}, {counts['computed']:,} computed, "
            f"{counts['checked']:,} compared"
        )
    for warning in job.warnings(done.metrics):
        logger.warning("%s", warning)


COMMAND = Command.of(
    "embed",
    "passages into vectors",
    "Encodes each passage, title and text as a pair, with a DPR context encoder or a sentence-transformers model.",
    EmbedOptions,
    run,
)
