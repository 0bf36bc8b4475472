"""embed on a real Flink cluster with two workers next to the same job on the local runner, on real text.

All of it runs on this machine: a job manager, two task managers, Beam's job server, two Python workers. So the two
workers have one thread each where the local run has two, and the ratio shows what the cluster costs: what a job takes
to start and to be told ended, and each worker's own imports and model.
"""

from __future__ import annotations

import dataclasses
import functools
import json
import os
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from pathlib import Path

import pytest

from rag_ops.storage.manifests import read_manifest
from tests.benchmarks.common import NotHereError, Result, encoder, some_passages
from tests.runners import flink

WORKERS = 2


@dataclasses.dataclass(frozen=True)
class Sizes:
    """Of so many parts of the excerpt one is encoded, in so many shards, so many times: 3 give about 1,500 passages.

    With more than one copy, for a job of ten minutes say, only the local run and the pool's are made.
    """

    parts: int = 3
    shards: int = 16
    copies: int = int(os.environ.get("RAGBEAM_BENCH_COPIES", "1"))


TOY = Sizes(parts=8, shards=2, copies=1)
LONG_SECS = 600  # a job so long hides what the cluster costs to start


@dataclasses.dataclass(frozen=True)
class Timing:
    """Seconds of one run of the job, a command of its own; those after `seconds` are by its workers' own counts.

    Attributes:
        seconds: from the command's start to its end.
        first_secs: from the command's start to the first shard.
        load_secs: a worker's import of torch and loading of the model, the mean over workers.
        work_secs: a worker's encoding, the mean over workers.
        rows: passages.
        loads: how often a worker process loaded the model.
    """

    seconds: float
    first_secs: float
    load_secs: float
    work_secs: float
    rows: int
    loads: int

    def describe(self, name: str) -> str:
        """One line's part: the rate, and where the time went."""
        other = self.seconds - self.load_secs - self.work_secs
        return (
            f"{name} {self.rows / self.seconds:.1f} passages/s: {self.seconds:.0f} s, of which start and end"
            f" {other:.0f}, model {self.load_secs:.0f}, encoding {self.work_secs:.0f} (first shard after"
            f" {self.first_secs:.0f}; {self.loads} model{'s' if self.loads > 1 else ''})"
        )


def run(directory: Path, sizes: Sizes = Sizes()) -> list[Result]:
    """Passages per second of the whole job on Flink over those of the local run, whole commands.

    Raises:
        NotHereError: no Java, Maven or Flink's package.
    """
    try:
        with (
            flink.cluster(directory / "cluster", WORKERS) as cluster,
            cluster.job_server() as endpoint,
            flink.worker_pool(directory) as port,
        ):
            return compare(directory, cluster, endpoint, port, sizes)
    except pytest.skip.Exception as reason:
        raise NotHereError(str(reason)) from reason


def run_cold(arguments: Sequence[str], log: Path) -> int:
    """Runs `ragbeam ARGUMENTS` as a process that imports everything anew; returns its exit code."""
    with log.open("wb") as file:
        return subprocess.run([sys.executable, "-m", "pipelines.cli", *arguments], stdout=file, stderr=file).returncode


def compare(
    directory: Path,
    cluster: flink.Cluster,
    endpoint: str,
    port: int,
    sizes: Sizes,
    command: Callable[[Sequence[str], Path], int] = run_cold,
) -> list[Result]:
    """The runs, one after the other, each by `command`."""
    timed = functools.partial(_timed, command)
    some_passages(directory, sizes.parts, sizes.shards, sizes.copies)
    alone = timed(directory, "local", 1)
    pool = timed(directory, "pool", WORKERS, *cluster.flags(endpoint, WORKERS, port))
    described = [alone.describe("local, 2 threads"), pool.describe("Flink, 2 workers of a pool")]
    if sizes.copies == 1:
        processes = ["--direct_running_mode=multi_processing", f"--direct_num_workers={WORKERS}"]
        described.append(timed(directory, "processes", WORKERS, *processes).describe("local, 2 processes"))
        described.append(
            timed(directory, "loopback", WORKERS, *cluster.flags(endpoint, WORKERS)).describe("Flink, LOOPBACK")
        )
    ratio, work = alone.seconds / pool.seconds, alone.work_secs / pool.work_secs
    least, name = 0.9 if alone.seconds >= LONG_SECS else 0.3, "embed on Flink with 2 workers / local"
    name += f", a job of {alone.seconds / 60:.0f} min" if alone.seconds >= LONG_SECS else ", passages per second"
    return [
        Result(name, ratio, f">= {least:.2f}", ratio >= least, "; ".join(described)),
        Result("the same, encoding alone", work, ">= 0.80", work >= 0.8, "as above"),
    ]


def _timed(
    command: Callable[[Sequence[str], Path], int], directory: Path, name: str, workers: int, *more: str
) -> Timing:
    # One run of embed by so many workers, as its own process; together they have WORKERS threads.
    out = directory / name
    flags = [
        "--passages",
        directory / "passages",
        "--encoder",
        encoder(),
        "--output",
        out,
        "--threads",
        WORKERS // workers,
    ]
    started = time.time()
    log = directory / f"{name}.log"
    code = command(["embed", *map(str, flags), *more], log)
    seconds = time.time() - started
    if code:
        raise RuntimeError(log.read_text())
    return read_timing(out, workers, started, seconds)


def read_timing(out: Path, workers: int, started: float, seconds: float) -> Timing:
    """What the job's own report adds to a run's length."""
    report = json.loads((out / "run.json").read_text())
    counters = report["steps"]["Encode"]
    shards: Sequence[str] = [shard.path for shard in read_manifest(str(out), "embed").shards]
    first = min((out / shard).stat().st_mtime for shard in shards) - started
    loads = int(counters["model_loads"])
    return Timing(
        seconds,
        first,
        counters["load_millis"] / 1000 / loads,
        counters["millis"] / 1000 / workers,
        int(report["rows"]),
        loads,
    )
