"""Passages in TSV: DPR's psgs_w100.tsv, MS MARCO's collection.tsv, and any with a header."""

from __future__ import annotations

import io
import itertools
from collections.abc import Iterator
from functools import partial

from rag_ops.articles import tsv
from rag_ops.articles.article import Article, Split
from rag_ops.articles.columns import SECTION
from rag_ops.articles.lines import MAX_LINE_BYTES, line_source, read_lines
from rag_ops.articles.options import InputOptions
from rag_ops.articles.source_format import Cut, Format, Row, byte_cuts
from rag_ops.articles.tsv import Layout
from rag_ops.errors import InputError
from rag_ops.storage import store
from rag_ops.storage.compression import COMPRESSIONS
from schemas.passages import Passage

LINE_BYTES = 1 << 20  # longer lines are few


class Psgs(Format):
    """TSV, as DPR's psgs_w100.tsv: each row is a passage already, kept with its id."""

    name, suffixes = "psgs", (".tsv",)

    def layout(self, url: str, options: InputOptions) -> Layout:
        """What the columns of a file are.

        Raises:
            InputError: that is unclear.
        """
        return tsv.layout_of(_head(url), url, options.columns)

    def cuts(self, url: str, options: InputOptions) -> Iterator[Cut]:
        """Cuts every `split_bytes`; between records if cells are quoted.

        That takes a pass over the file if a quoted cell may go over the end of a line near a cut, or the cuts are many.
        """
        start, size = 0, store.size_bytes(url)
        is_one = store.name_of(url).lower().endswith(COMPRESSIONS) or size <= options.cut_bytes
        if is_one or not (layout := self.layout(url, options)).quoted:
            yield from byte_cuts(url, options)
            return
        if options.cut_bytes >= tsv.MAX_RECORD_BYTES and (starts := _sure_starts(url, options.cut_bytes, size)):
            yield from itertools.pairwise([*starts, size])
            return
        for _, position, _ in tsv.records(read_lines(Split(0, "psgs", url)), layout.width):  # 4 s a GB
            if position >= start + options.cut_bytes:
                yield start, position
                start = position
        yield start, size

    def rows(self, split: Split, options: InputOptions) -> Iterator[Row]:
        """The rows of a TSV file, under our names for its columns."""
        layout = self.layout(split.url, options)
        places = {options.text_column: layout.text, options.title_column: layout.title, options.id_column: layout.id}
        places.setdefault(SECTION, layout.section)
        lines = read_lines(split)
        for number, _, data in tsv.records(lines, layout.width) if layout.quoted else lines:
            source = partial(line_source, split, number)
            try:
                cells = tsv.cells_of(data.decode("utf-8"), quoted=layout.quoted)
            except UnicodeDecodeError as error:
                raise InputError(f"a line is not UTF-8 ({error.reason})", value=source()) from error
            if cells == [""] or tuple(cells) == layout.header:
                continue
            if len(cells) != layout.width:
                raise InputError(
                    f"a line has {len(cells)} columns",
                    value=source(),
                    expected=f"{layout.width}, separated by tabs, as in the lines before",
                    remedy="check --format: psgs is what DPR's psgs_w100.tsv looks like",
                )
            yield source, {name: cells[place] for name, place in places.items() if place is not None}

    def kept(self, article: Article) -> Article | Passage | None:
        """A passage, also without text."""
        return Passage(article.article_id, article.title, article.text, article.section)


class Documents(Psgs):
    """MS MARCO's documents in TSV, which are articles: id, address, title and text, without a header."""

    def layout(self, url: str, options: InputOptions) -> Layout:
        return tsv.documents_layout(_head(url), url, options.columns)

    def kept(self, article: Article) -> Article | Passage | None:
        return Format.kept(self, article)


def _sure_starts(url: str, cut_bytes: int, size: int) -> list[int] | None:
    """Where the splits of a file begin, by what lies before each of them alone; None where that does not tell.

    A record goes over the end of a line only from a line with an odd number of quotes, and over no more than
    `tsv.MAX_RECORD_BYTES` after it. So a line before which all lines have even numbers for so long begins a record.
    """
    starts = [0]
    with store.open_read(url) as file:
        while (target := starts[-1] + cut_bytes) < size:
            first = max(0, target - tsv.MAX_RECORD_BYTES - LINE_BYTES)
            file.seek(first)
            before = file.read(target - 1 - first) + file.readline(MAX_LINE_BYTES)
            start = first + len(before)
            lines = io.BytesIO(before)
            if first:
                lines.readline()  # which begins before `first`
                if first + lines.tell() >= start - tsv.MAX_RECORD_BYTES:
                    return None
            if start == size:
                break
            if any(line.count(b'"') % 2 for line in lines) or not before.endswith(b"\n"):
                return None
            starts.append(start)
    return starts


def is_tsv(url: str) -> bool:
    """Whether a file is TSV by its name, also of "collection.tsv.gz"."""
    return any(suffix in store.name_of(url).lower() for suffix in Psgs.suffixes)


def has_documents(url: str) -> bool:
    """Whether a TSV file's rows are documents, as in MS MARCO's msmarco-docs.tsv: id, address, title, text."""
    return tsv.has_documents(_head(url))


def _head(url: str) -> list[tsv.Line]:
    return tsv.head(read_lines(Split(0, "psgs", url)))
