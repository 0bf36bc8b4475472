"""Where models run: the device and threads of a process, and what the workers of a job must have."""

from __future__ import annotations

import dataclasses
from typing import Any

from pipelines.console.options import Options
from pipelines.runners.resources import Resources
from rag_ops import defaults
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
    threads: int = setting(
        defaults.THREADS,
        "CPU threads of a model; results are the same for the same number",
        group="workers",
        at_least=1,
        at_most=defaults.MAX_THREADS,
    )


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

    @property
    def execution(self) -> dict[str, Any]:
        """What a manifest says of how the models ran."""
        return {"device": self.worker_device, "threads": self.threads, "batch_tokens": self.batch_tokens}
