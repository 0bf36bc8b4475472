"""Sentences by a plain rule: they end with a full stop of any script, unless an abbreviation or an initial has it.

No model and no dictionary but a list of abbreviations. In scripts without spaces a sentence ends at its full stop; Thai
and Lao have spaces there. A line is never joined with the next one.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path

_TABLE = [
    line.split("\t")
    for line in Path(__file__).with_name("abbreviations.tsv").read_text(encoding="utf-8").splitlines()
    if line and not line.startswith("#")
]
_ABBREVIATIONS, _BEGINNINGS = (
    frozenset(word for kind, _, word in _TABLE if kind == wanted) for wanted in ("abbreviation", "beginning")
)
_CLOSING = "\"'”’»」』）)\\]】》〉"
# A Latin full stop ends a sentence before a space; those of full width, and those of other scripts, anywhere.
_STOP = re.compile(
    rf"(?P<latin>[.!?…]+[{_CLOSING}]*)\s+(?=(?P<next>\S))"
    rf"|[。．！？｡]+[{_CLOSING}]*\s*|[।॥۔؟։።፧།༎။។៕]+[{_CLOSING}]*\s*"
    r"|(?<=[\u0e01-\u0eff]) +"
)
_LAST_WORD = re.compile(r"[^\s(\[“\"'‘«]*$")
_INITIALS = re.compile(r"(?:[^\W\d_]\.)*[^\W\d_]")
_FIRST_WORD = re.compile(r"\w+")
LAST_CHARS = 40  # of what stands before a full stop: a longer word is no abbreviation


def sentences(text: str) -> Iterator[str]:
    """Yields the sentences of a text, without the space around them, line by line.

    >>> list(sentences("Dr. Bell went to the U.S. in 1871. He was 24!"))
    ['Dr. Bell went to the U.S. in 1871.', 'He was 24!']
    >>> list(sentences("柏林是首都。它很大！"))
    ['柏林是首都。', '它很大！']
    """
    for line in text.split("\n"):
        start = 0
        for match in _STOP.finditer(line):
            if match["latin"] and not _ends(line, match):
                continue
            if sentence := line[start : match.end()].strip():
                yield sentence
            start = match.end()
        if sentence := line[start:].strip():
            yield sentence


def _ends(line: str, match: re.Match[str]) -> bool:
    """Whether a sentence ends at a Latin full stop that a space follows."""
    following = match["next"]
    if following.islower() or following in ",;:)":
        return False
    if not match["latin"].startswith(".") or match["latin"].startswith(".."):
        return True
    before = _LAST_WORD.search(line[max(0, match.start() - LAST_CHARS) : match.start()])
    word = before[0] if before else ""
    if word.lower() in _ABBREVIATIONS:
        return False
    if _INITIALS.fullmatch(word):  # J. Smith, the U.S. Army; in the U.S. He
        begins = _FIRST_WORD.match(line, match.end())
        return len(word) > 1 and begins is not None and begins[0].lower() in _BEGINNINGS
    return True
