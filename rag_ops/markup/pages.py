"""Pages that are no articles, by their markup: redirects and disambiguation pages."""

from __future__ import annotations

import functools
import re

from rag_ops.markup.languages import Language
from rag_ops.markup.siteinfo import ENGLISH_SITE, SiteInfo, normal_name

_DISAMBIGUATION = re.compile(
    r"\{\{\s*(?:template:)?(?:disambig(?:uation)?|disamb|disam|dab|dmbox|hndis(?:ambig)?|geodis|mathdab|numberdis|schooldis|"
    r"hospitaldis|roaddis|roadindex|shipdis|airport ?dis(?:ambig)?|callsigndis|letter ?dis(?:ambig)?|biodis|"
    r"disambiguation cleanup|[a-z -]{3,40} disambiguation(?: page)?)\s*[|}]",
    re.IGNORECASE,
)
_TEMPLATE_NAME = re.compile(r"\{\{([^{}|<>\[\]\n]{1,80})\s*[|}\n]")
_BRACKETED = re.compile(r"[(（]([^()（）]+)[)）]$")


def is_redirect(wikitext: str, site: SiteInfo = ENGLISH_SITE) -> bool:
    """Whether a page is a redirect by its text, in English or in the words of the wiki's language.

    >>> is_redirect("#REDIRECT [[Rhine]]"), is_redirect("#Weiterleitung [[Rhein]]", SiteInfo(code="de"))
    (True, True)
    """
    return _redirect(site.language).match(wikitext) is not None


@functools.cache
def _redirect(language: Language) -> re.Pattern[str]:
    words = "|".join(map(re.escape, sorted(language.redirects - {"redirect"}, key=len, reverse=True)))
    own = rf"|(?:{words})\s*:?\s*\[\[" if words else ""
    return re.compile(rf"\s*[#＃](?:redirect\b{own})", re.IGNORECASE)


def is_disambiguation(title: str, wikitext: str, site: SiteInfo = ENGLISH_SITE) -> bool:
    """Whether a page lists what its title may mean: by its title, or by a template that says so.

    >>> is_disambiguation("Ada", "'''Ada''' may refer to ... {{Disambiguation|geo}}")
    True
    >>> is_disambiguation("Art", "{{other uses|Art (disambiguation)}} Art is ...")
    False
    >>> is_disambiguation("Bank", "{{Begriffsklärung}}", SiteInfo(code="de"))
    True
    """
    language = site.language
    if (word := _BRACKETED.search(title.strip())) and word[1].strip().lower() in language.disambiguation_titles:
        return True
    if _DISAMBIGUATION.search(wikitext):
        return True
    names = (normal_name(match[1]) for match in _TEMPLATE_NAME.finditer(wikitext)) if language.disambiguation else ()
    return any(_without_namespace(name, site) in language.disambiguation for name in names)


def _without_namespace(name: str, site: SiteInfo) -> str:
    before, colon, behind = name.partition(":")
    return behind.strip() if colon and site.namespaces.get(before) == 10 else name
