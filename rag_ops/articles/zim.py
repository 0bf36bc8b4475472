"""Kiwix's ZIM files: a wiki's pages as HTML, read with libzim (the extra `zim`).

https://wiki.openzim.org/wiki/ZIM_file_format https://wiki.openzim.org/wiki/Metadata
"""

from __future__ import annotations

import contextlib
import functools
import itertools
import math
from collections.abc import Iterator
from typing import Any

from rag_ops import machine
from rag_ops.articles import languages
from rag_ops.articles.article import Source, Split
from rag_ops.articles.dropped import TOO_LONG, Dropped
from rag_ops.articles.enterprise import html_parts
from rag_ops.articles.options import InputOptions
from rag_ops.articles.source_format import MAX_NAME_CHARS, Cut, Format, writable
from rag_ops.articles.wiki_format import DISAMBIGUATION, NAMESPACE, REDIRECT, Head, article_of
from rag_ops.errors import InputError
from rag_ops.markup import html, tables
from rag_ops.markup.pages import is_disambiguation
from rag_ops.markup.siteinfo import SiteInfo
from rag_ops.storage import store

MAGIC = b"ZIM\x04"
PAGES = ("text/html", "application/xhtml+xml")
OLD_ARTICLES = "A/"  # what paths of articles begin with in files of before 2021
FAULTS = (RuntimeError, ValueError, LookupError, OSError)  # that libzim raises for damaged files


class Zim(Format):
    """ZIM files on this machine's disks, cut by entries."""

    name, suffixes, is_markup, checks_ids = "zim", (".zim",), True, False

    def cuts(self, url: str, options: InputOptions) -> Iterator[Cut]:
        with _reading(url) as archive:
            entries = _entries(archive)
        splits = max(1, min(entries, math.ceil(store.size_bytes(url) / options.cut_bytes)))
        bounds = [entries * number // splits for number in range(splits + 1)]
        yield from itertools.pairwise(bounds)

    def wiki(self, url: str, options: InputOptions) -> str:
        with _reading(url) as archive:
            return _said(archive, "Name")

    def language(self, url: str, options: InputOptions) -> str:
        with _reading(url) as archive:
            said = _said(archive, "Language")
        return "" if "," in said else languages.code_of(_language(said))

    def articles(self, split: Split, options: InputOptions, dropped: Dropped) -> Iterator[Source]:
        """Yields pages, whose paths are their ids; what is no page, such as an image, is passed over."""
        with _reading(split.url) as archive:
            site = options.wiki(_language(_said(archive, "Language")), _said(archive, "Name"))
            old = not archive.has_new_namespace_scheme
            for number in range(split.start, _entries(archive) if split.end is None else split.end):
                entry = archive._get_entry_by_id(number)
                if old and not entry.path.startswith(OLD_ARTICLES):
                    continue
                if entry.is_redirect:
                    dropped[REDIRECT] += 1
                    continue
                item = entry.get_item()
                if not item.mimetype.startswith(PAGES):
                    continue
                title = writable(entry.title or entry.path)
                if site.namespace_of(title):
                    dropped[NAMESPACE] += 1
                    continue
                path = writable(entry.path.removeprefix(OLD_ARTICLES) if old else entry.path)
                yield article_of(
                    split.prefix + path, Head(path, title), _parts(item, path, title, site, options), dropped
                )


def _parts(item: Any, path: str, title: str, site: SiteInfo, options: InputOptions) -> Any:
    if max(len(path), len(title)) > MAX_NAME_CHARS or item.size > 4 * html.MAX_PAGE_CHARS:
        return TOO_LONG
    if is_disambiguation(title, "", site):
        return DISAMBIGUATION
    return html_parts(bytes(item.content).decode("utf-8", "replace"), site, options)


def _entries(archive: Any) -> int:
    """The number of entries that are the wiki's own; those come first, in files of today."""
    return archive.entry_count if archive.has_new_namespace_scheme else archive.all_entry_count


@contextlib.contextmanager
def _reading(url: str) -> Iterator[Any]:
    """Opens a file; errors of libzim become one line."""
    try:
        from libzim.reader import Archive
    except ImportError as error:
        raise InputError(
            "ZIM files are read with libzim, which is not installed", value=url, remedy="pip install 'ragbeam[zim]'"
        ) from error
    if not store.is_local(url):
        raise InputError(
            "a ZIM file is read in place, by its own library",
            value=url,
            expected="a file on a disk that every worker sees",
            remedy="copy it there",
        )
    with store.open_read(url) as file:
        magic = file.read(len(MAGIC))
    if magic != MAGIC:
        raise InputError("not a ZIM file", value=url, expected="a file of Kiwix's", remedy="check --format")
    try:
        yield Archive(store.filesystem(url)[1])
    except FAULTS as error:
        if isinstance(error, InputError):
            raise
        machine.check(error)
        raise InputError(
            f"the ZIM file is cut or damaged ({str(error).strip() or type(error).__name__})",
            value=url,
            remedy="download it again",
        ) from error


def _said(archive: Any, name: str) -> str:
    """What the file's metadata say under a name; empty if they don't."""
    if name not in archive.metadata_keys:
        return ""
    return bytes(archive.get_metadata(name)).decode("utf-8", "replace").strip()[:MAX_NAME_CHARS]


def _language(said: str) -> str:
    """The code that wikis have for a file's language, the first if it has several.

    >>> _language("deu"), _language("eng,fra"), _language("ltg"), _language("")
    ('de', 'en', 'ltg', '')
    """
    first = said.split(",")[0].strip().lower()
    return _codes().get(first, first)


@functools.cache
def _codes() -> dict[str, str]:
    return {code: own for own, codes in tables.rows("iso639.tsv", 2) for code in codes.split()}
