"""The chunk command: its options, its run and what it prints."""

from __future__ import annotations

from collections.abc import Sequence

from pipelines.chunk.options import ChunkOptions
from pipelines.console.command import Command, say


def run(options: ChunkOptions, beam_arguments: Sequence[str]) -> None:
    """Runs the job and prints a summary of its result."""
    from pipelines.chunk import job  # with Beam

    done = job.run(options, beam_arguments)
    dropped = ", ".join(
        f"{count:,} {reason.replace('_', ' ')}" for reason, count in done.manifest.info.get("dropped", {}).items()
    )
    say(done.summary())
    say(f"  from {done.manifest.info.get('articles', 0):,} articles; dropped: {dropped or 'none'}")


COMMAND = Command.of(
    "chunk",
    "Wikipedia into passages of 100 words",
    "Reads MediaWiki dumps, Wikimedia Enterprise's snapshots, Kiwix's ZIM files, FineWiki, structured Wikipedia, "
    "JSONL, Parquet, psgs_w100.tsv or Hugging Face datasets; writes passages with titles.",
    ChunkOptions,
    run,
)
