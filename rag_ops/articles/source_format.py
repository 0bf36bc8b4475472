"""What a format of input is: the base of all of them."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator
from typing import Any

from rag_ops.articles.article import Article, Source, Split
from rag_ops.articles.columns import find_columns, joined_text, made_id
from rag_ops.articles.dropped import TOO_LONG, Dropped
from rag_ops.articles.options import InputOptions
from rag_ops.errors import InputError
from rag_ops.storage import store
from rag_ops.storage.compression import COMPRESSIONS
from schemas.passages import Passage

Row = tuple[Callable[[], str], dict[str, Any]]  # where a row stands, said only when asked, and its columns
Cut = tuple[int, int | None] | tuple[int, int, int]  # start, end and, of a dataset, the number of its shards
MAX_NAME_CHARS = 1000  # longest title, section or id, which every passage of the article carries
_SURROGATE = re.compile(r"[\ud800-\udfff]")  # what "\ud800" in JSON makes, and no file can hold


class Format:
    """One kind of input. Subclasses give its cuts and either its rows or its articles.

    Attributes:
        name: name on the command line and in splits.
        suffixes: suffixes of its files, without those of a compression.
        is_file: whether an input is a file; else it is a dataset's name.
        is_wikitext: whether texts are wikitext, to be rendered.
        is_markup: whether reading is slow, because texts are wikitext or HTML.
        keys: names that the articles of the format have, in JSON or Parquet, and those of no other.
        in_archives: whether its files are also read in a tar archive.
        checks_ids: whether the first ids of its files are compared beforehand, as they may begin anew in each.
    """

    name: str
    suffixes: tuple[str, ...] = ()
    is_file = True
    is_wikitext = False
    is_markup = False
    keys: frozenset[str] = frozenset()
    in_archives = False
    checks_ids = True

    def shown_by(self, keys: set[str]) -> bool:
        """Whether rows with these names show the format."""
        return bool(self.keys) and self.keys <= keys

    def named_by(self, url: str) -> bool:
        """Whether the address of a file, beyond its suffix, or how it begins, shows the format."""
        return False

    def cuts(self, url: str, options: InputOptions) -> Iterator[Cut]:
        """Yields the ranges of an input that its splits cover, in order.

        Raises:
            InputError: the input is missing or not of this format.
        """
        raise NotImplementedError

    def rows(self, split: Split, options: InputOptions) -> Iterator[Row]:
        """Yields the rows of a split, each under the columns' names in the file.

        Raises:
            InputError: the input is malformed, with file and line or row.
        """
        raise NotImplementedError

    def articles(self, split: Split, options: InputOptions, dropped: Dropped) -> Iterator[Source]:
        """Yields the articles of a split in input order; counts in `dropped`, by reason, what is no article.

        Raises:
            InputError: the input is malformed, with file and line, row or byte.
        """
        for source, row in self.rows(split, options):
            article = _article(source, row, split, options)
            if max(map(len, (article.title, article.article_id, article.section))) > MAX_NAME_CHARS:
                dropped.name(TOO_LONG, article.title or article.article_id)
            elif (kept := self.kept(article)) is not None:
                yield kept
            else:
                dropped["empty"] += 1

    def wiki(self, url: str, options: InputOptions) -> str:
        """The name of the wiki that an input is from; empty if it is none or does not say."""
        return ""

    def language(self, url: str, options: InputOptions) -> str:
        """The code of the language that an input says its articles are in; empty if it says none, or several."""
        return ""

    def kept(self, article: Article) -> Article | Passage | None:
        """The article of a row, or None if it has no text."""
        return article if article.text.strip() else None

    def digest(self, url: str, options: InputOptions) -> str:
        """The digest that stands for an input in the fingerprint."""
        return store.sha256_of(url)


def writable(text: str) -> str:
    """The text without what no file can hold."""
    return _SURROGATE.sub("\ufffd", text)


def _article(source: Callable[[], str], row: dict[str, Any], split: Split, options: InputOptions) -> Article:
    columns = find_columns(row, options.columns, source)
    title = None if columns.title is None else row[columns.title]
    text = joined_text(row[columns.text])
    for name, value in (("title", title), ("text", text)):
        if value is not None and not isinstance(value, str):
            raise InputError(f"an article's {name} is no text", value=f"{source()}: {value!r}", expected="a string")
    section = row[columns.section] if columns.section else ""
    section = section if isinstance(section, str) else ""  # a column of that name for something else
    title, text, section = (writable(part or "") for part in (title, text, section))
    if columns.id is None:
        return Article(split.prefix + made_id(title, text), title, text, section=section)
    return Article(split.prefix + shown_id(row[columns.id], source), title, text, section=section)


def shown_id(article_id: Any, source: Callable[[], str]) -> str:
    """The id of an article, a string or an integer, as text.

    Raises:
        InputError: it is neither, or empty; `source` says where.
    """
    if isinstance(article_id, bool) or not isinstance(article_id, (str, int)) or article_id == "":
        raise InputError(
            "an article's id is no text or number", value=f"{source()}: {article_id!r}", expected="a string or integer"
        )
    try:
        return writable(str(article_id))
    except ValueError as error:  # a number of thousands of digits
        raise InputError("an article's id is no number that can be shown", value=source()) from error


def byte_cuts(url: str, options: InputOptions) -> Iterator[Cut]:
    """Cuts every `split_bytes`, wherever they fall in a line; a compressed file is one split."""
    size = store.size_bytes(url)
    if store.name_of(url).lower().endswith(COMPRESSIONS):
        yield 0, None
        return
    for start in range(0, size, options.cut_bytes) or [0]:
        yield start, min(start + options.cut_bytes, size)
