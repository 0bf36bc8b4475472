"""What the workers of a job compute in, as far as their launcher can know."""

from __future__ import annotations

from collections.abc import Sequence

from pipelines.runners import launch
from pipelines.transforms.model_workers import WorkerOptions
from rag_ops import defaults
from rag_ops.compute import processor


def device_of(workers: WorkerOptions, beam_arguments: Sequence[str]) -> str:
    """The device of all workers, "cpu" or "cuda"; "auto" if they are elsewhere and may have either."""
    device = workers.worker_device
    if device == "auto" and launch.is_local(beam_arguments):
        from rag_ops.compute import devices

        return devices.pick_device(device)
    return device


def encoder_dtype(device: str) -> str:
    """The dtype that --compute_dtype auto means for encoders and generators, wherever their workers are.

    Of processors elsewhere nothing is known: they are taken to be as this machine's, and a worker that can't compute in
    the dtype ends the job. So the same command gives the same vectors on any runner.

    Args:
        device: device of all workers, as `device_of` gives it.
    """
    return defaults.COMPUTE_DTYPES[device] if device == "cuda" else processor.best_dtype()
