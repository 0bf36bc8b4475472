"""Wikimedia Enterprise's snapshots: NDJSON, also in a tar archive, with the HTML that Parsoid renders.

https://enterprise.wikimedia.com/docs/data-dictionary/
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Sequence
from typing import Any

from rag_ops.articles.dropped import TOO_COMPLEX, TOO_LONG
from rag_ops.articles.options import InputOptions
from rag_ops.articles.wiki_format import (
    DISAMBIGUATION,
    EMPTY,
    REDIRECT,
    Head,
    WikiFormat,
    head_of,
    inner,
)
from rag_ops.markup import bounded, html, wikitext
from rag_ops.markup.pages import is_disambiguation, is_redirect
from rag_ops.markup.parts import Part
from rag_ops.markup.siteinfo import SiteInfo

BODY = "article_body"


class Enterprise(WikiFormat):
    """NDJSON, mostly in a tar archive."""

    name, keys, needs = "enterprise", frozenset((BODY, "name")), (BODY,)

    def head(self, row: dict[str, Any], source: Callable[[], str]) -> Head:
        moment = row.get("date_modified"), inner(row, "version", "identifier")
        language, wiki = (inner(row, name, "identifier") for name in ("in_language", "is_part_of"))
        head = head_of(source, row.get("identifier"), row.get("name"), moment=moment, code=language, wiki=wiki)
        number = inner(row, "namespace", "identifier")
        return dataclasses.replace(head, namespace=number if isinstance(number, int) else 0)

    def parts(self, row: dict[str, Any], head: Head, site: SiteInfo, options: InputOptions) -> Sequence[Part] | str:
        page, source = (inner(row, BODY, name) for name in ("html", "wikitext"))
        source = source if isinstance(source, str) else ""
        if len(source) <= wikitext.MAX_PAGE_CHARS:
            if is_redirect(source, site):
                return REDIRECT
            if is_disambiguation(head.title, source, site) or _lists_meanings(row, site):
                return DISAMBIGUATION
        if isinstance(page, str) and page.strip():
            return html_parts(page, site, options)
        if not source.strip():
            return EMPTY
        found = bounded.render_parts(source, site, options.parts)
        return TOO_COMPLEX if found is None else found


def html_parts(page: str, site: SiteInfo, options: InputOptions) -> Sequence[Part] | str:
    """The parts of a page in HTML, or the reason why it is no article."""
    if len(page) > html.MAX_PAGE_CHARS:
        return TOO_LONG
    found = html.render(page, site, options.parts)
    if found is None:
        return TOO_COMPLEX
    return REDIRECT if found.redirect else DISAMBIGUATION if found.disambiguates else found.parts


def _lists_meanings(row: dict[str, Any], site: SiteInfo) -> bool:
    """Whether a template that the article calls says that it is a disambiguation page."""
    called = row.get("templates")
    names = [inner(one, "name") for one in called] if isinstance(called, list) else []
    calls = "".join(f"{{{{{name}}}}}" for name in names if isinstance(name, str) and not set(name) & set("{}|[]"))
    return is_disambiguation("", calls, site)
