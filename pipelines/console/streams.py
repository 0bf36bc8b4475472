"""Stdout and stderr of the process, which take what is written whether or not somebody reads it.

What a command says is not its work: a reader that goes away (`| head -1`), a closed stream (`>&-`), a terminal that is
gone or a full disk under a log changes neither what is done nor the exit code.
"""

from __future__ import annotations

import io
import os
import sys
from typing import Any

STREAMS = ("stdin", "stdout", "stderr")  # by their descriptors


def keep() -> None:
    """Makes the streams of this process last, and those that were closed at its start go nowhere."""
    for descriptor, name in enumerate(STREAMS):
        stream = getattr(sys, name)
        if stream is None:
            _open_nowhere(descriptor)
        if descriptor:  # nothing reads stdin
            setattr(sys, name, _lasting(descriptor, stream))


def _open_nowhere(descriptor: int) -> None:
    """Opens the null device under a descriptor, unless something else has it: the next file that is opened would."""
    try:
        os.fstat(descriptor)
    except OSError:
        nowhere = os.open(os.devnull, os.O_RDWR)
        if nowhere != descriptor:
            os.dup2(nowhere, descriptor)
            os.close(nowhere)
        os.set_inheritable(descriptor, True)


def _lasting(descriptor: int, stream: Any) -> io.TextIOWrapper:
    if stream is None or not hasattr(stream, "encoding"):
        return open(os.devnull, "w")
    raw = _Lasting(descriptor, "w", closefd=False)
    settings = {"encoding": stream.encoding, "errors": stream.errors}
    return io.TextIOWrapper(io.BufferedWriter(raw), **settings, line_buffering=descriptor == 2 or raw.isatty())


class _Lasting(io.FileIO):
    """A file that takes whatever is written to it, and drops it once that cannot be written."""

    def write(self, data: Any) -> int:
        """Writes bytes; see the class."""
        try:
            written = super().write(data)
        except OSError:
            nowhere, written = os.open(os.devnull, os.O_WRONLY), None
            os.dup2(nowhere, self.fileno())
            os.close(nowhere)
        return memoryview(data).nbytes if written is None else written
