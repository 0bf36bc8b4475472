"""Failures of the machine by the exceptions that libraries raise, in this process and as a runner's text."""

import errno
import os
import subprocess
import sys
import traceback

import numpy as np
import pyarrow as pa
import pytest
import torch

from rag_ops import machine
from rag_ops.errors import JobError, NoMemoryError


def raised(work) -> BaseException:
    with pytest.raises(BaseException) as error:  # noqa: PT011
        work()
    return error.value


@pytest.mark.parametrize(
    ("error", "no_memory"),
    [
        (torch.cuda.OutOfMemoryError("x"), True),
        (RuntimeError("CUDA error: out of memory"), True),
        (RuntimeError("CUDA error: CUBLAS_STATUS_ALLOC_FAILED when calling `cublasCreate(handle)`"), True),
        (
            RuntimeError("[enforce fail] DefaultCPUAllocator: can't allocate memory: you tried to allocate 1 bytes"),
            True,
        ),
        (RuntimeError("could not create a primitive"), True),
        (RuntimeError("could not create a memory object"), True),
        (RuntimeError("std::bad_alloc"), True),
        (MemoryError(), True),
        (OSError(errno.ENOMEM, os.strerror(errno.ENOMEM)), True),
        (pa.lib.ArrowMemoryError("malloc of size 64 failed"), True),
        (RuntimeError("could not create a primitive descriptor for a matmul primitive"), False),  # of a wrong shape
        (RuntimeError("CUDA error: device-side assert triggered"), False),
        (ValueError("out of memory, as a question says"), False),
        (KeyError("No space left on device"), False),
        (FileNotFoundError(errno.ENOENT, "No such file"), False),
    ],
)
def test_how_memory_that_ran_out_is_told(error, no_memory):
    assert machine.is_out_of_memory(error) == no_memory
    if str(error):
        line = traceback.format_exception_only(error)[-1]
        assert isinstance(machine.fault_in(line), NoMemoryError) == no_memory
        assert isinstance(machine.fault_in("RuntimeError: " + line), NoMemoryError) or not no_memory


@pytest.mark.parametrize(
    "work",
    [
        lambda: np.zeros(1 << 60, np.uint8),
        lambda: torch.zeros(1 << 60, dtype=torch.uint8),
        lambda: pa.allocate_buffer(1 << 60),
        lambda: bytearray(1 << 60),
    ],
    ids=["numpy", "torch", "arrow", "python"],
)
def test_what_libraries_raise_for_too_much(work):
    assert machine.is_out_of_memory(raised(work))


def test_another_error_for_want_of_memory_is_one_too():
    def work():
        try:
            raise MemoryError
        except MemoryError as error:
            raise SystemError("returned a result with an exception set") from error

    assert machine.is_out_of_memory(raised(work))


@pytest.mark.parametrize("number", [errno.ENOSPC, errno.EDQUOT, errno.EIO, errno.EMFILE])
def test_a_disk_that_is_full_or_broken(number):
    error = OSError(number, os.strerror(number), "/data/x")
    for fault in (machine.fault_of(error), machine.fault_in(f"OSError: {error}")):
        assert isinstance(fault, JobError)
        assert os.strerror(number) in str(fault)
    with pytest.raises(JobError):
        machine.check(error)


FULL = """import sys, torch
from safetensors.torch import save_file
tensors = {"x": torch.zeros(1 << 20)}
save_file(tensors, sys.argv[1]) if sys.argv[2] == "safetensors" else torch.save(tensors, sys.argv[1])
"""


@pytest.mark.parametrize("how", ["safetensors", "torch"])
def test_what_libraries_raise_for_a_full_disk(how, tmp_path):
    mounted = subprocess.run(["mount", "-t", "tmpfs", "-o", "size=64k", "tmpfs", str(tmp_path)], capture_output=True)
    if mounted.returncode != 0:
        pytest.skip("mounting is not permitted here")
    try:
        done = subprocess.run(
            [sys.executable, "-c", FULL, str(tmp_path / "x"), how], capture_output=True, text=True, timeout=120
        )
    finally:
        subprocess.run(["umount", "-l", str(tmp_path)], check=True)
    assert done.returncode == 1
    fault = machine.fault_in(done.stderr.strip().splitlines()[-1])
    assert fault is not None, done.stderr
    assert "the disk failed" in str(fault)


def test_a_file_that_is_not_there_is_no_fault_of_the_machine():
    machine.check(FileNotFoundError(errno.ENOENT, "No such file or directory", "x"))
    machine.check(OSError("not a gzip file"))
    machine.check(UnicodeDecodeError("utf-8", b"x", 0, 1, "no"))
