"""Cuts what needs no parser from a page: comments, dropped tags, tables, closing sections, bold and italic marks."""

from __future__ import annotations

import re
from typing import NamedTuple

from rag_ops.markup import apostrophes, table_rows, tables, variants
from rag_ops.markup.characters import CLOSE, GAP, OPEN, PIPE, PLACE, PLACE_END, unescape, without_marks
from rag_ops.markup.siteinfo import ENGLISH_SITE, SiteInfo

# What becomes of each tag (`tags.tsv`).
TAGS = {tag: kind for kind, tags in tables.rows("tags.tsv", 2) for tag in tags.split()}
_SCANNED_KINDS = ("dropped", "silent", "literal", "formula")
_SCANNED = re.compile(
    rf"<!--|<(?P<tag>{'|'.join(sorted(tag for tag, kind in TAGS.items() if kind in _SCANNED_KINDS))})"
    r"(?=[\s/>])[^<>]*?(?P<empty>/)?>",
    re.IGNORECASE,
)
_HEADING_LINE = re.compile(r"^=.*$", re.MULTILINE)
_TABLE_MARK = re.compile(r"^[ \t:*#;]*(\{\|)|^[ \t]*(\|\})(?!\})", re.MULTILINE)
_TABLE_LINE = re.compile(r"^[ \t:]*(?:\{\||\|[-+}]?|!).*$", re.MULTILINE)
# An item of a list with an address or the number of a publication; a line of templates and links to files, categories.
_SOURCE = re.compile(r"[*#:;].*?(?://[\w.-]+\.|\b(?:ISBN|ISSN|OCLC|DOI)\b|\{\{)", re.IGNORECASE)
_APPARATUS = re.compile(r"\s*(?:\{\{[^{}]*\}\}\s*|\[\[[^\[\]|:]*:[^\[\]]*\]\]\s*)+")
_QUOTES = re.compile(r"''+")
_NOWIKI = re.compile(r"</?nowiki\s*/?>", re.IGNORECASE)
_INNER_SPACES = re.compile(r"(?<=[(\[])[^\S\n]+|(?<=\S)[^\S\n]+(?=[)\],;.])")  # TeX needs none of them
_WITHIN_WORD = re.compile(r"[^\W\d_]{2}")
# A link to an article, whose title has no sign that means something, with or without a label that has none.
_PLAIN_LINK = re.compile(
    r"(?<![\[{])\[\[(?P<title>[^\W_][^\[\]{}|:<>&#%=\n\ue000-\ue003]{0,254})"
    r"(?:\|(?P<label>[^\[\]{}|<>&=*#:;\-\n][^\[\]{}|<>&=\n]{0,500}))?\]\](?!\])"
)
# An address in brackets whose host is in brackets too, in which the parser sees a link.
_IPV6 = re.compile(r"(?<=\[)((?:[a-zA-Z]{3,6}:)?//)\[[0-9a-fA-F:.]{2,45}\]")


class Prepared(NamedTuple):
    """A page without what needs no parser.

    Attributes:
        markup: the markup that is left.
        literals: literal texts taken out; each stands in the markup as its number between `OPEN` and `CLOSE`.
        tables: tables taken out, with those nested in them; each is a line of the markup, "t" and its number between
            `PLACE` and `PLACE_END`.
    """

    markup: str
    literals: list[str]
    tables: list[str]

    def tables_at(self, number: int) -> list[table_rows.Table]:
        """The tables of one that was taken out: itself, and those in it."""
        return table_rows.parse(self.tables[number])


def prepare(wikitext: str, site: SiteInfo = ENGLISH_SITE) -> Prepared:
    """Cuts what needs no parser, in linear time."""
    literals: list[str] = []
    found: list[str] = []
    text = _scan(without_marks(wikitext), literals)
    text = variants.convert(text, site.language)
    text = _take_tables(_drop_sections(text, site.language.closing_sections), found)
    if "//[" in text:
        text = _IPV6.sub(r"\1host", text)
    return Prepared(_plain_links(apostrophes.drop_quotes(text)), literals, found)


def _plain_links(markup: str) -> str:
    """The markup with the links that are titles or words alone as these, which halves the parser's work."""
    return _PLAIN_LINK.sub(_shown, markup) if "[[" in markup else markup


def _shown(match: re.Match[str]) -> str:
    title, label = match["title"], match["label"]
    if label is None:
        return title.replace("_", " ").strip()
    return match[0] if "//" in label or "__" in label else label


def _scan(text: str, literals: list[str]) -> str:
    """Drops comments and tags in one pass; literal texts move to `literals`, and their numbers stay in the markup."""
    if "<" not in text:
        return text
    lower = text.replace("İ", "I").lower()  # whose small form is two characters, of no other letter
    pieces: list[str] = []
    position = 0
    unclosed: set[str] = set()  # tags that are closed nowhere further on: looked for once, or the scan is quadratic
    while match := _SCANNED.search(text, position):
        pieces.append(text[position : match.start()])
        position = match.end()
        tag = (match["tag"] or "").lower()
        kind = TAGS.get(tag)
        if not tag:
            end = -1 if "!--" in unclosed else text.find("-->", position)
            position = end + 3 if end >= 0 else position
            if end < 0:
                unclosed.add("!--")
            continue
        start = position
        end = position if match["empty"] else -1 if tag in unclosed else lower.find(f"</{tag}", position)
        if end < 0:
            unclosed.add(tag)
            continue  # never closed: the tag alone goes, or the rest of the article would
        if not match["empty"]:
            closed = text.find(">", end)
            position = closed + 1 if closed >= 0 else len(text)
        if kind in ("literal", "formula"):
            pieces.append(f"{OPEN}{len(literals)}{CLOSE}")
            literals.append(literal(_of_tag(text[start:end], tag, kind), kind))
        elif kind == "dropped":
            around = text[match.start() - 1 : match.start()] + text[position : position + 1]
            pieces.append("" if _WITHIN_WORD.match(around) else GAP)
    pieces.append(text[position:])
    return "".join(pieces)


def _of_tag(text: str, tag: str, kind: str) -> str:
    """What a tag around a literal text shows of it."""
    if tag == "pre":
        text = _NOWIKI.sub("", text)
    return text if kind == "formula" or tag not in ("nowiki", "pre") else unescape(text)


def literal(text: str, kind: str) -> str:
    """A text kept as written, apart from what would be taken for markup; `kind` is "literal" or "formula"."""
    text = text.replace("|", r"\vert " if kind == "formula" else PIPE)
    if kind == "formula":
        text = _INNER_SPACES.sub("", text.strip())
    for pair in ("{{", "}}", "[[", "]]"):
        while pair in text:
            text = text.replace(pair, " ".join(pair))
    return text.replace("<ref", "< ref")


def _drop_sections(text: str, closing: frozenset[str]) -> str:
    """The markup without its closing sections and their subsections.

    A heading is a line between as many equals signs, one to six. `closing` are the headings of closing sections; the
    last section is one, whatever its heading, if there is nothing in it but sources.
    """
    if "=" not in text:
        return text
    pieces: list[str] = []
    position = 0
    level = 0  # of the closing section that is being dropped; 0 for none
    for match in _HEADING_LINE.finditer(text):
        line = match[0].rstrip(" \t")
        before, after = (len(line) - len(rest) for rest in (line.lstrip("="), line.rstrip("=")))
        depth = min(6, before, after, (len(line) - 1) // 2)
        if not depth or (level and depth > level):
            continue
        if not level:
            pieces.append(text[position : match.start()])
        name = _QUOTES.sub("", line[depth:-depth].strip(" \t")).strip(f" :[]{GAP}").lower()
        level = depth if name in closing else 0
        position = match.start()
    if level:
        return "".join(pieces)
    return _drop_sources("".join([*pieces, text[position:]]))


def _drop_sources(text: str) -> str:
    """The markup without the sections at its end that list nothing but links to other sites, ISBNs and the like."""
    end = len(text)
    while (start := text.rfind("\n==", 0, end)) >= 0:
        heading, *lines = text[start + 1 : end].split("\n")
        items = [line for line in lines if line.strip() and not _APPARATUS.fullmatch(line)]
        if not heading.rstrip().endswith("==") or not items or not all(map(_SOURCE.match, items)):
            break
        end = start
    if end == len(text):
        return text
    return text[: end + 1] + "\n".join(line for line in text[end:].split("\n") if _APPARATUS.fullmatch(line))


def _take_tables(text: str, found: list[str]) -> str:
    """The markup without tables, which move to `found`; of one that is never closed only the lines of cells go.

    Likewise of one that a template opened, as `{{table begin}}` does: what opens such a table is the last template that
    begins a line.
    """
    if "|}" not in text and "{|" not in text:
        return text
    pieces: list[str] = []
    position = depth = start = 0
    for match in _TABLE_MARK.finditer(text):
        if match[1]:
            if depth == 0:
                start = match.start()
            depth += 1
        elif depth:
            depth -= 1
            if depth == 0:
                pieces += [text[position:start], f"{PLACE}t{len(found)}{PLACE_END}"]
                found.append(text[start : match.end()])
                position = match.end()
        elif (opened := text.rfind("\n{{", position, match.start())) >= 0 or text.startswith("{{", position):
            opened = max(opened, position)
            pieces += [text[position:opened], _TABLE_LINE.sub("", text[opened : match.start()])]
            position = match.end()
    rest = text[position:]
    if depth:
        cut = start - position
        rest = rest[:cut] + _TABLE_LINE.sub("", rest[cut:])
    pieces.append(rest)
    return "\n".join(pieces)
