"""The templates of a wiki as calls find them: by name, and of their text what is transcluded."""

from __future__ import annotations

import dataclasses
import re
from collections.abc import Mapping
from typing import Protocol

from rag_ops.markup import preprocessor
from rag_ops.markup.siteinfo import SiteInfo, normal_name
from rag_ops.markup.templates import TEMPLATE

MAX_REDIRECTS = 5  # of a template to a template; MediaWiki follows fewer
MAX_NAME_CHARS = 255
DISAMBIGUATION = "__DISAMBIG__"  # https://www.mediawiki.org/wiki/Extension:Disambiguator
_NOT_TRANSCLUDED = re.compile(
    r"<!--.*?(?:-->|\Z)|<noinclude(?:\s[^<>]*)?(?<!/)>.*?(?:</noinclude\s*>|\Z)|</?(?:includeonly|noinclude)(?:\s[^<>]*)?/?>|"
    r"(?P<kept><nowiki\s*>.*?(?:</nowiki\s*>|\Z))",
    re.IGNORECASE | re.DOTALL,
)
_ONLY = re.compile(r"<onlyinclude(?:\s[^<>]*)?(?<!/)>(.*?)(?:</onlyinclude\s*>|\Z)", re.IGNORECASE | re.DOTALL)
_REDIRECT = re.compile(r"\s*#[^\s\[\]:]+\s*:?\s*\[\[([^\[\]|#]+)")
_LUA = re.compile(r"\{\{\s*(?:(?:safe)?subst:)?\s*#invoke\s*:", re.IGNORECASE)
_NO_NAME = re.compile(r"[<>\[\]{}|\n\x00-\x1f\ue000-\uf8ff]")


@dataclasses.dataclass(frozen=True, slots=True)
class Template:
    """A template.

    Attributes:
        text: what a call transcludes, as wikitext; empty for redirects and for what only Lua can expand.
        redirect: name of the template that it leads to; empty if none.
        needs_lua: whether every call of it runs Lua, which comes from the dump and is never run.
        disambiguates: whether a page that calls it is a disambiguation page.
    """

    text: str = ""
    redirect: str = ""
    needs_lua: bool = False
    disambiguates: bool = False


class Templates(Protocol):
    """Templates by name; a dictionary is one."""

    def get(self, name: str, /) -> Template | None:
        """The template of a name as `template_name` gives it; None if there is none."""

    def __len__(self) -> int: ...


def template_name(title: str, site: SiteInfo) -> str | None:
    """The name of the template that a call's title means, without its namespace; None if it can be no template's.

    >>> template_name(" infobox_river ", SiteInfo()), template_name("Template:Infobox river", SiteInfo())
    ('Infobox river', 'Infobox river')
    >>> template_name(":Rhine", SiteInfo()), template_name("User:Ada/Box", SiteInfo())
    (None, None)
    """
    name = " ".join(title.replace("_", " ").split()).partition("#")[0].strip()
    prefix, colon, rest = name.partition(":")
    if colon:
        number = site.namespaces.get(normal_name(prefix), None) if prefix.strip() else 0
        if number is not None and number != TEMPLATE:
            return None
        name = rest.strip() if number == TEMPLATE else name
    if not name or len(name) > MAX_NAME_CHARS or _NO_NAME.search(name):
        return None
    return name if site.case_sensitive else upper_first(name)


def upper_first(text: str) -> str:
    """A text whose first letter is upper case, if that is one letter.

    >>> upper_first("élan"), upper_first("ßa")
    ('Élan', 'ßa')
    """
    first = text[:1].upper()
    return first + text[1:] if len(first) == 1 else text


def template_of(wikitext: str, site: SiteInfo) -> Template:
    """The template of a page's text.

    >>> template_of("'''{{{1}}}'''<noinclude>{{doc}}</noinclude>", SiteInfo()).text
    "'''{{{1}}}'''"
    >>> template_of("#REDIRECT [[Template:Flag]]", SiteInfo()).redirect
    'Flag'
    """
    if (redirect := _REDIRECT.match(wikitext)) and (target := template_name(redirect[1], site)):
        return Template(redirect=target)
    text = transcluded(wikitext)
    needs_lua = _LUA.search(text) is not None and _runs_lua(text)
    return Template("" if needs_lua else text, "", needs_lua, DISAMBIGUATION in text)


def _runs_lua(text: str) -> bool:
    """Whether Lua is called outside all conditions."""
    try:
        nodes = preprocessor.parse(text)
    except preprocessor.TooDeepError:
        return True
    return any(isinstance(node, preprocessor.Call) and _LUA.match(node.source) for node in nodes)


def transcluded(wikitext: str) -> str:
    """What a call of a page shows of it: without what stands in <noinclude>, or what stands in <onlyinclude> alone.

    https://www.mediawiki.org/wiki/Transclusion#Transclusion_markup

    >>> transcluded("a<noinclude>b</noinclude><includeonly>c</includeonly>")
    'ac'
    >>> transcluded("a<onlyinclude>b</onlyinclude>")
    'b'
    """
    text = _NOT_TRANSCLUDED.sub(lambda match: match["kept"] or _left_of(match), wikitext)
    if "<onlyinclude" in text.lower():
        text = "".join(_ONLY.findall(text))
    return text


def _left_of(match: re.Match[str]) -> str:
    """Comments stay for the parser, which knows what of their line goes with them."""
    return match[0] if match[0].startswith("<!--") and match[0].endswith("-->") else ""


def templates_of(pages: Mapping[str, str], site: SiteInfo) -> dict[str, Template]:
    """The templates among pages: titles with their namespace, and wikitext.

    >>> list(templates_of({"Template:a b": "c", "A": "b"}, SiteInfo()))
    ['A b']
    """
    templates: dict[str, Template] = {}
    for title, wikitext in pages.items():
        if site.namespace_of(title) == TEMPLATE and (name := template_name(title, site)):
            templates[name] = template_of(wikitext, site)
    return templates
