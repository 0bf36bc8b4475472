"""Where answers stand, by question sets that say so: KILT's provenance and HotpotQA's supporting facts."""

from __future__ import annotations

import dataclasses
from typing import Any


@dataclasses.dataclass(frozen=True)
class Page:
    """A page that holds an answer, or a part of the way to it: its id (empty if the set has none) and its title."""

    page_id: str
    title: str


Evidence = tuple[tuple[Page, ...], ...]  # sets of pages; the pages of any one of them are enough for an answer


def evidence_of(value: Any) -> Evidence | None:
    """The sets of pages that a row of a question set names, each set and each page once, in order.

    Args:
        value: the row's value of KILT's `output` (a list of objects with `provenance`, each a set of its own), or of
            `supporting_facts`, as HotpotQA and 2WikiMultihopQA have it (pairs of a title and a sentence's number, or
            the datasets library's object of `title` and `sent_id`; all of them one set).

    Returns:
        The sets that have pages, perhaps none; None if the value is of neither form.

    >>> evidence_of([{"answer": "7", "provenance": [{"wikipedia_id": "12", "title": "Seven"}]}])
    ((Page(page_id='12', title='Seven'),),)
    >>> evidence_of([["Ulm", 0], ["Bonn", 2], ["Ulm", 1]])
    ((Page(page_id='', title='Ulm'), Page(page_id='', title='Bonn')),)
    """
    if isinstance(value, dict) and isinstance(value.get("title"), list):
        found = [[Page("", title) for title in value["title"] if _is_title(title)]]
    elif not isinstance(value, list) or not all(isinstance(one, (dict, list, tuple)) for one in value):
        return None
    elif any(isinstance(one, dict) for one in value):
        found = [_pages_of(one.get("provenance")) for one in value if isinstance(one, dict)]
    else:
        found = [[Page("", fact[0]) for fact in value if fact and _is_title(fact[0])]]
    sets = (tuple(dict.fromkeys(pages)) for pages in found if pages)
    return tuple(dict.fromkeys(sets))


def _pages_of(provenance: Any) -> list[Page]:
    pages = []
    for one in provenance if isinstance(provenance, list) else []:
        number, title = (one.get("wikipedia_id"), one.get("title")) if isinstance(one, dict) else (None, None)
        page_id = str(number) if isinstance(number, (str, int)) and not isinstance(number, bool) else ""
        if page_id or _is_title(title):
            pages.append(Page(page_id, title if isinstance(title, str) else ""))
    return pages


def _is_title(value: Any) -> bool:
    return isinstance(value, str) and bool(value)
