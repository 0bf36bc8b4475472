"""Reads lines of text files: any usual encoding, any line end, a bound on memory; and records of CSV and TSV."""

from __future__ import annotations

import codecs
import collections
import functools
import io
import logging
import unicodedata
from collections.abc import Iterable, Iterator
from typing import IO, Any

from rag_ops.errors import InputError

logger = logging.getLogger(__name__)

MAX_LINE_BYTES = 64 << 20  # more is no line of text: a file of another kind, or a few bytes that unpack to gigabytes
MAX_RECORD_LINES = 100_000  # lines of a CSV record: a quoted cell of more lines is a quote that was never closed
UNDECODABLE = "\udcff"  # stands for bytes that no encoding has a character for: a lone surrogate, which no text has
HEAD_BYTES = 64 << 10  # beginning of a file that shows its kind
_HEAD_BYTES = 4096
_FEW_ZEROS = 8  # in the first bytes: control characters that stand in a text by accident
_PLANES = {0, 1, 2, 3, 14, 15, 16}  # planes of Unicode; a line end of UTF-16 is none of them
_INVISIBLE = frozenset(("Cc", "Cf", "Cs", "Zs", "Zl", "Zp"))


@functools.cache
def _marking() -> str:
    """The name of our error handler, by which bytes that are no text become `UNDECODABLE`; registers it once."""

    def mark(error: UnicodeError) -> tuple[str, int]:
        assert isinstance(error, UnicodeDecodeError)
        return UNDECODABLE, error.end

    codecs.register_error("rag_ops.undecodable", mark)
    return "rag_ops.undecodable"


def decoded(data: bytes) -> str:
    """A cell's bytes as text; what is not UTF-8 becomes `UNDECODABLE`."""
    return data.decode("utf-8", _marking())


def clean(text: str) -> str:
    """A text without control characters, lone surrogates and outer white space.

    A text in which nothing can be seen is empty.

    >>> clean("  what\\x00is\\tthis?\\n")
    'what is\\tthis?'
    """
    if not text.isprintable():
        kept = (c if c in "\t\n" or unicodedata.category(c) not in ("Cc", "Cs") else " " for c in text)
        text = "".join(kept)
        if all(unicodedata.category(c) in _INVISIBLE for c in text):
            return ""
    return text.strip()


def peeked(raw: IO[bytes]) -> tuple[str, IO[bytes]]:
    """The first `HEAD_BYTES` of a text file, decoded, and a stream of the file that still begins with them."""
    head = raw.read(HEAD_BYTES)
    encoding = _wide_encoding(head[:_HEAD_BYTES]) or "utf-8"
    return head.decode(encoding, "replace").removeprefix("\ufeff"), io.BufferedReader(_Rejoined(head, raw), 1 << 16)


def decoded_text(raw: IO[bytes]) -> IO[str]:
    """A file's text as a stream, for what is not made of lines; its encoding is found as by `decoded_lines`."""
    head = raw.read(_HEAD_BYTES)
    encoding = _wide_encoding(head) or "utf-8-sig"
    return io.TextIOWrapper(io.BufferedReader(_Rejoined(head, raw), 1 << 16), encoding, errors=_marking())


def decoded_lines(raw: IO[bytes], url: str) -> Iterator[str]:
    """Yields the lines of an open file, decompressed; each has "\\n" at its end.

    UTF-16 and UTF-32 are known by their byte order mark, UTF-16 without one by its zero bytes; all else is UTF-8, and a
    line that is not is read as Windows-1252. Bytes that have no character become `UNDECODABLE`.

    Raises:
        InputError: a line is longer than `MAX_LINE_BYTES`.
    """
    head = raw.read(_HEAD_BYTES)
    stream = io.BufferedReader(_Rejoined(head, raw), 1 << 16)
    wide = _wide_encoding(head)
    source: Any = io.TextIOWrapper(stream, wide, errors=_marking(), newline="\n") if wide else stream
    most = MAX_LINE_BYTES // 2 if wide else MAX_LINE_BYTES  # characters, or bytes
    fallbacks = number = 0
    while line := source.readline(most + 1):
        number += 1
        if len(line) > most:
            raise InputError(
                f"a line is longer than {MAX_LINE_BYTES >> 20} MiB",
                value=f"{url}, line {number}",
                expected="a text file of one question a line",
                remedy="check the file and its format",
            )
        if not wide:
            data = line.removeprefix(codecs.BOM_UTF8) if number == 1 else line
            try:
                line = data.decode("utf-8")
            except UnicodeDecodeError:
                fallbacks += 1
                line = data.decode("cp1252", _marking())
        yield line.removesuffix("\n").removesuffix("\r") + "\n"
    if fallbacks:
        logger.warning("%s: %d lines are not UTF-8 and were read as Windows-1252", url, fallbacks)


def _wide_encoding(head: bytes) -> str | None:
    """Detects UTF-16 and UTF-32 by the byte order mark, or by the zero bytes of Latin letters and syntax; else None."""
    # First: its mark is that of UTF-16 and a zero. Then each third byte of four is one of the planes that are in use.
    if head.startswith(codecs.BOM_UTF32_BE) or (head.startswith(codecs.BOM_UTF32_LE) and set(head[2::4]) <= _PLANES):
        return "utf-32"
    if head.startswith((codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE)):
        return "utf-16"
    even, odd = head[0::2].count(0), head[1::2].count(0)
    enough = max(_FEW_ZEROS, 0.4 * (len(head) // 2))
    if not even and odd > enough:
        return "utf-16-le"
    return "utf-16-be" if not odd and even > enough else None


class _Rejoined(io.RawIOBase):
    """A stream whose first bytes were read already."""

    def __init__(self, head: bytes, rest: IO[bytes]):
        self._head, self._rest = head, rest

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: Any) -> int:
        data = self._head[: len(buffer)] or self._rest.read(len(buffer))
        self._head = self._head[len(data) :] if self._head else b""
        buffer[: len(data)] = data
        return len(data)


def records(lines: Iterable[str], delimiter: str, url: str, *, quiet: bool = False) -> Iterator[tuple[int, list[str]]]:
    """Yields the cells of each record among lines of `decoded_lines`, with the number of its first line, from 1.

    Cells are quoted as RFC 4180 has it. A quote that opens a cell and is never closed, or closed in the middle of
    another line's text, would take lines away that are rows of their own: there the line alone is the record, and the
    quote a character like any other. The csv module is not used: its limit on a cell's length is one setting for the
    whole process, which another library may have changed.
    """
    source = (line.replace("\0", " ").replace("\r", " ") for line in lines)
    back: collections.deque[str] = collections.deque()  # lines that were looked at, and are rows of their own
    number, literal = 1, 0
    while (line := back.popleft() if back else next(source, None)) is not None:
        taken: list[str] = []
        try:
            cells = _cells(line, _more(line, taken, back, source), delimiter, strict=True)
        except _StrayQuoteError:
            cells = _alone(line, delimiter)
            back.extendleft(reversed(taken))
            taken.clear()
            literal += 1
        yield number, cells
        number += 1 + len(taken)
    if literal and not quiet:
        logger.warning("%s: %d lines have a quote that is not closed as CSV has it; it was read as it is", url, literal)


def _more(line: str, taken: list[str], back: collections.deque[str], source: Iterator[str]) -> Iterator[str]:
    """Yields the lines after `line`, from `back` and then `source`, and adds them to `taken`; ends at the bounds."""
    chars = len(line)
    while len(taken) + 1 < MAX_RECORD_LINES and chars <= MAX_LINE_BYTES:
        following = back.popleft() if back else next(source, None)
        if following is None:
            return
        taken.append(following)
        chars += len(following)
        yield following


def _alone(line: str, delimiter: str) -> list[str]:
    """The cells of a line that is not strict CSV: text after a closing quote is kept, other quotes are literal."""
    try:
        return _cells(line, iter(()), delimiter, strict=False)
    except _StrayQuoteError:
        return line.removesuffix("\n").split(delimiter)


def _cells(line: str, more: Iterator[str], delimiter: str, *, strict: bool) -> list[str]:
    """The cells of the record that begins with `line`; takes from `more` the lines that a quoted cell goes on in.

    Raises:
        _StrayQuoteError: a quote is never closed, or (strict) text follows the quote that closes a cell.
    """
    line = line.removesuffix("\n")
    if '"' not in line:
        return line.split(delimiter) if line else []
    cells: list[str] = []
    position = 0
    while True:
        parts: list[str] = []
        if line.startswith('"', position):
            position += 1
            while (closing := _closing_quote(line, position)) < 0:
                parts.append(line[position:] + "\n")
                following = next(more, None)
                if following is None:
                    raise _StrayQuoteError
                line, position = following.removesuffix("\n"), 0
            parts.append(line[position:closing])
            parts = ["".join(parts).replace('""', '"')]
            position = closing + 1
        end = line.find(delimiter, position)
        rest = line[position : end if end >= 0 else len(line)]
        if parts and rest and strict:
            raise _StrayQuoteError
        cells.append("".join([*parts, rest]))
        if end < 0:
            return cells
        position = end + 1


def _closing_quote(line: str, position: int) -> int:
    """The place of the first quote from `position` on that is not doubled; -1 if there is none."""
    while (place := line.find('"', position)) >= 0:
        if not line.startswith('"', place + 1):
            return place
        position = place + 2
    return -1


class _StrayQuoteError(Exception):
    """A quote that opens a cell is not closed as CSV has it."""
