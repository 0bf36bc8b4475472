"""Mends the text that the parser's nodes gave: what is left of markup goes, and so do the holes of what was dropped."""

from __future__ import annotations

import re
from collections.abc import Callable

from rag_ops.markup.characters import CLOSE, GAP, GUARD, OPEN, PIPE

# Switches such as __NOTOC__: those that every wiki knows in any case, and a language's own in capitals or in a script
# that has none; __init__ is no switch.
_SWITCH = re.compile(r"__([^\W\d_][^\W\d]{1,60}?)__(?!_)")
_SWITCHES = frozenset("NOTOC FORCETOC TOC NOEDITSECTION NOGALLERY NOCONTENTCONVERT NOCC NOTITLECONVERT NOTC".split())
# A template that is never closed, and the lines of its parameters.
_OPEN_TEMPLATE = re.compile(r"\{\{[^\n]*(?:\n[ \t]*[|!][^\n]*)*")
_PAIRS = re.compile(r"\{\{+|\}\}+|\[\[+|\]\]+|</?ref\b[^>\n]*>?")
_LITERAL = re.compile(f"{OPEN}(\\d+){CLOSE}")
_GAPS = re.compile(rf"{GAP}+(?P<next>\w?)")
_HOLE = re.compile(rf"\((?=[^()\w]*{GAP})[\s,;:.\-–{GAP}]*\)")
_WORD = re.compile(r"\w")
_NO_WORDS = re.compile(r"^[\s*#:;.,|∣()\-–—]*$")
_NO_SUM = re.compile(r"[$£€](?=\s|$)")  # a sum of money whose amount was a template's
# Each begins only where its run of spaces or commas begins: tried from each of them a long run would take for ever.
_CLEANING: tuple[tuple[re.Pattern[str], str | Callable[[re.Match[str]], str]], ...] = (
    (re.compile(r"(?<!\w)\(\s*(?:[,;:.\-–]\s*)*\)|\(\s*[,;:.\-–][\s,;:.\-–]*\)|\[\s*\]"), ""),
    (re.compile(r"\(\s*(?:[,;]\s*)+"), "("),
    (re.compile(r"(?<!\s)\s*\(\s*(?:aged?|years? (?:ago|old))\s*\)"), ""),  # an age that only the clock knows
    (re.compile(r"(?<!\s)\s*\(([^()]*)\)"), lambda match: "" if _NO_SUM.search(match[1]) else match[0]),
    (re.compile(r"(?<![,;:\s])[,;:\s]+\)"), ")"),
    (re.compile(r"[,;][,;\s]+"), lambda match: _one_separator(match)),
    (re.compile(r"\(\s+"), "("),
    (re.compile(r"(?<! )[ ]+([,;.!?)])(?=[\s)]|$)"), r"\1"),
)


def clean(text: str, literals: list[str]) -> str:
    """Strips what is left of markup, puts literals back, and mends what dropped parts leave behind."""
    if "{{" in text:
        text = _OPEN_TEMPLATE.sub("", text)
    text = _PAIRS.sub("", text)
    if "__" in text:
        text = _SWITCH.sub(lambda match: "" if _is_switch(match[1]) else match[0], text)
    if GAP in text:
        text = _GAPS.sub(_between_words, _HOLE.sub("", text))
    lines = (_clean_line(line) for line in text.split("\n"))
    text = "\n".join(line for line in lines if line and not _NO_WORDS.match(line))
    text = text.replace(GUARD, "")
    if literals:
        text = _LITERAL.sub(lambda match: literals[int(match[1])] if int(match[1]) < len(literals) else "", text)
        text = "\n".join(stripped for line in text.split("\n") if (stripped := _single_spaces(line)))
    # Nothing put together from pieces may look like markup again.
    return _PAIRS.sub("", text.replace("|", PIPE)).replace("<ref", "< ref")


def _between_words(match: re.Match[str]) -> str:
    """What is left where something was dropped: a space between words, which would be one otherwise."""
    before = match.string[max(0, match.start() - 1) : match.start()]
    return " " + match["next"] if match["next"] and _WORD.match(before) else match["next"]


def _is_switch(name: str) -> bool:
    return name == name.upper() or name.upper() in _SWITCHES


def _one_separator(match: re.Match[str]) -> str:
    """Keeps the last of several commas or semicolons before a word or a space: what stood between them is gone."""
    run = match[0]
    following = match.string[match.end() : match.end() + 1]
    end = len(run) if _WORD.match(following) else run.rfind(" ")
    separators = [character for character in run[: max(end, 0)] if character in ",;"]
    return f"{separators[-1]} {run[end:]}" if len(separators) > 1 else run


def _single_spaces(line: str) -> str:
    """A line with single spaces between words, whatever stood there, zero-width ones too."""
    return " ".join(line.replace("\u200b", " ").split())


def _clean_line(line: str) -> str:
    line = _single_spaces(line)
    if any(mark in line for mark in ("(", " ,", " .", " ;", " )", ",,", "[ ]", "[]")):
        for pattern, replacement in _CLEANING:
            line = pattern.sub(replacement, line)
        line = _single_spaces(line)
    return line.lstrip("*#:; ")
