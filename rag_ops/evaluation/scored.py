"""One row with its figures: exact match and F1 of its answer, the first passage that holds one, and its ranking's."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Callable, Iterable, Mapping
from typing import Any

from rag_ops.evaluation.metrics import Gold, GoldPatterns, GoldTexts, first_place

ByNumber = Mapping[int, tuple[float, float | None]]  # number of passages to EM and F1 of the answer generated from them
FindGold = Callable[[str, str], list[str] | None]  # gold answers by question id and question


def known(answers: Iterable[str] | None) -> list[str]:
    """Gold answers without empty ones."""
    return [answer for answer in answers or () if answer.strip()]


@dataclasses.dataclass
class Scored:
    """One row with its figures.

    Attributes:
        row: row of the answers, its gold answers replaced by those that count.
        source: number of the answers directory.
        gold: gold answers, to score further answers with; None for a row without any, which is not scored.
        em, f1: 0 to 1; f1 is None for regular expressions, which have no words.
        place: place of the first passage that holds an answer, from 1; None if none does.
        answered: whether the row has an answer to score; a search gives passages alone, and its em and f1 are 0.
        ranking: figures of the passages' ranking by name, 0 to 1; None for a question that is not judged.
    """

    row: dict[str, Any]
    source: int
    gold: Gold | None
    em: float = 0.0
    f1: float | None = None
    place: int | None = None
    answered: bool = True
    ranking: Mapping[str, float] | None = None

    @property
    def held_back(self) -> bool:
        """Whether its answer is not given (`answer --max_error`)."""
        return self.row.get("abstained") is not None

    @property
    def given(self) -> bool:
        """Whether an answer is given."""
        return self.answered and self.row["error"] is None and not self.held_back

    @property
    def probability(self) -> float | None:
        """The probability that its score says, 0 to 1; None without a score, or if that is no number."""
        score = self.row["score"]
        return None if score is None or math.isnan(score) else math.exp(min(score, 0.0))

    @property
    def outcome(self) -> str:
        """One of "right", "wrong", "abstained", "error" and "no gold"; "right" passages alone hold an answer."""
        if self.gold is None:
            return "no gold"
        if self.row["error"]:
            return "error"
        if self.held_back:
            return "abstained"
        return "right" if (self.em if self.answered else self.place) else "wrong"


def score(
    row: dict[str, Any],
    source: int,
    *,
    find_gold: FindGold | None = None,
    patterns: bool = False,
    answered: bool = True,
) -> Scored:
    """Scores one row of answers; one with an error is wrong.

    Args:
        row: row of `schemas.answers`.
        source: number of its directory.
        find_gold: gives gold answers that replace those of the row, if there are any for it.
        patterns: whether gold answers are regular expressions.
        answered: whether the row has an answer.

    Raises:
        InputError: a gold answer is no regular expression, or takes too long.
    """
    given = find_gold(row["question_id"], row["question"]) if find_gold else None
    answers = known(given if given is not None else row["gold_answers"])
    row["gold_answers"] = answers
    if not answers:
        return Scored(row, source, None, answered=answered)
    gold: Gold = GoldPatterns(answers, row["question_id"]) if patterns else GoldTexts(answers)
    answer = None if row["error"] or not answered else row["answer"]
    texts = [passage["text"] for passage in row["passages"] or ()]
    place = first_place(texts, gold)
    return Scored(row, source, gold, gold.exact(answer), gold.f1(answer), place, answered)
