"""What the formats of wikis have in common that are no dumps: articles with ids, revisions and a language, in parts."""

from __future__ import annotations

import dataclasses
import itertools
import json
from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import Any

from rag_ops.articles import languages
from rag_ops.articles.archives import archive_rows, is_archive
from rag_ops.articles.article import Article, NoArticle, Source, Split, moment_of
from rag_ops.articles.dropped import TOO_LONG, Dropped
from rag_ops.articles.lines import check_no_array, json_rows
from rag_ops.articles.options import InputOptions
from rag_ops.articles.parquet_rows import column_names, group_cuts, parquet_rows
from rag_ops.articles.source_format import MAX_NAME_CHARS, Cut, Format, Row, byte_cuts, shown_id, writable
from rag_ops.errors import InputError
from rag_ops.markup.pages import is_disambiguation
from rag_ops.markup.parts import Part, prose
from rag_ops.markup.siteinfo import SiteInfo, language_of
from rag_ops.storage import store
from schemas.passages import INFOBOX, PROSE

LOOKED_AT = 10  # rows from which it is told what a file holds
BATCH_ROWS = 32  # of Parquet: a row holds whole pages
EMPTY, DISAMBIGUATION, REDIRECT, NAMESPACE = "empty", "disambiguation", "redirect", "namespace"


@dataclasses.dataclass(frozen=True)
class Head:
    """What is known of an article beside its text.

    Attributes:
        page_id, title: as in a dump.
        code: the code of the wiki's language; empty if it is not said.
        wiki: the name of its database.
        namespace: 0 for articles.
        date, revision: `article.moment_of`.
    """

    page_id: str
    title: str
    code: str = ""
    wiki: str = ""
    namespace: int = 0
    date: int = -1
    revision: int = -1


class WikiFormat(Format):
    """A format of whole articles: JSON, one object a line, or Parquet. Subclasses say where in a row things stand.

    A tar archive of JSON is read by one worker, as a stream.

    Attributes:
        needs: keys that no file of the format is without.
        columns: those that are read of a Parquet file, as far as it has them.
    """

    is_markup, checks_ids, in_archives = True, False, True
    needs: tuple[str, ...] = ()
    columns: tuple[str, ...] = ()

    def head(self, row: dict[str, Any], source: Callable[[], str]) -> Head:
        """What is known of a row's article.

        Raises:
            InputError: it has no id, or something has another type; `source` says where.
        """
        raise NotImplementedError

    def parts(self, row: dict[str, Any], head: Head, site: SiteInfo, options: InputOptions) -> Sequence[Part] | str:
        """The parts of a row's article, or the reason why it is none."""
        raise NotImplementedError

    def cuts(self, url: str, options: InputOptions) -> Iterator[Cut]:
        if is_parquet(url):
            self._check(column_names(url), url)
            yield from group_cuts(url, options.cut_bytes)
            return
        if is_archive(url):
            self._check(first_keys(archive_rows(url)), url)
            yield 0, None
            return
        check_no_array(url)
        self._check(first_keys(json_rows(Split(0, self.name, url))), url)
        yield from byte_cuts(url, options)

    def rows(self, split: Split, options: InputOptions) -> Iterator[Row]:
        if not is_parquet(split.url):
            return archive_rows(split.url) if is_archive(split.url) else json_rows(split)
        there = set(column_names(split.url))
        return parquet_rows(split, [name for name in (*self.needs, *self.columns) if name in there], BATCH_ROWS)

    def wiki(self, url: str, options: InputOptions) -> str:
        for source, row in self.rows(Split(0, self.name, url), options):
            return self.head(row, source).wiki
        return ""

    def language(self, url: str, options: InputOptions) -> str:
        first = itertools.islice(self.rows(Split(0, self.name, url), options), LOOKED_AT)
        heads = (self.head(row, source) for source, row in first)
        return languages.agreed(languages.of_wiki(head.code, head.wiki) for head in heads)

    def articles(self, split: Split, options: InputOptions, dropped: Dropped) -> Iterator[Source]:
        for source, row in self.rows(split, options):
            head = self.head(row, source)
            article_id = split.prefix + head.page_id
            if head.namespace != 0:
                dropped[NAMESPACE] += 1
                continue
            found: Sequence[Part] | str = TOO_LONG
            if max(len(head.title), len(article_id)) <= MAX_NAME_CHARS:
                site = options.wiki(head.code or language_of(head.wiki), head.wiki)
                found = DISAMBIGUATION if is_disambiguation(head.title, "", site) else ""
                found = found or self.parts(row, head, site, options)
            yield article_of(article_id, head, found, dropped)

    def _check(self, keys: Sequence[str], url: str) -> None:
        missing = [name for name in self.needs if name not in keys]
        if missing and (keys or is_parquet(url)):
            raise InputError(
                f"the articles have no {', '.join(missing)}",
                value=f"{url} has {', '.join(map(str, keys))[:300] or 'nothing'}",
                expected=f"the names of --format {self.name}: {', '.join(self.needs)}",
                remedy="check --format; auto goes by the file",
            )


def article_of(article_id: str, head: Head, found: Sequence[Part] | str, dropped: Dropped) -> Article | NoArticle:
    """The article of parts; of a reason a mark, so that no older revision comes back, and the reason is counted."""
    if not isinstance(found, str):
        parts = tuple(Part(part.kind, writable(part.section), writable(part.text)) for part in found)
        return Article(article_id, head.title, prose(parts), head.date, head.revision, parts=parts)
    dropped.count(found, head.title)
    return NoArticle(article_id[:MAX_NAME_CHARS], head.date, head.revision)


def with_infoboxes(parts: Sequence[Part], boxes: Iterable[Sequence[str]]) -> list[Part]:
    """Parts with infoboxes, each the lines of its facts, behind the prose; those without facts are left out."""
    text = [part for part in parts if part.kind == PROSE]
    found = (Part(INFOBOX, "", "\n".join(facts)) for facts in boxes if facts)
    return [*text, *found, *parts[len(text) :]]


def first_keys(rows: Iterator[Row]) -> list[str]:
    """The names that the first rows of a file have."""
    found: dict[str, None] = {}
    for number, (_, row) in enumerate(rows, 1):
        found.update(dict.fromkeys(row))
        if number == LOOKED_AT:
            break
    return list(found)


def is_parquet(url: str) -> bool:
    """Whether a file is Parquet by its name."""
    return store.name_of(url).lower().endswith(".parquet")


def head_of(
    source: Callable[[], str], page_id: Any, title: Any, *, moment: tuple[Any, Any], code: Any, wiki: Any
) -> Head:
    """The head of an article from what a row holds: its id and title, the time and id of its revision, its language.

    Raises:
        InputError: the id or the title is none.
    """
    if not isinstance(title, str) or not title:
        raise InputError("an article's title is no text", value=f"{source()}: {title!r}", expected="a string")
    date, revision = moment_of(*(part if isinstance(part, str) else "" for part in map(_number_text, moment)))
    code, wiki = (writable(value) if isinstance(value, str) else "" for value in (code, wiki))
    return Head(shown_id(page_id, source), writable(title), code, wiki, date=date, revision=revision)


def _number_text(value: Any) -> Any:
    return str(value) if isinstance(value, int) and abs(value) < 10**18 else value


def inner(row: Any, *names: str) -> Any:
    """A value in objects in objects; None if one of them is not there or is something else.

    >>> inner({"in_language": {"identifier": "de"}}, "in_language", "identifier")
    'de'
    """
    for name in names:
        row = row.get(name) if isinstance(row, dict) else None
    return row


def unpacked(value: Any) -> Any:
    """A nested value, which Parquet files also have as JSON.

    >>> unpacked('[{"name": "a"}]'), unpacked([1]), unpacked("[no")
    ([{'name': 'a'}], [1], None)
    """
    if not isinstance(value, str):
        return value
    try:
        return json.loads(value) if value else None
    except (ValueError, RecursionError):
        return None
