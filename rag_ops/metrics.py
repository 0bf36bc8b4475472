"""Exact match and F1 of answers, as SQuAD defines them (Rajpurkar et al. 2016; its evaluation script, version 1.1)."""

from __future__ import annotations

import re
import string
from collections import Counter
from collections.abc import Sequence

_ARTICLES = re.compile(r"\b(a|an|the)\b")
_PUNCTUATION = str.maketrans("", "", string.punctuation)


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
