"""Tar archives as streams: the files in one, each read once, in order, with nothing unpacked and little kept.

The standard library's reader takes headers of any length into memory, which a few compressed bytes can hold.
https://pubs.opengroup.org/onlinepubs/9699919799/utilities/pax.html
"""

from __future__ import annotations

import io
import re
from collections.abc import Iterator
from typing import IO, Any, cast

BLOCK_BYTES = 512
READ_BYTES = 1 << 20
MAX_HEADER_BYTES = 1 << 20  # of an extended header; a real one has some hundred
_FILES = (b"0", b"\0", b"7")  # types of members that are files
_EXTENDED, _LONG_NAME = (b"x",), (b"L", b"K", b"g")
_SIZE = re.compile(rb"\d+ size=(\d{1,18})\n")


class TarError(OSError):
    """The archive is cut, or none."""


def members(stream: IO[bytes]) -> Iterator[tuple[str, IO[bytes]]]:
    """Yields the name and the content of each file; a content must be read before the next is asked for.

    Raises:
        TarError: the stream is no tar archive, or cut.
    """
    wanted: int | None = None  # the size that an extended header gives
    while header := _exactly(stream, BLOCK_BYTES, "a header"):
        if not header.strip(b"\0"):
            return
        if not _is_whole(header):
            raise TarError("not a tar archive")
        kind, size = header[156:157], _number(header[124:136])
        if kind in _EXTENDED + _LONG_NAME:
            if size > MAX_HEADER_BYTES:
                raise TarError(f"a header of {size} bytes")
            extended = _exactly(stream, _padded(size), "a header")
            if kind in _EXTENDED and (found := _SIZE.search(extended)):
                wanted = int(found[1])
            continue
        size, wanted = (size if wanted is None else wanted), None
        content = _Content(stream, size)
        if kind in _FILES:
            prefix = header[345:500] if header[257:262] == b"ustar" else b""
            parts = (part.split(b"\0")[0].decode("utf-8", "replace") for part in (prefix, header[:100]))
            yield "/".join(filter(None, parts)), cast(IO[bytes], io.BufferedReader(content, READ_BYTES))
        content.pass_over(_padded(size) - size)


class _Content(io.RawIOBase):
    def __init__(self, stream: IO[bytes], size: int):
        self._stream, self._left = stream, size

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: Any) -> int:
        data = self._stream.read(min(len(buffer), self._left))
        if not data and self._left:
            raise TarError("the archive is cut")
        self._left -= len(data)
        buffer[: len(data)] = data
        return len(data)

    def pass_over(self, padding: int) -> None:
        """Reads what is left, and what stands between it and the next header."""
        self._left += padding
        while self._left:
            size = min(READ_BYTES, self._left)
            self._left -= len(_exactly(self._stream, size, "a file"))


def _exactly(stream: IO[bytes], size: int, what: str) -> bytes:
    pieces: list[bytes] = []
    while size and (piece := stream.read(size)):
        pieces.append(piece)
        size -= len(piece)
    if size and (pieces or what != "a header"):
        raise TarError(f"the archive is cut in {what}")
    return b"".join(pieces)


def _padded(size: int) -> int:
    return -(-size // BLOCK_BYTES) * BLOCK_BYTES


def _number(field: bytes) -> int:
    if field[0] & 0x80:  # larger than the octal digits hold
        return int.from_bytes(field[1:], "big")
    try:
        return int(field.split(b"\0")[0].strip() or b"0", 8)
    except ValueError as error:
        raise TarError("not a tar archive") from error


def _is_whole(header: bytes) -> bool:
    """Whether the sum of a header's bytes is the one that it gives, with spaces for that."""
    total = sum(header) - sum(header[148:156]) + 8 * ord(" ")
    return _number(header[148:156]) == total
