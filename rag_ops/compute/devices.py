"""The device that torch computes on, and its threads."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator

import torch

from rag_ops.defaults import COMPUTE_DTYPES
from rag_ops.errors import JobError

DTYPES = {"float32": torch.float32, "bfloat16": torch.bfloat16, "float16": torch.float16}


def pick_device(wanted: str) -> str:
    """The device, "cpu" or "cuda", that --device auto, cpu or cuda means here.

    Raises:
        JobError: cuda is asked for and there is none.
    """
    if wanted == "cuda" and not torch.cuda.is_available():
        raise JobError(
            "no CUDA device on this worker",
            value=wanted,
            remedy="give the worker a GPU and its driver, or --device cpu",
        )
    if wanted == "auto":
        return "cuda" if torch.cuda.is_available() else "cpu"
    return wanted


def pick_dtype(wanted: str, device: str) -> torch.dtype:
    """The dtype of a model's weights and arithmetic that --compute_dtype means on a device, "cpu" or "cuda"."""
    return DTYPES[COMPUTE_DTYPES[device] if wanted == "auto" else wanted]


def gpus(wanted: str) -> int:
    """How many GPUs --device auto, cpu or cuda may use here; CUDA is not started for that."""
    return 0 if wanted == "cpu" else torch.cuda.device_count()


@contextlib.contextmanager
def torch_threads(threads: int) -> Iterator[None]:
    """Runs the block with `threads` torch threads; the setting is the process's, so it is put back after."""
    before = torch.get_num_threads()
    torch.set_num_threads(threads)
    try:
        yield
    finally:
        torch.set_num_threads(before)
