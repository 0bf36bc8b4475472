"""Byte ranges of compressed files: bz2 streams found from any position, so that workers share one dump."""

from __future__ import annotations

import bz2
import contextlib
import gzip
import io
import lzma
import re
import zlib
from collections.abc import Iterator
from typing import IO, Any, cast

import zstandard
from fsspec.spec import AbstractBufferedFile

from rag_ops import machine
from rag_ops.errors import InputError
from rag_ops.storage import store

COMPRESSIONS = (".gz", ".bz2", ".zst", ".xz")  # what `decompressed` reads
BAD_COMPRESSION = (OSError, EOFError, zlib.error, lzma.LZMAError, zstandard.ZstdError)  # for damaged bytes
READ_BYTES = 1 << 20
ZSTD_READ_BYTES = 4096  # these can unpack to a thousand times as much at once
BZ2_MAGIC = re.compile(rb"BZh[1-9]1AY&SY")  # how a bz2 stream with at least one block begins, at a byte boundary
_MAGIC_BYTES = 10


@contextlib.contextmanager
def whole(url: str) -> Iterator[None]:
    """Turns errors of decompression, while a file is read in the block, into one of ours.

    Raises:
        InputError: the file at `url` is damaged or cut.
        JobError: the machine failed.
    """
    try:
        yield
    except BAD_COMPRESSION as error:
        machine.check(error)
        raise InputError(
            f"the file cannot be decompressed ({error})", value=url, expected="a whole file", remedy="fetch it again"
        ) from error


def is_multistream(url: str) -> bool:
    """Whether a .bz2 file has a second stream that begins in its first megabyte."""
    with store.open_read(url) as file:
        head = file.read(READ_BYTES)
    return BZ2_MAGIC.search(head, 1) is not None


def decompressed(raw: IO[bytes], url: str) -> IO[bytes]:
    """Opens a file's content: unpacked for .gz, .bz2, .xz and .zst, else the file as it is."""
    name = store.name_of(url).lower()
    if name.endswith(".gz"):
        return cast(IO[bytes], gzip.GzipFile(fileobj=raw))
    if name.endswith(".bz2"):
        return bz2.BZ2File(raw)
    if name.endswith(".xz"):
        return cast(IO[bytes], lzma.LZMAFile(raw))
    if name.endswith(".zst"):
        return io.BufferedReader(_Zstd(raw))
    if isinstance(raw, AbstractBufferedFile):
        return io.BufferedReader(cast(Any, raw))  # an object store's file, whose readline knows no limit
    return raw


class _Zstd(io.RawIOBase):
    """The content of all frames of a .zst file; the library's own reader takes a cut file for a whole one."""

    def __init__(self, raw: IO[bytes]):
        self._raw = raw
        self._frame: Any = None  # the decompressor of the frame in progress
        self._input = b""
        self._output = memoryview(b"")

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: Any) -> int:
        while not self._output:
            self._input = self._input or self._raw.read(ZSTD_READ_BYTES)
            if not self._input:
                if self._frame is not None:
                    raise EOFError("it ends in the middle of a compressed stream")
                return 0
            if self._frame is None:
                self._frame = zstandard.ZstdDecompressor().decompressobj()
            self._output = memoryview(self._frame.decompress(self._input))
            self._input = b""
            if self._frame.eof:
                self._input, self._frame = self._frame.unused_data, None
        size = min(len(buffer), len(self._output))
        buffer[:size] = self._output[:size]
        self._output = self._output[size:]
        return size


def plain_chunks(url: str, start: int, end: int | None) -> Iterator[tuple[bytes, bool]]:
    """Yields the bytes of a file from `start` on, each piece with whether it begins before `end`; none straddles it."""
    position = start
    with store.open_read(url) as file:
        file.seek(start)
        while True:
            size = READ_BYTES if end is None or position >= end else min(READ_BYTES, end - position)
            piece = file.read(size)
            if not piece:
                return
            yield piece, end is None or position < end
            position += len(piece)


def single_stream_chunks(url: str) -> Iterator[tuple[bytes, bool]]:
    """Yields the content of a .gz, .zst or .xz file, which cannot be split: all of it belongs to one reader.

    Raises:
        InputError: the file is cut, or not what its name says.
    """
    kind = store.name_of(url).rsplit(".", 1)[-1].lower()
    with store.open_read(url) as file:
        content = decompressed(file, url)
        try:
            while piece := content.read(READ_BYTES):
                yield piece, True
        except EOFError as error:
            raise _cut(url, file) from error
        except BAD_COMPRESSION as error:
            machine.check(error)
            raise InputError(
                f"not {'gzip' if kind == 'gz' else kind} ({error})",
                value=f"{url}, byte {file.tell()}",
                remedy="download it again, or check its name",
            ) from error


def bz2_chunks(url: str, start: int, end: int | None) -> Iterator[tuple[bytes, bool]]:
    """Yields the content of the bz2 streams from `start` on, each piece with whether its stream begins before `end`.

    The first stream is the first that begins at or after `start`; reading goes on past `end` for as long as the caller
    asks for more.

    Raises:
        InputError: the file is cut or not bz2.
    """
    with store.open_read(url) as file:
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
                    if decompressor.needs_input:
                        data = data or file.read(READ_BYTES)
                        if not data:
                            raise _cut(url, file)
                        consumed += len(data)
                    piece = decompressor.decompress(data, READ_BYTES)  # some bytes can unpack to gigabytes
                    data = b""
                    if piece:
                        yield piece, owned
            except OSError as error:
                machine.check(error)
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
            with contextlib.suppress(OSError):  # no stream: ten bytes can stand in compressed data by chance
                bz2.BZ2Decompressor().decompress(window[match.start() :], 1)
                return position + match.start()
        kept = window[-(_MAGIC_BYTES - 1) :]
        position += len(window) - len(kept)
        window = kept
    return None


def _cut(url: str, file: IO[bytes]) -> InputError:
    return InputError(
        "the file is cut: it ends in the middle of a compressed stream",
        value=f"{url}, byte {file.tell()}",
        expected="a whole file",
        remedy="download it again",
    )
