"""Infoboxes as lines, one a fact: "Population: 3,645,000"; from the parameters of their templates.

What the template would show is not known without it, so the names of parameters are made readable, and some rules,
which are tables in files, say which are no facts (sizes of images, colours) and which name the label of another.
"""

from __future__ import annotations

import functools
import re
from collections.abc import Sequence

from rag_ops.markup import tables

MAX_NAME_CHARS = 100  # of a parameter

_NAMES = [(place, word) for place, word in tables.rows("infoboxes.tsv", 2)]
_PREFIXES = tuple(word for place, word in _NAMES if place == "first")
_SUFFIXES = tuple(word for place, word in _NAMES if place == "last")
_RULES = [(kind, re.compile(pattern), detail) for kind, pattern, detail in tables.rows("infobox_parameters.tsv", 3)]
_NUMBER = re.compile(r"\d{5,15}")
_WORDS = re.compile(r"(?<=[a-z])(?=[A-Z])|[_\s]+")
_TRAILING = re.compile(r"(?:[\s_]+|(?<!km)(?<!mi)(?<!_m)(?<!ft))\d+$")  # area_km2 ends with a unit
_FILE = re.compile(r".*\.(?:svg|png|jpe?g|gif|tiff?|webp|og[gvg]|webm|mid|wav|mp3)", re.IGNORECASE | re.DOTALL)
_PIXELS = re.compile(r"[x×\d]+ ?px")
_SWITCHES = frozenset(("yes", "no", "y", "n", "true", "false"))


def is_infobox(name: str) -> bool:
    """Whether a template is an infobox by its name.

    >>> is_infobox("Infobox country"), is_infobox("Ficha_de_persona "), is_infobox("Cite web")
    (True, True, False)
    """
    name = " ".join(name.replace("_", " ").split()).lower()
    return name.startswith(_PREFIXES) or name.endswith(_SUFFIXES)


def lines(parameters: Sequence[tuple[str, str]]) -> list[str]:
    """The facts of an infobox.

    Args:
        parameters: names, as they are written, and values, as plain text on one line; in their order.

    >>> lines([("population", "3645000"), ("image_size", "250px"), ("leader_title", "Mayor"), ("leader_name", "Ada")])
    ['Population: 3,645,000', 'Mayor: Ada']
    """
    values = {name.lower(): value for name, value in parameters if value}
    found: list[str] = []
    for name, value in parameters:
        rule, detail = _rule_of(name.lower()) if len(name) <= MAX_NAME_CHARS else ("drop", "")
        others = [values[other] for other in detail.split("|") if other in values]
        if rule == "drop" or (rule == "label" and others) or not value or _is_no_fact(value):
            continue
        if rule == "number" and _NUMBER.fullmatch(value):
            value = f"{int(value):,}"
        label = others[0].rstrip(": ") if rule == "value" and others else readable(name)
        found.append(f"{label}: {value}")
    return list(dict.fromkeys(found))


def _is_no_fact(value: str) -> bool:
    """Whether a value is a switch, the name of a file or a size on the screen."""
    return value.lower() in _SWITCHES or _FILE.fullmatch(value) is not None or _PIXELS.fullmatch(value) is not None


@functools.lru_cache(1 << 14)
def _rule_of(name: str) -> tuple[str, str]:
    """What the first rule says that a parameter's name, in lower case, agrees with, and the rule's detail."""
    for kind, pattern, detail in _RULES:
        if match := pattern.fullmatch(name):
            return kind, match.expand(detail) if detail else ""
    return "", ""


def readable(name: str) -> str:
    """The name of a parameter as words.

    >>> readable("population_total"), readable("LargestCity"), readable("spouse2")
    ('Population total', 'Largest city', 'Spouse')
    """
    words = _WORDS.sub(" ", _TRAILING.sub("", name.strip()) or name).strip()
    words = " ".join(word.lower() if word.istitle() else word for word in words.split())
    return words[:1].upper() + words[1:]
