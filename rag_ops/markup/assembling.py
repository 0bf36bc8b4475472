"""Puts a page's parts together: prose under its headings, then infoboxes, tables and captions, each without markup."""

from __future__ import annotations

import dataclasses
import re
from collections.abc import Callable, Sequence

from rag_ops.markup import infobox, table_rows
from rag_ops.markup.characters import PLACE, PLACE_END
from rag_ops.markup.cleaning import clean
from rag_ops.markup.parts import ABOVE, Part, Wanted, section_paths
from rag_ops.markup.table_rows import Table
from schemas.passages import CAPTION, INFOBOX, PROSE, TABLE

_PLACE = re.compile(f"{PLACE}([ht])(\\d+){PLACE_END}")
_OPTION = re.compile(  # of a file's link, in English, with what every wiki takes
    r"(?:thumb|thumbnail|frame|framed|frameless|border|left|right|center|none|upright|baseline|middle|sub|super|top|"
    r"bottom|text-top|text-bottom|x?\d+(?:x\d+)? ?px|[a-z]+ ?=.*)\s*",
    re.IGNORECASE | re.DOTALL,
)


@dataclasses.dataclass
class Found:
    """What a page's markup has beside its prose, each with the number of headings before it.

    Attributes:
        headings: level and text of each.
        infoboxes: names and values of the parameters of each.
        captions: of files.
    """

    headings: list[tuple[int, str]] = dataclasses.field(default_factory=list)
    infoboxes: list[tuple[int, list[tuple[str, str]]]] = dataclasses.field(default_factory=list)
    captions: list[tuple[int, str]] = dataclasses.field(default_factory=list)

    def heading(self, level: int, text: str) -> str:
        """Keeps a heading; returns the line that says where it stood."""
        self.headings.append((level, text))
        return f"\n{PLACE}h{len(self.headings) - 1}{PLACE_END}\n"

    def infobox(self) -> list[tuple[str, str]]:
        """The parameters of a new infobox, to be filled."""
        self.infoboxes.append((len(self.headings), []))
        return self.infoboxes[-1][1]

    def caption(self, options: str) -> None:
        """Keeps the caption of a file: the last of its options, unless that is one of MediaWiki's."""
        caption = options.rpartition("|")[2].strip()
        if caption and not _OPTION.fullmatch(caption):
            self.captions.append((len(self.headings), caption))


def table_place(number: int) -> str:
    """The line that says where a table stood."""
    return f"\n{PLACE}t{number}{PLACE_END}\n"


def assemble(
    rendered: str,
    found: Found,
    literals: list[str],
    wanted: Wanted,
    tables_at: Callable[[int], Sequence[Table]],
    render_cells: Callable[[Sequence[str]], list[str]],
) -> list[Part]:
    """The parts of a page.

    Args:
        rendered: the text of its markup, with lines that say where a heading or a table stood.
        found: what its markup has beside its prose.
        literals: literal texts that the others have the numbers of.
        wanted: what is wanted beside prose.
        tables_at: function from the number of a table to it and the tables in it.
        render_cells: function from the markup of cells to their texts.
    """
    paths = section_paths([(level, clean(title, literals)) for level, title in found.headings])
    prose: list[Part] = []
    rows: list[Part] = []
    lines: list[str] = []
    section = ""
    for line in clean(rendered, literals).split("\n"):
        place = _PLACE.fullmatch(line) if PLACE in line else None
        if place is None:
            line = _PLACE.sub("", line)
            lines += [line] if line else []
        elif place[1] == "t":
            rows += _tables(tables_at(int(place[2])), section, literals, render_cells) if wanted.tables else []
        else:
            prose += [Part(PROSE, section, "\n".join(lines))] if lines else []
            lines, section = [], paths[int(place[2]) + 1]
    prose += [Part(PROSE, section, "\n".join(lines))] if lines else []
    boxes = [
        Part(INFOBOX, paths[number], "\n".join(facts))
        for number, parameters in found.infoboxes
        if (facts := infobox.lines([(name, _in_one_line(value, literals)) for name, value in parameters]))
    ]
    captions = [(number, _in_one_line(caption, literals)) for number, caption in found.captions]
    return [*prose, *boxes, *rows, *(Part(CAPTION, paths[number], caption) for number, caption in captions if caption)]


def _tables(
    tables: Sequence[Table], section: str, literals: list[str], render_cells: Callable[[Sequence[str]], list[str]]
) -> list[Part]:
    """The parts of tables; none of those that only lay a page out."""

    def texts(cells: Sequence[str]) -> list[str]:
        return [_PLACE.sub("", clean(text, literals)) for text in render_cells(cells)]

    found = []
    for table in tables:
        if not (lines := (table_rows.facts if table.facts else table_rows.lines)(table, texts)):
            continue
        caption = texts([table.caption])[0].replace("\n", " ")
        path = ABOVE.join(part for part in (section, caption[: table_rows.MAX_HEADER_CHARS].strip()) if part)
        kind = INFOBOX if table.facts or table.is_infobox else TABLE
        found.append(Part(kind, path, "\n".join([caption, *lines] if caption else lines)))
    return found


def _in_one_line(text: str, literals: list[str]) -> str:
    """A text without markup, with commas for line ends."""
    text = _PLACE.sub("", clean(text, literals))
    return ", ".join(line.rstrip(",; ") for line in text.split("\n") if line) if "\n" in text else text
