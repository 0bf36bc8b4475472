"""Sums over the rows of one scope, and the figures and bootstrap intervals that they make.

Memory is the number of distinct values of each figure, not of rows.
"""

from __future__ import annotations

import dataclasses
import functools
import math
import re
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np

from rag_ops.evaluation.metrics import GoldTexts
from rag_ops.evaluation.resampling import RESAMPLES, Interval, interval_of_counts, interval_of_statistic
from rag_ops.evaluation.scored import ByNumber, Scored

RECALL_AT = (1, 5, 20, 100)  # Karpukhin et al. 2020, tables 2 and 3
CALIBRATION_BINS = 10
MAX_WORDS = 20  # longer answers are counted together
PROBABILITY_DIGITS = 3  # of the answers' probabilities, for the interval of the calibration error alone
_RECALL = re.compile(r"(?:page )?R(?:\(.*\))?@(\d+)")


@dataclasses.dataclass(frozen=True)
class Bootstrap:
    """How intervals are found: see `rag_ops.evaluation.resampling`.

    Attributes:
        resamples: number of resamples; 0 for no intervals.
        seed: seed of the draws.
    """

    resamples: int = RESAMPLES
    seed: int = 0


NO_BOOTSTRAP = Bootstrap(0)


class Tally:
    """Sums over the rows of one scope: a directory, a question file, or all.

    Args:
        name: name of the scope.
        kept: number of passages kept of a question: recall is known up to there.
        sweep: numbers of passages that answers were generated from again.
        columns: names of the figures of rankings.
        answered: whether the rows have answers.
    """

    def __init__(
        self, name: str, kept: int, sweep: Sequence[int] = (), columns: Sequence[str] = (), answered: bool = True
    ):
        self.name, self.kept = name, kept
        self.rows = self.scored = self.errors = self.truncated = self.words_counted = self.judged = self.abstained = 0
        self._given = self._wrong = 0  # answers that are given and have gold; wrong ones among these
        self._answered = answered
        self._values: dict[str, Counter[float]] = {"em": Counter(), "f1": Counter()}
        self._ranking: dict[str, Counter[float]] = {column: Counter() for column in columns}
        self._no_f1 = False
        self._places = np.zeros(kept + 1, np.int64)  # by place of the first hit; place 0 is not used
        self._words: Counter[float] = Counter()
        self._gold_words = np.zeros(MAX_WORDS + 1, np.int64)
        self._bins = np.zeros((CALIBRATION_BINS, 3))  # rows, sum of probabilities, sum of exact matches
        self._probabilities: Counter[tuple[float, float]] = Counter()  # with exact match
        self._sweep: dict[int, dict[str, Counter[float]]] = {n: {"em": Counter(), "f1": Counter()} for n in sweep}

    def add(self, scored: Scored, again: ByNumber) -> None:
        """Adds one row.

        Args:
            scored: the row.
            again: figures of the answers that were generated again.
        """
        row = scored.row
        self.rows += 1
        self.errors += row["error"] is not None
        self.truncated += bool(row["truncated"])
        self.abstained += scored.held_back
        if scored.given:
            self._words[len(row["answer"].split())] += 1
        if scored.ranking is not None:
            self.judged += 1
            for name, value in scored.ranking.items():
                self._ranking[name][value] += 1
        if scored.gold is None:
            return
        self.scored += 1
        self._values["em"][scored.em] += 1
        self._given += scored.given
        self._wrong += scored.given and not scored.em
        self._values["f1"][scored.f1 or 0.0] += 1
        self._no_f1 |= scored.f1 is None
        if isinstance(scored.gold, GoldTexts):
            self._gold_words[min(len(row["gold_answers"][0].split()), MAX_WORDS)] += 1
        if scored.place is not None and scored.place <= self.kept:
            self._places[scored.place] += 1
        if scored.given and (probability := scored.probability) is not None:
            self._bins[_bin(probability)] += 1, probability, scored.em
            self._probabilities[round(probability, PROBABILITY_DIGITS), scored.em] += 1
        for n, (em, f1) in again.items():
            self._sweep[n]["em"][em] += 1
            self._sweep[n]["f1"][f1 or 0.0] += 1

    def add_missing(self, questions: int) -> None:
        """Adds judged questions that no row asks: their rankings are empty, and every figure of them is 0."""
        self.judged += questions
        for counts in self._ranking.values():
            counts[0.0] += questions

    def figures(self, bootstrap: Bootstrap = NO_BOOTSTRAP) -> dict[str, Any]:
        """All figures as JSON values; shares are 0 to 1, and None if nothing was scored.

        Args:
            bootstrap: how the intervals under "intervals" are found, which has the figures' own keys.
        """
        held = np.cumsum(self._places)[1:].tolist()
        at = sorted({*RECALL_AT, self.kept})
        words = np.zeros(MAX_WORDS + 1, np.int64)
        for length, count in self._words.items():
            words[min(int(length), MAX_WORDS)] += count
        return {
            "name": self.name,
            "rows": self.rows,
            "scored": self.scored,
            "without_gold": self.rows - self.scored,
            "errors": self.errors,
            "truncated": self.truncated,
            "abstained": self.abstained,
            "wrong_of_answered": self._wrong / self._given if self._given else None,
            **self._shares(self._values, _mean),
            "passages": self.kept,
            "recall": {str(k): self._held(held, k) if k <= self.kept else None for k in at},
            "recall_curve": [self._held(held, k) for k in range(1, self.kept + 1)],
            "sweep": [{"n_docs": n, **self._shares(values, _mean)} for n, values in sorted(self._sweep.items())],
            "answer_words": {
                "mean": _mean(self._words),
                "answers": words.tolist(),
                "first_gold_answers": self._gold_words.tolist(),
            },
            "calibration": self._calibration(),
            "judged": self.judged,
            "ranking": self._rankings(_mean),
            "intervals": self._intervals(bootstrap, held) if bootstrap.resamples else None,
        }

    def _shares(self, values: Mapping[str, Counter[float]], share: Callable[[Counter[float]], Any]) -> dict[str, Any]:
        return {
            "em": share(values["em"]) if self._answered else None,
            "f1": share(values["f1"]) if self._answered and not self._no_f1 else None,
        }

    def _held(self, held: Sequence[int], k: int) -> float | None:
        return held[k - 1] / self.scored if self.scored else None

    def _rankings(self, share: Callable[[Counter[float]], Any]) -> dict[str, Any] | None:
        """Figures of rankings; a recall deeper than passages are kept is not known."""
        found = {name: share(one) if is_known(name, self.kept) else None for name, one in self._ranking.items()}
        return found or None

    def _calibration(self) -> dict[str, Any]:
        """Bins of the answer's probability, and the expected calibration error: the mean gap, weighed by rows."""
        bins = [
            {
                "from": number / CALIBRATION_BINS,
                "to": (number + 1) / CALIBRATION_BINS,
                "rows": int(count),
                "mean_probability": probability / count if count else None,
                "em": em / count if count else None,
            }
            for number, (count, probability, em) in enumerate(self._bins.tolist())
        ]
        rows = self._bins[:, 0].sum()
        gap = np.abs(self._bins[:, 1] - self._bins[:, 2]).sum()
        return {"bins": bins, "expected_error": float(gap / rows) if rows else None}

    def _intervals(self, bootstrap: Bootstrap, held: Sequence[int]) -> dict[str, Any]:
        draws = {"seed": bootstrap.seed, "resamples": bootstrap.resamples}

        def interval(values: Mapping[float, int]) -> Interval | None:
            return interval_of_counts(values, **draws)

        @functools.cache
        def share(count: int, of: int) -> Interval | None:
            return interval({1.0: count, 0.0: of - count})

        return {
            **self._shares(self._values, interval),
            "recall": {
                str(k): share(held[k - 1], self.scored) if k <= self.kept else None
                for k in sorted({*RECALL_AT, self.kept})
            },
            "recall_curve": [share(count, self.scored) for count in held],
            "sweep": [{"n_docs": n, **self._shares(values, interval)} for n, values in sorted(self._sweep.items())],
            "answer_words": {"mean": interval(self._words)},
            "calibration": {
                "bins": [{"em": share(int(em), int(count))} for count, _, em in self._bins.tolist()],
                "expected_error": self._calibration_interval(draws),
            },
            "ranking": self._rankings(interval),
        }

    def _calibration_interval(self, draws: Mapping[str, int]) -> Interval | None:
        """The interval of the calibration error, of probabilities rounded to `PROBABILITY_DIGITS`."""
        found = sorted(self._probabilities)
        counts = np.array([self._probabilities[one] for one in found], np.int64)
        gaps = np.zeros((len(found), CALIBRATION_BINS))
        for number, (probability, em) in enumerate(found):
            gaps[number, _bin(probability)] = probability - em
        return interval_of_statistic(counts, lambda drawn: np.abs(drawn @ gaps).sum(axis=1) / counts.sum(), **draws)


def is_known(name: str, kept: int) -> bool:
    """Whether a figure of rankings is known if so many passages are kept: a recall is not, further down.

    >>> is_known("R@20", 5), is_known("page R@5", 5), is_known("nDCG@10", 5)
    (False, True, True)
    """
    match = _RECALL.fullmatch(name)
    return match is None or int(match[1]) <= kept


def _bin(probability: float) -> int:
    return min(int(probability * CALIBRATION_BINS), CALIBRATION_BINS - 1)


def _mean(values: Counter[float]) -> float | None:
    return math.fsum(value * count for value, count in values.items()) / total if (total := values.total()) else None
