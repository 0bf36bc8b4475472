"""Bold and italic marks, taken out as MediaWiki reads them: some of the apostrophes of a run are apostrophes.

The rule is that of Parser::doQuotes in MediaWiki. Of a line's runs, two apostrophes are italics, three are bold, five
are both; of four, and of more than five, the first ones are text. If neither bold nor italics close, one bold run is an
apostrophe before italics: the first after a word of one letter, else the first after another word, else after a space.

One rule is not MediaWiki's, whose readers see bold that nobody meant: if a line has several elided articles or
possessives beside italics, two of them balance each other, and each is an apostrophe all the same.
"""

from __future__ import annotations

import re
from collections.abc import Sequence

_TOKENS = re.compile(r"''+|\[\[|\]\]|\{\{|\}\}|\|")
MAX_ELISION = 6  # letters of quell', the longest of the usual ones, and one more
_ELISION = re.compile(r"(?:^|[^\w'])[^\W\d_]*[b-df-hj-np-tv-zB-DF-HJ-NP-TV-Z]$")
_POSSESSIVE = re.compile(r"s\b")
MAX_ADDRESS = 500  # characters of an address in brackets, which bold or italics end
_ADDRESS = re.compile(r"\[[a-zA-Z]{3,10}://[^\s\[\]]*$")
_PARTNER = {"]]": "[[", "}}": "{{"}


def drop_quotes(markup: str) -> str:
    """The markup without bold and italic marks; apostrophes that are text stay.

    The label of a link and each argument of a template are read by themselves, as MediaWiki reads them; a link without
    a label shows its title as it is written. Takes linear time.

    >>> drop_quotes("''[[Titanic]]'''s sister and '''''both'''''")
    "[[Titanic]]'s sister and both"
    >>> drop_quotes("l'''Odissea'' e dell'''Iliade''")
    "l'Odissea e dell'Iliade"
    """
    if "''" not in markup:
        return markup
    return "\n".join(_drop_from_line(line) if "''" in line else line for line in markup.split("\n"))


class _Part:
    """A part of a line whose runs are read together."""

    __slots__ = ("is_title", "runs", "start")

    def __init__(self, start: int, *, is_title: bool = False) -> None:
        self.start = start
        self.is_title = is_title  # of a link, which is read as it is written
        self.runs: list[tuple[int, int]] = []  # start and end


def _drop_from_line(line: str) -> str:
    parts = [_Part(0)]
    stack: list[tuple[str, _Part]] = [("", parts[0])]  # what is open, and the part that is being read
    for match in _TOKENS.finditer(line):
        token, part = match[0], stack[-1][1]
        if token[0] == "'":
            part.runs.append(match.span())
        elif token in ("[[", "{{"):
            parts.append(_Part(match.end(), is_title=token == "[["))
            stack.append((token, parts[-1]))
        elif token == "|":
            if len(stack) > 1:
                parts.append(_Part(match.end()))
                stack[-1] = (stack[-1][0], parts[-1])
        elif stack[-1][0] == _PARTNER[token]:
            stack.pop()
    kept: list[tuple[int, int]] = []  # the apostrophes of each run that are text
    for part in parts:
        if not part.is_title:
            kept += zip((start for start, _ in part.runs), _literal_counts(line, part), strict=True)
    lengths = {start: end - start for part in parts for start, end in part.runs}
    pieces, position, has_address = list[str](), 0, "://" in line
    for start, count in sorted(kept):
        pieces += [line[position:start], "'" * count]
        if has_address and _ADDRESS.search(line, max(0, start - MAX_ADDRESS), start):
            pieces.append(" ")
        position = start + lengths[start]
    return "".join([*pieces, line[position:]])


def _literal_counts(line: str, part: _Part) -> Sequence[int]:
    """How many apostrophes of each run are text."""
    lengths = [end - start for start, end in part.runs]
    literal = [1 if length == 4 else max(0, length - 5) for length in lengths]
    marks = [length - count for length, count in zip(lengths, literal, strict=True)]  # 2, 3 or 5
    bold = sum(mark != 2 for mark in marks)
    italic = sum(mark != 3 for mark in marks)
    if bold % 2 == 0 or italic % 2 == 0:
        return _balancing_counts(line, part, marks) or literal
    after_letter = after_word = after_space = None
    before = part.start  # where the text before a run begins
    for place, ((_, end), mark) in enumerate(zip(part.runs, marks, strict=True)):
        text = line[max(before, end - mark - 2) : end - mark]
        before = end
        if mark != 3:
            continue
        if text.endswith(" "):
            after_space = place if after_space is None else after_space
        elif text.startswith(" "):
            after_letter = place
            break
        elif after_word is None:
            after_word = place
    for chosen in (after_letter, after_word, after_space):
        if chosen is not None:
            literal[chosen] += 1
            break
    return literal


def _balancing_counts(line: str, part: _Part, marks: Sequence[int]) -> list[int] | None:
    """The counts if the runs are pairs of italics and bold in which each bold run has an apostrophe; else None."""
    if len(marks) % 2 or any(sorted(marks[place : place + 2]) != [2, 3] for place in range(0, len(marks), 2)):
        return None
    for place, ((start, end), mark) in enumerate(zip(part.runs, marks, strict=True)):
        if mark != 3:
            continue
        if place % 2 and not _POSSESSIVE.match(line, end):
            return None
        if place % 2 == 0 and not _ELISION.search(line, max(part.start, start - MAX_ELISION - 1), start):
            return None
    return [int(mark == 3) for mark in marks]
