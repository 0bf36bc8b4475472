"""Passages in TSV: what its columns are, whether quotes mean anything in it, and where its records end.

A record of CSV can go over line ends inside quotes, and a file of raw text can hold any quotes. Both are found from the
file's beginning, in the same way by everyone who reads a part of it.
"""

from __future__ import annotations

import dataclasses
import re
from collections.abc import Iterable, Iterator

from rag_ops.articles.columns import KNOWN, Columns, find_columns
from rag_ops.errors import InputError

Line = tuple[int, int, bytes]  # the number of lines before it, the byte at which it begins, and the line
HEAD_BYTES = 1 << 20
MARCO_WIDTH = 4  # columns of MS MARCO's documents
MAX_RECORD_LINES = 10_000  # lines of a quoted cell; more is a quote that was never closed
MAX_RECORD_BYTES = 16 << 20
_QUOTED = rb'"[^"]*(?:""[^"]*)*"'
_PLAIN = rb'[^"\t\r\n]*'
_AS_WRITTEN = re.compile(rb"(?:(?:%b|%b)\t)*(?:%b|%b)\r?\n?\Z" % (_QUOTED, _PLAIN, _QUOTED, _PLAIN))
_OPEN_AT_END = re.compile(rb'(?:(?:%b|%b)\t)*"[^"]*(?:""[^"]*)*\Z' % (_QUOTED, _PLAIN))
_CELL = re.compile(r'"([^"]*(?:""[^"]*)*)"(?=\t|\Z)|([^\t]*)')
_ADDRESS = re.compile(rb"https?://\S+\Z")
_NAME = re.compile(r"[A-Za-z_][\w.-]{0,39}\Z")


@dataclasses.dataclass(frozen=True)
class Layout:
    """A file's columns.

    Attributes:
        text, title, id, section: places of the columns; None if there is no such column.
        header: cells of the first line, if they are names.
        quoted: whether cells are quoted as CSV has it; if not, a quote is a character like any other.
    """

    text: int
    title: int | None
    id: int | None
    width: int  # columns
    header: tuple[str, ...] | None
    quoted: bool
    section: int | None = None


def head(lines: Iterable[Line]) -> list[Line]:
    """The first lines of a file, which show its layout: a megabyte of them."""
    found: list[Line] = []
    size = 0
    for line in lines:
        found.append(line)
        size += len(line[2])
        if size >= HEAD_BYTES:
            break
    return found


def layout_of(lines: list[Line], url: str, wanted: Columns) -> Layout:
    """Finds the layout of a file from its `head`: which column is what, and whether cells are quoted.

    Columns go by the names in the first line. Without such a line two columns are id and text, as in MS MARCO, and
    three are id, text and title, as in DPR's psgs_w100.tsv.

    Raises:
        InputError: the columns are unclear.
    """
    width = next((_columns_of(data) for _, _, data in records(lines, None)), 0)
    found = [data for _, _, data in records(lines, width)]
    with_quotes = [data for data in found if b'"' in data]
    # CSV quotes every cell that has a quote in it, and doubles those.
    as_written = sum(_AS_WRITTEN.match(data) is not None for data in with_quotes)
    quoted = 2 * as_written >= len(with_quotes)
    rows = [cells_of(data.decode("utf-8", "replace"), quoted=quoted) for data in found if data.strip()]
    if not rows:
        return Layout(1, 2, 0, 3, None, quoted)
    first = rows[0]
    asked = any(getattr(wanted, field) != known[0] for field, known in KNOWN.items())
    names = [cell.strip() if asked else cell.strip().lower() for cell in first]
    are_names = all(map(_NAME.match, names))
    if asked or (are_names and not set(names).isdisjoint(KNOWN["text"])):
        columns = find_columns(names, wanted, lambda: url, "the first line")
        named = (columns.title, columns.id, columns.section)
        title, number, section = (None if name is None else names.index(name) for name in named)
        return Layout(names.index(columns.text), title, number, len(first), tuple(first), quoted, section)
    if are_names and len(rows) > 1 and not all(map(_NAME.match, rows[1])):
        raise InputError(
            "the first line looks like a header, and names no column of texts",
            value=f"{url}: {', '.join(first)}",
            expected=f"{', '.join(KNOWN['text'])}",
            remedy="name the columns with --id_column, --title_column and --text_column",
        )
    if len(first) not in (2, 3):
        raise InputError(
            f"a line has {len(first)} columns, and no header names them",
            value=f"{url}, line 1",
            expected="id and text, or id, text and title, separated by tabs; or a header",
            remedy="check --format: psgs is what DPR's psgs_w100.tsv looks like",
        )
    if len(first) == 3 and sum(len(row[2]) > len(row[1]) for row in rows if len(row) == 3) > len(rows) / 2:
        raise InputError(
            "the third column, which has titles where there is no header, is longer than the text before it",
            value=url,
            expected="id, text and title",
            remedy="put a line with the columns' names before it: id, title, text",
        )
    return Layout(1, 2 if len(first) == 3 else None, 0, len(first), None, quoted)


def has_documents(lines: list[Line]) -> bool:
    """Whether most rows in the `head` of a file are an id, a page's address, a title and a text.

    >>> [has_documents([(0, 0, line)]) for line in (b"D1\\thttps://a.org\\tA\\tIt is.\\n", b"1\\tIt is.\\tA\\tb\\n")]
    [True, False]
    """
    rows = [data.split(b"\t") for _, _, data in lines if data.strip()]
    return 2 * sum(len(cells) == MARCO_WIDTH and _ADDRESS.match(cells[1]) is not None for cells in rows) > len(rows)


def documents_layout(lines: list[Line], url: str, wanted: Columns) -> Layout:
    """The layout of a file that `has_documents`: columns in MS MARCO's order, unless a header or flags name them.

    Raises:
        InputError: flags name a column that no header has.
    """
    no_header = has_documents(lines[:1])
    if no_header and all(getattr(wanted, field) == known[0] for field, known in KNOWN.items()):
        return Layout(3, 2, 0, MARCO_WIDTH, None, False)
    return layout_of(lines, url, wanted)


def records(lines: Iterable[Line], width: int | None) -> Iterator[Line]:
    """Yields records: lines, and lines joined if a quoted cell goes over their ends.

    A record goes on only from a line with an odd number of quotes, one of which opens a cell, to the next line with an
    odd number, and only if all of it is as CSV is written and has `width` columns. All other lines are records by
    themselves. So what a record is depends on no other record, and a file can be cut at the beginning of any.

    Args:
        lines: lines of a file, or of a part of it that begins with a record.
        width: number of columns; None for any.
    """
    source = iter(lines)
    for line in source:
        while line[2].count(b'"') % 2 and _OPEN_AT_END.match(line[2]):
            more: list[Line] = []
            size = 0
            for following in source:
                more.append(following)
                size += len(following[2])
                if following[2].count(b'"') % 2 or len(more) >= MAX_RECORD_LINES or size > MAX_RECORD_BYTES:
                    break
            joined = line[2] + b"".join(data for _, _, data in more)
            if more and _AS_WRITTEN.match(joined) and width in (None, _columns_of(joined)):
                line = (line[0], line[1], joined)
                break
            yield line
            if not more:
                return
            yield from more[:-1]  # lines with even numbers of quotes: each is a record
            line = more[-1]
        yield line


def cells_of(record: str, *, quoted: bool) -> list[str]:
    r"""The cells of a record; one that is quoted as a whole loses its quotes, any other stays as it is.

    >>> cells_of('1\t"say ""hi"" now"\t6" wide', quoted=True)
    ['1', 'say "hi" now', '6" wide']
    """
    record = record.removesuffix("\n").removesuffix("\r")
    if not quoted or '"' not in record:
        return record.split("\t")
    cells: list[str] = []
    position = 0
    while True:
        match = _CELL.match(record, position)
        assert match is not None  # the second branch takes anything
        cells.append(match[2] if match[1] is None else match[1].replace('""', '"'))
        position = match.end() + 1
        if position > len(record):
            return cells


def _columns_of(record: bytes) -> int:
    return re.sub(_QUOTED, b"", record).count(b"\t") + 1
