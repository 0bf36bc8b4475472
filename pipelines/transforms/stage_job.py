"""What all jobs do around their pipeline: reuse what is finished, run the rest, write manifest and run.json."""

from __future__ import annotations

import contextlib
import dataclasses
import functools
import json
import logging
import platform
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from importlib import metadata
from typing import Any, ParamSpec, TypeVar

import apache_beam as beam

from pipelines.console import events
from pipelines.console.options import StageOptions
from pipelines.console.progress import Progress, shards_of
from pipelines.runners import launch
from pipelines.runners.resources import Resources
from rag_ops.errors import InputError, JobError, RagbeamError
from rag_ops.redaction import public
from rag_ops.storage import store
from rag_ops.storage.stages import RUN_FILE, StageOutput, finished_shards
from schemas.layout import OUTPUTS
from schemas.manifest import Manifest, ShardRecord

logger = logging.getLogger("ragbeam")
T = TypeVar("T")
P = ParamSpec("P")
PACKAGES = (
    *("ragbeam", "apache-beam", "torch", "transformers", "faiss-cpu", "pyarrow", "numpy", "mwparserfromhell"),
    *("bm25s", "PyStemmer"),
)


def distribute(label: str, elements: Sequence[T]) -> beam.PTransform:
    """A transform that creates a collection of units of work, distributed over the workers."""
    return label >> _distribute(list(elements))


@beam.ptransform_fn
def _distribute(pipeline: Any, elements: list[Any]) -> Any:
    # Without the reshuffle a runner may fuse the list with the work and give all of it to one worker.
    return pipeline | "Create" >> beam.Create(elements, reshuffle=False) | "Deal" >> beam.Reshuffle()


@dataclasses.dataclass(frozen=True)
class StageRun:
    """The result of a finished run of a job."""

    manifest: Manifest
    reused: int
    seconds: float
    metrics: Mapping[str, Mapping[str, float]]
    processes: int | None = None  # of a local run

    def summary(self) -> str:
        """One line for the terminal."""
        total, unit = len(self.manifest.shards), OUTPUTS[self.manifest.stage].unit
        what = f"{self.manifest.stage}: {self.manifest.rows:,} {unit} in {total} shard{'s' if total != 1 else ''}"
        if self.reused == total:
            return f"{what}, all reused, nothing to do ({self.seconds:.1f} s)"
        rate = f"{self.manifest.rows / max(self.seconds, 1e-9):,.0f} {unit}/s"
        by = f", {self.processes} processes" if (self.processes or 1) > 1 else ""
        return f"{what}, {self.reused} reused, {total - self.reused} made in {self.seconds:.1f} s ({rate}{by})"


class FinishedElsewhereError(JobError):
    """Another job has finished the same output meanwhile, where the file system has no locks."""


def begins_again(run: Callable[P, StageRun]) -> Callable[P, StageRun]:
    """A job that reuses what another one finished meanwhile, in place of failing for it."""

    @functools.wraps(run)
    def beginning_again(*arguments: P.args, **named: P.kwargs) -> StageRun:
        try:
            return run(*arguments, **named)
        except FinishedElsewhereError:
            return run(*arguments, **named)

    return beginning_again


class InputsChangedError(JobError):
    """An input was written anew while it was read: nothing that was made of it is kept."""


class InputStates:
    """The states of input files when a job began, before it took their digests.

    Args:
        urls: URLs of the files.
    """

    def __init__(self, urls: Iterable[str]):
        self._states = {url: store.state_of(url) for url in urls}

    def check(self) -> None:
        """Checks that no file was written anew since.

        Raises:
            InputsChangedError: one was, or is gone.
        """
        for url, state in self._states.items():
            try:
                changed = store.state_of(url) != state
            except FileNotFoundError as error:
                raise InputsChangedError("an input was removed while it was read", value=url) from error
            if changed:
                raise InputsChangedError(
                    "an input changed while it was read", value=url, remedy="run the same command again"
                )


@contextlib.contextmanager
def stage_job(
    output: StageOutput,
    beam_arguments: Sequence[str],
    started: float,
    check_inputs: Callable[[], None],
    scratch: str | None = None,
) -> Iterator[StageJob]:
    """Yields a run of a stage, while it has the output directory to itself.

    A run that fails leaves finished shards for the next one; a run over bad inputs leaves nothing.

    Args:
        output: output directory of the stage.
        beam_arguments: flags of the runner.
        started: `time.monotonic()` when the command began.
        check_inputs: function that raises if an input is not what it was when the job began.
        scratch: the job's own working directory, removed when an input is bad.

    Raises:
        JobError: another job writes to the directory, or has finished the same output where there are no locks.
    """
    with output.locked() as alone:
        job = StageJob(output, beam_arguments, started, check_inputs)
        try:
            yield job
        except Exception as error:
            if job.begun and not alone and output.finished() is not None:
                raise FinishedElsewhereError("another job has finished the same output", value=output.url) from error
            if not isinstance(error, RagbeamError):
                raise
            if job.begun:
                bad_input = isinstance(error, (InputError, InputsChangedError))
                if scratch is not None and bad_input:
                    store.remove(scratch)
                if bad_input or not job.keeps_scratch():
                    output.abandon()
            raise


class StageJob:
    """What a job does around its pipeline: reuse what is finished, run the rest, write run.json and the manifest."""

    def __init__(
        self, output: StageOutput, beam_arguments: Sequence[str], started: float, check_inputs: Callable[[], None]
    ):
        self.output, self.begun = output, False
        self.keeps_scratch: Callable[[], bool] = lambda: False  # whether a failed run's scratch serves the next one
        self._arguments, self._started, self._check_inputs = beam_arguments, started, check_inputs
        self._finished: Mapping[str, ShardRecord] = {}
        self._wanted: dict[str, str] = {}
        self._reused: list[str] = []

    def reuse(self, *, verify: bool) -> StageRun | None:
        """The run that has nothing to do because the output already holds what the stage would write, else None."""
        manifest = self.output.finished(verify)
        if manifest is None:
            return None
        self.output.tidy()
        events.stage(self.output.stage)
        counts = {"rows": manifest.rows, "shards": len(manifest.shards)}
        events.event("stage_reused", "nothing to do: all shards hold", counts)
        return StageRun(manifest, len(manifest.shards), time.monotonic() - self._started, {})

    def begin(self, options: StageOptions) -> None:
        """Opens the output directory for writing.

        Raises:
            InputError: it belongs to another configuration, and is not to be overwritten.
        """
        self._finished = self.output.begin(options.overwrite, verify=options.verify)
        self.begun = True

    def forget(self) -> None:
        """Removes all finished shards: each is made again, by this run or the next."""
        self.output.forget()
        self._finished = {}

    def holds(self, name: str, fingerprint: str) -> bool:
        """Whether a file was finished with this fingerprint before the job began."""
        return _holds(self._finished.get(name), fingerprint)

    def todo(self, wanted: Mapping[str, str]) -> list[str]:
        """The names of the shards that are still to be made.

        Args:
            wanted: name to fingerprint of every shard, in row order.
        """
        self._wanted = dict(wanted)
        self._reused = [name for name, fingerprint in wanted.items() if self.holds(name, fingerprint)]
        return [name for name in wanted if name not in self._reused]

    def spread(self, processes: Callable[[], int], urls: Iterable[str]) -> None:
        """Has `run` use so many processes if it is local and no flag says how many; see `launch.spread`."""
        self._arguments = launch.spread(self._arguments, processes, [self.output.url, *urls])

    def threads(self, given: int | None) -> int:
        """The threads of a worker; see `launch.threads`."""
        return launch.threads(self._arguments, given)

    @property
    def processes(self) -> int | None:
        """How many processes work in a local run; None elsewhere."""
        return launch.processes_of(self._arguments) if launch.is_local(self._arguments) else None

    def run(
        self,
        build: Callable[[beam.Pipeline], None],
        unit: str,
        total: int | None,
        done: Callable[[], int],
        resources: Resources | None = None,
    ) -> dict[str, dict[str, float]]:
        """Runs a pipeline while a bar shows its progress; returns the counters of its steps.

        Args:
            build: function that adds the transforms.
            unit: what is counted, plural.
            total: number of units in all, if known.
            done: function that returns how many are done.
            resources: resources that the workers of a model must have.
        """
        shards = shards_of(self.output.url, len(self._wanted))
        with Progress(self.output.stage, total, done, unit, shards):
            return launch.run(build, self._arguments, resources)

    def finish(
        self,
        inputs: Mapping[str, str],
        info: Mapping[str, Any],
        metrics: Mapping[str, Mapping[str, float]],
        *,
        keep: Sequence[str] = (),
        report: Mapping[str, Any] | None = None,
    ) -> StageRun:
        """Checks that the inputs are unchanged and every wanted shard is there; writes run.json, then the manifest.

        Args:
            inputs: name to URL of what was read.
            info: facts for the manifest.
            metrics: counters of the pipeline's steps.
            keep: files with a shard record that hold no rows, such as a trained index.
            report: more entries for run.json.

        Raises:
            JobError: an input has changed, or the pipeline ended without a shard.
        """
        output, wanted, reused = self.output, self._wanted, self._reused
        with output.discarding([*keep, *(name for name in wanted if name not in reused)]):
            self._check_inputs()
        records = {record.path: record for record in finished_shards(output.url)}
        missing = [name for name, fingerprint in wanted.items() if not _holds(records.get(name), fingerprint)]
        if missing:
            raise JobError("the pipeline ended without a shard", value=missing[0], remedy="run the same command again")
        seconds = time.monotonic() - self._started
        shards = [records[name] for name in wanted]
        contents: dict[str, Any] = {
            "stage": output.stage,
            "config": dict(output.config),
            "inputs": dict(inputs),
            "rows": sum(shard.rows for shard in shards),
            "bytes": sum(shard.bytes for shard in shards),
            "shards": {"total": len(shards), "reused": len(reused), "made": len(shards) - len(reused)},
            "reused": list(reused),
            "processes": self.processes,
            "seconds": round(seconds, 3),
            "rows_per_sec": round(sum(shard.rows for shard in shards) / max(seconds, 1e-9), 1),
            "steps": {step: dict(counters) for step, counters in metrics.items()},
            "info": dict(info),
            "versions": versions(),
            "platform": platform.platform(),
            **(report or {}),
        }
        events.stage(output.stage)
        for name in reused:
            events.event("shard_reused", name, {"rows": records[name].rows, "bytes": records[name].bytes})
        counts = {name: contents[name] for name in ("rows", "bytes", "seconds", "rows_per_sec")} | contents["shards"]
        events.event("stage_finished", output.url, counts, details={"info": dict(info)})
        store.write_bytes(
            output.url, RUN_FILE, (json.dumps(public(contents), indent=2, sort_keys=True) + "\n").encode()
        )
        manifest = output.finish(shards, inputs, info, keep)
        return StageRun(manifest, len(reused), seconds, metrics, self.processes)


def _holds(record: ShardRecord | None, fingerprint: str) -> bool:
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
