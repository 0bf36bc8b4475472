"""Single characters between markup and text: entities, and the marks that the rules leave for one another."""

from __future__ import annotations

import re
from html.entities import html5

# A literal pipe, braces or brackets stand in prose here and there; in passages they would be taken for markup by
# whoever reads our files or prompts, so the pipe becomes its look-alike and the pairs are parted.
PIPE = "∣"
# Characters of private use, taken out of every page first:
OPEN, CLOSE = "\ue000", "\ue001"  # around the number of a literal that waits outside
GAP = "\ue002"  # where something was dropped
GUARD = "\ue003"  # before a sign that begins no list
PLACE, PLACE_END = "\ue004", "\ue005"  # around a letter and a number: where a heading (h) or a table (t) stood
HELD, HELD_END = "\ue006", "\ue007"  # around the number of a template or link of a table's cell, while it is put aside

_MARKED = (OPEN, CLOSE, GAP, GUARD, PLACE, PLACE_END, HELD, HELD_END)
_MARKS = re.compile(f"[{''.join(_MARKED)}]")
_PAIRS = ("{{", "}}", "[[", "]]", "__")
_ENTITY = re.compile(r"&(?:#(?:\d{1,7}|[xX][0-9a-fA-F]{1,6})|[a-zA-Z][a-zA-Z0-9]{1,31});")
_NO_CHARACTER = re.compile(r"[\x00-\x08\x0b-\x1f\ud800-\udfff]")  # characters that &#0; and &#xd800; would make


def without_marks(text: str) -> str:
    """The text without the characters that mean something to the rules."""
    return _MARKS.sub("", text) if any(mark in text for mark in _MARKED) else text


def of_entity(entity: str) -> str:
    """The text of an entity; what no file can hold is a space, what is no entity stays.

    >>> of_entity("&apos;"), of_entity("&#x41;"), of_entity("&#xd800;"), of_entity("&nothing;")
    ("'", 'A', ' ', '&nothing;')
    """
    name = entity[1:-1]
    if not name.startswith("#"):
        return html5.get(name + ";", entity)
    number = int(name[2:], 16) if name[1] in "xX" else int(name[1:])
    if not 0 < number < 0x110000:
        return entity
    return " " if _NO_CHARACTER.match(chr(number)) or _MARKS.match(chr(number)) else chr(number)


def unescape(text: str) -> str:
    """The text with its entities replaced; they end with a semicolon, as MediaWiki's do.

    >>> unescape("a &lt; b &amp;lt; AT&T &copy 2")
    'a < b &lt; AT&T &copy 2'
    """
    return _ENTITY.sub(lambda match: of_entity(match[0]), text) if "&" in text else text


def parted(text: str) -> str:
    """A text that is no wikitext, with nothing in it that would be taken for that: pairs are parted.

    >>> parted("a[[b]] {{c}}")
    'a[ [b] ] { {c} }'
    """
    for pair in _PAIRS:
        between = GUARD if pair == "__" else " "
        while pair in text:
            text = text.replace(pair, between.join(pair))
    return text
