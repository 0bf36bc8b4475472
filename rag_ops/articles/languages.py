"""The language that an input says it is in: by its articles, their wiki or their address, or by a dataset's name."""

from __future__ import annotations

import itertools
import re
from collections.abc import Iterable
from typing import Any
from urllib.parse import urlsplit

from rag_ops.articles.options import LANGUAGE_CODE
from rag_ops.articles.source_format import Row
from rag_ops.markup.languages import ENGLISH
from rag_ops.markup.siteinfo import language_said
from rag_ops.markup.wikitext import LANGUAGES

LOOKED_AT = 10  # articles of a file that are asked
SIMPLE = "simple"  # a wiki's code that is no language's
_DATED = re.compile(r"\d{8}\.([a-z]{2,3}(?:-[a-z]+)*)")


def code_of(said: str) -> str:
    """A language's code as a manifest has it; empty if it is none.

    >>> code_of("DE"), code_of("simple"), code_of("Deutsch!")
    ('de', 'en', '')
    """
    code = said.strip().lower()
    if code == SIMPLE:
        return ENGLISH
    return code if LANGUAGE_CODE.fullmatch(code) else ""


def agreed(codes: Iterable[str]) -> str:
    """The code that all are; empty if one says nothing, two differ, or there are none. Asks no more than it must.

    >>> agreed(["de", "de"]), agreed(["de", "fr"]), agreed(["de", ""]), agreed([])
    ('de', '', '', '')
    """
    found = ""
    for code in codes:
        if not code or (found and code != found):
            return ""
        found = code
    return found


def of_wiki(code: str, database: str = "", host: str = "") -> str:
    """The language of an article by the code that it has, else by its wiki's database or host; empty if none says it.

    >>> of_wiki("fr", "dewiki"), of_wiki("", "zh_yuewiki"), of_wiki("", "commonswiki"), of_wiki("", "", "www.wiki.org")
    ('fr', 'zh-yue', '', '')
    """
    if said := code_of(code):
        return said
    named = language_said(database, host)
    return code_of(named) if named in LANGUAGES else ""


def of_rows(rows: Iterable[Row]) -> str:
    """The language of the Wikipedia that the first rows' `url` names; empty unless all of them name one."""
    return agreed(of_address(row.get("url")) for _, row in itertools.islice(rows, LOOKED_AT))


def of_address(url: Any) -> str:
    """The language of a page of a wiki by its address.

    >>> of_address("https://de.wikipedia.org/wiki/Ulm"), of_address("https://example.org/de"), of_address(None)
    ('de', '', '')
    """
    try:
        host = urlsplit(url).hostname if isinstance(url, str) else None
    except ValueError:  # brackets that are no address
        return ""
    return of_wiki("", host=host or "")


def of_configuration(dataset: str, configuration: str | None) -> str:
    """The language of a dataset of Wikipedia by its configuration: a day and a code, or for FineWiki a code alone.

    >>> of_configuration("wikimedia/wikipedia", "20231101.de"), of_configuration("HuggingFaceFW/finewiki", "fr")
    ('de', 'fr')
    >>> of_configuration("glue", "ax"), of_configuration("wikimedia/wikipedia", None)
    ('', '')
    """
    name = configuration or ""
    dated = _DATED.fullmatch(name)
    if dated is None and "wiki" not in dataset.lower():
        return ""
    code = dated[1] if dated else name
    return code_of(code) if code in LANGUAGES else ""
