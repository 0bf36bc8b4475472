"""Locks that the operating system releases when their process ends, however it ends: none is ever stale.

Neither clocks nor process ids matter. A lock is the kernel's, on a directory or a file that is there anyway, so
it leaves nothing behind. Where there is none (object stores, some network filesystems, Windows), two jobs of one
configuration write the same bytes, each file whole by its rename; see `stages.StageOutput.finish` for the others.
"""

from __future__ import annotations

import contextlib
import glob
import os
from collections.abc import Iterator
from typing import IO

from rag_ops.errors import JobError

try:
    import fcntl
except ImportError:  # Windows
    fcntl = None  # type: ignore[assignment]


@contextlib.contextmanager
def directory_held(path: str) -> Iterator[None]:
    """Locks directory `path` while the block runs; makes it if needed, and removes it if it is empty at the end.

    Raises:
        JobError: another process holds it, or it cannot be made.
    """
    try:
        made = not os.path.isdir(path)
        os.makedirs(path, exist_ok=True)
        descriptor = os.open(path, os.O_RDONLY)
    except OSError as error:
        raise JobError(
            f"cannot write {path}: {error.strerror or error}", remedy="free the disk or check permissions"
        ) from error
    try:
        if not _hold(descriptor):
            raise JobError(
                "another job is writing to the output directory",
                value=path,
                remedy="wait for its end, or give another --output",
            )
        yield
    finally:
        if made:
            with contextlib.suppress(OSError):  # it holds something, or is gone
                os.rmdir(path)
        os.close(descriptor)


@contextlib.contextmanager
def temporary_file(path: str, final: str) -> Iterator[IO[bytes]]:
    """Yields a temporary file that becomes `final` if the block succeeds; removes what killed processes left.

    Args:
        path: the temporary name: `final`, a dot, anything, and ".tmp".
        final: the name it gets in the end.
    """
    for left in glob.glob(glob.escape(final) + ".*.tmp"):
        _remove_stale(left)
    try:
        with open(path, "wb") as file:
            _hold(file.fileno())
            yield file
        os.replace(path, final)
    except BaseException:
        with contextlib.suppress(OSError):
            os.remove(path)
        raise


def _remove_stale(path: str) -> None:
    """Removes a temporary file that no process holds."""
    if fcntl is None:
        return
    with contextlib.suppress(OSError), open(path, "rb") as file:
        if _hold(file.fileno()):
            os.remove(path)


def _hold(descriptor: int) -> bool:
    """Whether nobody else holds the file; where it cannot be held at all, nobody does."""
    if fcntl is None:
        return True
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    except OSError:  # a filesystem without locks
        return True
    return True
