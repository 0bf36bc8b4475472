"""Byte ranges of compressed files: bz2 streams found from any position, so that workers share one dump."""

from __future__ import annotations

import bz2
import gzip
import io
import re
import zlib
from collections.abc import Iterator
from typing import IO, cast

import zstandard

from rag_ops import storage
from rag_ops.errors import InputError

READ_BYTES = 1 << 20
BZ2_MAGIC = re.compile(rb"BZh[1-9]1AY&SY")  # how a bz2 stream with at least one block begins, at a byte boundary
_MAGIC_BYTES = 10


def is_multistream(url: str) -> bool:
    """Whether a .bz2 file has a second stream that begins in its first megabyte."""
    with storage.open_read(url) as file:
        head = file.read(READ_BYTES)
    return BZ2_MAGIC.search(head, 1) is not None


def decompressed(raw: IO[bytes], url: str) -> IO[bytes]:
    """An open file's content: of .gz, .bz2 and .zst what is in it, else the file as it is."""
    if url.endswith(".gz"):
        return cast(IO[bytes], gzip.GzipFile(fileobj=raw))
    if url.endswith(".bz2"):
        return bz2.BZ2File(raw)
    if url.endswith(".zst"):
        return io.BufferedReader(zstandard.ZstdDecompressor().stream_reader(raw))
    return raw


def plain_chunks(url: str, start: int, end: int | None) -> Iterator[tuple[bytes, bool]]:
    """The bytes of a file from `start` on, each piece with whether it begins before `end`; none straddles it."""
    position = start
    with storage.open_read(url) as file:
        file.seek(start)
        while True:
            size = READ_BYTES if end is None or position >= end else min(READ_BYTES, end - position)
            piece = file.read(size)
            if not piece:
                return
            yield piece, end is None or position < end
            position += len(piece)


def gzip_chunks(url: str) -> Iterator[tuple[bytes, bool]]:
    """The decompressed bytes of a .gz file of one member or more; all of them belong to the one who reads.

    Raises:
        InputError: it is cut or not gzip.
    """
    with storage.open_read(url) as file, gzip.GzipFile(fileobj=file) as unzipped:
        try:
            while piece := unzipped.read(READ_BYTES):
                yield piece, True
        except EOFError as error:
            raise _cut(url, file) from error
        except (OSError, zlib.error) as error:
            raise InputError(
                f"not gzip ({error})", value=f"{url}, byte {file.tell()}", remedy="download it again"
            ) from error


def bz2_chunks(url: str, start: int, end: int | None) -> Iterator[tuple[bytes, bool]]:
    """The content of the bz2 streams from `start` on, each piece with whether its stream begins before `end`.

    The first stream is the first that begins at or after `start`; reading goes on past `end` for as long as the caller
    asks for more.

    Raises:
        InputError: the file is cut or not bz2.
    """
    with storage.open_read(url) as file:
        position = _find_stream(file, start)
        if position is None:
            if start == 0:
                raise InputError(
                    "not bz2", value=url, expected="a bz2 stream at byte 0", remedy="check --input and its name"
                )
            return
        file.seek(position)
        data = b""
        while True:
            owned = end is None or position < end
            decompressor = bz2.BZ2Decompressor()
            consumed = 0
            try:
                while not decompressor.eof:
                    data = data or file.read(READ_BYTES)
                    if not data:
                        raise _cut(url, file)
                    consumed += len(data)
                    piece = decompressor.decompress(data)
                    data = b""
                    if piece:
                        yield piece, owned
            except OSError as error:
                raise InputError(
                    f"not bz2 ({error})", value=f"{url}, stream at byte {position}", remedy="download it again"
                ) from error
            data = decompressor.unused_data
            position += consumed - len(data)
            data = data or file.read(READ_BYTES)
            if not data:
                return


def _find_stream(file: IO[bytes], start: int) -> int | None:
    """The position of the first bz2 stream at or after `start`."""
    file.seek(start)
    position, window = start, b""
    while piece := file.read(READ_BYTES):
        window += piece
        for match in BZ2_MAGIC.finditer(window):
            candidate = position + match.start()
            if _decompresses(window[match.start() :]):
                return candidate
        kept = window[-(_MAGIC_BYTES - 1) :]
        position += len(window) - len(kept)
        window = kept
    return None


def _decompresses(data: bytes) -> bool:
    """Whether what looks like a stream is one: ten bytes can stand in compressed data by chance."""
    try:
        bz2.BZ2Decompressor().decompress(data, max_length=1)
    except OSError:
        return False
    return True


def _cut(url: str, file: IO[bytes]) -> InputError:
    return InputError(
        "the file is cut: it ends in the middle of a compressed stream",
        value=f"{url}, byte {file.tell()}",
        expected="a whole file",
        remedy="download it again",
    )
