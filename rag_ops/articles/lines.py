"""Reads the lines of a file that a split owns, with their places in the whole file."""

from __future__ import annotations

import codecs
from collections.abc import Iterator

from rag_ops.articles import tsv
from rag_ops.articles.article import Split
from rag_ops.errors import InputError
from rag_ops.storage import compression, store

MAX_LINE_BYTES = 256 << 20  # more is no line: a few bytes can unpack to gigabytes


def read_lines(split: Split) -> Iterator[tsv.Line]:
    """The lines that begin in a split's bytes, each with the number of lines before it in the split, and its place."""
    with store.open_read(split.url) as raw:
        stream = compression.decompressed(raw, split.url)
        position = 0
        if split.start:
            stream.seek(split.start - 1)
            position = split.start - 1 + len(stream.readline())  # the line in progress belongs to the split before
        try:
            for number, line in enumerate(iter(lambda: stream.readline(MAX_LINE_BYTES + 1), b"")):
                if len(line) > MAX_LINE_BYTES:
                    raise InputError(
                        f"a line is longer than {MAX_LINE_BYTES >> 20} MiB",
                        value=line_source(split, number),
                        expected="one article a line",
                        remedy="check --format",
                    )
                if split.end is not None and position >= split.end:
                    return
                yield number, position, line if position else line.removeprefix(codecs.BOM_UTF8)
                position += len(line)
        except compression.BAD_COMPRESSION as error:
            raise InputError(
                f"the file cannot be decompressed ({error})",
                value=split.url,
                expected="a whole file",
                remedy="download it again",
            ) from error


def line_source(split: Split, lines_before: int) -> str:
    """The file and line, for a message."""
    return f"{split.url}, line {_line_number(split, lines_before)}"


def _line_number(split: Split, lines_before: int) -> int:
    """The number of a line in the whole file, from 1; counts the lines before the split, for errors alone."""
    if not split.start:
        return lines_before + 1
    count, position = 0, 0
    with store.open_read(split.url) as file:
        while position < split.start and (piece := file.read(min(1 << 20, split.start - position))):
            count += piece.count(b"\n")
            position += len(piece)
        file.seek(split.start - 1)
        count += file.read(1) != b"\n"
    return count + lines_before + 1
