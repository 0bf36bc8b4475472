"""Counts places in plain text that look like what markup leaves behind, by kind; made for dumps of any language."""

import re
from collections import Counter
from collections.abc import Iterable

PATTERNS = {
    "switch": r"__[^\W\d_]{3,}__",
    "markup": r"\{\{|\}\}|\[\[|\]\]|\{\||\|\}|''+|\|\||</?[a-z][a-z0-9]*(?:\s[^<>]*)?/?>|(?m:^=+)|<!--|-->",
    "entity": r"&(?:[a-z]{2,8}|#\d+|#x[0-9a-f]+);",
    "link": r"\[https?:|∣",  # a pipe that was not a table's stands as this sign
    "file": r"\b(?:thumb|thumbnail|\d{2,4}px)\b|[^\s.]\.(?:jpe?g|png|svg|gif|ogg|webm)\b",
    "attribute": r"\b(?:style|class|align|valign|colspan|rowspan|bgcolor|cellpadding|cellspacing)\s*=",
    "parameter": r"\{\{\{|\}\}\}|(?m:^\w+ ?= ?\w+$)",
    "brackets": r"\([\s,;:.–—-]*\)|\[\s*\]|\(\s*[,;:]|[,;:]\s*\)",
    "glued": r"(?<!\d)(?:1[5-9]|20)\d\d(?:1[5-9]|20)\d\d(?!\d)|(?<=[^\W\d_]{3})\d{3,}",
    "separators": r"\s[,;](?=\s)|,\s*,|;\s*;",
}


def suspicious(texts: Iterable[str], names: Iterable[str] = ()) -> tuple[Counter[str], int]:
    """The places by kind, and the words; `names` are those of the wiki's namespaces of files, categories, templates."""
    patterns = {kind: re.compile(pattern, re.IGNORECASE) for kind, pattern in PATTERNS.items()}
    if names := tuple(names):
        patterns["namespace"] = re.compile(rf"\b(?:{'|'.join(map(re.escape, names))}):\S", re.IGNORECASE)
    places: Counter[str] = Counter()
    words = 0
    for text in texts:
        words += len(text.split())
        for kind, pattern in patterns.items():
            places[kind] += sum(1 for _ in pattern.finditer(text))
    return +places, words
