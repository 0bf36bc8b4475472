"""Where models run: the device and threads of a process, and what the workers of a job must have."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from typing import Any

from pipelines.console.options import Options
from pipelines.runners import local_workers
from pipelines.runners.resources import Resources
from rag_ops import defaults
from rag_ops.compute.cores import cores
from rag_ops.settings import setting


@dataclasses.dataclass(frozen=True, kw_only=True)
class DeviceOptions(Options):
    """Where a model runs."""

    device: str = setting(
        "auto",
        "auto, cpu or cuda; one that is asked for and absent is an error",
        group="workers",
        choices=("auto", "cpu", "cuda"),
    )
    threads: int | None = setting(
        None,
        "CPU threads of a process; by default all cores for vectors, and 2 for answers, which depend on it",
        group="workers",
        at_least=1,
        at_most=defaults.MAX_THREADS,
    )

    @property
    def cpu_threads(self) -> int:
        """The threads, as given or by default."""
        return self.threads or defaults.THREADS


@dataclasses.dataclass(frozen=True, kw_only=True)
class WorkerOptions(DeviceOptions):
    """Where a job's models run, and what their workers must have."""

    batch_tokens: int | None = setting(
        None, "tokens of a batch; by default what suits the device", group="workers", at_least=1, memory=True
    )
    accelerator: str | None = setting(
        None,
        "on Dataflow, for the model's steps: type:nvidia-l4;count:1;install-nvidia-driver",
        group="workers",
        metavar="GPU",
    )
    worker_memory: str | None = setting(
        None, "memory of a worker of the model's steps, as 16GiB", group="workers", metavar="SIZE"
    )

    def __post_init__(self) -> None:
        super().__post_init__()
        _ = self.resources

    @property
    def resources(self) -> Resources:
        """What the workers must have."""
        return Resources.of(self.accelerator, self.worker_memory, self.device)

    @property
    def worker_device(self) -> str:
        """The device that workers use: a GPU where one is asked of Dataflow."""
        return self.resources.device(self.device)

    def processes(self, units: int, threads: int | None, process_bytes: Callable[[], float]) -> int:
        """How many processes pay on this machine: one for each GPU; on a CPU one, or as many as fill the cores.

        Args:
            units: units of work.
            threads: threads that a process is to have on a CPU unless a flag says; None for one process with all cores.
            process_bytes: function that returns the peak memory of a process; called if several are wanted.
        """
        from rag_ops.compute import devices

        wanted = devices.gpus(self.device)
        if not wanted and threads and not self.threads:
            wanted = cores() // threads
        wanted = min(wanted, units)
        return local_workers.affordable(wanted, process_bytes()) if wanted > 1 else 1

    def with_threads(self, threads: int) -> WorkerOptions:
        """The same workers, with so many threads."""
        return dataclasses.replace(self, threads=threads)

    @property
    def execution(self) -> dict[str, Any]:
        """What a manifest says of how the models ran."""
        return {"device": self.worker_device, "threads": self.cpu_threads, "batch_tokens": self.batch_tokens}
