"""MediaWiki's language conversion: of a text written for several scripts or countries, one is kept.

`-{zh-hans:邦联; zh-hant:邦聯}-` is one of the two, `-{text}-` is the text as it stands, `-{T|...}-` and `-{H|...}-` are
rules for the page and show nothing. https://www.mediawiki.org/wiki/Writing_systems/Syntax
"""

from __future__ import annotations

import functools
import json
import re
from collections.abc import Sequence

from rag_ops.markup.languages import Language

_MARKS = re.compile(r"-\{(?!\{)|\}-|\{\{|\}\}")
_FLAGS = re.compile(r"\s*([A-Za-z-]{0,20}(?:\s*;\s*[A-Za-z-]{1,20}){0,20})\s*\|")
MAX_RULE_CHARS = 20_000  # of a rule of Parsoid, with its texts
MAX_DEPTH = 20  # conversions in conversions; each copies its text
_SILENT = frozenset("TH-")  # flags of rules that show nothing


def convert(markup: str, language: Language) -> str:
    """The markup with one text for each conversion, in linear time; as it is if the language has no variants."""
    if not language.variants or "-{" not in markup:
        return markup
    pieces: list[list[str]] = [[]]  # of the page, and of each conversion that is open
    opened: list[str] = []  # what is open: conversions and templates
    position = 0
    for match in _MARKS.finditer(markup):
        pieces[-1].append(markup[position : match.start()])
        position, mark = match.end(), match[0]
        if mark == "-{" and len(pieces) <= MAX_DEPTH:
            opened.append(mark)
            pieces.append([])
        elif mark == "}-" and opened and opened[-1] == "-{":
            opened.pop()
            text = _chosen("".join(pieces.pop()), language)
            pieces[-1].append(text)
        else:
            if mark == "{{":
                opened.append(mark)
            elif mark == "}}" and opened and opened[-1] == "{{":
                opened.pop()
            pieces[-1].append(mark)
    pieces[-1].append(markup[position:])
    return "-{".join("".join(some) for some in pieces)  # of what is never closed the mark stays


def _chosen(content: str, language: Language) -> str:
    flags = _FLAGS.match(content)
    if flags:
        if _SILENT & set(flags[1].replace(" ", "").split(";")):
            return ""
        content = content[flags.end() :]
    found = _pairs(content, language.variants)
    for code in language.variants:
        if code in found:
            return found[code]
    return next(iter(found.values()), content)


def _pairs(content: str, variants: Sequence[str]) -> dict[str, str]:
    """The text of each variant; empty if the content is a text for all."""
    places = list(_pattern(tuple(variants)).finditer(content))
    ends = [*(match.start() for match in places[1:]), len(content)][: len(places)]
    found: dict[str, str] = {}
    for match, end in zip(places, ends, strict=True):
        found.setdefault(match[1].lower(), content[match.end() : end].strip().removesuffix(";").strip())
    return found


@functools.cache
def _pattern(variants: tuple[str, ...]) -> re.Pattern[str]:
    codes = "|".join(sorted(variants, key=len, reverse=True))
    return re.compile(rf"(?:^|(?<=;))\s*(?:[^;:=]{{1,100}}=>\s*)?({codes})\s*:", re.IGNORECASE)


def of_rule(rule: str, language: Language) -> str:
    """The text of a conversion as Parsoid's HTML has it, in JSON; it may have tags. Empty if it shows nothing.

    https://www.mediawiki.org/wiki/Specs/HTML#Language_conversion_blocks

    >>> from rag_ops.markup.languages import language
    >>> of_rule('{"twoway": [{"l": "zh-hant", "t": "邦聯"}, {"l": "zh-hans", "t": "邦联"}]}', language("zh"))
    '邦联'
    """
    try:
        found = json.loads(rule) if len(rule) <= MAX_RULE_CHARS else {}
    except (ValueError, RecursionError):
        return ""
    if not isinstance(found, dict) or found.get("show") is False:
        return ""
    pairs = found.get("twoway") or found.get("oneway")
    one_for_all = found.get("disabled")
    pairs = [one_for_all] if isinstance(one_for_all, dict) else pairs if isinstance(pairs, list) else []
    texts = {str(pair.get("l", "")): str(pair.get("t", "")) for pair in pairs if isinstance(pair, dict)}
    return next((texts[code] for code in language.variants if code in texts), next(iter(texts.values()), ""))
