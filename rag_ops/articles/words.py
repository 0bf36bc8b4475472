"""Words of scripts that are written without spaces, by their number of characters.

An English word is 1.3 tokens or so; a Chinese text of 100 "words" between spaces is 6,000 characters, of which an
encoder sees the first 5%. So characters of such scripts are counted: 1.7 of Han and kana to a word, 4.5 of Thai, Lao,
Khmer, Myanmar and Tibetan, vowel signs and tone marks included. There is no dictionary. Hangul has spaces.
"""

from __future__ import annotations

import itertools
import re
from collections.abc import Iterator

import numpy as np

# Costs are whole numbers, so that sums are exact: a word between spaces, a character of Han and kana (1/1.7 of it), and
# a character of the others (1/4.5).
WORD, HAN, THAI = 153, 90, 34
NEAR = 4  # a passage ends with a sentence if one ends in its last 1/NEAR

_HAN = (
    "\u2e80-\u2fdf\u3005-\u3007\u3021-\u3029\u3038-\u303b\u3041-\u309f\u30a1-\u30fa\u30fc-\u30ff\u31f0-\u31ff"
    "\u3400-\u4dbf\u4e00-\u9fff\uf900-\ufaff\uff66-\uff6f\uff71-\uff9d\U0001b000-\U0001b16f\U00020000-\U0003ffff"
)
# Punctuation of full width, which counts as a character of these scripts; in a text of others it is nothing special.
_WIDE = "\u3001-\u3004\u3008-\u3020\u3030\u303d\u30a0\u30fb\uff01-\uff0f\uff1a-\uff20\uff3b-\uff40\uff5b-\uff65"
_THAI = (
    "\u0e01-\u0e3a\u0e40-\u0eff"  # Thai without the baht sign, Lao
    "\u0f00-\u109f"  # Tibetan, Myanmar
    "\u1780-\u17ff\u19e0-\u19ff\ua9e0-\ua9fe\uaa60-\uaa7f"  # Khmer, more of Myanmar
)
_UNSPACED = re.compile(f"[{_HAN}{_THAI}]")
_UNSPACED_RUNS = re.compile(f"[{_HAN}{_THAI}]+")
_RUNS = re.compile(
    f"(?P<han>[{_HAN}{_WIDE}]+)|(?P<thai>[{_THAI}]+)|(?P<spaces> +)|(?P<other>[^ {_HAN}{_WIDE}{_THAI}]+)"
)
_SIGNS = (  # that belong to the letter before them
    "\u0e30-\u0e3a\u0e45\u0e47-\u0e4e\u0eb0-\u0ebc\u0ec8-\u0ece\u0f71-\u0f84\u0f8d-\u0fbc\u102b-\u103e\u1056-\u1059"
    "\u105e-\u1060\u1062-\u1064\u1067-\u106d\u1071-\u1074\u1082-\u108d\u17b4-\u17d3\u3099\u309a\uff9e\uff9f"
)
_MARKS = re.compile(f"(?<![{_SIGNS}])[{_SIGNS}]{{1,8}}")
_LEADING = re.compile(
    "(?<![\u0e40-\u0e44\u0ec0-\u0ec4])[\u0e40-\u0e44\u0ec0-\u0ec4]"
)  # vowels written before their consonant
# Where a sentence ends in these scripts, with the quotes and brackets that close after it; of Thai a space.
_END = re.compile("[。．！？!?…｡۔།༎။។៕]+[」』”’）)】》〉\"']*|(?<=[\u0e01-\u0eff])[ ]")
_WORD_CHARACTER = re.compile(r"\w")


def is_spaced(text: str) -> bool:
    """Whether all words of a text stand between spaces.

    >>> is_spaced("The Ampere (암페어)"), is_spaced("アンペア")
    (True, False)
    """
    return text.isascii() or _UNSPACED.search(text) is None


def paired(text: str) -> str:
    """A text with pairs of neighbouring letters, between spaces, in place of runs of scripts without spaces.

    That is how such texts are searched without a dictionary (Lucene's CJKBigramFilter does the same). Vowel signs and
    tone marks that are no letters by Unicode are left out.

    >>> paired("私は東京のWiFi")
    ' 私は は東 東京 京の WiFi'
    """
    return text if is_spaced(text) else _UNSPACED_RUNS.sub(_pairs, text)


def _pairs(run: re.Match[str]) -> str:
    letters = [character for character in run[0] if character.isalnum()]
    return " ".join(["", *map("".join, itertools.pairwise(letters)), ""])


def split_unspaced(text: str, words: int, overlap: int) -> Iterator[tuple[int, str]]:
    """Blocks of `words` words of a text in which not all words stand between spaces.

    A block ends between words; in a run of a script without spaces at the end of a sentence if there is one in the
    last quarter of the block, otherwise between two characters. Takes linear time.

    Args:
        text: any text; runs of whitespace count as one space.
        words: most words of a block, counted as this module says.
        overlap: words that each block repeats of the one before.

    Yields:
        The character at which a block begins, with the text's words joined by single spaces; and the block.

    >>> list(split_unspaced("東京は首都である。大阪は違う。", words=6, overlap=0))
    [(0, '東京は首都である。'), (9, '大阪は違う。')]
    """
    text = " ".join(text.split())
    if not text:
        return
    before, breaks = _measured(text)
    ends = np.intersect1d(np.array([match.end() for match in _END.finditer(text)], np.int64), breaks)
    start, reached = 0, 0
    while reached < len(text):
        end = _last(breaks, before, before[start] + words * WORD, max(start, reached))
        if end < len(text) and text[end - 1] != " " and text[end] != " ":  # in a run
            near = before[start] + words * WORD * (NEAR - 1) // NEAR
            place = int(np.searchsorted(ends, end, side="right")) - 1
            if place >= 0 and ends[place] > reached and before[ends[place]] >= near:
                end = int(ends[place])
        yield start, text[start:end].strip(" ")
        reached = end + (end < len(text) and text[end] == " ")
        first = int(np.searchsorted(before, before[end] - overlap * WORD, side="left"))
        following = max(np.searchsorted(breaks, first, side="left"), np.searchsorted(breaks, start, side="right"))
        start = min(int(breaks[following]), reached) if overlap else reached


def count_words(text: str) -> float:
    """How many words a text has.

    >>> count_words("two words"), count_words("安培是国际单位制中电流的基本单位")
    (2.0, 9.411764705882353)
    """
    if is_spaced(text):
        return float(len(text.split()))
    before, _ = _measured(" ".join(text.split()))
    return float(before[-1]) / WORD


def _measured(text: str) -> tuple[np.ndarray, np.ndarray]:
    """The cost of the text before each character, int64 (characters + 1,), and the places where it may be cut."""
    costs = np.zeros(len(text) + 1, np.int64)
    may_cut = np.zeros(len(text) + 1, bool)
    joined: list[int] = []  # places between brackets and what they belong to
    for match in _RUNS.finditer(text):
        start, end = match.span()
        may_cut[start] = may_cut[end] = True
        if match.lastgroup == "spaces":
            continue
        if match.lastgroup == "other":
            alone = (start == 0 or text[start - 1] == " ") and (end == len(text) or text[end] == " ")
            # What stands alone is a word; brackets beside a word of another script are none, and stay with it.
            if alone or _WORD_CHARACTER.search(match[0]):
                costs[start + 1] = WORD
            else:
                joined.append(end if start == 0 or text[start - 1] == " " else start)
        else:
            costs[start + 1 : end + 1] = HAN if match.lastgroup == "han" else THAI
            may_cut[start:end] = True
    for match in _MARKS.finditer(text):
        may_cut[match.start() : match.end()] = False
    for match in _LEADING.finditer(text):
        may_cut[match.end()] = False
    may_cut[joined] = False
    may_cut[-1] = True
    return np.cumsum(costs), np.flatnonzero(may_cut)


def _last(breaks: np.ndarray, before: np.ndarray, most: int, after: int) -> int:
    """The last place over `after` where the text may be cut and is no longer than `most`, else the first over it."""
    furthest = int(np.searchsorted(before, most, side="right")) - 1
    place = int(np.searchsorted(breaks, furthest, side="right")) - 1
    if place >= 0 and breaks[place] > after:
        return int(breaks[place])
    return int(breaks[np.searchsorted(breaks, after, side="right")])
