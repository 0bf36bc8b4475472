"""Failures of the machine, by what libraries raise for them: they end a job, and are never a row's own."""

from __future__ import annotations

import errno
import re

from rag_ops.errors import JobError, NoMemoryError

RESUME = "run the same command again: what is done stays"
_NO_MEMORY = re.compile(
    r"out of memory|ALLOC_FAILED|can(?:'t|not) allocate memory|not enough memory|bad.alloc|"
    r"could not (?:create a (?:primitive|memory)|execute a primitive)(?! desc)",  # oneDNN's, which gives no reason
    re.IGNORECASE,
)
_FULL_DISK = re.compile(r"StorageFull|No space left|PytorchStreamWriter|inline_container", re.IGNORECASE)
_BROKEN_DEVICE = re.compile(r"CUDA error|CUDNN_STATUS|CUBLAS_STATUS|device-side assert", re.IGNORECASE)
_NO_THREADS = re.compile(r"can't start new thread")
_DISK = {errno.ENOSPC, errno.EIO, errno.EROFS, errno.EFBIG, getattr(errno, "EDQUOT", errno.ENOSPC)}
_SYSTEM = {errno.EAGAIN, errno.EMFILE, errno.ENFILE, errno.ENODEV, getattr(errno, "ESTALE", errno.EIO)}
# What speaks for the machine: torch, oneDNN and CUDA, safetensors. The message of another error may be a row's text.
_LIBRARIES = {"RuntimeError", "AcceleratorError", "SafetensorError"}
_RAISED = re.compile(r"(?:[\w.]*\.)?(\w+)(?:: (.*))?")


def is_out_of_memory(error: BaseException) -> bool:
    """Whether an exception means that the device's or the machine's memory ran out, whichever library raised it."""
    return isinstance(fault_of(error), NoMemoryError)


def fault_of(error: BaseException) -> JobError | None:
    """The failure of the machine that an exception means; None if the cause may be something else, such as a row."""
    if isinstance(error, OSError):
        return _fault_of_system(error)
    kinds = {kind.__name__ for kind in type(error).__mro__}
    fault = _fault(kinds, type(error).__name__, str(error).strip())
    return fault or (fault_of(error.__cause__) if error.__cause__ else None)


def check(error: BaseException) -> None:
    """Raises the failure of the machine that an exception means, if it means one.

    Raises:
        JobError: it does; a file that is read is then not to blame.
    """
    if fault := fault_of(error):
        raise fault from error


def fault_in(line: str) -> JobError | None:
    """The failure of the machine that the last line of a traceback means; None if there is none.

    >>> str(fault_in("OSError: [Errno 28] No space left on device")).partition(";")[0]
    "the disk failed: 'No space left on device'"
    >>> fault_in("ValueError: out of memory, as a question says") is None
    True
    """
    found = _RAISED.fullmatch(line.strip())
    if found is None:
        return None
    name, text = found[1], found[2] or ""
    if name == "RuntimeError" and (inner := fault_in(text)):  # as Beam writes an error that it cannot make again
        return inner
    if number := re.match(r"\[Errno (\d+)\] (.*)", text):
        return _fault_of_system(OSError(int(number[1]), number[2]))
    if name in ("OutOfMemoryError", "ArrowMemoryError", "_ArrayMemoryError"):
        name = "MemoryError"
    return _fault({name}, found[1], text)


def _fault_of_system(error: OSError) -> JobError | None:
    reason = error.strerror if error.filename is None else f"{error.strerror}: {error.filename}"
    if error.errno == errno.ENOMEM:
        return _no_memory(reason)
    if error.errno in _DISK:
        return JobError("the disk failed", value=reason, remedy=f"free or mend it and {RESUME}")
    return JobError("the system failed", value=reason, remedy=RESUME) if error.errno in _SYSTEM else None


def _fault(kinds: set[str], name: str, message: str) -> JobError | None:
    reason = f"{name}: {message.splitlines()[0] if message else 'no message'}"
    if kinds & {"MemoryError", "OutOfMemoryError"} or (kinds & _LIBRARIES and _NO_MEMORY.search(message)):
        return _no_memory(reason)
    if not kinds & _LIBRARIES:
        return None
    if _FULL_DISK.search(message):
        return JobError("the disk failed", value=reason, remedy=f"free or mend it and {RESUME}")
    if _BROKEN_DEVICE.search(message):
        return JobError("the device failed", value=reason, remedy=RESUME)
    return JobError("the system failed", value=reason, remedy=RESUME) if _NO_THREADS.search(message) else None


def _no_memory(reason: str | None) -> NoMemoryError:
    return NoMemoryError("memory ran out", value=reason)
