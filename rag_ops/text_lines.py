"""Lines of text files as they come: any usual encoding, any line end, a bound on memory; and records of CSV and TSV."""

from __future__ import annotations

import codecs
import collections
import csv
import io
import logging
import sys
from collections.abc import Iterable, Iterator
from typing import IO, Any

from rag_ops.errors import InputError

logger = logging.getLogger(__name__)

MAX_LINE_BYTES = 64 << 20  # more is no line of text: a file of another kind, or a few bytes that unpack to gigabytes
MAX_RECORD_LINES = 100_000  # of CSV: a quoted cell of more lines is a quote that was never closed
UNDECODABLE = "\udcff"  # stands for bytes that no encoding has a character for: a lone surrogate, which no text has
_HEAD_BYTES = 4096
_FEW_ZEROS = 8  # in the first bytes: control characters that stand in a text by accident
_PLANES = {0, 1, 2, 3, 14, 15, 16}  # of Unicode; a line end of UTF-16 is none of them
_MARK = "rag_ops.undecodable"
csv.field_size_limit(min(sys.maxsize, 2**31 - 1))  # the library's own limit of 128 KiB would refuse long questions


def _mark_undecodable(error: UnicodeError) -> tuple[str, int]:
    assert isinstance(error, UnicodeDecodeError)
    return UNDECODABLE, error.end


codecs.register_error(_MARK, _mark_undecodable)


def decoded_lines(raw: IO[bytes], url: str) -> Iterator[str]:
    """Lines of text, each with "\\n" at its end.

    UTF-16 and UTF-32 are told by their byte order mark, UTF-16 without one by its zero bytes; all else is UTF-8, and a
    line that is not is read as Windows-1252. Bytes that have no character become `UNDECODABLE`.

    Args:
        raw: the open file, decompressed.
        url: for messages.

    Raises:
        InputError: a line is longer than `MAX_LINE_BYTES`.
    """
    head = raw.read(_HEAD_BYTES)
    stream = io.BufferedReader(_Rejoined(head, raw), 1 << 16)
    if encoding := _wide_encoding(head):
        yield from _wide_lines(stream, encoding, url)
        return
    fallbacks = number = 0
    while line := stream.readline(MAX_LINE_BYTES + 1):
        number += 1
        _check_length(len(line), number, url)
        data = line.removeprefix(codecs.BOM_UTF8) if number == 1 else line
        try:
            text = data.decode("utf-8")
        except UnicodeDecodeError:
            fallbacks += 1
            text = data.decode("cp1252", _MARK)
        yield text.removesuffix("\n").removesuffix("\r") + "\n"
    if fallbacks:
        logger.warning("%s: %d lines are not UTF-8 and were read as Windows-1252", url, fallbacks)


def _wide_lines(stream: Any, encoding: str, url: str) -> Iterator[str]:
    text = io.TextIOWrapper(stream, encoding, errors=_MARK, newline="\n")
    number = 0
    while line := text.readline(MAX_LINE_BYTES // 2 + 1):
        number += 1
        _check_length(2 * len(line), number, url)
        yield line.removesuffix("\n").removesuffix("\r") + "\n"


def _check_length(size: int, number: int, url: str) -> None:
    if size > MAX_LINE_BYTES:
        raise InputError(
            f"a line is longer than {MAX_LINE_BYTES >> 20} MiB",
            value=f"{url}, line {number}",
            expected="a text file of one question a line",
            remedy="check the file and its format",
        )


def _wide_encoding(head: bytes) -> str | None:
    """UTF-16 or UTF-32, by the byte order mark or by the zero bytes that Latin text and all syntax have in them."""
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


def records(lines: Iterable[str], delimiter: str, url: str) -> Iterator[tuple[int, list[str]]]:
    """The cells of each record of a CSV or TSV file, with the number of its first line, from 1.

    A quote that opens a cell and is never closed, or closed in the middle of another line's text, would take lines
    away that are rows of their own: there the line alone is the record, and the quote a character like any other.

    Args:
        lines: as `decoded_lines` gives them.
        delimiter: between cells.
        url: for messages.
    """
    source = _Lines(line.replace("\0", " ").replace("\r", " ") for line in lines)
    reader = csv.reader(source, delimiter=delimiter, strict=True)
    literal = 0
    while True:
        source.begin_record()
        try:
            cells = next(reader)
        except StopIteration:
            break
        except (csv.Error, _TooManyLinesError):
            cells = _alone(source.taken[0], delimiter)
            source.put_back_rest()
            reader = csv.reader(source, delimiter=delimiter, strict=True)
            literal += 1
        yield source.first_number, cells
    if literal:
        logger.warning("%s: %d lines have a quote that is not closed as CSV has it; it was read as it is", url, literal)


def _alone(line: str, delimiter: str) -> list[str]:
    """The cells of a line that cannot be read strictly: its quotes as the csv module bears them, else literal."""
    source = _Lines([line, ""])
    source.begin_record()
    cells = next(csv.reader(source, delimiter=delimiter))
    if len(source.taken) == 1:
        return cells
    return next(csv.reader([line], delimiter=delimiter, quoting=csv.QUOTE_NONE))


class _TooManyLinesError(Exception):
    """One record has taken more lines than any has."""


class _Lines:
    """Lines of which those of the record in progress can be put back."""

    def __init__(self, lines: Iterable[str]):
        self._lines = iter(lines)
        self._back: collections.deque[str] = collections.deque()
        self._next_number = 1
        self.begin_record()

    def begin_record(self) -> None:
        """What is taken from here on belongs to the next record."""
        self.taken: list[str] = []
        self._chars = 0
        self.first_number = self._next_number

    def put_back_rest(self) -> None:
        """The record was its first line alone."""
        self._back.extendleft(reversed(self.taken[1:]))
        self._next_number = self.first_number + 1

    def __iter__(self) -> _Lines:
        return self

    def __next__(self) -> str:
        if len(self.taken) >= MAX_RECORD_LINES or self._chars > MAX_LINE_BYTES:
            raise _TooManyLinesError
        line = self._back.popleft() if self._back else next(self._lines)
        self.taken.append(line)
        self._chars += len(line)
        self._next_number += 1
        return line
