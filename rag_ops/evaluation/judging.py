"""Rows measured by judgements of their passages, and what could not be measured, counted."""

from __future__ import annotations

import itertools
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any

from rag_ops.errors import InputError
from rag_ops.evaluation.page_judgements import FindPage, PageJudgements, ranked_pages
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
        judgements: the judgements, of passages or of pages.
        measures: what rankings are measured by; its `pages_alone` is as the judgements are.
        complete: whether judged questions that no row asks count as 0, as with trec_eval's -c.
        find_page: the page of a passage, by its id, for judgements of pages.
    """

    def __init__(
        self,
        judgements: Judgements | PageJudgements,
        measures: Measures,
        complete: bool = False,
        find_page: FindPage = lambda passage: None,
    ):
        self.measures = measures
        self._judgements, self._complete, self._find_page = judgements, complete, find_page
        self._counts: Counter[str] = Counter()
        self._seen: set[str] = set()

    def judged(self, rows: Iterable[Scored]) -> Iterator[Scored]:
        """Yields the rows, those of judged questions with their figures; some are read ahead."""
        source = iter(rows)
        while batch := list(itertools.islice(source, BATCH_ROWS)):
            known = [one for one in batch if one.row["question_id"] in self._judgements.by_question]
            for one, values in zip(known, self._figures([one.row for one in known]), strict=True):
                one.ranking = values
                self._seen.add(one.row["question_id"])
            self._counts["rows_judged"] += len(known)
            self._counts["rows_without_judgements"] += len(batch) - len(known)
            yield from batch

    def _figures(self, rows: Sequence[Mapping[str, Any]]) -> list[dict[str, float]]:
        """The figures of rows of judged questions."""
        passages = [row["passages"] or () for row in rows]
        rankings = list(map(_ranking, passages))
        if isinstance(self._judgements, PageJudgements):
            orders, judged = [], []
            for row, found, ranking in zip(rows, passages, rankings, strict=True):
                evidence = self._judgements.by_question[row["question_id"]]
                order, sets, count = ranked_pages(found, ranking, evidence, self._find_page)
                orders.append(order)
                judged.append(sets)
                self._counts["judged_passages_found"] += count
            return self.measures.score_pages(orders, judged)
        grades = [self._judgements.by_question[row["question_id"]] for row in rows]
        for one, found in zip(grades, passages, strict=True):
            self._counts["rows_without_a_relevant_passage"] += not any(one.values())
            self._counts["judged_passages_found"] += sum(passage["id"] in one for passage in found)
        return self.measures.score(rankings, grades)

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
