"""What all jobs do around their pipeline: reuse what is finished, run the rest, write manifest and run.json."""

from __future__ import annotations

import dataclasses
import json
import logging
import platform
import time
from collections.abc import Callable, Mapping, Sequence
from importlib import metadata
from typing import Any, TypeVar

import apache_beam as beam

from pipelines import telling
from rag_ops import storage
from rag_ops.errors import JobError
from rag_ops.stages import StageOutput, finished_shards
from schemas.manifest import Manifest, ShardRecord

logger = logging.getLogger("ragbeam")
T = TypeVar("T")
RUN_FILE = "run.json"
PACKAGES = ("ragbeam", "apache-beam", "torch", "transformers", "faiss-cpu", "pyarrow", "numpy", "mwparserfromhell")


def spread(label: str, elements: Sequence[T]) -> beam.PTransform:
    """A collection of units of work, dealt out over the workers."""
    return label >> _Spread(list(elements))


class _Spread(beam.PTransform):
    def __init__(self, elements: list[Any]):
        super().__init__()
        self._elements = elements

    def expand(self, pcoll: Any) -> Any:
        # Without the reshuffle a runner may fuse the list with the work and give all of it to one worker.
        return pcoll | "Create" >> beam.Create(self._elements, reshuffle=False) | "Deal" >> beam.Reshuffle()


@dataclasses.dataclass(frozen=True)
class StageRun:
    """What a finished run of a job says of itself."""

    manifest: Manifest
    reused: int
    seconds: float
    metrics: Mapping[str, Mapping[str, float]]

    def summary(self, unit: str) -> str:
        """One line for the terminal."""
        total = len(self.manifest.shards)
        what = f"{self.manifest.stage}: {self.manifest.rows:,} {unit} in {total} shard{'s' if total != 1 else ''}"
        if self.reused == total:
            return f"{what}, all reused, nothing to do ({self.seconds:.1f} s)"
        rate = f"{self.manifest.rows / max(self.seconds, 1e-9):,.0f} {unit}/s"
        return f"{what}, {self.reused} reused, {total - self.reused} made in {self.seconds:.1f} s ({rate})"


def reuse_whole(output: StageOutput, started: float, verify: bool = False) -> StageRun | None:
    """The run that has nothing to do because `output` already holds what the stage would write, else None."""
    manifest = output.finished(verify)
    if manifest:
        output.tidy()
        telling.stage(output.stage)
        counts = {"rows": manifest.rows, "shards": len(manifest.shards)}
        telling.event("stage_reused", "nothing to do: all shards hold", counts)
    return StageRun(manifest, len(manifest.shards), time.monotonic() - started, {}) if manifest else None


def finish(
    output: StageOutput,
    wanted: Mapping[str, str],
    *,
    reused: Sequence[str],
    inputs: Mapping[str, str],
    info: Mapping[str, Any],
    metrics: Mapping[str, Mapping[str, float]],
    started: float,
    keep: Sequence[str] = (),
    report: Mapping[str, Any] | None = None,
) -> StageRun:
    """Checks that every wanted shard is there, writes run.json, then the manifest.

    Args:
        output: the stage's directory.
        wanted: name to fingerprint of each shard, in row order.
        reused: names of the shards that were there before the run.
        inputs: name to URL of what was read.
        info: for the manifest.
        metrics: counters of the pipeline's steps.
        started: `time.monotonic()` at the start.
        keep: files with a shard record that hold no rows, such as a trained index.
        report: more for run.json.

    Raises:
        JobError: the pipeline ended without one of them.
    """
    records = {record.path: record for record in finished_shards(output.url)}
    missing = [name for name, fingerprint in wanted.items() if not holds(records.get(name), fingerprint)]
    if missing:
        raise JobError("the pipeline ended without a shard", value=missing[0], remedy="run the same command again")
    seconds = time.monotonic() - started
    shards = [records[name] for name in wanted]
    contents: dict[str, Any] = {
        "stage": output.stage,
        "config": dict(output.config),
        "inputs": dict(inputs),
        "rows": sum(shard.rows for shard in shards),
        "bytes": sum(shard.bytes for shard in shards),
        "shards": {"total": len(shards), "reused": len(reused), "made": len(shards) - len(reused)},
        "reused": list(reused),
        "seconds": round(seconds, 3),
        "rows_per_sec": round(sum(shard.rows for shard in shards) / max(seconds, 1e-9), 1),
        "steps": {step: dict(counters) for step, counters in metrics.items()},
        "info": dict(info),
        "versions": versions(),
        "platform": platform.platform(),
        **(report or {}),
    }
    telling.stage(output.stage)
    for name in reused:
        telling.event("shard_reused", name, {"rows": records[name].rows, "bytes": records[name].bytes})
    counts = {name: contents[name] for name in ("rows", "bytes", "seconds", "rows_per_sec")} | contents["shards"]
    telling.event("stage_finished", output.url, counts, details={"info": dict(info)})
    storage.write_bytes(output.url, RUN_FILE, (json.dumps(contents, indent=2, sort_keys=True) + "\n").encode())
    return StageRun(output.finish(shards, inputs, info, keep), len(reused), seconds, metrics)


def holds(record: ShardRecord | None, fingerprint: str) -> bool:
    """Whether a finished shard is the one that is wanted."""
    return record is not None and record.fingerprint == fingerprint


def rows_done(url: str, among: Sequence[str]) -> Callable[[], int]:
    """A function that counts the rows of the shards `among` that are complete in directory `url`; for progress."""
    names, rows = set(among), dict[str, int]()

    def count() -> int:
        rows.update((record.path, record.rows) for record in finished_shards(url, rows))  # each record is read once
        return sum(rows[name] for name in names & rows.keys())

    return count


def versions() -> dict[str, str]:
    """Versions of Python and of the packages that decide results."""
    found = {"python": platform.python_version()}
    for package in PACKAGES:
        try:
            found[package] = metadata.version(package)
        except metadata.PackageNotFoundError:
            continue
    return found
