"""Runners by name, and one way to run a pipeline: options in, metrics out, every failure one line."""

from __future__ import annotations

import contextlib
import multiprocessing
import re
import threading
from collections.abc import Callable, Iterable, Sequence
from typing import Any

import apache_beam as beam
from apache_beam.options.pipeline_options import (
    DirectOptions,
    PipelineOptions,
    PortableOptions,
    SetupOptions,
    StandardOptions,
)

from pipelines import interrupts
from pipelines.runners import beam_flags, counters, dataflow, listening, local_workers
from pipelines.runners.resources import Resources
from rag_ops import defaults, errors, machine
from rag_ops.compute.cores import cores
from rag_ops.errors import InputError, JobError, NoMemoryError, RagbeamError

LOCAL_RUNNERS = ("DirectRunner", "FnApiRunner")
MAX_WORKERS = 1000  # of the local runner
# Beam's DirectRunner of today downloads another runner's binary before it falls back; this one is in the package.
LOCAL_RUNNER_CLASS = "apache_beam.runners.portability.fn_api_runner.FnApiRunner"

NAMES = {name.lower(): f"{name}Runner" for name in ("Direct", "Flink", "Dataflow", "Prism", "Portable")}
RUNNERS = {*StandardOptions.KNOWN_RUNNER_NAMES, *NAMES.values()}
# What makes our jobs run well, unless a flag says otherwise. Beam's own timeout is five minutes, and workers run in the
# launcher unless other flags are given.
PORTABLE = {"job_server_timeout": "60", "environment_type": "LOOPBACK"}
DEFAULTS: dict[str, dict[str, str]] = {
    "FlinkRunner": {
        **PORTABLE,
        "max_bundle_size": "1000",  # an element is a shard or a block: a bundle is never closed for its size,
        "max_bundle_time_mills": str(24 * 3600 * 1000),  # nor for the time that generation takes
        # A worker with its model stays for the next try; and Beam's own pool, where task managers share one, may stop
        # another's worker when the first of them is done
        "environment_cache_millis": "60000",
    },
    "PortableRunner": PORTABLE,
    "PrismRunner": PORTABLE,
}

_OUR_ERROR = re.compile(r"rag_ops\.errors\.(InputError|JobError|NoMemoryError): ([^\n]*)")
_WHERE = re.compile(r" \[while running '.*$", re.DOTALL)  # what Beam adds to a worker's message
_LAST_ERROR = re.compile(r"^(?:[\w.]+(?:Error|Exception|Interrupt|Exit)[\w.]*)(?:: ?.*)?$", re.MULTILINE)


def pipeline_options(arguments: Sequence[str], resources: Resources | None = None) -> PipelineOptions:
    """Beam's options from the arguments that our own parser did not know.

    Raises:
        InputError: see `check_flags`.
    """
    check_flags(arguments)
    runner = _runner_of(arguments)
    if runner in LOCAL_RUNNERS:
        runner = LOCAL_RUNNER_CLASS
    wanted = dataflow.defaults(arguments, resources) if runner == dataflow.RUNNER else DEFAULTS.get(runner, {})
    given = {argument.split("=")[0].lstrip("-") for argument in arguments if argument.startswith("--")}
    missing = [f"--{name}={value}" for name, value in wanted.items() if name not in given]
    options = PipelineOptions([*arguments, *missing], runner=runner)
    options.view_as(SetupOptions).save_main_session = False  # all of our code is importable on the workers
    return options


def check_flags(arguments: Sequence[str]) -> None:
    """Checks that Beam or the chosen runner reads all of the arguments that our own parser did not know.

    Raises:
        InputError: it does not know one, or cannot read its value, or there is no such runner.
        JobError: the job server that would know does not answer.
    """
    unknown = beam_flags.unknown(arguments)
    runner = _runner_of(arguments)
    if runner not in RUNNERS and "." not in runner:  # or a class, by its whole name
        raise InputError("unknown runner", value=runner, expected=" or ".join(sorted(NAMES)))
    workers = PipelineOptions(list(arguments)).view_as(DirectOptions).direct_num_workers
    if not 0 <= workers <= MAX_WORKERS:
        raise InputError(
            "--direct_num_workers is out of range", value=workers, expected=f"1 to {MAX_WORKERS}, or 0 for all cores"
        )
    theirs = {*beam_flags.FLINK} if runner == "FlinkRunner" else set()
    theirs |= DEFAULTS.get(runner, {}).keys()
    endpoint = PipelineOptions(list(arguments)).view_as(PortableOptions).job_endpoint
    if unknown and runner == "PortableRunner" and endpoint and endpoint != "embed":
        from pipelines.runners import preflight

        theirs |= preflight.described_flags(endpoint)
    beam_flags.check(arguments, theirs)


def check(
    arguments: Sequence[str], urls: Sequence[str], models: Sequence[str] = (), resources: Resources | None = None
) -> None:
    """Raises, before any work, for what the runner cannot do.

    Args:
        urls: what workers read and write.
        models: directories, URLs or hub ids that workers load.

    Raises:
        InputError: a flag that nobody knows, settings that don't go together, or a place that workers don't reach.
    """
    check_flags(arguments)
    runner = _runner_of(arguments)
    if runner == dataflow.RUNNER:
        dataflow.check(arguments, urls, models, resources or Resources())
    elif resources and resources.accelerator:
        raise InputError(
            "--accelerator asks Dataflow for a GPU, and the runner is another",
            value=runner,
            expected="--runner DataflowRunner",
            remedy="elsewhere start workers where a GPU is, and give --device cuda",
        )


def check_device(arguments: Sequence[str], device: str) -> None:
    """Raises, before any work, if the models are to run on a GPU of this machine and it has none.

    Raises:
        JobError: there is none.
    """
    if device == "cuda" and is_local(arguments):
        from rag_ops.compute import devices

        devices.pick_device(device)


def run(
    build: Callable[[beam.Pipeline], Any], arguments: Sequence[str], resources: Resources | None = None
) -> dict[str, dict[str, float]]:
    """Builds a pipeline, runs it, waits for its end, and returns the counters of its steps.

    Raises:
        InputError, JobError: what a worker raised, as the worker said it, or the runner's own last line.
        KeyboardInterrupt: the process was asked to end, whatever Beam made of that.
    """
    options = pipeline_options(arguments, resources)
    listening.bind_launcher()
    if not is_local(arguments):
        from pipelines.runners import preflight, worker_pool

        preflight.check(options, _runner_of(arguments))
        worker_pool.use_in_launcher()
        if threading.excepthook.__module__ != preflight.__name__:
            threading.excepthook = preflight.quiet_hang_up(threading.excepthook)
    else:
        local_workers.watch(_gpus() if resources and processes_of(arguments) > 1 else 0)
    counters.reset_live()
    try:
        with dataflow.staged(options) if _runner_of(arguments) == dataflow.RUNNER else contextlib.nullcontext():
            pipeline = beam.Pipeline(options=options)
            build(pipeline)
            result = pipeline.run()
        try:
            state = result.wait_until_finish()
        except KeyboardInterrupt:  # a job that went on in the cloud would write beside the next one
            result.cancel()
            raise
    except Exception as error:
        if interrupts.received() or str(error).startswith("KeyboardInterrupt"):  # Beam raises it as another
            raise KeyboardInterrupt from error
        raise translate(error) from error
    if state not in (None, "DONE"):
        raise JobError("the job did not finish", value=state, remedy="see the runner's log")
    return counters.summarise(result)


def is_local(arguments: Sequence[str]) -> bool:
    """Whether the job runs on this machine, in this process or in processes beside it."""
    return _runner_of(arguments) in LOCAL_RUNNERS


def spread(arguments: Sequence[str], processes: Callable[[], int], urls: Iterable[str]) -> list[str]:
    """The runner's flags, with those for several processes if the run is local and no flag says how it is to run.

    Args:
        arguments: flags of the runner.
        processes: function that returns how many processes pay.
        urls: what workers read and write; what is in this process's memory is for this process.
    """
    told = any(argument.startswith("--direct_") for argument in arguments)
    if told or not is_local(arguments) or any(url.startswith("memory://") for url in urls) or (n := processes()) < 2:
        return [*arguments]
    return [*arguments, "--direct_running_mode=multi_processing", f"--direct_num_workers={n}"]


def processes_of(arguments: Sequence[str]) -> int:
    """How many processes work in a local run."""
    options = PipelineOptions(list(arguments)).view_as(DirectOptions)
    if options.direct_running_mode != "multi_processing":
        return 1
    return options.direct_num_workers or multiprocessing.cpu_count()  # as Beam reads 0


def threads(arguments: Sequence[str], given: int | None) -> int:
    """The threads of a worker whose results do not depend on them: as given, or its share of this machine's cores."""
    if given or not is_local(arguments):
        return given or defaults.THREADS
    return max(1, cores() // processes_of(arguments))


def _gpus() -> int:
    from rag_ops.compute import devices

    return devices.gpus("auto")


def translate(error: BaseException) -> RagbeamError:
    """A runner's failure as one of our errors: runners hand a worker's exception on as the text of its traceback."""
    if isinstance(error, RagbeamError):
        return type(error)(_WHERE.sub("", str(error)))
    text = f"{type(error).__module__}.{type(error).__qualname__}: {error}"
    if ours := _OUR_ERROR.findall(text):
        kind, message = ours[-1]
        return getattr(errors, kind)(_WHERE.sub("", message))
    if local_workers.ENDED in text:
        return NoMemoryError(
            "a worker process ended in the middle of its work",
            expected="it to live; one that takes too much memory is killed by the system",
        )
    lines = _LAST_ERROR.findall(text)
    line = lines[-1] if lines else text.strip().splitlines()[-1]
    fault = machine.fault_in(_WHERE.sub("", line))
    return fault or JobError(f"the job failed: {line}", remedy="--debug shows the traceback")


def _runner_of(arguments: Sequence[str]) -> str:
    runner = PipelineOptions(list(arguments)).view_as(StandardOptions).runner or "DirectRunner"
    return NAMES.get(runner.lower().removesuffix("runner"), runner)
