"""Plain texts, a file an article."""

from __future__ import annotations

from collections.abc import Iterator

from rag_ops.articles.article import Split
from rag_ops.articles.lines import read_lines
from rag_ops.articles.options import InputOptions
from rag_ops.articles.source_format import Cut, Format, Row
from rag_ops.errors import InputError
from rag_ops.storage import store
from rag_ops.storage.compression import COMPRESSIONS


class Text(Format):
    """Plain text, an article a file: its name is the id and, with spaces for underscores, the title."""

    name = "text"

    def cuts(self, url: str, options: InputOptions) -> Iterator[Cut]:
        yield 0, None

    def rows(self, split: Split, options: InputOptions) -> Iterator[Row]:
        parts = [data for _, _, data in read_lines(split)]
        try:
            text = b"".join(parts).decode("utf-8")
        except UnicodeDecodeError as error:
            raise InputError(f"a text is not UTF-8 ({error.reason})", value=split.url) from error
        name = store.name_of(split.url)
        for suffix in (*COMPRESSIONS, ".txt"):
            name = name.removesuffix(suffix)
        columns = {options.id_column: name, options.title_column: name.replace("_", " "), options.text_column: text}
        yield lambda: split.url, columns
