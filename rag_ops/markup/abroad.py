"""Handlers of templates of Wikipedias in other languages than English: numbers, dates, centuries, links elsewhere."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence

from rag_ops.markup.arguments import Handler, Raised, argument, at, filled
from rag_ops.markup.languages import Language

_SIGNED = re.compile(r"[+\-−]?\d+$")
_ORDINAL = re.compile(r"(?:\d+|[IVXLCDM]+)(?:er|re|e|d|de|nd|nde|ème)$")
_CENTURY = re.compile(r"[IVXLCDM]+(?:er|e) (?:siècle|millénaire)(?: av\. J\.-C\.)?$")
_MONTHS = {
    "fr": "janvier février mars avril mai juin juillet août septembre octobre novembre décembre".split(),
    "es": "enero febrero marzo abril mayo junio julio agosto septiembre octubre noviembre diciembre".split(),
    "pt": "janeiro fevereiro março abril maio junho julho agosto setembro outubro novembro dezembro".split(),
}


def quantity(language: Language) -> Handler:
    """{{unité|8848|m}}: a number as the language writes it, and its unit with exponents; {{nombre|4500|habitants}}."""

    def handle(positional: Sequence[str], named: Mapping[str, str]) -> str:
        text = language.format_number(_with_point(at(positional, 0)))
        if exponent := named.get("e", ""):
            text += "×10^" + exponent.replace("-", "−")
        units: list[str] = []
        for part in filled(positional[1:]):
            if _SIGNED.fullmatch(part) and units:
                units[-1] += part.replace("-", "−")
            else:
                units.append(part)
        return " ".join([text, "⋅".join(units)]).strip()

    return handle


def number(language: Language) -> Handler:
    """The first argument, its thousands grouped as the language groups them."""
    return lambda positional, named: language.format_number(_with_point(at(positional, 0)))


def _with_point(text: str) -> str:
    """A number as MediaWiki reads it: with a point for the comma that some write, and without spaces."""
    bare = re.sub(r"(?<=\d)[\s\u202f\xa0](?=\d)", "", text)
    return bare.replace(",", ".") if re.fullmatch(r"[+\-−]?\d+,\d+", bare) else bare


def date(language: Language) -> Handler:
    """Day, month and year; the month by its name or number. A first argument that is a whole date is shown as it is."""
    months = _MONTHS[language.code]
    joiner = " " if language.code == "fr" else " de "

    def handle(positional: Sequence[str], named: Mapping[str, str]) -> str:
        day, month, year = (at(positional, place) for place in range(3))
        if len(filled(positional[:3])) == 1 and not day.isdecimal():
            return day
        if month.isdecimal() and 1 <= int(month) <= 12:
            month = months[int(month) - 1]
        if language.code == "fr" and day == "1":
            day = "1er"
        return joiner.join(filled([day.lstrip("0"), month, year]))

    return handle


def centuries(detail: str) -> Handler:
    """{{s-|XIX|e}}: XIXe siècle; {{s2-|V|e|VI|e}}: Ve et VIe siècles; `detail` is the word behind and the era."""
    joiner, _, behind = detail.partition(";")

    def handle(positional: Sequence[str], named: Mapping[str, str]) -> str:
        parts = filled(positional)
        words = [f"{parts[place]}{parts[place + 1]}" for place in range(0, len(parts) - 1, 2) if parts[place].isalpha()]
        if len(parts) == 5:  # {{sp-|V|e|au|VI|e}} has its own word between
            words = [f"{parts[0]}{parts[1]}", f"{parts[3]}{parts[4]}"]
            return f" {parts[2]} ".join(words) + behind
        if len(parts) == 1:
            words = parts
        return joiner.join(words) + behind if words else ""

    return handle


def spanish_century(positional: Sequence[str], named: Mapping[str, str]) -> str:
    """{{siglo|V|a|s}}: siglo V a. C.; without the s the word is left out."""
    numeral, era, word = (at(positional, place) for place in range(3))
    before = {"s": "siglo ", "S": "Siglo "}.get(word, "")
    return before + numeral.upper() + {"a": " a. C.", "d": " d. C."}.get(era.lower(), "") if numeral else ""


def portuguese_century(positional: Sequence[str], named: Mapping[str, str]) -> str:
    """{{séc|XIX}}: século XIX."""
    numerals = filled(positional)
    return ("século " if len(numerals) < 2 else "séculos ") + " e ".join(numerals) if numerals else ""


def hours(positional: Sequence[str], named: Mapping[str, str]) -> str:
    """{{heure|14|30}}: 14 h 30."""
    parts = filled(positional)[:3]
    return f"{parts[0]} h {' '.join(parts[1:])}".strip() if parts else ""


def first_of(names: str) -> Handler:
    """A handler of the first of these arguments, by number or name, that is not empty."""

    def handle(positional: Sequence[str], named: Mapping[str, str]) -> str:
        for name in names.split(","):
            text = argument(name)(positional, named) if name.isdecimal() else named.get(name, "")
            if text:
                return text
        return ""

    return handle


def itself(name: str, language: Language) -> str | None:
    """The text of a template that is its own name: {{XIXe siècle}}, {{2e}}; None of all others."""
    if language.code != "fr":
        return None
    return name if _CENTURY.fullmatch(name) or _ORDINAL.fullmatch(name) else None


def raised(positional: Sequence[str], named: Mapping[str, str]) -> str:
    """The first argument as a superscript."""
    return Raised(at(positional, 0))
