"""Controls the C heap: memory is kept within a batch and given back between shards, so a worker stays shard-sized."""

from __future__ import annotations

import ctypes
import functools
from collections.abc import Callable


def trim() -> None:
    """Gives freed memory back to the operating system, where the C library can do that; about a millisecond.

    The C heap of Linux keeps what is freed in pieces, which the next shard's larger arrays do not fit in: over many
    shards that grows.
    """
    _libc("malloc_trim")(0)


def hold() -> None:
    """Makes malloc keep freed memory, large arrays' too, for later arrays, instead of unmapping it; returns nothing.

    It is a setting of the whole process, for all of its threads and libraries, and nothing takes it back: `trim`
    gives back what is free at that moment, and malloc goes on keeping what is freed afterwards. It holds for glibc on
    Linux; with another C library, and on other systems, it does nothing.

    A page that comes from the system is cleared first, which was 6% of the time in beam search of a BART-base.
    """
    set_option = _libc("mallopt")
    set_option(M_MMAP_MAX, 0)
    set_option(M_TRIM_THRESHOLD, 2**31 - 1)


M_TRIM_THRESHOLD, M_MMAP_MAX = -1, -4  # malloc.h of glibc


@functools.cache
def _libc(name: str) -> Callable[..., int]:
    """A function of glibc, or nothing to do."""
    try:
        return getattr(ctypes.CDLL(None), name)
    except (AttributeError, OSError, TypeError):  # another C library, or Windows
        return lambda *_: 0
