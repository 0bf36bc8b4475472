"""What the workers of a job compute in, as far as their launcher can know."""

from __future__ import annotations

from collections.abc import Sequence

from pipelines.runners import launch
from pipelines.transforms.model_workers import WorkerOptions
from rag_ops import defaults
from rag_ops.compute import processor
from rag_ops.storage.stages import StageOutput


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


def settled_dtype(
    compute_dtype: str, workers: WorkerOptions, beam_arguments: Sequence[str], output: StageOutput | None
) -> str:
    """The dtype that --compute_dtype means, so that all workers of a job compute in the same.

    That of auto is the output's, if one is there to go on from; else it is by the device (`encoder_dtype`).

    Args:
        compute_dtype: as it is given.
        workers: where the models run.
        beam_arguments: flags of the runner.
        output: output directory of the job; None if what is there is not gone on from.

    Raises:
        JobError: this machine's processor, which is to compute in the dtype, can't.
    """
    dtype, device = compute_dtype, device_of(workers, beam_arguments)
    if dtype == "auto":
        before = None if output is None else output.continued()
        dtype = str((before or {}).get("compute_dtype", encoder_dtype(device)))
    if device == "cpu" and launch.is_local(beam_arguments):
        processor.check(dtype)
    return dtype


def question_dtype(compute_dtype: str, workers: WorkerOptions, beam_arguments: Sequence[str]) -> str:
    """The dtype that questions are encoded in, for a settled one: bfloat16 with it unless all workers have GPUs.

    Workers elsewhere whose device is not said are taken to be CPUs, so that vectors are those of a local run.
    """
    narrow = compute_dtype == "bfloat16" and device_of(workers, beam_arguments) != "cuda"
    return "bfloat16" if narrow else "float32"
