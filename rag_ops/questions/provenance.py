"""Where answers stand, by question sets that say so: KILT's provenance and HotpotQA's supporting facts."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from typing import Any


@dataclasses.dataclass(frozen=True)
class Page:
    """A page that holds an answer, or a part of the way to it: its id (empty if the set has none) and its title."""

    page_id: str
    title: str


def pages_of(row: Mapping[str, Any]) -> tuple[Page, ...] | None:
    """The pages that a row of a question set names, each once, in its order; None if it is of neither form.

    Args:
        row: an object of KILT (`output`, a list of objects with `provenance`) or of HotpotQA (`supporting_facts`, pairs
            of a title and a sentence's number, or the datasets library's object of `title` and `sent_id`).

    >>> pages_of({"output": [{"answer": "7", "provenance": [{"wikipedia_id": "12", "title": "Seven"}]}]})
    (Page(page_id='12', title='Seven'),)
    >>> pages_of({"supporting_facts": [["Ulm", 0], ["Bonn", 2], ["Ulm", 1]]})
    (Page(page_id='', title='Ulm'), Page(page_id='', title='Bonn'))
    """
    facts, outputs = row.get("supporting_facts"), row.get("output")
    found: list[Page] = []
    if isinstance(facts, dict) and isinstance(facts.get("title"), list):
        found = [Page("", title) for title in facts["title"] if isinstance(title, str)]
    elif isinstance(facts, list):
        found = [Page("", fact[0]) for fact in facts if isinstance(fact, (list, tuple)) and fact and _is_title(fact[0])]
    elif isinstance(outputs, list):
        for output in outputs:
            provenance = output.get("provenance") if isinstance(output, dict) else None
            for one in provenance if isinstance(provenance, list) else []:
                if isinstance(one, dict) and (page := _page(one)) is not None:
                    found.append(page)
    else:
        return None
    return tuple(dict.fromkeys(found))


def _page(one: Mapping[str, Any]) -> Page | None:
    number, given = one.get("wikipedia_id"), one.get("title")
    page_id = str(number) if isinstance(number, (str, int)) and not isinstance(number, bool) else ""
    title = given if isinstance(given, str) else ""
    return Page(page_id, title) if page_id or title else None


def _is_title(value: Any) -> bool:
    return isinstance(value, str) and bool(value)
