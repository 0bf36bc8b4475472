"""Pages that are no articles, by their markup: redirects and disambiguation pages."""

from __future__ import annotations

import re

from rag_ops.markup.siteinfo import ENGLISH_SITE, SiteInfo

_DISAMBIGUATION = re.compile(
    r"\{\{\s*(?:template:)?(?:disambig(?:uation)?|disamb|disam|dab|dmbox|hndis(?:ambig)?|geodis|mathdab|numberdis|schooldis|"
    r"hospitaldis|roaddis|roadindex|shipdis|airport ?dis(?:ambig)?|callsigndis|letter ?dis(?:ambig)?|biodis|"
    r"disambiguation cleanup|[a-z -]{3,40} disambiguation(?: page)?)\s*[|}]",
    re.IGNORECASE,
)
_REDIRECT = re.compile(r"\s*#redirect\b", re.IGNORECASE)


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
