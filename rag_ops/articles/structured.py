"""Wikimedia's structured Wikipedia: articles as sections of paragraphs, lists and tables, and infoboxes as fields.

https://enterprise.wikimedia.com/docs/data-dictionary/ https://huggingface.co/datasets/wikimedia/structured-wikipedia
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

from rag_ops.articles.dropped import TOO_COMPLEX, TOO_LONG
from rag_ops.articles.finewiki import fact
from rag_ops.articles.options import InputOptions
from rag_ops.articles.wiki_format import (
    DISAMBIGUATION,
    Head,
    WikiFormat,
    head_of,
    inner,
    unpacked,
    with_infoboxes,
)
from rag_ops.markup import assembling
from rag_ops.markup.assembling import Found, table_place
from rag_ops.markup.characters import GUARD, without_marks
from rag_ops.markup.parts import Part
from rag_ops.markup.siteinfo import SiteInfo
from rag_ops.markup.table_rows import Cell, Table
from rag_ops.markup.wikitext import MAX_PAGE_CHARS

LEAD = "abstract"  # the name of the section before the first heading, in every language
MAX_DEPTH = 50  # parts in parts; real ones have ten
MAX_PARTS = 100_000  # of an article


class TooComplexError(ValueError):
    """An article has more parts, or parts in parts, than any has."""


class Structured(WikiFormat):
    """JSON, or Parquet by the same names, in which what is nested may be JSON again."""

    name, needs = "structured", ("name", "identifier", "sections")
    keys = frozenset(needs)
    columns = ("description", "infoboxes", "tables", "in_language", "is_part_of", "date_modified", "version", "url")

    def head(self, row: dict[str, Any], source: Callable[[], str]) -> Head:
        language, wiki = (_identifier(row.get(name)) for name in ("in_language", "is_part_of"))
        moment = row.get("date_modified"), _identifier(row.get("version"))
        return head_of(source, row.get("identifier"), row.get("name"), moment=moment, code=language, wiki=wiki)

    def parts(self, row: dict[str, Any], head: Head, site: SiteInfo, options: InputOptions) -> Sequence[Part] | str:
        description = row.get("description")
        if isinstance(description, str) and description.strip().lower() in site.language.disambiguation_descriptions:
            return DISAMBIGUATION
        writer = _Writer(site, unpacked(row.get("tables")))
        try:
            writer.write(unpacked(row.get("sections")), 1)
        except TooComplexError:
            return TOO_COMPLEX
        if writer.chars > MAX_PAGE_CHARS:
            return TOO_LONG
        found = assembling.assemble(
            "".join(writer.out), writer.found, [], options.parts, lambda number: [writer.tables[number]], list
        )
        if not options.parts.tables:
            return found
        boxes = unpacked(row.get("infoboxes"))
        facts = (list(dict.fromkeys(_facts(box, 0))) for box in (boxes if isinstance(boxes, list) else []))
        return with_infoboxes(found, facts)


class _Writer:
    """Walks sections and writes text, with a line for each heading and table (`assembling.assemble`)."""

    def __init__(self, site: SiteInfo, tables: Any) -> None:
        self._closing = site.language.closing_sections
        listed = tables if isinstance(tables, list) else []
        self._by_name: Mapping[str, Any] = {str(inner(one, "identifier")): one for one in listed}
        self.found, self.out, self.tables = Found(), list[str](), list[Table]()
        self.chars = self._parts = 0

    def write(self, parts: Any, level: int) -> None:
        """Writes parts that stand below `level` headings.

        Raises:
            TooComplexError: there are too many.
        """
        if level > MAX_DEPTH:
            raise TooComplexError
        for part in parts if isinstance(parts, list) else []:
            self._parts += 1
            if self._parts > MAX_PARTS:
                raise TooComplexError
            if not isinstance(part, dict):
                continue
            kind, name, value = part.get("type"), _text(part.get("name")), _text(part.get("value"))
            if kind == "section":
                if name.strip(" :").lower() in self._closing:
                    continue
                if name and not (level == 1 and name.lower() == LEAD):
                    self.out.append(self.found.heading(level + 1, GUARD + name))
            if value:
                self.chars += len(value)
                self.out += [f"{GUARD}{line}\n" for line in value.split("\n")]
            self._write_tables(part)
            self.write(unpacked(part.get("has_parts")), level + 1)

    def _write_tables(self, part: Mapping[str, Any]) -> None:
        referred = unpacked(part.get("table_references"))
        names = [str(inner(one, "identifier")) for one in (referred if isinstance(referred, list) else [])]
        found = [self._by_name[name] for name in dict.fromkeys(names) if name in self._by_name]
        for one in [part, *found] if part.get("type") == "table" else found:
            rows = [_cells(row, header) for header in (True, False) for row in _rows(one, header)]
            if any(rows):
                self.chars += sum(len(cell.markup) for row in rows for cell in row)
                self.out.append(table_place(len(self.tables)))
                self.tables.append(Table('class="wikitable"', rows=[row for row in rows if row]))


def _identifier(value: Any) -> Any:
    """An identifier, which stands in an object, or as JSON of one, or alone."""
    value = unpacked(value) if isinstance(value, str) and value.startswith("{") else value
    return inner(value, "identifier") if isinstance(value, dict) else value


def _rows(table: Any, header: bool) -> list[Any]:
    rows = unpacked(inner(table, "headers" if header else "rows"))
    return rows if isinstance(rows, list) else []


def _cells(row: Any, header: bool) -> list[Cell]:
    cells = row if isinstance(row, list) else []
    return [Cell(_text(inner(cell, "value") if isinstance(cell, dict) else cell), header) for cell in cells]


def _facts(part: Any, depth: int) -> Iterator[str]:
    """The fields of an infobox and of the parts in it."""
    if not isinstance(part, dict) or depth > MAX_DEPTH:
        return
    if part.get("type") == "field":
        values = [one for one in (unpacked(part.get("values")) or []) if isinstance(one, str)]
        yield from filter(None, [fact(_text(part.get("name")), part.get("value") or values)])
    parts = unpacked(part.get("has_parts"))
    for one in parts if isinstance(parts, list) else []:
        yield from _facts(one, depth + 1)


def _text(value: Any) -> str:
    return without_marks(value) if isinstance(value, str) else ""
