"""Reads the lines of a file that a split owns, with their places in the whole file."""

from __future__ import annotations

import codecs
from collections.abc import Iterator

from rag_ops import machine
from rag_ops.articles import tsv
from rag_ops.articles.article import Split
from rag_ops.errors import InputError
from rag_ops.storage import compression, store

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
            machine.check(error)
            raise InputError(
                f"the file cannot be decompressed ({error})",
                value=split.url,
                expected="a whole file",
                remedy="download it again",
            ) from error


def line_source(split: Split, lines_before: int) -> str:
    """The file and line, counted in the whole file from 1, for a message; reads what comes before the split."""
    number, left, piece = lines_before + 1, split.start, b"\n"
    with store.open_read(split.url) as file:
        while left and (piece := file.read(min(1 << 20, left))):
            number += piece.count(b"\n")
            left -= len(piece)
    number += not piece.endswith(b"\n")
    return f"{split.url}, line {number}"
