"""Wikitext tables as lines, one a row: "Rank: 1; City: Berlin; Population: 3,664,088".

Cells that span rows or columns stand in each of them; several header rows are joined; a row that is one cell across the
table, as in a table of several groups, stands before the rows below it. Tables that only lay a page out give nothing:
those of a class for boxes, and those that have no header and no class of a data table, or one column.
"""

from __future__ import annotations

import dataclasses
import re
from collections.abc import Callable, Iterator, Sequence

from rag_ops.markup.characters import HELD, HELD_END

MAX_CELLS = 20_000  # of a table with its spans resolved; rows beyond are left out
MAX_COLUMNS = 200
MAX_ROWSPAN = 1000
MAX_HEADER_CHARS = 100  # of a column's name, which each of its rows repeats
MAX_REPEATED_CHARS = 200  # a longer cell that spans rows stands in the first alone

_PAIRS = re.compile(r"\{\{+|\}\}+|\[\[|\]\]|\n[ \t]*\|-")
_HELD = re.compile(f"{HELD}(\\d+){HELD_END}")
_BEGIN = re.compile(r"[ \t:*#;]*\{\|(.*)")
_SPAN = {name: re.compile(rf"\b{name}\s*=\s*[\"']?\s*(\d{{1,6}})", re.IGNORECASE) for name in ("rowspan", "colspan")}
_CLASS = re.compile(r"\bclass\s*=\s*(?:\"([^\"]*)|'([^']*)|(\S+))", re.IGNORECASE)
_BOXES = re.compile(
    r"\b(?:navbox|vertical-navbox|sidebar|metadata|[a-z]*mbox|toc|toccolours|succession-?box|noprint|navigation)",
    re.IGNORECASE,
)
_INFOBOX = re.compile(r"\binfobox\b|\btaxobox\b", re.IGNORECASE)
_DATA = re.compile(r"\bwikitable\b|\bsortable\b|\bprettytable\b", re.IGNORECASE)
_BOLD = re.compile(r"\s*'''.*'''\s*", re.DOTALL)
_BULLET = re.compile(r"^[•·\-–—*▪]\s*")
_NOTHING = re.compile(r"[\s\-–—−?*.·•…]*")


@dataclasses.dataclass
class Cell:
    """A cell: its markup, whether it is a header, and how many rows and columns it spans."""

    markup: str
    header: bool
    rowspan: int = 1
    colspan: int = 1
    nested: bool = False  # whether it holds a table, which is one of its own
    bold: bool = False  # whether all of it is, if its markup does not say so


@dataclasses.dataclass
class Table:
    """A table as it is written: its attributes, the markup of its caption, and its rows of cells.

    `facts` says that each of its rows is a fact of the page's subject (`facts`), whatever its attributes say.
    """

    attributes: str
    caption: str = ""
    rows: list[list[Cell]] = dataclasses.field(default_factory=lambda: [[]])
    facts: bool = False

    @property
    def classes(self) -> str:
        """The names of its classes."""
        found = _CLASS.search(self.attributes)
        return next(filter(None, found.groups()), "") if found else ""

    @property
    def is_infobox(self) -> bool:
        """Whether it is the box of a page's facts."""
        return _INFOBOX.search(self.classes) is not None

    @property
    def is_layout(self) -> bool:
        """Whether it holds no data: a box of links or notices, or a table without a header that only places things."""
        if _BOXES.search(self.classes):
            return True
        if self.is_infobox or _DATA.search(self.classes):
            return False
        cells = [cell for row in self.rows for cell in row]
        return any(cell.nested for cell in cells) or not any(cell.header for cell in cells)


def parse(markup: str) -> list[Table]:
    """The tables of a markup that begins with one: in the order in which they begin, nested ones after the outer.

    >>> [table] = parse("{|\\n|+ Cities\\n! Rank !! City\\n|-\\n| 1 || [[Berlin|the capital]]\\n|}")
    >>> table.caption, [[cell.markup for cell in row] for row in table.rows]
    ('Cities', [['Rank', 'City'], ['1', '[[Berlin|the capital]]']])
    """
    text, held = _put_aside(markup)
    found: list[Table] = []
    open_tables: list[Table] = []
    for line in text.split("\n"):
        stripped = line.strip()
        if begun := _BEGIN.match(line):
            if open_tables and (row := open_tables[-1].rows[-1]):
                row[-1].nested = True
            open_tables.append(Table(begun[1]))
            found.append(open_tables[-1])
        elif open_tables:
            if stripped.startswith("|}"):
                open_tables.pop()
                stripped = stripped[2:]
                line = stripped
                if not open_tables or not stripped:
                    continue
            _read_line(open_tables[-1], line, stripped)
    for table in found:
        table.attributes, table.caption = (_put_back(part, held) for part in (table.attributes, table.caption))
        table.rows = [row for row in table.rows if row]
        for row in table.rows:
            for cell in row:
                cell.markup = _put_back(cell.markup, held).strip()
    return found


def _read_line(table: Table, line: str, stripped: str) -> None:
    if stripped.startswith("|+"):
        table.caption = _parted(stripped[2:])[1].strip()
    elif stripped.startswith("|-"):
        table.rows.append([])
    elif stripped.startswith(("|", "!")):
        header = stripped[0] == "!"
        for part in re.split(r"\|\||!!" if header else r"\|\|", stripped[1:]):
            attributes, content = _parted(part)
            rowspan, colspan = (
                int(found[1]) if (found := _SPAN[name].search(attributes)) else 1 for name in ("rowspan", "colspan")
            )
            table.rows[-1].append(Cell(content, header, max(1, min(rowspan, MAX_ROWSPAN)), max(1, colspan)))
    elif table.rows[-1]:
        table.rows[-1][-1].markup += "\n" + line
    elif len(table.rows) == 1 and not table.caption:
        table.attributes += " " + stripped


def _parted(part: str) -> tuple[str, str]:
    """The attributes of a cell, which stand before a single pipe, and its content."""
    before, pipe, after = part.partition("|")
    return (before, after) if pipe else ("", part)


def _put_aside(text: str) -> tuple[str, list[str]]:
    """The markup with a number for each template and link, whose pipes are none of the table's; and these."""
    held: list[str] = []
    pieces: list[str] = []
    position = 0
    stack: list[tuple[str, int]] = []
    for match in _PAIRS.finditer(text):
        mark, times = match[0], max(1, len(match[0]) // 2)
        if mark[0] == "\n":
            stack.clear()  # what is open at the end of a row is never closed
        elif mark[0] in "{[":
            stack += [(mark[0], match.start())] * times
        else:
            opening = "{" if mark[0] == "}" else "["
            for _ in range(times):
                if opening == "{":
                    while stack and stack[-1][0] == "[":
                        stack.pop()  # a link that a template's end leaves open
                if not stack or stack[-1][0] != opening:
                    break
                _, begun = stack.pop()
                if not stack and begun >= position:
                    pieces += [text[position:begun], f"{HELD}{len(held)}{HELD_END}"]
                    held.append(text[begun : match.end()])
                    position = match.end()
    pieces.append(text[position:])
    return "".join(pieces), held


def _put_back(text: str, held: Sequence[str]) -> str:
    return (
        _HELD.sub(lambda match: held[int(match[1])] if int(match[1]) < len(held) else "", text)
        if HELD in text
        else text
    )


def grid(table: Table) -> list[list[Cell]]:
    """The cells of each row and column, those that span several in each of them; no more than `MAX_CELLS`."""
    rows: list[list[Cell]] = []
    hanging: dict[int, tuple[Cell, int]] = {}  # by column: a cell from above, and the rows that it still spans
    count = 0
    for row in table.rows:
        cells: list[Cell] = []
        here = iter(row)
        cell = next(here, None)
        while (cell is not None or len(cells) in hanging) and len(cells) < MAX_COLUMNS:
            column = len(cells)
            if column in hanging:
                above, left = hanging.pop(column)
                cells.append(above)
                if left > 1:
                    hanging[column] = (above, left - 1)
            elif cell is not None:
                end = min(column + cell.colspan, MAX_COLUMNS)
                cells += [cell] * (end - column)
                if cell.rowspan > 1:
                    hanging |= dict.fromkeys(range(column, end), (cell, cell.rowspan - 1))
                cell = next(here, None)
        count += len(cells)
        if count > MAX_CELLS:
            break
        rows.append(cells)
    return rows


def lines(table: Table, text: Callable[[Sequence[str]], list[str]]) -> list[str]:
    """The lines of a table, without its caption; none if it is a layout, or has no second column or no row of data.

    Args:
        table: a table.
        text: function from the markup of cells to their plain texts, which may have several lines.
    """
    if table.is_layout:
        return []
    rows = grid(table)
    width = max(map(len, rows), default=0)
    if width < 2:
        return []
    distinct = {id(cell): cell for row in rows for cell in row}
    texts = dict(zip(distinct, text([cell.markup for cell in distinct.values()]), strict=True))
    found = list(_lines(rows, width, texts))
    filled = sum(1 for cell in texts.values() if not _NOTHING.fullmatch(cell))
    return found if filled > 2 else []


def facts(table: Table, text: Callable[[Sequence[str]], list[str]]) -> list[str]:
    """The lines of an infobox that is a table, as templates make it: "Population: 3,645,000", a row each.

    A row of one cell is a heading; it stands before the rows that need it: those below it that begin with a bullet, and
    those of several values. The title of the box is none.

    >>> rows = [[("Berlin", 1)], [("Area", 1)], [("• City", 1), ("891 km2", 0)], [("Mayor", 1), ("Ada", 0)]]
    >>> table = Table("", rows=[[Cell(text, bool(header)) for text, header in row] for row in rows])
    >>> facts(table, list)
    ['Area, City: 891 km2', 'Mayor: Ada']
    """
    cells = [cell for row in table.rows for cell in row][:MAX_CELLS]
    texts = {id(cell): one for cell, one in zip(cells, text([cell.markup for cell in cells]), strict=True)}
    found: list[str] = []
    heading, first = "", True
    for row in table.rows:
        filled = [one for cell in row if not _NOTHING.fullmatch(one := texts.get(id(cell), "").replace("\n", ", "))]
        if len(filled) == 1 and row[0].header and not first:
            heading = filled[0][:MAX_HEADER_CHARS]
        first = first and not filled
        if len(filled) < 2:
            continue
        label = filled[0][:MAX_HEADER_CHARS].strip(" :")
        if inner := _BULLET.sub("", label):
            above = heading if (inner != label or len(filled) > 2) and heading else ""
            found.append(f"{above}, {inner}: {', '.join(filled[1:])}" if above else f"{inner}: {', '.join(filled[1:])}")
    return list(dict.fromkeys(found))


def _lines(rows: list[list[Cell]], width: int, texts: dict[int, str]) -> Iterator[str]:
    names: list[list[str]] = [[] for _ in range(width)]
    group = ""
    named = names_given = False  # whether the last row, and any row, was one of headers
    seen: set[int] = set()  # cells that span rows and stood in one
    only_headers = all(cell.header for row in rows for cell in row)  # then the first row alone names the columns
    for number, row in enumerate(rows):
        filled = [cell for cell in row if not _NOTHING.fullmatch(texts[id(cell)])]
        if not filled:
            continue
        if len({id(cell) for cell in row}) == 1 and width > 1 and len(row) == width:
            group, named = texts[id(row[0])].replace("\n", " ")[:MAX_HEADER_CHARS], False
        elif not (only_headers and names_given) and _is_header(row, filled, number == 0):
            if not named:
                names = [[] for _ in range(width)]
            for column, cell in enumerate(row):
                name = texts[id(cell)].replace("\n", " ")
                if name and name not in names[column]:
                    names[column].append(name)
            named = names_given = True
        else:
            named = False
            if line := _line(row, names, texts, seen):
                yield f"{group}; {line}" if group and group not in line else line


def _is_header(row: Sequence[Cell], filled: Sequence[Cell], first: bool) -> bool:
    """Whether a row names the columns: all of its cells are headers, or in the first row all are bold."""
    if all(cell.header for cell in row):
        return True
    return (
        first and len(filled) > 1 and all(cell.header or cell.bold or _BOLD.fullmatch(cell.markup) for cell in filled)
    )


def _line(row: Sequence[Cell], names: list[list[str]], texts: dict[int, str], seen: set[int]) -> str:
    """One row: names and values; columns of one name are joined, and so are the names of a cell over several."""
    pairs: list[tuple[str, str]] = []
    column = 0
    while column < len(row):
        cell, end = row[column], column + 1
        while end < len(row) and row[end] is cell:
            end += 1
        value = texts[id(cell)].replace("\n", ", ")
        repeated = id(cell) in seen and len(value) > MAX_REPEATED_CHARS
        if cell.rowspan > 1:
            seen.add(id(cell))
        if not repeated and not _NOTHING.fullmatch(value):
            parts = list(dict.fromkeys(part for place in range(column, end) for part in names[place]))
            name = " ".join(parts)[:MAX_HEADER_CHARS].strip(" :")
            if pairs and name and pairs[-1][0] == name:
                pairs[-1] = (name, f"{pairs[-1][1]}, {value}")
            else:
                pairs.append((name, value))
        column = end
    if len(pairs) < 2:
        return ""  # a name of a row without anything that it names
    if not any(name for name, _ in pairs) and len(pairs) == 2 and row[0].header:
        return f"{pairs[0][1].rstrip(':')}: {pairs[1][1]}"  # a row of a label and a value
    return "; ".join(f"{name}: {value}" if name else value for name, value in pairs)
