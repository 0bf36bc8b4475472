"""Restores the spelling of an answer from its passages, which still have what an uncased vocabulary loses.

A generator of BERT's uncased vocabulary writes "andre - marie ampere" and "3, 000". If a passage holds the same
letters, digits and signs, the answer takes the passage's own spelling: "André-Marie Ampère", "3,000".
"""

from __future__ import annotations

import unicodedata
from collections.abc import Iterable

SEPARATORS = ",."  # separators between digits of a number


def respell(answer: str, texts: Iterable[str]) -> str:
    """The first place in the texts that is the answer but for case, accents and spaces; the answer if there is none.

    A place begins and ends where a word or a number does.

    Args:
        answer: answer as the generator's tokenizer decodes it.
        texts: texts that it may come from, the likeliest first.

    >>> respell("andre - marie ampere", ["named after André-Marie Ampère (1775-1836)"])
    'André-Marie Ampère'
    >>> respell("art", ["Bonaparte"])
    'art'
    """
    wanted, _ = bare(answer)
    if not wanted:
        return answer
    for text in texts:
        characters, places = bare(text)
        start = characters.find(wanted)
        while start >= 0:
            first, last = places[start], places[start + len(wanted) - 1] + 1
            while last < len(text) and unicodedata.combining(text[last]):
                last += 1
            if between_words(text, first) and between_words(text, last):
                return " ".join(text[first:last].split())
            start = characters.find(wanted, start + 1)
    return answer


def bare(text: str, uncased: bool = True) -> tuple[str, list[int]]:
    """The text without spaces, case and accents, and for each of its characters the place that it came from.

    Args:
        text: any text.
        uncased: False to leave case and accents.
    """
    if not uncased:
        places = [place for place, character in enumerate(text) if not character.isspace()]
        return "".join(text[place] for place in places), places
    characters, places = [], []
    for place, character in enumerate(text):
        for part in unicodedata.normalize("NFD", character.lower()):
            if not part.isspace() and not unicodedata.combining(part):
                characters.append(part)
                places.append(place)
    return "".join(characters), places


def between_words(text: str, place: int) -> bool:
    """Whether a place is inside no word and no number; "3,000" and "0.62" are a number each."""
    if not 0 < place < len(text):
        return True
    before, after = text[place - 1], text[place]
    if before.isalnum() and after.isalnum():
        return False
    if after in SEPARATORS:
        return not (before.isdigit() and text[place + 1 : place + 2].isdigit())
    return not (before in SEPARATORS and after.isdigit() and place > 1 and text[place - 2].isdigit())
