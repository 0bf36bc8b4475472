"""Memory back to the system between two shards, so that a worker's size follows a shard and not its age."""

from __future__ import annotations

import ctypes
import functools
from collections.abc import Callable


def release() -> None:
    """Gives freed memory back to the operating system, where the C library can do that; about a millisecond.

    The C heap of Linux keeps what is freed in pieces, which the next shard's larger arrays do not fit in: over many
    shards that grows.
    """
    _trim()(0)


@functools.cache
def _trim() -> Callable[[int], int]:
    """The malloc_trim of glibc, or nothing to do."""
    try:
        return ctypes.CDLL(None).malloc_trim
    except (AttributeError, OSError, TypeError):  # another C library, or Windows
        return lambda _: 0
