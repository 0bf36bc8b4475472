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
from pathlib import Path
from typing import IO

from rag_ops.errors import JobError

try:
    import fcntl
except ImportError:  # Windows
    fcntl = None  # type: ignore[assignment]


@contextlib.contextmanager
def directory_held(path: str) -> Iterator[bool]:
    """Locks directory `path` while the block runs; yields whether that can be done there.

    The directory is made if needed, with those that it lies in; those that are empty at the end go again.

    Raises:
        JobError: another process holds it, or it cannot be made.
    """
    try:
        made = [place for place in (path, *map(str, Path(path).parents)) if not os.path.isdir(place)]
        os.makedirs(path, exist_ok=True)
        descriptor = os.open(path, os.O_RDONLY)
    except OSError as error:
        raise JobError(
            f"cannot write {path}: {error.strerror or error}", remedy="free the disk or check permissions"
        ) from error
    try:
        held = _hold(descriptor)
        if held is False:
            raise JobError(
                "another job is writing to the output directory",
                value=path,
                remedy="wait for its end, or give another --output",
            )
        yield held is True
    finally:
        with contextlib.suppress(OSError):  # one holds something
            for place in made:
                with contextlib.suppress(FileNotFoundError):
                    os.rmdir(place)
        os.close(descriptor)


@contextlib.contextmanager
def temporary_file(path: str, final: str) -> Iterator[IO[bytes]]:
    """Yields a temporary file at `path` that becomes `final` if the block succeeds, and goes if it fails.

    The file is held meanwhile, so that `remove_stale` knows those that a killed process left.
    """
    try:
        with open(path, "wb") as file:
            _hold(file.fileno())
            yield file
            file.flush()
            if fcntl is not None:  # renamed while it is held, or another process could take it for a stale one
                os.close(os.dup(file.fileno()))  # a network filesystem reports at a close that it is full
                os.replace(path, final)
        if fcntl is None:  # Windows renames no open file
            os.replace(path, final)
    except BaseException:
        with contextlib.suppress(OSError):
            os.remove(path)
        raise


def remove_stale(prefix: str) -> None:
    """Removes the temporary files, of names from `prefix` to ".tmp", that killed processes left behind."""
    for path in glob.glob(glob.escape(prefix) + "*.tmp"):
        with contextlib.suppress(OSError), open(path, "rb") as file:
            if _hold(file.fileno()) is True:
                os.remove(path)


def _hold(descriptor: int) -> bool | None:
    """Holds the file until it is closed; False if another process holds it, None if it cannot be held at all."""
    if fcntl is None:
        return None
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    except OSError:  # a filesystem without locks
        return None
    return True
