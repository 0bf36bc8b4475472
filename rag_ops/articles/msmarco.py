"""MS MARCO's collections of passages and of documents. https://microsoft.github.io/msmarco/"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

from rag_ops.articles import containers
from rag_ops.articles.article import Source, Split
from rag_ops.articles.collections import Collection
from rag_ops.articles.dropped import Dropped
from rag_ops.articles.options import InputOptions
from rag_ops.articles.psgs import Documents, Psgs, has_documents, is_tsv
from rag_ops.articles.source_format import Cut
from rag_ops.articles.wiki_format import first_keys

DOCUMENT = frozenset(("docid", "url", "title", "body"))


class Msmarco(Collection):
    """Passages are kept with their ids: collection.tsv, and `pid` and `passage` of the second version.

    Documents are articles: msmarco-docs.tsv, without a header an id, an address, a title and a text; and `docid`,
    `url`, `title`, `headings` and `body` of the second version.
    """

    name, whole = "msmarco", True
    needs = shows = (frozenset(("pid", "passage")), DOCUMENT)

    def named_by(self, url: str) -> bool:
        return is_tsv(url) and has_documents(url)

    def texts(self, row: dict[str, Any], source: Callable[[], str], options: InputOptions) -> Iterator[dict[str, Any]]:
        hidden = () if options.id_column == "docid" or "pid" not in row else ("docid",)  # of a passage: its document's
        yield {name: value for name, value in row.items() if name not in hidden}

    def cuts(self, url: str, options: InputOptions) -> Iterator[Cut]:
        return _reader(url).cuts(url, options) if is_tsv(url) else super().cuts(url, options)

    def articles(self, split: Split, options: InputOptions, dropped: Dropped) -> Iterator[Source]:
        if is_tsv(split.url):
            return _reader(split.url).articles(split, options, dropped)
        if set(first_keys(containers.rows(Split(0, "", split.url)))) >= DOCUMENT:  # by the file, for all its splits
            return _Documents().articles(split, options, dropped)
        return super().articles(split, options, dropped)

    def language(self, url: str, options: InputOptions) -> str:
        return "" if is_tsv(url) else super().language(url, options)


class _Documents(Msmarco):
    whole = False

    def articles(self, split: Split, options: InputOptions, dropped: Dropped) -> Iterator[Source]:
        return Collection.articles(self, split, options, dropped)


def _reader(url: str) -> Psgs:
    """What reads a TSV file: as documents, or as passages."""
    return Documents() if has_documents(url) else Psgs()
