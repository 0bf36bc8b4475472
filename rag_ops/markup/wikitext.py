"""MediaWiki markup to plain text: the words of the article, without its apparatus.

Dropped: references, galleries, files, categories, comments and the closing sections. Kept: paragraphs, list items, the
text of links, the source of formulas, and the templates that carry content (`rag_ops.markup.templates`). Headings,
tables, infoboxes and captions are kept apart (`rag_ops.markup.assembling`). What can be cut by a linear scan is cut
(`rag_ops.markup.cutting`) before mwparserfromhell parses the rest.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Callable, Sequence
from typing import Any
from urllib.parse import unquote

import mwparserfromhell
from mwparserfromhell.nodes import Argument, Comment, ExternalLink, Heading, HTMLEntity, Tag, Template, Text, Wikilink
from mwparserfromhell.parser import ParserError

from rag_ops.markup import apostrophes, infobox, tables, templates
from rag_ops.markup.arguments import Raised
from rag_ops.markup.assembling import Found, assemble
from rag_ops.markup.characters import GAP, GUARD, of_entity, unescape
from rag_ops.markup.cutting import TAGS, Prepared, prepare
from rag_ops.markup.parser_functions import is_function
from rag_ops.markup.parts import PROSE_ALONE, Part, Wanted, prose
from rag_ops.markup.siteinfo import ENGLISH_SITE, FILE, SiteInfo, normal_name
from rag_ops.markup.template_source import template_name

# The prefixes of interlanguage links, which stand in a page's margin: the codes of all Wikipedias, open or closed, and
# the other names by which links reach them (https://meta.wikimedia.org/wiki/List_of_Wikipedias).
LANGUAGES = frozenset(code for (code,) in tables.rows("languages.txt"))
LIST_SIGNS = ("#", "*", ":", ";")  # that begin a list at the beginning of a line
_DROPPED_KINDS = ("dropped", "silent", "heading")

_HTML = re.compile(r"</?(?P<tag>[a-zA-Z][a-zA-Z0-9]*)(?:[\s/][^<>\n]*)?>")
_NO_ADDRESS = re.compile(r"[\x00-\x20\"<>\[\]|]")  # what an address shows as %xx
_SIMPLE_LINK = re.compile(r"\[\[([^\[\]{}|:<>&#%]*)(?:\|([^\[\]{}|<>&]+))?\]\]")
_MARKUP = re.compile(r"[\[{<&]|://|__")
_PIPE_TRICK = re.compile(r"^(?:[^:]*:)?\s*(.*?)\s*(?:\([^()]*\)|,.*)?$")
_EXPONENT = re.compile(r"[-−+–]?\d")
_HIDDEN = re.compile(r"display\s*:\s*none", re.IGNORECASE)
MAX_TEMPLATE_DEPTH = 30
MAX_PAGE_CHARS = 4 << 20  # longest page; MediaWiki's own limit is 2 MiB
MAX_TITLE_CHARS = 255  # longest title, as MediaWiki has it
MAX_UNCLOSED = 1000  # brackets or braces; a real page has a handful


def to_text(wikitext: str, site: SiteInfo = ENGLISH_SITE, lost: Counter[str] | None = None) -> str:
    """The plain text of a page: paragraphs and list items, one a line.

    Never raises, whatever the markup: what cannot be parsed is stripped by rule. The result holds none of `|`, `{{`,
    `[[` and `<ref`. `site` is the wiki that the page is from: its language and its names of namespaces. The calls of
    templates that are dropped, in what else is kept of the page, are added to `lost` by the template's name.

    >>> to_text("The peak is {{convert|8848|m|ft}} high,<ref>x</ref> in the ''[[Himalaya|Himalayas]]''.")
    'The peak is 8,848 metres (29,029 ft) high, in the Himalayas.'
    """
    return prose(to_parts(wikitext, site, lost=lost))


def to_parts(
    wikitext: str, site: SiteInfo = ENGLISH_SITE, wanted: Wanted = PROSE_ALONE, lost: Counter[str] | None = None
) -> list[Part]:
    """The parts of a page: its prose under each heading, then infoboxes, tables and captions, as far as `wanted`.

    Never raises, and what is said of the result of `to_text` holds for each text.
    """
    return finish(prepare(wikitext, site), site, wanted, lost)


def finish(
    page: Prepared, site: SiteInfo = ENGLISH_SITE, wanted: Wanted = PROSE_ALONE, lost: Counter[str] | None = None
) -> list[Part]:
    """The parts of what `cutting.prepare` left."""
    renderer = _Renderer(site, wanted, lost)
    text = renderer.render_page(page.markup)
    return assemble(text, renderer.found, page.literals, wanted, page.tables_at, renderer.render_cells)


def is_broken(text: str) -> bool:
    """Whether so many brackets or tags are never closed that the parser, which tries each, would take minutes."""
    brackets = max(text.count("[") - text.count("]"), text.count("{") - text.count("}"))
    return brackets > MAX_UNCLOSED or text.count("<") - 2 * text.count("</") > 5 * MAX_UNCLOSED


class _Renderer:
    """Walks mwparserfromhell's nodes and writes text."""

    def __init__(self, site: SiteInfo, wanted: Wanted, lost: Counter[str] | None) -> None:
        self._site, self._wanted, self._lost = site, wanted, lost
        self.found = Found()
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

    def render_cells(self, cells: Sequence[str]) -> list[str]:
        """The texts of the cells of a table, with what is left of markup in them; simple ones need no parser."""
        texts = [apostrophes.drop_quotes(cell) for cell in cells]
        outer, self._wanted = self._wanted, PROSE_ALONE
        for number, text in enumerate(texts):
            text = _SIMPLE_LINK.sub(_shown, text) if "[[" in text else text
            if _MARKUP.search(text):
                self._out = []
                text = self.render_page(texts[number])
            texts[number] = text
        self._wanted = outer
        return texts

    def _render(self, code: Any) -> None:
        nodes = list(code.nodes)
        for place, node in enumerate(nodes):
            if type(node) is Tag:
                self._tag(node, nodes, place)
            else:
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
        self._out.append(of_entity(str(node)))

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
            if name in self._site.apparatus or name in LANGUAGES:  # none of them shows words here, labelled or not
                if self._wanted.captions and self._site.namespaces.get(name) == FILE and node.text is not None:
                    self.found.caption(self._text_of(node.text))
                self._out.append(GAP if self._site.namespaces.get(name) == FILE else "")
                return
        if node.text is None:
            self._out.append(GUARD * title.startswith(LIST_SIGNS) + _decoded(title).replace("_", " "))
        elif str(node.text):
            label = self._text_of(node.text)
            self._out.append(GUARD * label.startswith(LIST_SIGNS) + label)
        else:
            trick = _PIPE_TRICK.match(title) if len(title) <= MAX_TITLE_CHARS else None
            self._out.append(trick[1] if trick else title)

    def _heading(self, node: Any) -> None:
        self._out.append(self.found.heading(node.level, self._text_of(node.title)))

    def _external_link(self, node: Any) -> None:
        if node.title is not None:
            self._render(node.title)
        elif not node.brackets:
            address = unescape(str(node.url))
            self._out.append(_NO_ADDRESS.sub(lambda match: f"%{ord(match[0]):02X}", address))

    def _tag(self, node: Any, nodes: Sequence[Any], place: int) -> None:
        name = str(node.tag).strip().lower()
        kind = TAGS.get(name)
        if kind is None:
            self._unknown_tag(node)
        elif kind in _DROPPED_KINDS or (node.attributes and _HIDDEN.search(str(node.attributes))):
            self._out.append("\n" if kind == "heading" else GAP)
        else:
            if kind == "breaking":
                self._out.append("\n")
            if name == "sup":
                numerator = _is_fraction(nodes[place + 1 : place + 3])
                self._superscript(self._text_of(node.contents).strip(), is_numerator=numerator)
            elif node.contents is not None:
                if name == "code":
                    self._out.append(GUARD)
                self._render(node.contents)
            if kind == "breaking" and not node.wiki_markup:
                self._out.append("\n")

    def _unknown_tag(self, node: Any) -> None:
        """A tag that MediaWiki does not know is shown as it is written."""
        attributes = "".join(map(str, node.attributes))
        self._out.append(f"<{node.tag}{attributes}{'/' if node.self_closing else ''}>")
        if not node.self_closing:
            self._render(node.contents)
            self._out.append(f"</{node.closing_tag}>")

    def _superscript(self, text: str, *, is_numerator: bool = False) -> None:
        """10<sup>8</sup> is 10^8, km<sup>2</sup> km2, 19<sup>th</sup> 19th; 1<sup>1</sup>/<sub>2</sub> is 1 1/2."""
        while self._out and not self._out[-1]:
            self._out.pop()
        before = self._out[-1][-1] if self._out else ""
        if is_numerator and before.isdigit():
            self._out.append(" " + text)
            return
        exponent = (before.isdigit() or before == ")") and _EXPONENT.match(text) is not None
        self._out.append(f"^{text}" if exponent else text)

    def _template(self, node: Any) -> None:
        name = str(node.name)
        handler = None if "{{" in name else templates.handler_of(name, self._site)
        if handler is None or self._depth >= MAX_TEMPLATE_DEPTH:
            self._out.append(GAP)
            if self._wanted.tables and self._depth < MAX_TEMPLATE_DEPTH and infobox.is_infobox(name):
                self._infobox(node)
            elif self._lost is not None and (lost := template_name(name, self._site)) and not is_function(name):
                self._lost[lost] += 1
            return
        self._depth += 1
        positional: list[str] = []
        named: dict[str, str] = {}
        for parameter in node.params:
            value = self._text_of(parameter.value).replace(GAP, "")
            key = str(parameter.name).strip()
            if not parameter.showkey or key == str(len(positional) + 1):
                positional.append(value)
            else:
                named[key] = value.strip()
        self._depth -= 1
        try:
            text = handler(positional, named)
        except (ValueError, ArithmeticError, MemoryError):  # no number, or one that no page has
            text = GAP
        if isinstance(text, Raised):
            self._superscript(text)
        else:
            self._out.append(text)

    def _infobox(self, node: Any) -> None:
        parameters = self.found.infobox()
        self._depth += 1
        for one in node.params:
            if one.showkey:
                parameters.append((str(one.name).strip(), self._text_of(one.value).replace(GAP, "")))
        self._depth -= 1


_HANDLERS: dict[type, Callable[[_Renderer, Any], None]] = {
    Text: _Renderer._text,
    Wikilink: _Renderer._wikilink,
    Template: _Renderer._template,
    ExternalLink: _Renderer._external_link,
    HTMLEntity: _Renderer._entity,
    Heading: _Renderer._heading,
    Comment: lambda renderer, node: None,
    Argument: _Renderer._argument,
}


def _is_fraction(following: Sequence[Any]) -> bool:
    """Whether the nodes after a superscript make it a numerator: a slash and a subscript."""
    if len(following) < 2 or type(following[0]) is not Text or type(following[1]) is not Tag:
        return False
    return str(following[0]).strip() in ("/", "⁄") and str(following[1].tag).strip().lower() == "sub"


def _shown(match: re.Match[str]) -> str:
    """What a link without markup in it shows."""
    return match[1].replace("_", " ").strip() if match[2] is None else match[2]


def _decoded(title: str) -> str:
    """A link's title as it is shown if the link has no label."""
    if "%" not in title:
        return title
    decoded = unquote(title, errors="strict") if len(title) <= MAX_TITLE_CHARS else title
    return decoded if decoded.isprintable() else title


def _plain(text: str) -> str:
    """Text without the tags that the parser left in it, and with the entities that it does not know."""
    if "<" in text:
        text = _HTML.sub(_without_tag, text)
    return unescape(text)


def _without_tag(match: re.Match[str]) -> str:
    kind = TAGS.get(match["tag"].lower())
    if kind is None:
        return match[0]
    return "\n" if kind == "breaking" and not match[0].startswith("</") else ""
