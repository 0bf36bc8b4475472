"""Right or wrong: exact match and F1 of answers, regular expressions as answers, and passages that hold an answer.

Exact match and F1 are SQuAD's (Rajpurkar et al. 2016; its evaluation script, version 1.1). Whether a passage holds an
answer is decided as DPR does (Karpukhin et al. 2020; `has_answer` and `SimpleTokenizer`, which it took from DrQA).
CuratedTREC's answers are regular expressions: an answer is right if one matches from its beginning, as in DrQA (Chen et
al. 2017; `regex_match_score`), and a passage holds it if one is found anywhere in it, as in DPR.
"""

from __future__ import annotations

import re
import string
import unicodedata
from collections import Counter
from collections.abc import Sequence

import regex

from rag_ops.errors import InputError

PATTERN_SECS = 5.0  # longest search of one pattern in one text; a sound pattern takes microseconds

_ARTICLES = re.compile(r"\b(a|an|the)\b")
_PUNCTUATION = str.maketrans("", "", string.punctuation)
_TOKEN = regex.compile(r"[\p{L}\p{N}\p{M}]+|[^\p{Z}\p{C}]")
_PATTERN_FLAGS = regex.IGNORECASE | regex.UNICODE | regex.MULTILINE


def normalise(text: str) -> str:
    """Lower case, without ASCII punctuation and English articles, single spaces.

    >>> normalise("The  Eiffel-Tower, a tower.")
    'eiffeltower tower'
    """
    return " ".join(_ARTICLES.sub(" ", text.lower().translate(_PUNCTUATION)).split())


def exact_match(answer: str | None, gold: Sequence[str]) -> float:
    """1 if the answer equals one of the gold answers after `normalise`, else 0; 0 for no answer."""
    return float(answer is not None and normalise(answer) in {normalise(text) for text in gold})


def f1(answer: str | None, gold: Sequence[str]) -> float:
    """The best F1 of word overlap with a gold answer, 0 to 1; 0 for no answer.

    >>> f1("the red tower of Paris", ["Eiffel tower of Paris", "Rome"])
    0.75
    """
    return max((_overlap(answer, text) for text in gold), default=0.0) if answer is not None else 0.0


def _overlap(answer: str, gold: str) -> float:
    found, wanted = normalise(answer).split(), normalise(gold).split()
    shared = sum((Counter(found) & Counter(wanted)).values())
    return 2 * shared / (len(found) + len(wanted)) if shared else 0.0


def tokens(text: str) -> list[str]:
    """DPR's tokens, in lower case: runs of letters, numbers and marks of the text in NFD, or one other character.

    White space, separators and control characters are no tokens.

    >>> tokens("Zoe's 2nd U.S. trip")
    ['zoe', "'", 's', '2nd', 'u', '.', 's', '.', 'trip']
    """
    return [token.lower() for token in _TOKEN.findall(unicodedata.normalize("NFD", text))]


class GoldTexts:
    """Gold answers that are texts.

    Args:
        answers: gold answers of one question.
    """

    def __init__(self, answers: Sequence[str]):
        self._answers = answers
        sequences = [tokens(answer) for answer in answers]
        # A token holds no space, so a sequence of tokens is found as a text between spaces.
        self._sequences = [f" {' '.join(sequence)} " for sequence in sequences if sequence]

    def exact(self, answer: str | None) -> float:
        """See `exact_match`."""
        return exact_match(answer, self._answers)

    def f1(self, answer: str | None) -> float:
        """See `f1` above."""
        return f1(answer, self._answers)

    def held_in(self, text: str) -> bool:
        """Whether the tokens of an answer follow one another in the text; an answer without tokens is nowhere."""
        searched = f" {' '.join(tokens(text))} "
        return any(sequence in searched for sequence in self._sequences)


class GoldPatterns:
    """Gold answers that are regular expressions, as CuratedTREC has them; case is ignored.

    Args:
        answers: patterns of one question.
        question_id: id of the question, for error lines.

    Raises:
        InputError: one is no regular expression; later, from any method, one takes more than `PATTERN_SECS`.
    """

    def __init__(self, answers: Sequence[str], question_id: str = ""):
        self._id = question_id
        self._answers = [self._compiled(answer) for answer in answers]
        self._in_passages = [self._compiled(unicodedata.normalize("NFD", answer)) for answer in answers]

    def exact(self, answer: str | None) -> float:
        """1 if a pattern matches from the answer's beginning, else 0."""
        return float(answer is not None and any(self._found(one.match, answer, one) for one in self._answers))

    def f1(self, answer: str | None) -> None:
        """Not defined: a pattern has no words."""

    def held_in(self, text: str) -> bool:
        """Whether a pattern is found in the text; both in Unicode's NFD."""
        searched = unicodedata.normalize("NFD", text)
        return any(self._found(one.search, searched, one) for one in self._in_passages)

    def _compiled(self, answer: str) -> regex.Pattern:
        try:
            return regex.compile(answer, _PATTERN_FLAGS)
        except regex.error as error:
            raise InputError(
                f"a gold answer is no regular expression ({error})",
                value=f"question {self._id}: {answer}",
                expected="a pattern",
                remedy="mend it, or leave --regex_answers out if answers are texts",
            ) from error

    def _found(self, search: regex.Pattern, text: str, pattern: regex.Pattern) -> bool:
        try:
            return search(text, timeout=PATTERN_SECS) is not None
        except TimeoutError as error:
            raise InputError(
                f"a gold answer's regular expression takes more than {PATTERN_SECS:g} s in one text",
                value=f"question {self._id}: {pattern.pattern}",
                expected="one without repetitions in repetitions",
                remedy="write it more simply",
            ) from error


Gold = GoldTexts | GoldPatterns


def has_answer(text: str, gold: Sequence[str]) -> bool:
    """Whether a passage's text holds one of the gold answers, as DPR defines it.

    >>> has_answer("He sat in the U.S. Senate.", ["us", "u.s"]), has_answer("Nonsense", ["sense"])
    (True, False)
    """
    return GoldTexts(gold).held_in(text)


def first_place(texts: Sequence[str], gold: Gold) -> int | None:
    """The place, from 1, of the first of the passages' texts that holds an answer; None if none does."""
    return next((place for place, text in enumerate(texts, 1) if gold.held_in(text)), None)
