"""What a page is made of, apart from the title: prose, tables, infoboxes and captions, each under its heading."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Iterable, Sequence

from schemas.passages import PROSE

ABOVE = " > "  # between a heading and one below it
MAX_HEADING_CHARS = 200  # of a longer one the rest is left out: each passage below it carries it


@dataclasses.dataclass(frozen=True)
class Wanted:
    """What is wanted of a page beside its prose."""

    tables: bool = False  # tables and infoboxes
    captions: bool = False  # of files


PROSE_ALONE = Wanted()


@dataclasses.dataclass(frozen=True, slots=True)
class Part:
    """A part of a page.

    Attributes:
        kind: one of `schemas.passages.KINDS`.
        section: the headings that it stands below, as in "History > Middle Ages"; empty for the lead. A table's caption
            counts as one.
        text: lines: paragraphs and list items of prose, rows of a table or an infobox, a caption.
    """

    kind: str
    section: str
    text: str


def prose(parts: Iterable[Part]) -> str:
    """The prose of a page.

    >>> prose([Part("prose", "", "One."), Part("table", "", "A: 1"), Part("prose", "History", "Two.")])
    'One.\\nTwo.'
    """
    return "\n".join(part.text for part in parts if part.kind == PROSE)


def section_paths(headings: Sequence[tuple[int, str]]) -> list[str]:
    """The path of the lead, which is empty, and of each heading, given as level and text.

    >>> section_paths([(2, "History"), (3, "Middle Ages"), (2, "Culture")])
    ['', 'History', 'History > Middle Ages', 'Culture']
    """
    paths = [""]
    above: list[tuple[int, str]] = []
    for level, text in headings:
        while above and above[-1][0] >= level:
            above.pop()
        above.append((level, text[:MAX_HEADING_CHARS].strip()))
        paths.append(ABOVE.join(text for _, text in above if text))
    return paths


def to_json(parts: Sequence[Part]) -> str:
    """One text that `from_json` reads back."""
    return json.dumps([(part.kind, part.section, part.text) for part in parts])


def from_json(text: str) -> list[Part]:
    """The parts that `to_json` wrote.

    >>> from_json(to_json([Part("prose", "", "One.")]))
    [Part(kind='prose', section='', text='One.')]
    """
    return [Part(*values) for values in json.loads(text)]
