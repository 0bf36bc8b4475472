"""Two sets of answers or passages compared question by question: differences of figures, intervals and p values."""

from __future__ import annotations

import dataclasses
import heapq
import math
from collections import Counter
from collections.abc import Sequence
from typing import Any

from rag_ops.evaluation.joining import RowKeys
from rag_ops.evaluation.resampling import RANDOMISATIONS, paired_bootstrap, randomisation_p
from rag_ops.evaluation.scored import Scored
from rag_ops.evaluation.tally import RECALL_AT, Bootstrap, is_known

ANSWER_FIGURES = ("em", "f1")


@dataclasses.dataclass
class _Row:
    question: str
    answer: str | None
    error: str | None
    gold: list[str]
    figures: dict[str, float]


class Comparison:
    """The rows of A, then those of B, joined as `RowKeys` says.

    Memory holds the figures and answers of all rows of A, and the figures of B.

    Args:
        kept: number of passages that both keep of a question: recall is known up to there.
        columns: names of the figures of rankings.
        limit: questions that are listed, those first whose figures differ most.
        by_question: whether rows of both sets have the texts of their questions.
    """

    def __init__(self, kept: int, columns: Sequence[str] = (), limit: int = 1000, by_question: bool = True):
        self._ks = sorted({*(k for k in RECALL_AT if k <= kept), kept})
        self._columns = [name for name in columns if is_known(name, kept)]
        self._names = [*ANSWER_FIGURES, *(f"recall@{k}" for k in self._ks), *self._columns]
        self._limit = limit
        self._rows: dict[bytes, _Row] = {}
        self._keys = RowKeys(by_question), RowKeys(by_question)
        self._pairs: dict[str, tuple[list[float], list[float]]] = {name: ([], []) for name in self._names}
        self._listed: list[tuple[float, int, dict[str, Any]]] = []
        self._counts: Counter[str] = Counter()

    def add_first(self, scored: Scored) -> None:
        """Adds a row of A; all of them come before those of B."""
        self._rows[self._key(scored, 0)] = self._row(scored)

    def add_second(self, scored: Scored) -> None:
        """Adds a row of B."""
        key, b = self._key(scored, 1), self._row(scored)
        if (a := self._rows.pop(key, None)) is None:
            self._counts["only_in_b"] += 1
            return
        self._counts["in_both"] += 1
        both = [name for name in a.figures if name in b.figures]
        for name in both:
            for values, one in zip(self._pairs[name], (a, b), strict=True):
                values.append(one.figures[name])
        differing = [name for name in both if a.figures[name] != b.figures[name]]
        if differing:
            self._counts["differing"] += 1
            most = max(abs(a.figures[name] - b.figures[name]) for name in differing)
            entry = {
                "question_id": scored.row["question_id"],
                "question": a.question or b.question,
                "gold_answers": a.gold or b.gold,
                **{
                    key: {
                        "answer": one.answer,
                        "error": one.error,
                        "figures": {name: one.figures[name] for name in differing},
                    }
                    for key, one in (("a", a), ("b", b))
                },
            }
            item = (most, -self._counts["differing"], entry)  # of equal ones the first
            push = heapq.heappush if len(self._listed) < self._limit else heapq.heappushpop
            if self._limit:
                push(self._listed, item)

    def figures(self, bootstrap: Bootstrap) -> dict[str, Any]:
        """The comparison as JSON values.

        Returns:
            "in_both", "only_in_a", "only_in_b", "differing": numbers of rows. "figures": of each figure, over the rows
            that have it in both: their number, the means of A and B, the difference A - B with its paired bootstrap
            interval, p of the paired randomisation test, and for how many rows A is better or worse. "questions": the
            rows whose figures differ, with the figures that do.
        """
        found = {}
        for name, (a, b) in self._pairs.items():
            if not a:
                continue
            found[name] = {
                "rows": len(a),
                "a": math.fsum(a) / len(a),
                "b": math.fsum(b) / len(b),
                "difference": (math.fsum(a) - math.fsum(b)) / len(a),
                "interval": paired_bootstrap(a, b, bootstrap.seed, bootstrap.resamples),
                "p": randomisation_p(a, b, bootstrap.seed),
                "a_better": sum(x > y for x, y in zip(a, b, strict=True)),
                "b_better": sum(x < y for x, y in zip(a, b, strict=True)),
            }
        return {
            "in_both": self._counts["in_both"],
            "only_in_a": len(self._rows),
            "only_in_b": self._counts["only_in_b"],
            "differing": self._counts["differing"],
            "randomisations": RANDOMISATIONS,
            "figures": found,
            "questions": [entry for _, _, entry in sorted(self._listed, key=lambda item: item[:2], reverse=True)],
        }

    def _key(self, scored: Scored, side: int) -> bytes:
        return self._keys[side].next(scored.row["question_id"], scored.row["question"])

    def _row(self, scored: Scored) -> _Row:
        figures: dict[str, float] = {}
        if scored.gold is not None:
            if scored.answered:
                figures["em"] = scored.em
                if scored.f1 is not None:
                    figures["f1"] = scored.f1
            figures |= {f"recall@{k}": float(scored.place is not None and scored.place <= k) for k in self._ks}
        if scored.ranking is not None:
            figures |= {name: scored.ranking[name] for name in self._columns}
        row = scored.row
        return _Row(row["question"], row["answer"], row["error"], row["gold_answers"], figures)
