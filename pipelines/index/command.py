"""The index command: its options, its run and what it prints."""

from __future__ import annotations

from collections.abc import Sequence

from pipelines.console.command import Command, say
from pipelines.index.options import IndexOptions


def run(options: IndexOptions, beam_arguments: Sequence[str]) -> None:
    """Runs the job and prints a summary of its result."""
    from pipelines.index import job  # with Beam

    done = job.run(options, beam_arguments)
    say(done.summary())
    say(f"  {job.describe(done.manifest)}")


COMMAND = Command.of(
    "index",
    "vectors into a FAISS index",
    "Trains a FAISS index once and fills it shard by shard, by inner product.",
    IndexOptions,
    run,
)
