"""Reads the lines of a file that a split owns, with their places in the whole file."""

from __future__ import annotations

import codecs
import json
from collections.abc import Callable, Iterator
from functools import partial
from typing import IO, Any

from rag_ops import machine
from rag_ops.articles import tsv
from rag_ops.articles.article import Split
from rag_ops.errors import InputError
from rag_ops.storage import compression, store

JSON_LINES = (".jsonl", ".ndjson", ".json")  # suffixes of files of JSON, an object a line
MAX_LINE_BYTES = 256 << 20  # more is no line: a few bytes can unpack to gigabytes


def read_lines(split: Split) -> Iterator[tsv.Line]:
    """Yields the lines that begin in a split's bytes, each after the number of lines before it there and its place."""
    with store.open_read(split.url) as raw:
        stream = compression.decompressed(raw, split.url)
        position = 0
        if split.start:
            stream.seek(split.start - 1)
            position = split.start - 1 + len(stream.readline())  # the line in progress belongs to the split before
        try:
            for number, line in enumerate(bounded_lines(stream, partial(line_source, split))):
                if split.end is not None and position >= split.end:
                    return
                yield number, position, line if position else line.removeprefix(codecs.BOM_UTF8)
                position += len(line)
        except compression.BAD_COMPRESSION as error:
            machine.check(error)
            raise InputError(
                f"the file cannot be decompressed ({error})",
                value=split.url,
                expected="a whole file",
                remedy="download it again",
            ) from error


def bounded_lines(stream: IO[bytes], source: Callable[[int], str]) -> Iterator[bytes]:
    """Yields the lines of a stream.

    Args:
        stream: stream to read to its end.
        source: function from the number of lines before one to where it stands, for a message.

    Raises:
        InputError: a line is longer than `MAX_LINE_BYTES`.
    """
    for number, line in enumerate(iter(lambda: stream.readline(MAX_LINE_BYTES + 1), b"")):
        if len(line) > MAX_LINE_BYTES:
            raise InputError(
                f"a line is longer than {MAX_LINE_BYTES >> 20} MiB",
                value=source(number),
                expected="one article a line",
                remedy="check --format",
            )
        yield line


def line_source(split: Split, lines_before: int) -> str:
    """The file and line, counted in the whole file from 1, for a message; reads what comes before the split."""
    number, left, piece = lines_before + 1, split.start, b"\n"
    with store.open_read(split.url) as file:
        while left and (piece := file.read(min(1 << 20, left))):
            number += piece.count(b"\n")
            left -= len(piece)
    number += not piece.endswith(b"\n")
    return f"{split.url}, line {number}"


def json_rows(split: Split) -> Iterator[tuple[Callable[[], str], dict[str, Any]]]:
    """Yields the objects of a JSONL file that a split owns, each behind a function that says where it stands.

    Raises:
        InputError: a line is not JSON, or no object.
    """
    for lines_before, _, line in read_lines(split):
        if line.strip():
            source = partial(line_source, split, lines_before)
            yield source, json_object(line, source)


def json_object(line: bytes, source: Callable[[], str]) -> dict[str, Any]:
    """The object of a line.

    Raises:
        InputError: it is not JSON, or no object; `source` says where.
    """
    try:
        row = json.loads(line)
    except (ValueError, RecursionError) as error:
        shown = line[:60].decode("utf-8", "replace")
        raise InputError(
            f"a line is not JSON ({error})",
            value=f"{source()}: {shown}",
            expected="one JSON object in UTF-8 a line",
            remedy="mend the line; a document over several lines is made JSONL by jq -c . FILE",
        ) from error
    if not isinstance(row, dict):
        raise InputError(
            "a line is no JSON object",
            value=source(),
            expected='{"id": ..., "title": ..., "text": ...}',
        )
    return row


def check_no_array(url: str) -> None:
    """Refuses a JSON file that is a single array.

    Raises:
        InputError: it is.
    """
    try:
        lines = (line.lstrip() for _, _, line in read_lines(Split(0, "jsonl", url)))
        is_array = next(filter(None, lines), b"").startswith(b"[")
    except InputError:
        return  # the reader says what is wrong, and where
    if is_array:
        raise InputError(
            "the file is a JSON array and not JSONL",
            value=url,
            expected="one JSON object a line",
            remedy="jq -c '.[]' FILE > NAME.jsonl makes it so",
        )
