"""MediaWiki markup to plain text: the words of the article, without its apparatus.

Dropped: references, tables, infoboxes, galleries, files, categories, comments, headings and the closing sections. Kept:
paragraphs, list items, the text of links, the source of formulas, and the templates that carry content
(`rag_ops.markup.templates`). What can be cut by a linear scan is cut before mwparserfromhell parses the rest.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from typing import Any

import mwparserfromhell
from mwparserfromhell.nodes import Argument, Comment, ExternalLink, Heading, HTMLEntity, Tag, Template, Text, Wikilink
from mwparserfromhell.parser import ParserError

from rag_ops.markup import tables, templates
from rag_ops.markup.siteinfo import SiteInfo, normal_name

# Tags whose content is dropped; those whose content is kept as it is written, out of the parser's reach; all others
# are rendered.
DROPPED_TAGS = frozenset(
    "ref gallery timeline imagemap score hiero graph templatestyles templatedata references inputbox mapframe maplink "
    "table section categorytree indicator rss listing style script includeonly".split()
)
LITERAL_TAGS = frozenset("nowiki pre math chem ce syntaxhighlight source".split())
FORMULA_TAGS = frozenset("math chem ce".split())
BREAKING_TAGS = frozenset("br hr li dt dd p div tr blockquote poem center ul ol dl".split())
ENGLISH_SITE = SiteInfo()
# The prefixes of interlanguage links, which stand in a page's margin: the codes of all Wikipedias, open or closed, and
# the other names by which links reach them (https://meta.wikimedia.org/wiki/List_of_Wikipedias).
LANGUAGES = frozenset(code for (code,) in tables.rows("languages.txt"))

# A literal pipe, braces or brackets stand in prose here and there; in passages they would be taken for markup by
# whoever reads our files or prompts, so the pipe becomes its look-alike and the pairs are parted.
PIPE = "∣"
OPEN, CLOSE = "\ue000", "\ue001"  # around the number of a literal that waits outside: characters of private use

_SCANNED = re.compile(
    rf"<!--|<(?P<tag>{'|'.join(sorted(DROPPED_TAGS | LITERAL_TAGS))})(?=[\s/>])[^<>]*?(?P<empty>/)?>", re.IGNORECASE
)
_HEADING_LINE = re.compile(r"^=.*$", re.MULTILINE)
_TABLE_MARK = re.compile(r"^[ \t:*#;]*(\{\|)|^[ \t]*(\|\})(?!\})", re.MULTILINE)
_TABLE_LINE = re.compile(r"^[ \t:]*(?:\{\||\|[-+}]?|!).*$", re.MULTILINE)
_QUOTES = re.compile(r"''+")
_SWITCH = re.compile(r"__[A-Z]{3,}__")
_OPEN_TEMPLATE = re.compile(r"\{\{[^\n]*")
_PAIRS = re.compile(r"\{\{+|\}\}+|\[\[+|\]\]+|</?ref\b[^>\n]*>?")
_HTML = re.compile(r"</?[a-zA-Z][a-zA-Z0-9]*(?:\s[^<>\n]*)?/?>")
_LITERAL = re.compile(f"{OPEN}(\\d+){CLOSE}")
_PIPE_TRICK = re.compile(r"^(?:[^:]*:)?\s*(.*?)\s*(?:\([^()]*\)|,.*)?$")
_EXPONENT = re.compile(r"[-−+–]?\d")
_HIDDEN = re.compile(r"display\s*:\s*none", re.IGNORECASE)
_SPACES = re.compile(r"(?:[^\S\n]|\u200b)+")
_WORD = re.compile(r"\w")
_NO_CHARACTER = re.compile(r"[\x00-\x08\x0b-\x1f\ud800-\udfff]")  # characters that &#0; and &#xd800; would make
_NO_WORDS = re.compile(r"^[\s*#:;.,|∣()\-–—]*$")
_NO_SUM = re.compile(r"[$£€](?=\s|$)")  # a sum of money whose amount was a template's
# Each begins only where its run of spaces or commas begins: tried from each of them a long run would take for ever.
_CLEANING: tuple[tuple[re.Pattern[str], str | Callable[[re.Match[str]], str]], ...] = (
    (re.compile(r"\(\s*(?:[,;:.\-–]\s*)*\)|\[\s*\]"), ""),
    (re.compile(r"\(\s*(?:[,;]\s*)+"), "("),
    (re.compile(r"(?<!\s)\s*\(\s*(?:aged?|years? (?:ago|old))\s*\)"), ""),  # an age that only the clock knows
    (re.compile(r"(?<!\s)\s*\(([^()]*)\)"), lambda match: "" if _NO_SUM.search(match[1]) else match[0]),
    (re.compile(r"(?<![,;:\s])[,;:\s]+\)"), ")"),
    (re.compile(r"[,;][,;\s]+"), lambda match: _one_separator(match)),
    (re.compile(r"\(\s+"), "("),
    (re.compile(r"(?<! )[ ]+([,;.!?)])(?=[\s)]|$)"), r"\1"),
)
_DISAMBIGUATION = re.compile(
    r"\{\{\s*(?:template:)?(?:disambig(?:uation)?|disamb|disam|dab|dmbox|hndis(?:ambig)?|geodis|mathdab|numberdis|schooldis|"
    r"hospitaldis|roaddis|roadindex|shipdis|airport ?dis(?:ambig)?|callsigndis|letter ?dis(?:ambig)?|biodis|"
    r"disambiguation cleanup|[a-z -]{3,40} disambiguation(?: page)?)\s*[|}]",
    re.IGNORECASE,
)
_REDIRECT = re.compile(r"\s*#redirect\b", re.IGNORECASE)
MAX_TEMPLATE_DEPTH = 30
MAX_PAGE_CHARS = 4 << 20  # longest page; MediaWiki's own limit is 2 MiB
MAX_TITLE_CHARS = 255  # longest title, as MediaWiki has it
MAX_UNCLOSED = 1000  # brackets or braces; a real page has a handful


def is_redirect(wikitext: str, site: SiteInfo = ENGLISH_SITE) -> bool:
    """Whether a page is a redirect by its text."""
    return _REDIRECT.match(wikitext) is not None


def is_disambiguation(title: str, wikitext: str, site: SiteInfo = ENGLISH_SITE) -> bool:
    """Whether a page lists what its title may mean: by its title, or by a template that says so.

    >>> is_disambiguation("Ada", "'''Ada''' may refer to ... {{Disambiguation|geo}}")
    True
    >>> is_disambiguation("Art", "{{other uses|Art (disambiguation)}} Art is ...")
    False
    """
    return title.endswith("(disambiguation)") or _DISAMBIGUATION.search(wikitext) is not None


def to_text(wikitext: str, site: SiteInfo = ENGLISH_SITE) -> str:
    """The plain text of a page: paragraphs and list items, one a line.

    Never raises, whatever the markup: what cannot be parsed is stripped by rule. The result holds none of `|`, `{{`,
    `[[` and `<ref`. `site` is the wiki that the page is from: its language and its names of namespaces.

    >>> to_text("The peak is {{convert|8848|m|ft}} high,<ref>x</ref> in the ''[[Himalaya|Himalayas]]''.")
    'The peak is 8,848 metres (29,029 ft) high, in the Himalayas.'
    """
    return finish(*prepare(wikitext, site), site)


def prepare(wikitext: str, site: SiteInfo = ENGLISH_SITE) -> tuple[str, list[str]]:
    """Cuts what needs no parser, in linear time; returns the markup that is left, and the literal texts taken out."""
    literals: list[str] = []
    text = _scan(wikitext.replace(OPEN, "").replace(CLOSE, ""), literals)
    return _drop_tables(_drop_sections(text, site.language.closing_sections)), literals


def finish(markup: str, literals: list[str], site: SiteInfo = ENGLISH_SITE) -> str:
    """The plain text of what `prepare` left."""
    return _clean(_Renderer(site).render_page(markup), literals)


def _scan(text: str, literals: list[str]) -> str:
    """Drops comments and tags in one pass; literal texts move to `literals`, and their numbers stay in the markup."""
    if "<" not in text:
        return text
    lower = text.lower()
    pieces: list[str] = []
    position = 0
    unclosed: set[str] = set()  # tags that are closed nowhere further on: looked for once, or the scan is quadratic
    while match := _SCANNED.search(text, position):
        pieces.append(text[position : match.start()])
        position = match.end()
        tag = (match["tag"] or "").lower()
        if not tag:
            end = -1 if "!--" in unclosed else text.find("-->", position)
            position = end + 3 if end >= 0 else position
            if end < 0:
                unclosed.add("!--")
        elif not match["empty"]:
            end = -1 if tag in unclosed else lower.find(f"</{tag}", position)
            if end < 0:
                unclosed.add(tag)
                continue  # never closed: the tag alone goes, or the rest of the article would
            if tag in LITERAL_TAGS:
                pieces.append(f"{OPEN}{len(literals)}{CLOSE}")
                literals.append(_literal(text[position:end], formula=tag in FORMULA_TAGS))
            closed = text.find(">", end)
            position = closed + 1 if closed >= 0 else len(text)
    pieces.append(text[position:])
    return "".join(pieces)


def _literal(text: str, *, formula: bool) -> str:
    """A text kept as written, apart from what would be taken for markup."""
    text = text.replace("|", r"\vert " if formula else PIPE)
    for pair in ("{{", "}}", "[[", "]]"):
        while pair in text:
            text = text.replace(pair, " ".join(pair))
    return text.replace("<ref", "< ref")


def _drop_sections(text: str, closing: frozenset[str]) -> str:
    """The markup without its closing sections and their subsections.

    A heading is a line between as many equals signs, one to six.
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
        name = _QUOTES.sub("", line[depth:-depth].strip(" \t")).strip(" :[]").lower()
        level = depth if name in closing else 0
        position = match.start()
    if not level:
        pieces.append(text[position:])
    return "".join(pieces)


def _drop_tables(text: str) -> str:
    """The markup without tables, nested ones included; of one that is never closed only the lines of cells go."""
    if "{|" not in text:
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
                pieces.append(text[position:start])
                position = match.end()
    rest = text[position:]
    if depth:
        cut = start - position
        rest = rest[:cut] + _TABLE_LINE.sub("", rest[cut:])
    pieces.append(rest)
    return "\n".join(pieces)


def is_broken(text: str) -> bool:
    """Whether so many brackets or tags are never closed that the parser, which tries each, would take minutes."""
    brackets = max(text.count("[") - text.count("]"), text.count("{") - text.count("}"))
    return brackets > MAX_UNCLOSED or text.count("<") - 2 * text.count("</") > 5 * MAX_UNCLOSED


class _Renderer:
    """Walks mwparserfromhell's nodes and writes text."""

    def __init__(self, site: SiteInfo) -> None:
        self._site = site
        self._out: list[str] = []
        self._depth = 0

    def render_page(self, text: str) -> str:
        """The text of a page's markup."""
        if is_broken(text):
            return _plain(text)
        try:
            self._render(mwparserfromhell.parse(text, skip_style_tags=True))
        except (ParserError, RecursionError, MemoryError):
            return _plain(text)  # markup that the parser gives up on: `_clean` strips what it can
        return "".join(self._out)

    def _render(self, code: Any) -> None:
        for node in code.nodes:
            _HANDLERS[type(node)](self, node)

    def _text_of(self, code: Any) -> str:
        """The text of a part of the page, kept out of the page's own."""
        if code is None:
            return ""
        outer, self._out = self._out, []
        self._render(code)
        text, self._out = "".join(self._out), outer
        return text

    def _text(self, node: Any) -> None:
        self._out.append(_plain(node.value))

    def _entity(self, node: Any) -> None:
        try:
            character = node.normalize()
        except (ValueError, OverflowError, KeyError):
            character = " "
        self._out.append(" " if _NO_CHARACTER.match(character) else character)

    def _argument(self, node: Any) -> None:
        if node.default is not None:
            self._render(node.default)

    def _wikilink(self, node: Any) -> None:
        title = self._text_of(node.title).strip()
        shown_colon = title.startswith(":")
        title = title.lstrip(":").strip()
        namespace, colon, _ = title.partition(":")
        if colon and not shown_colon:
            name = normal_name(namespace)
            if name in self._site.apparatus or name in LANGUAGES:
                return  # MediaWiki shows neither in the text, labelled or not
        if node.text is None:
            self._out.append(title.replace("_", " "))
        elif text := self._text_of(node.text):
            self._out.append(text)
        else:
            trick = _PIPE_TRICK.match(title) if len(title) <= MAX_TITLE_CHARS else None
            self._out.append(trick[1] if trick else title)

    def _external_link(self, node: Any) -> None:
        if node.title is not None:
            self._render(node.title)
        elif not node.brackets:
            self._out.append(str(node.url))

    def _tag(self, node: Any) -> None:
        name = str(node.tag).strip().lower()
        if name in DROPPED_TAGS or (node.attributes and _HIDDEN.search(str(node.attributes))):
            return
        if name in BREAKING_TAGS:
            self._out.append("\n")
        if name == "sup":
            self._superscript(self._text_of(node.contents).strip())
        elif node.contents is not None:
            self._render(node.contents)
        if name in BREAKING_TAGS and not node.wiki_markup:
            self._out.append("\n")

    def _superscript(self, text: str) -> None:
        """10<sup>8</sup> is 10^8, not 108; km<sup>2</sup> is km2, and 19<sup>th</sup> is 19th."""
        while self._out and not self._out[-1]:
            self._out.pop()
        before = self._out[-1][-1] if self._out else ""
        exponent = (before.isdigit() or before == ")") and _EXPONENT.match(text) is not None
        self._out.append(f"^{text}" if exponent else text)

    def _template(self, node: Any) -> None:
        name = str(node.name)
        handler = None if "{{" in name else templates.handler_of(name)
        if handler is None or self._depth >= MAX_TEMPLATE_DEPTH:
            return
        self._depth += 1
        positional: list[str] = []
        named: dict[str, str] = {}
        for parameter in node.params:
            value = self._text_of(parameter.value)
            key = str(parameter.name).strip()
            if not parameter.showkey or key == str(len(positional) + 1):
                positional.append(value)
            else:
                named[key] = value.strip()
        self._depth -= 1
        try:
            self._out.append(handler(positional, named))
        except (ValueError, ArithmeticError, MemoryError):  # no number, or one that no page has
            self._out.append("")


_HANDLERS: dict[type, Callable[[_Renderer, Any], None]] = {
    Text: _Renderer._text,
    Wikilink: _Renderer._wikilink,
    Template: _Renderer._template,
    Tag: _Renderer._tag,
    ExternalLink: _Renderer._external_link,
    HTMLEntity: _Renderer._entity,
    Heading: lambda renderer, node: renderer._out.append("\n"),
    Comment: lambda renderer, node: None,
    Argument: _Renderer._argument,
}


def _plain(text: str) -> str:
    """Text without quote runs (bold, italic) and tags that the parser left in it."""
    text = _QUOTES.sub("", text)
    return _HTML.sub(" ", text) if "<" in text else text


def _clean(text: str, literals: list[str]) -> str:
    """Strips what is left of markup, puts literals back, and mends what dropped parts leave behind."""
    if "{{" in text:
        text = _OPEN_TEMPLATE.sub("", text)
    text = _PAIRS.sub("", text)
    text = _SWITCH.sub("", text)
    if literals:
        text = _LITERAL.sub(lambda match: literals[int(match[1])] if int(match[1]) < len(literals) else "", text)
    lines = (_clean_line(line) for line in text.split("\n"))
    text = "\n".join(line for line in lines if line and not _NO_WORDS.match(line))
    # Nothing put together from pieces may look like markup again.
    return _PAIRS.sub("", text.replace("|", PIPE)).replace("<ref", "< ref")


def _one_separator(match: re.Match[str]) -> str:
    """Keeps the last of several commas or semicolons before a word or a space: what stood between them is gone."""
    run = match[0]
    following = match.string[match.end() : match.end() + 1]
    end = len(run) if _WORD.match(following) else run.rfind(" ")
    separators = [character for character in run[: max(end, 0)] if character in ",;"]
    return f"{separators[-1]} {run[end:]}" if len(separators) > 1 else run


def _clean_line(line: str) -> str:
    line = _SPACES.sub(" ", line).strip()
    if line.startswith(("|", "!", "{|")):
        return ""
    if any(mark in line for mark in ("(", " ,", " .", " ;", " )", ",,", "[ ]", "[]")):
        for pattern, replacement in _CLEANING:
            line = pattern.sub(replacement, line)
        line = _SPACES.sub(" ", line).strip()
    return line.lstrip("*#:; ")
