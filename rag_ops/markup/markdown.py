"""Markdown to the parts of a page, as far as FineWiki writes it: headings, lists, tables, code and emphasis."""

from __future__ import annotations

import re
from collections.abc import Sequence

from rag_ops.markup import assembling
from rag_ops.markup.assembling import Found, table_place
from rag_ops.markup.characters import GUARD, without_marks
from rag_ops.markup.cleaning import clean
from rag_ops.markup.parts import PROSE_ALONE, Part, Wanted
from rag_ops.markup.siteinfo import ENGLISH_SITE, SiteInfo
from rag_ops.markup.table_rows import Cell, Table

MAX_PAGE_CHARS = 4 << 20  # as of wikitext
_HEADING = re.compile(r"(#{1,6})\s+(.*?)\s*#*")
_RULE = re.compile(r"\|?(?:\s*:?-+:?\s*\|)*\s*:?-+:?\s*\|?")  # between the head and the rows of a table
_ITEM = re.compile(r"^(?:[-*+]|\d{1,4}\.)\s+")
_FENCE = ("```", "~~~")
_EMPHASIS = re.compile(r"(\*\*|__)(?=\S)([^*_\n]{1,500}?)(?<=\S)\1")
_CELL = re.compile(r"(?<!\\)\|")
_ESCAPED = re.compile(r"\\([\\`*_{}\[\]()#+\-.!|<>])")


def render(text: str, site: SiteInfo = ENGLISH_SITE, wanted: Wanted = PROSE_ALONE) -> list[Part] | None:
    """The parts of a page: prose under each heading without closing sections, then tables, as far as `wanted`.

    None if the page has more than `MAX_PAGE_CHARS`. A first heading of the highest level is the page's title.

    >>> render("# Ulm\\n\\n**Ulm** is a city.\\n\\n## Names\\n\\n- Ulma\\n\\n## References\\n\\n- A book")
    [Part(kind='prose', section='', text='Ulm is a city.'), Part(kind='prose', section='Names', text='Ulma')]
    """
    if len(text) > MAX_PAGE_CHARS:
        return None
    found, out, tables = Found(), list[str](), list[Table]()
    closing, fenced = 0, False
    lines = without_marks(text).replace("\r", "").split("\n")
    position = 0
    while position < len(lines):
        line = lines[position].strip()
        position += 1
        if line.startswith(_FENCE):
            fenced = not fenced
            continue
        heading = None if fenced else _HEADING.fullmatch(line)
        if heading:
            level, title = len(heading[1]), _plain(heading[2])
            if (level == 1 and not out) or (closing and level > closing):
                continue
            closing = level if clean(title, []).strip(" :").lower() in site.language.closing_sections else 0
            if not closing:
                out.append(found.heading(level, title))
        elif closing:
            continue
        elif not fenced and line.startswith("|"):
            end = position
            while end < len(lines) and lines[end].strip().startswith("|"):
                end += 1
            out.append(table_place(len(tables)))
            tables.append(_table([line, *(one.strip() for one in lines[position:end])]))
            position = end
        elif line:
            out.append(f"{GUARD}{line if fenced else _plain(_ITEM.sub('', line))}\n")
    return assembling.assemble("".join(out), found, [], wanted, lambda number: [tables[number]], list)


def _table(lines: Sequence[str]) -> Table:
    """A table: what stands above the rule of dashes, or its first row, names its columns."""
    table = Table('class="wikitable"', rows=[])
    rules = [number for number, line in enumerate(lines[:5]) if _RULE.fullmatch(line)]
    for number, line in enumerate(lines):
        if number in rules[:1]:
            continue
        cells = _CELL.split(line.removeprefix("|").removesuffix("|"))
        header = number < rules[0] if rules else number == 0
        table.rows.append([Cell(_plain(cell.strip()).replace("<br>", "\n"), header) for cell in cells])
    return table


def _plain(text: str) -> str:
    """A line without emphasis, and with what is escaped as it is."""
    return _ESCAPED.sub(r"\1", _EMPHASIS.sub(r"\2", text)) if "*" in text or "_" in text or "\\" in text else text
