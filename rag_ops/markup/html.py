"""HTML as MediaWiki renders it to the parts of a page, by the rules that hold for wikitext.

Read are the output of the parser that wikis show (also as Kiwix keeps it) and Parsoid's, which Wikimedia Enterprise and
the REST interfaces give. Templates have been expanded in both, so none is known here by its name: what becomes of an
element says the table `html.tsv`. Time and memory are linear in the page's length.
"""

from __future__ import annotations

import dataclasses
import re
from collections.abc import Mapping

from rag_ops.markup import assembling, tables, variants
from rag_ops.markup.assembling import Found, table_place
from rag_ops.markup.characters import CLOSE, GAP, GUARD, OPEN, PLACE, PLACE_END, parted, unescape, without_marks
from rag_ops.markup.cleaning import clean
from rag_ops.markup.cutting import literal
from rag_ops.markup.html_scanner import Tag, Text, scan
from rag_ops.markup.parts import PROSE_ALONE, Part, Wanted
from rag_ops.markup.siteinfo import ENGLISH_SITE, SiteInfo
from rag_ops.markup.table_rows import MAX_ROWSPAN, Cell, Table

MAX_PAGE_CHARS = 32 << 20  # the longest pages of Wikipedia, lists, have 10 Mi as Parsoid writes them
MAX_TAGS = 500_000  # some 3 s of work; the longest pages have 200,000
MAX_TABLES = 10_000
MAX_SPAN_DIGITS = 6
MAX_OPEN = 50  # elements in one another whose text is kept apart, and so copied at the end of each


def _kinds(what: str) -> dict[str, frozenset[str]]:
    found: dict[str, set[str]] = {}
    for of, kind, names in tables.rows("html.tsv", 3):
        if of == what:
            found.setdefault(kind, set()).update(names.split())
    return {kind: frozenset(names) for kind, names in found.items()}


_TAGS, _CLASSES, _IDS, _RULES = map(_kinds, ("tag", "class", "id", "rule"))
_RAW, _VOID, _BLOCK = _TAGS["raw"], _TAGS["void"], _TAGS["block"]
_TABLE_TAGS = frozenset("table caption colgroup thead tbody tfoot tr td th".split())
_HEADINGS = {f"h{level}": level for level in range(1, 7)}
_LOOKED_AT = (
    "class",
    "style",
    "typeof",
    "id",
    "hidden",
    "property",
    "rel",
    "fonipa",
    "http-equiv",
)  # no other attribute says a kind
_HIDDEN = re.compile(r"display\s*:\s*none|visibility\s*:\s*hidden", re.IGNORECASE)
_SPACES = re.compile(r"[\t\n\f\r ]+")
_SIGNS = ("*", "#", ":", ";")  # that begin a list in wikitext
_EXPONENT = re.compile(r"[-−+–]?\d")
_STYLED = re.compile(r"\{\\(?:displaystyle|textstyle|scriptstyle|scriptscriptstyle)\s*(.*)\}\s*", re.DOTALL)
_LITERAL = re.compile(f"{OPEN}(\\d+){CLOSE}")
_PLACE = re.compile(f"{PLACE}[ht]\\d+{PLACE_END}")
_TAG = re.compile(r"<[^<>]*>")
_NUMBERED = re.compile(r"\b(?:ISBN|ISSN|OCLC|DOI)\b", re.IGNORECASE)


@dataclasses.dataclass(frozen=True)
class Page:
    """A page: its parts, and whether it says that it is a redirect or a disambiguation page."""

    parts: list[Part]
    redirect: bool = False
    disambiguates: bool = False


def render(html: str, site: SiteInfo = ENGLISH_SITE, wanted: Wanted = PROSE_ALONE) -> Page | None:
    """The parts of a page in HTML: prose under each heading, then infoboxes, tables and captions, as far as `wanted`.

    None if the page has more than `MAX_PAGE_CHARS`, `MAX_TAGS` or `MAX_TABLES`. Otherwise it never raises.

    >>> render("<p>The <i>Himalaya</i><sup class='reference'>[1]</sup> is high.</p><h2>See also</h2><p>Alps</p>").parts
    [Part(kind='prose', section='', text='The Himalaya is high.')]
    """
    if len(html) > MAX_PAGE_CHARS:
        return None
    return _Renderer(site, wanted).page(without_marks(html.replace("\0", " ")))


@dataclasses.dataclass(slots=True)
class _Frame:
    """An open element that something becomes of: the texts before it, and open elements of its name in it and it."""

    kind: str
    name: str
    before: list[str]
    depth: int = 1
    detail: int = 0


@dataclasses.dataclass(slots=True)
class _OpenTable:
    """A table that is read, and what was open before it."""

    table: Table
    before: list[str]
    frames: list[_Frame]
    named: dict[str, list[_Frame]]
    facts: bool
    cell: Cell | None = None
    caption: bool = False
    plain: bool = False  # whether something in the cell is not bold


@dataclasses.dataclass(slots=True)
class _Section:
    """Where a section begins in the page's texts, its items, and those of them that are sources."""

    start: int
    items: int = 0
    sources: int = 0


class _Renderer:
    """Reads the tags of one page and writes text, with a line for each heading and table (`assembling.assemble`)."""

    def __init__(self, site: SiteInfo, wanted: Wanted) -> None:
        self._wanted = wanted
        self._language = site.language
        self._found = Found()
        self._literals: list[str] = []
        self._groups: list[list[Table]] = []  # each table of the page, with those in it
        self._tables = 0
        self._page: list[str] = []
        self._out = self._page
        self._nowhere: list[str] = []
        self._frames: list[_Frame] = []
        self._named: dict[str, list[_Frame]] = {}
        self._open: list[_OpenTable] = []
        self._sections = [_Section(0)]
        self._items = 0  # open items of lists
        self._source: bool | None = None  # whether the outermost item is a source
        self._closing = 0  # the level of the closing section that is left out; 0 for none
        self._cut = (0, 0)  # texts and captions before it
        self._rooted = self._begun = self._redirect = self._disambiguates = False
        self._skipped, self._skips, self._formula = "", 0, False  # the element that is left out
        self._sounds = frozenset[str]() if site.keep_ipa else _CLASSES["sounds"]
        self._keep_ipa = site.keep_ipa

    def page(self, html: str) -> Page | None:
        """The page's parts; None if it has too many tags."""
        tags = 0
        for part in scan(html, _RAW):
            if type(part) is Text:
                if not self._skips:
                    self._text(part.text)
                continue
            tags += 1
            if tags > MAX_TAGS or self._tables > MAX_TABLES:
                return None
            if self._skips:
                self._skip(part)  # type: ignore[arg-type]
            elif part.closing:  # type: ignore[union-attr]
                self._end_tag(part.name)  # type: ignore[union-attr]
            else:
                self._start_tag(part)  # type: ignore[arg-type]
        while self._open:
            self._end_table()
        while self._frames:
            self._end(self._frames.pop())
        self._cut_closing()
        while len(self._sections) > 1 and 0 < self._sections[-1].items == self._sections[-1].sources:
            del self._page[self._sections.pop().start :]
        parts = assembling.assemble(
            "".join(self._page), self._found, self._literals, self._wanted, self._groups.__getitem__, list
        )
        return Page(parts, self._redirect, self._disambiguates)

    # Tags

    def _start_tag(self, tag: Tag) -> None:
        name = tag.name
        kind, attributes = "", _NO_ATTRIBUTES
        if tag.written and any(one in tag.written for one in _LOOKED_AT):
            attributes = tag.attributes()
            kind = self._kind(name, attributes)
        if name in _TAGS["dropped"] or name in _RAW:
            kind = "dropped"
        if kind == "dropped":
            if name == "math" or "mwe-math-element" in attributes.get("class", ""):
                kind = "formula"
            elif name in _BLOCK:
                self._out.append("\n")
            elif name not in _RAW:
                self._out.append(GAP)
        if kind in ("dropped", "formula") or name == "math":
            if name not in _VOID and name not in _RAW:
                self._skipped, self._skips, self._formula = name, 1, kind == "formula" or name == "math"
            if self._skips and self._formula and name == "math":
                self._write_formula(tag)
            return
        if name in _TABLE_TAGS and (name == "table" or self._open):
            self._table_tag(tag, kind)
            return
        if name in _BLOCK or name in _HEADINGS:
            self._out.append("\n")
        if name in _VOID:
            if name == "img" and "mwe-math" in attributes.get("class", ""):
                self._formula = True
                self._write_formula(tag)
            return
        if name == "li" and self._out is self._page:
            self._items += 1
            if self._items == 1:
                self._sections[-1].items += 1
                self._source = False
        if kind == "source" or name in _TAGS["source"]:
            self._found_source()
        frames = len(self._frames)
        if frames < MAX_OPEN:
            self._open_frame(name, kind, attributes)
        if len(self._frames) == frames and (same := self._named.get(name)):
            same[-1].depth += 1

    def _open_frame(self, name: str, kind: str, attributes: Mapping[str, str]) -> None:
        if name in _HEADINGS and self._out is self._page:
            self._push("heading", name, [], _HEADINGS[name])
        elif kind == "root":
            if not self._rooted and not self._open and not self._frames:
                self._page.clear()  # what stands around the page's own text
                self._found, self._sections, self._rooted = Found(), [_Section(0)], True
                self._closing = 0
                self._push("root", name, self._page)
        elif name == "figure" or kind == "figure":
            self._out.append(GAP)
            self._push("figure", name, [])
        elif (name == "figcaption" or kind == "caption") and any(frame.kind == "figure" for frame in self._frames[-3:]):
            self._push("caption", name, [])
        elif kind == "infobox":
            self._push("infobox", name, self._nowhere)
        elif kind == "variant":
            text = variants.of_rule(attributes.get("data-mw-variant", ""), self._language)
            self._out.append(parted(unescape(_TAG.sub("", without_marks(text)))))
        elif name in ("sup", "sub", "pre"):
            if name == "sub":
                self._mend_fraction()
            else:
                self._push(name, name, [])
        elif kind == "fraction":
            self._push("fraction", name, [])
        elif kind == "unseen":
            self._push("unseen", name, [])
        elif name in ("b", "strong") and self._open:
            self._push("bold", name, self._out)

    def _end_tag(self, name: str) -> None:
        if name in _TABLE_TAGS and self._open:
            if name == "table":
                self._end_table()
            else:
                self._end_cell()
            return
        frames = self._named.get(name)
        if frames:
            frames[-1].depth -= 1
            if not frames[-1].depth:
                wanted = frames[-1]
                while (frame := self._frames.pop()) is not wanted:
                    self._end(frame)
                self._end(frame)
        if name == "li" and self._items and self._out is self._page:
            self._items -= 1
            if not self._items:
                self._source = None
        if name in _BLOCK or name in _HEADINGS:
            self._out.append("\n")

    def _kind(self, name: str, attributes: Mapping[str, str]) -> str:
        """What becomes of an element by its attributes; empty if it is like any other of its name."""
        written = attributes.get("class", "")
        classes = written.split()
        rules = f"{attributes.get('typeof', '')} {attributes.get('property', '')} {attributes.get('rel', '')}".split()
        identity = attributes.get("id", "")
        if _RULES["disambiguation"].intersection(rules) or identity in _IDS["disambiguation"]:
            self._disambiguates = True
        if _RULES["redirect"].intersection(rules) or attributes.get("http-equiv", "").lower() == "refresh":
            self._redirect = True
        if not _CLASSES["disambiguation"].isdisjoint(classes):
            self._disambiguates = True
        if not _CLASSES["redirect"].isdisjoint(classes):
            self._redirect = True
        if "mwe-math-element" in classes or "mw:Extension/math" in rules:
            return "dropped" if name == "img" else "formula"
        if not _CLASSES["infobox"].isdisjoint(classes):
            return "infobox"
        if (
            not _CLASSES["dropped"].isdisjoint(classes)
            or identity in _IDS["dropped"]
            or _RULES["dropped"].intersection(rules)
            or "hidden" in attributes
            or ("style" in attributes and _HIDDEN.search(attributes["style"]))
            or not self._sounds.isdisjoint(classes)
            or (not self._keep_ipa and attributes.get("lang", "").endswith("-fonipa"))
            or (not _CLASSES["place"].isdisjoint(classes) and self._in_facts())
        ):
            return "dropped" if "mwe-math" not in written else ""
        if "mw:LanguageVariant" in rules:
            return "variant"
        for kind in ("root", "figure", "caption", "source"):
            if not _CLASSES[kind].isdisjoint(classes):
                return kind
        if "frac" in classes or "sfrac" in classes:
            return "fraction"
        return "unseen" if "sr-only" in classes or "visualhide" in classes else ""

    def _in_facts(self) -> bool:
        return bool(self._open) and self._open[0].facts

    def _skip(self, tag: Tag) -> None:
        """Passes over what is in an element that is left out, but for the source of a formula."""
        if tag.name == self._skipped:
            self._skips += -1 if tag.closing else 1
            if not self._skips:
                self._formula = False
        if self._formula and not tag.closing and tag.name in ("math", "img"):
            self._write_formula(tag)

    # What elements become

    def _text(self, written: str) -> None:
        text = unescape(written)
        if self._named.get("pre"):
            self._out.append(text)
            return
        text = _SPACES.sub(" ", text)
        if not text.strip():
            if text:
                self._out.append(text)
            return
        if self._out is self._page:
            self._begun = True
            if self._source is None and not self._items:
                self._sections[-1].items += 1
            elif self._source is False and _NUMBERED.search(text):
                self._found_source()
        if (
            self._open
            and self._open[-1].cell is not None
            and not self._named.get("b")
            and not self._named.get("strong")
        ):
            self._open[-1].plain = True
        text = parted(text)
        if text.lstrip()[0] in _SIGNS and (not self._out or self._out[-1].endswith("\n")):
            text = GUARD + text.lstrip()
        self._out.append(text)

    def _found_source(self) -> None:
        if self._source is False:
            self._source = True
            self._sections[-1].sources += 1

    def _push(self, kind: str, name: str, out: list[str], detail: int = 0) -> None:
        frame = _Frame(kind, name, self._out, detail=detail)
        self._frames.append(frame)
        self._named.setdefault(name, []).append(frame)
        self._out = out

    def _end(self, frame: _Frame) -> None:
        """Ends an element, which has been taken from `_frames`."""
        self._named[frame.name].pop()
        inner, self._out = self._out, frame.before
        if frame.kind == "heading":
            self._heading(frame.detail, "".join(inner))
        elif frame.kind == "sup":
            self._superscript("".join(inner).strip())
        elif frame.kind == "caption":
            caption = " ".join("".join(inner).split())
            if caption and self._wanted.captions:
                self._found.captions.append((len(self._found.headings), caption))
        elif frame.kind == "pre":
            text = _LITERAL.sub(lambda match: self._literals[int(match[1])], _PLACE.sub("", "".join(inner)))
            self._out.append(f"\n{self._literal(without_marks(text), 'literal')}\n")
        elif frame.kind == "fraction":
            self._fraction("".join(inner))
        elif frame.kind == "unseen":
            text = "".join(inner)
            self._out.append(" " if text.strip() == "+" else text)
        elif frame.kind == "root":
            self._out = self._nowhere

    def _heading(self, level: int, text: str) -> None:
        title = clean(text, self._literals).replace("\n", " ")
        if level == 1 and not self._begun and not self._found.headings:
            return  # the title of the page
        if not title or (self._closing and level > self._closing):
            return
        self._cut_closing()
        if title.strip(" :[]").lower() in self._language.closing_sections:
            self._closing, self._cut = level, (len(self._page), len(self._found.captions))
            return
        self._sections.append(_Section(len(self._page)))
        self._source, self._items = None, 0
        self._page.append(self._found.heading(level, text))

    def _cut_closing(self) -> None:
        """Takes out what was read since a closing section began, if one is open."""
        if self._closing:
            texts, captions = self._cut
            del self._page[texts:]
            del self._found.captions[captions:]
            self._closing = 0

    def _superscript(self, text: str) -> None:
        """10<sup>8</sup> is 10^8, km<sup>2</sup> km2, 19<sup>th</sup> 19th."""
        before = self._out[-1][-1:] if self._out else ""
        exponent = (before.isdigit() or before == ")") and _EXPONENT.match(text) is not None
        self._out.append(f"^{text}" if exponent else text)

    def _mend_fraction(self) -> None:
        """1<sup>1</sup>/<sub>2</sub> is 1 1/2."""
        if len(self._out) > 1 and self._out[-1].strip() in ("/", "⁄"):
            self._out[-1] = "/"
            if self._out[-2].startswith("^"):
                self._out[-2] = " " + self._out[-2][1:]

    def _fraction(self, text: str) -> None:
        before = self._out[-1][-1:] if self._out else ""
        self._out.append((" " if before.isdigit() else "") + text.replace("⁄", "/").replace("^", " ").strip())

    def _write_formula(self, tag: Tag) -> None:
        """Writes the source of a formula, once for each that is shown."""
        attributes = tag.attributes()
        source = attributes.get("alttext") or (attributes.get("alt") if tag.name == "img" else "") or ""
        if source:
            self._formula = False
            styled = _STYLED.fullmatch(source.strip())
            self._out.append(self._literal(styled[1] if styled else source, "formula"))

    def _literal(self, text: str, kind: str) -> str:
        self._literals.append(literal(text, kind))
        return f"{OPEN}{len(self._literals) - 1}{CLOSE}"

    # Tables

    def _table_tag(self, tag: Tag, kind: str) -> None:
        name = tag.name
        if name == "table":
            self._begin_table(tag, kind)
            return
        self._end_cell()
        current = self._open[-1]
        if name == "tr":
            current.table.rows.append([])
        elif name in ("td", "th"):
            attributes = tag.attributes()
            rows, columns = (_span(attributes.get(one, "")) for one in ("rowspan", "colspan"))
            current.cell = Cell("", name == "th", min(rows, MAX_ROWSPAN), columns)
            current.table.rows[-1].append(current.cell)
            current.plain, self._out = False, []
        elif name == "caption":
            current.caption, self._out = True, []

    def _begin_table(self, tag: Tag, kind: str) -> None:
        attributes = tag.attributes()
        classes = " ".join(one for one in attributes.get("class", "").split() if '"' not in one)
        facts = kind == "infobox" or self._in_facts() or any(frame.kind == "infobox" for frame in self._frames[-3:])
        table = Table(f'class="{classes}"', facts=facts)
        self._tables += 1
        if self._open:
            if self._open[-1].cell is not None:
                self._open[-1].cell.nested = True
            self._groups[-1].append(table)
        else:
            self._groups.append([table])
        self._open.append(_OpenTable(table, self._out, self._frames, self._named, facts))
        self._out, self._frames, self._named = self._nowhere, [], {}

    def _end_cell(self) -> None:
        while self._frames:
            self._end(self._frames.pop())
        current = self._open[-1]
        text = "".join(self._out) if current.cell is not None or current.caption else ""
        if current.cell is not None:
            current.cell.markup, current.cell.bold = text, not current.plain and bool(text.strip())
            current.cell = None
        elif current.caption:
            current.table.caption, current.caption = text, False
        self._nowhere.clear()
        self._out = self._nowhere

    def _end_table(self) -> None:
        self._end_cell()
        ended = self._open.pop()
        ended.table.rows = [row for row in ended.table.rows if row]
        self._out, self._frames, self._named = ended.before, ended.frames, ended.named
        inner = bool(self._open)
        shown = self._page if not inner and self._out is self._nowhere and self._facts_frame() else self._out
        shown.append("\n" if inner else table_place(len(self._groups) - 1))

    def _facts_frame(self) -> bool:
        return any(frame.kind == "infobox" for frame in self._frames)


_NO_ATTRIBUTES: Mapping[str, str] = {}


def _span(written: str) -> int:
    digits = written.strip()
    return max(1, int(digits)) if digits.isascii() and digits.isdigit() and len(digits) <= MAX_SPAN_DIGITS else 1
