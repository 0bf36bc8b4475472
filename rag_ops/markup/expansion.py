"""Expands the calls in a page's wikitext by the dump's own templates, as MediaWiki does before it makes HTML.

Handlers of `rag_ops.markup.templates` come first in the wiki that they are of, elsewhere after the dump's templates;
their calls stay in the page, with their arguments expanded. What needs more than the dump's wikitext (Lua, the clock, a
database) leaves its call as it is, and so does a call that comes out as apparatus: a table, a block with a class, or
nothing but links.

Bounded for each page: the nodes that are looked at, the characters that come out, and the depth of calls in calls.
Nothing of the dump is run, and nothing beyond it is read.
"""

from __future__ import annotations

import dataclasses
import re
from collections.abc import Mapping

from rag_ops.markup import parser_functions, preprocessor
from rag_ops.markup import templates as handlers
from rag_ops.markup.parser_functions import FUNCTIONS, Arguments, UnknownValueError
from rag_ops.markup.preprocessor import (
    END_MARK,
    END_UNGIVEN,
    MARK,
    UNGIVEN,
    Argument,
    Call,
    Node,
    Nodes,
    Part,
    Raw,
    TooDeepError,
)
from rag_ops.markup.siteinfo import SiteInfo
from rag_ops.markup.template_source import DISAMBIGUATION, MAX_REDIRECTS, Template, Templates, template_name

MAX_CALLS_DEEP = 40  # templates in templates, as MediaWiki has it
MAX_DEPTH = 120  # expansions in expansions, of calls and of arguments: some five levels of Python's stack each
MAX_NODES = 300_000  # nodes of the parse that a page may look at, a microsecond or two each; MediaWiki allows a million
CALL_NODES = 5  # that a call costs
MAX_CHARS = (
    8 << 20
)  # characters that the expansions of a page may write, intermediate ones too; MediaWiki: 2 MiB of text
PARSED_CHARS = 16 << 20  # of templates whose parse is kept, at some ten bytes each

HANDLERS_WIKI = "enwiki"  # the wiki whose templates the handlers are; elsewhere the dump's own come before them

_MARKED = re.compile(f"{MARK}(\\d+){END_MARK}")
_UNGIVEN = re.compile(f"{UNGIVEN}[^{END_UNGIVEN}]*{END_UNGIVEN}")
_ERROR = re.compile(r'<strong class="error">[^<>]*</strong>')
_BEGINS_BLOCK = re.compile(r"\{\||[:;#*]")
_PREFIX = re.compile(r"\s*(?:(?:safe)?subst|msg|raw)\s*:", re.IGNORECASE)
_PAGE_TAGS = re.compile(r"</?(?:noinclude|onlyinclude)(?:\s[^<>]*)?/?>", re.IGNORECASE)
_WORTH = re.compile(  # what a page may have expanded without any template; plain {{formatnum:}} has a handler
    r"\{\{\{|\{\{\s*(?:(?i:#[a-z]|formatnum:(?!\s*[\d.,−-]+\}\})|(?:safesubst|subst|msg|raw|nse?|[lu]c(?:first)?|plural|"
    r"pad(?:left|right)|(?:url|anchor)encode|grammar|gender|int|formal|bidi|[a-z]*urle?|filepath)\s*:)|"
    r"(?:[A-Z]*PAGENAMEE?|NAMESPACE[A-Z]*|SITENAME|CONTENTLANG[A-Z]*)\s*[}:])"
)
_TABLE = re.compile(r"<table\b|^[ \t:*#;]*\{\|", re.IGNORECASE | re.MULTILINE)
_TABLE_END = re.compile(r"</table\b|^[ \t]*\|\}", re.IGNORECASE | re.MULTILINE)
_CLASSED = re.compile(r"<(?:div|aside|nav|figure|section|center)\s[^<>]*\bclass\s*=", re.IGNORECASE)
_TAG = re.compile(r"<(ref|gallery|templatestyles)\b[^<>]*?(?:/>|>.*?</\1\s*>)|<[^<>]*>", re.IGNORECASE | re.DOTALL)
_LINK = re.compile(r"\[\[([^\[\]|]*)(?:\|([^\[\]]*))?\]\]|\[(?:https?:)?//[^\s\[\]]+([^\[\]]*)\]")
_LINKED = re.compile(r"(\[\[[^\[\]]*\]\])")
_PRONUNCIATION = re.compile(r"(?:IPA|API|AFI|МФА)(?![^\W\d_])")  # templates of it, in many languages
_WORD = re.compile(r"\w+")


class _FallBackError(Exception):
    """A call that is left as it is: it needs Lua, calls itself, or goes beyond the bounds."""


@dataclasses.dataclass(frozen=True)
class Expanded:
    """A page whose calls are expanded: its wikitext, and whether a template says that it is a disambiguation page."""

    wikitext: str
    disambiguates: bool = False


@dataclasses.dataclass(slots=True)
class _Given:
    """An argument that a call gives: expanded when it is first asked for, in the frame of who calls."""

    nodes: Nodes
    frame: _Frame | None
    trimmed: bool
    text: str | None = None


@dataclasses.dataclass(slots=True)
class _Frame:
    """A template that is being expanded: its arguments, and the names of those around it."""

    arguments: Mapping[str, _Given]
    names: tuple[str, ...]


# Of the page itself: what cannot be expanded in an argument of a template stays in it as a call, for the handlers; but
# a parser function cannot go by such an argument.
_PAGE, _DECIDING = _Frame({}, ()), _Frame({}, ())


class Expander:
    """Expands pages of one wiki, one at a time; keeps the parse of templates that it has met.

    Args:
        templates: those of the wiki.
        site: the wiki.
    """

    def __init__(self, templates: Templates, site: SiteInfo):
        self._templates, self._site = templates, site
        self._handlers_first = site.wiki == HANDLERS_WIKI
        self._parsed: dict[str, Nodes] = {}
        self._parsed_chars = 0
        self._boxes: dict[str, bool] = {}
        self._begin("")

    def _begin(self, title: str) -> None:
        self._title = title
        self._literals: list[str] = []
        self._nodes = self._chars = self._depth = 0
        self._disambiguates = False

    def expand(self, wikitext: str, title: str = "") -> Expanded:
        """Expands the calls of a page; never raises, whatever they are. What cannot be expanded stays as it is.

        >>> from rag_ops.markup.template_source import Template
        >>> Expander({"Born": Template("born in {{{1}}}")}, SiteInfo()).expand("She was {{born|[[Riga]]}}.").wikitext
        'She was born in [[Riga]].'
        """
        if "{{" not in wikitext or not (len(self._templates) or _WORTH.search(wikitext)):
            return Expanded(wikitext)
        self._begin(title)
        text = _PAGE_TAGS.sub("", wikitext) if "include" in wikitext else wikitext
        try:
            nodes = preprocessor.parse(text)
        except TooDeepError:
            return Expanded(wikitext)
        try:
            text = "".join(self._page_nodes(nodes))
        except RecursionError:
            return Expanded(wikitext, self._disambiguates)
        return Expanded(text, self._disambiguates)

    def _page_nodes(self, nodes: Nodes) -> list[str]:
        """The texts of the nodes of a page itself."""
        pieces: list[str] = []
        for node, is_alone in zip(nodes, _alone(nodes), strict=True):
            if isinstance(node, str):
                pieces.append(node)
            elif isinstance(node, Argument):
                pieces += self._page_nodes(node.default) if node.default is not None else []
            else:
                pieces.append(self._page_call(node, is_alone=is_alone))
        return pieces

    def _page_call(self, call: Call, *, is_alone: bool = False, separates: str = "") -> str:
        """What a call in a page becomes: its expansion, or itself with its arguments expanded.

        Args:
            call: the call.
            is_alone: whether nothing else stands in its lines.
            separates: characters that the expansion may not have, because they would part the call around it.
        """
        self._depth = 0
        try:
            text = self._call(call, _PAGE)
        except (_FallBackError, UnknownValueError, TooDeepError, RecursionError):
            return self._kept(call)
        self._disambiguates = self._disambiguates or DISAMBIGUATION in text
        if self._is_apparatus(self._plain(text), is_alone=is_alone):
            return self._kept(call)
        return self._plain(text, separates)

    def _kept(self, call: Call) -> str:
        """A call as it is, with the calls in its arguments expanded."""
        parts = [self._kept_part(part) for part in call.parts]
        if all(text is None for text in parts):
            return call.source
        written = (
            _source_of(part.nodes()) if text is None else text for part, text in zip(call.parts, parts, strict=True)
        )
        return "{{" + "|".join([_source_of(call.title), *written]) + "}}"

    def _kept_part(self, part: Part) -> str | None:
        """A part of a call that stays, its value expanded; None if there is nothing to expand."""
        if all(isinstance(node, str) for node in part.value):
            return None
        name = "" if part.name is None else _source_of(part.name) + "="
        separates = "|" if name else "|="
        return name + "".join(
            node
            if isinstance(node, str)
            else self._page_call(node, separates=separates)
            if isinstance(node, Call)
            else ""
            for node in part.value
        )

    def _plain(self, text: str, separates: str = "") -> str:
        """An expansion as part of a page, with its literal texts; nothing in it looks like a call that is none."""
        text = _ERROR.sub("", _UNGIVEN.sub("", text)).replace("{{", "{ {").replace("}}", "} }")
        if "|" in separates and "|" in text:
            parted = enumerate(_LINKED.split(text))
            text = "".join(piece if number % 2 else piece.replace("|", "{{!}}") for number, piece in parted)
        if "=" in separates:
            text = text.replace("=", "{{=}}")
        return self._whole(text)

    def _whole(self, text: str) -> str:
        """A text with the literal texts in their places."""
        return _MARKED.sub(lambda match: self._literals[int(match[1])], text) if MARK in text else text

    def _literal(self, text: str) -> str:
        """A mark that stands for a text which no function changes."""
        self._literals.append(text)
        return f"{MARK}{len(self._literals) - 1}{END_MARK}"

    def _is_apparatus(self, text: str, *, is_alone: bool) -> bool:
        """Whether an expansion is no prose: whole tables, a block with a class or, by itself, links without words."""
        tables = len(_TABLE.findall(text))
        if (tables and len(_TABLE_END.findall(text)) >= tables) or _CLASSED.search(text):
            return True
        return is_alone and "[" in text and self._is_links(text)

    def _is_links(self, text: str) -> bool:
        words = 0

        def count(match: re.Match[str]) -> str:
            nonlocal words
            target, label, outside = match.groups()
            if target is not None and not target.startswith(":"):
                prefix = target.partition(":")[0].strip().lower()
                if prefix in self._site.apparatus:
                    return ""
            words += len(_WORD.findall((label or target) if target is not None else outside))
            return ""

        rest = _LINK.sub(count, _LINK.sub(count, _TAG.sub(" ", text)))
        return words != 1 and not _WORD.search(rest)

    # What follows is MediaWiki's own expansion, with marks for literal texts.

    def _expand(self, nodes: Nodes, frame: _Frame) -> str:
        """The text of nodes within a template."""
        if len(nodes) == 1 and type(nodes[0]) is str:
            return nodes[0]
        self._spend(len(nodes), 0)
        if self._depth >= MAX_DEPTH:
            raise _FallBackError
        self._depth += 1
        pieces: list[str] = []
        for node in nodes:
            if isinstance(node, Raw):
                text = self._literal(node)
            elif isinstance(node, str):
                text = node
            elif isinstance(node, Argument):
                text = self._argument(node, frame)
            elif frame is _PAGE:
                text = self._call_in_page(node)
            else:
                text = self._call(node, frame)
            self._spend(0, len(text))
            pieces.append(text)
        self._depth -= 1
        return "".join(pieces)

    def _spend(self, nodes: int, chars: int) -> None:
        """Counts what a page costs.

        Raises:
            _FallBackError: it is more than a page may.
        """
        self._nodes += nodes
        self._chars += chars
        if self._nodes > MAX_NODES or self._chars > MAX_CHARS:
            raise _FallBackError

    def _call_in_page(self, call: Call) -> str:
        """The expansion of a call that a page itself makes in an argument of another; itself, if it has none."""
        depth = self._depth
        try:
            return self._call(call, _PAGE)
        except (_FallBackError, UnknownValueError):
            self._depth = depth
            return self._literal(call.source)

    def _argument(self, node: Argument, frame: _Frame) -> str:
        name = self._expand(node.name, frame).strip()
        given = frame.arguments.get(name)
        if given is None:
            return f"{UNGIVEN}{name}{END_UNGIVEN}" if node.default is None else self._expand(node.default, frame)
        if given.text is None:
            text = self._expand(given.nodes, given.frame or _PAGE)
            given.text = text.strip() if given.trimmed else text
        return given.text

    def _call(self, call: Call, frame: _Frame) -> str:
        """The expansion of a call.

        Raises:
            _FallBackError, UnknownValueError: it has none here.
        """
        self._spend(CALL_NODES, 0)
        within = _DECIDING if frame is _PAGE else frame
        title = self._expand(call.title, within)
        if prefix := _PREFIX.match(title):
            title = title[prefix.end() :]
        name = title.strip()
        if not call.parts:
            value = parser_functions.variable(name, self._title, self._site.wiki, self._site.code)
            if value is not None:
                return value
        if ":" in name and (text := self._function(name, title, call, within)) is not None:
            return text if call.begins_line or not _BEGINS_BLOCK.match(text) else "\n" + text
        text = self._template(name, call, frame)
        return text if call.begins_line or not _BEGINS_BLOCK.match(text) else "\n" + text

    def _function(self, name: str, title: str, call: Call, frame: _Frame) -> str | None:
        """The value of a parser function; None if a call's title is not one's."""
        word, _, first = title.partition(":")
        word = word.strip()
        if word.lower() == "#tag":
            return self._tag(first.strip(), call, frame)
        function = FUNCTIONS.get(word.lower())
        if function is None:
            if word.startswith("#"):
                raise _FallBackError
            return parser_functions.title_of(word, first)
        return function(Arguments(first, call.parts, lambda nodes: self._expand(nodes, frame), self._title, self._site))

    def _tag(self, tag: str, call: Call, frame: _Frame) -> str:
        """{{#tag:}}: an extension tag whose content is expanded."""
        tag = parser_functions.without_marks(tag).lower()
        content = self._expand(call.parts[0].nodes(), frame) if call.parts else ""
        if tag in ("ref", "references") or not re.fullmatch(r"[a-z][a-z0-9-]*", tag):
            return ""
        content = self._whole(_UNGIVEN.sub("", content))
        if tag in ("nowiki", "pre"):
            content = re.sub(r"</?nowiki\s*/?>", "", content)
        return self._literal(f"<{tag}>{content}</{tag}>")

    def _template(self, name: str, call: Call, frame: _Frame) -> str:
        """The expansion of a template, or its call for a handler."""
        is_top = not self._depth
        known = template_name(name, self._site) if MARK not in name and UNGIVEN not in name else None
        if known is None:
            if is_top:
                raise _FallBackError
            return self._literal_call(name, call, frame)
        if not self._site.keep_ipa and _PRONUNCIATION.match(known):
            raise _FallBackError
        found = self._found(known)
        self._disambiguates = self._disambiguates or (is_top and found is not None and found[1].disambiguates)
        has_handler = handlers.handler_of(name, self._site) is not None
        if found is None or found[1].needs_lua or (has_handler and self._handlers_first):
            if is_top or (found and found[1].needs_lua and not has_handler):
                raise _FallBackError
            # Of a template that is not there MediaWiki shows the name.
            return self._handled(name, call, frame) if has_handler else ""
        if found[0] in frame.names or len(frame.names) >= MAX_CALLS_DEEP or (is_top and self._is_box(*found)):
            raise _FallBackError
        inner = _Frame(self._given(call, frame), (*frame.names, found[0]))
        depth = self._depth
        try:
            return self._expand(self._nodes_of(*found), inner)
        except (_FallBackError, UnknownValueError):
            if is_top or not has_handler:
                raise
            self._depth = depth
            return self._handled(name, call, frame)

    def _found(self, name: str) -> tuple[str, Template] | None:
        """A template and its name, redirects followed; what a redirect says of its page is passed on."""
        for _ in range(MAX_REDIRECTS):
            template = self._templates.get(name)
            if template is None or not template.redirect:
                return None if template is None else (name, template)
            name = template.redirect
        return None

    def _nodes_of(self, name: str, template: Template) -> Nodes:
        nodes = self._parsed.get(name)
        if nodes is None:
            if self._parsed_chars + len(template.text) > PARSED_CHARS:
                self._parsed.clear()
                self._boxes.clear()
                self._parsed_chars = 0
            nodes = self._parsed[name] = preprocessor.parse(template.text)
            self._parsed_chars += len(template.text)
        return nodes

    def _is_box(self, name: str, template: Template) -> bool:
        """Whether a template is apparatus whatever its arguments are, by its own text or that of one that it calls."""
        if name not in self._boxes:
            self._boxes[name] = False  # what a template says that calls itself
            nodes = self._nodes_of(name, template)
            own = "".join(node for node in nodes if isinstance(node, str))
            self._boxes[name] = self._is_apparatus(own, is_alone=False) or any(map(self._calls_box, nodes))
        return self._boxes[name]

    def _calls_box(self, node: Node) -> bool:
        if not isinstance(node, Call) or not all(isinstance(part, str) for part in node.title):
            return False
        name = template_name(_source_of(node.title), self._site)
        found = self._found(name) if name else None
        return found is not None and not found[1].needs_lua and self._is_box(*found)

    def _given(self, call: Call, frame: _Frame) -> dict[str, _Given]:
        """The arguments of a call by name; those without a name are numbered."""
        given: dict[str, _Given] = {}
        number = 0
        for part in call.parts:
            if part.name is None:
                number += 1
                given[str(number)] = _Given(part.value, frame, trimmed=False)
            else:
                given[self._expand(part.name, frame).strip()] = _Given(part.value, frame, trimmed=True)
        return given

    def _handled(self, name: str, call: Call, frame: _Frame) -> str:
        """A call that a handler will expand, its arguments expanded already: a literal text within the template."""
        parts = [name]
        number = 0
        for part in call.parts:
            value = self._plain(self._expand(part.value, frame), "|")
            if part.name is None:
                number += 1
                parts.append(f"{number}={value}")
            else:
                parts.append(f"{self._expand(part.name, frame).strip()}={value.strip()}")
        return self._literal("{{" + "|".join(parts) + "}}")

    def _literal_call(self, name: str, call: Call, frame: _Frame) -> str:
        """Braces around what can be no template's name: they are text."""
        parts = [name, *(self._expand(part.nodes(), frame) for part in call.parts)]
        return "{{" + "|".join(parts) + "}}"


def _alone(nodes: Nodes) -> list[bool]:
    """Of each node, whether the lines that it stands on hold calls alone."""
    return [
        before and after for before, after in zip(_clear(nodes), reversed(_clear(nodes[::-1], step=-1)), strict=True)
    ]


def _clear(nodes: Nodes, step: int = 1) -> list[bool]:
    """Of each node, whether only calls and spaces stand between it and the end of its line, on one side."""
    clear, flags = True, []
    for node in nodes:
        flags.append(clear)
        if isinstance(node, str):
            line = node.rpartition("\n")[2] if step > 0 else node.partition("\n")[0]
            clear = not line.strip() and (clear or "\n" in node)
        elif isinstance(node, Argument):
            clear = False
    return flags


def _source_of(nodes: Nodes) -> str:
    """Nodes as they are written, apart from comments."""
    return "".join(
        node
        if isinstance(node, str)
        else node.source
        if isinstance(node, Call)
        else "{{{"
        + "|".join([_source_of(node.name), *([] if node.default is None else [_source_of(node.default)])])
        + "}}}"
        for node in nodes
    )
