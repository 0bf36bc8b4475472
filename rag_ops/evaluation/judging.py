"""Rows measured by judgements of their passages, and what could not be measured, counted."""

from __future__ import annotations

import itertools
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any

from rag_ops.errors import InputError
from rag_ops.evaluation.qrels import Judgements
from rag_ops.evaluation.ranking import Measures, Ranking
from rag_ops.evaluation.scored import Scored

BATCH_ROWS = 64  # rows that are measured in one call
COUNTED = (
    "rows_judged",
    "rows_without_judgements",
    "rows_without_a_relevant_passage",
    "judged_passages_found",
    "questions_not_asked",
)


class Judge:
    """Measures rows by the judgements of their questions, found by question id.

    A question without judgements is not measured, as in trec_eval. One that is judged and has an error, or no passages,
    has 0 everywhere. Judged questions that no row asks are left out, as trec_eval does without -c, unless `complete`.

    Args:
        judgements: the judgements.
        measures: what rankings are measured by.
        complete: whether judged questions that no row asks count as 0, as with trec_eval's -c.
    """

    def __init__(self, judgements: Judgements, measures: Measures, complete: bool = False):
        self.measures = measures
        self._judgements, self._complete = judgements, complete
        self._counts: Counter[str] = Counter()
        self._seen: set[str] = set()

    def judged(self, rows: Iterable[Scored]) -> Iterator[Scored]:
        """Yields the rows, those of judged questions with their figures; some are read ahead."""
        source = iter(rows)
        while batch := list(itertools.islice(source, BATCH_ROWS)):
            found = [self._judgements.by_question.get(one.row["question_id"]) for one in batch]
            known = [(one, judged) for one, judged in zip(batch, found, strict=True) if judged is not None]
            rankings = [_ranking(one.row["passages"] or ()) for one, _ in known]
            figures = self.measures.score(rankings, [judged for _, judged in known])
            for (one, judged), values in zip(known, figures, strict=True):
                one.ranking = values
                self._seen.add(one.row["question_id"])
                self._counts["rows_without_a_relevant_passage"] += not any(judged.values())
                self._counts["judged_passages_found"] += sum(p["id"] in judged for p in one.row["passages"] or ())
            self._counts["rows_judged"] += len(known)
            self._counts["rows_without_judgements"] += len(batch) - len(known)
            yield from batch

    def next_set(self) -> int:
        """Ends a set of rows; returns how many judged questions without a row are to be counted as 0."""
        missing = len(self._judgements.by_question) - len(self._seen)
        self._seen.clear()
        self._counts["questions_not_asked"] += missing
        return missing if self._complete else 0

    def check(self, rows: int) -> None:
        """Checks, after all rows, that some were judged.

        Raises:
            InputError: none was.
        """
        if not self._counts["rows_judged"]:
            raise InputError(
                "--qrels judges none of the questions",
                value=f"{rows} rows; the first judged question is {next(iter(self._judgements.by_question))}",
                expected="their ids",
                remedy="name the question files' id column with --question_id_column when you answer or search",
            )

    def counts(self) -> dict[str, int | bool]:
        """What was judged, as JSON values: rows, summed over all sets, and questions that a set did not ask."""
        return {
            "questions": len(self._judgements.by_question),
            "judgements": self._judgements.count,
            **{name: self._counts[name] for name in COUNTED},
            "complete": self._complete,
        }


def _ranking(passages: Sequence[Mapping[str, Any]]) -> Ranking:
    """The passages with their scores; by place if the scores are all 0, as answers have it if their file had none."""
    if any(passage["score"] for passage in passages):
        return [(passage["id"], passage["score"]) for passage in passages]
    return [(passage["id"], float(-place)) for place, passage in enumerate(passages)]
