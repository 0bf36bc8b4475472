"""Figures of rankings by judged passages: nDCG, MRR, MAP, R-precision, recall by id; also by page, as KILT has it.

They are computed by ir_measures and pytrec-eval-terrier, trec_eval's own code (the extra `qrels`), with their names.
Rankings are ordered as trec_eval does, whatever their ranks say: by score, in float32; of equal scores the passage with
the higher id, compared byte by byte, comes first.
"""

from __future__ import annotations

import dataclasses
import re
from collections.abc import Callable, Mapping, Sequence, Set
from typing import Any

import numpy as np

from rag_ops.defaults import MAX_DOCS
from rag_ops.errors import InputError

DEFAULT = ("nDCG@10", "RR", "AP", "Rprec")  # and recall by id, as deep as passages are kept
PAGE = "page "  # what the name of a figure by page begins with
_MEASURE = re.compile(r"(nDCG|RR|AP|Rprec|R|P|Success)(?:\(rel=[1-9]\d{0,2}\))?(?:@([1-9]\d{0,5}))?")
_NEEDS_CUTOFF = ("R", "P", "Success")
_OF_PAGES = ("Rprec", "R")  # KILT's (Petroni et al. 2021, section 5)
_PASSAGE_ID = re.compile(r"(.+):\d+", re.DOTALL)  # of ids that chunk makes

Ranking = Sequence[tuple[str, float]]  # passage ids with their scores, in any order
Judged = Mapping[str, int]  # relevance by passage id


def check_measures(names: Sequence[str]) -> None:
    """Checks the names of measures.

    Raises:
        InputError: one is none that rankings are measured by.
    """
    for name in names:
        match = _MEASURE.fullmatch(name)
        name_only, cutoff = (match[1], match[2]) if match else (None, None)
        needs = name_only in _NEEDS_CUTOFF
        if match is None or (needs and not cutoff) or (name_only == "Rprec" and cutoff) or int(cutoff or 1) > MAX_DOCS:
            raise InputError(
                "--measures names no measure of rankings",
                value=name,
                expected=f"nDCG@K, RR, RR@K, AP, Rprec, R@K, P@K or Success@K, K at most {MAX_DOCS}, such as nDCG@10; "
                "from a higher grade on: RR(rel=2)",
            )


def trec_order(ranking: Ranking) -> list[str]:
    """The passage ids in trec_eval's order, each once.

    >>> trec_order([("a", 1.0), ("b", 1.0), ("c", 2.0), ("a", 3.0)])
    ['a', 'c', 'b']
    """
    best: dict[str, float] = {}
    for passage, score in ranking:
        best[passage] = max(score, best.get(passage, -np.inf))
    by_id = sorted(best, reverse=True)  # code points have the order of their bytes in UTF-8
    with np.errstate(over="ignore"):  # to infinity, as in C
        scores = np.array([best[passage] for passage in by_id]).astype(np.float32)
    return [by_id[place] for place in np.argsort(-scores, kind="stable").tolist()]


def page_of(passage: str) -> str | None:
    """The article's id in a passage id that chunk made; None if it is of another form.

    >>> page_of("12:0"), page_of("enwiki:12:3"), page_of("12")
    ('12', 'enwiki:12', None)
    """
    match = _PASSAGE_ID.fullmatch(passage)
    return match[1] if match else None


@dataclasses.dataclass(frozen=True)
class Measures:
    """What rankings are measured by.

    Attributes:
        names: names as ir_measures has them: "nDCG@10", "RR", "AP", "Rprec", "R@5".
        page_of: the page of a passage; None if figures by page are not wanted. An id for which it gives None is a
            page's own.
        pages_alone: whether pages are judged, and not passages, so that all figures are by page (`score_pages`).

    Raises:
        InputError: the libraries are not installed, or a name is none that rankings are measured by.
    """

    names: tuple[str, ...]
    page_of: Callable[[str], str | None] | None = None
    pages_alone: bool = False

    def __post_init__(self) -> None:
        check_measures(self.names)
        check_installed()

    @property
    def columns(self) -> list[str]:
        """The names of all figures, in order: those of `names`, then R-precision and recall by page; or all by page."""
        if self.pages_alone:
            return [PAGE + name for name in self.names]
        return [*self.names, *(PAGE + name for name in self._page_names)]

    @property
    def _page_names(self) -> list[str]:
        return list(filter(_is_of_pages, self.names)) if self.page_of else []

    def score(self, rankings: Sequence[Ranking], judged: Sequence[Judged]) -> list[dict[str, float]]:
        """The figures of rankings.

        Args:
            rankings: passages found for each question; an empty one has 0 everywhere.
            judged: judgements of each question; what they do not name is not relevant.

        Returns:
            For each question its figures by name, 0 to 1.
        """
        orders = [trec_order(ranking) for ranking in rankings]
        found = self._scored(self.names, orders, judged)
        if self.page_of is not None:
            page = self._page
            pages = [list(dict.fromkeys(map(page, order))) for order in orders]
            judged_pages: list[dict[str, int]] = []
            for one in judged:
                grades: dict[str, int] = {}
                for passage, grade in one.items():
                    grades[page(passage)] = max(grade, grades.get(page(passage), 0))
                judged_pages.append(grades)
            by_page = self._scored(self._page_names, pages, judged_pages)
            found = [
                one | {PAGE + name: value for name, value in other.items()}
                for one, other in zip(found, by_page, strict=True)
            ]
        return found

    def score_pages(
        self, orders: Sequence[Sequence[str]], judged: Sequence[Sequence[Set[str]]]
    ) -> list[dict[str, float]]:
        """The figures of rankings of pages.

        Args:
            orders: pages found for each question, best first, each once; an empty one has 0 everywhere.
            judged: sets of pages of each question, at least one, any of which is enough. R-precision and recall are of
                the set for which they are highest, as KILT has R-precision (Petroni et al. 2021, section 5); in all
                other figures the pages of all sets are relevant.

        Returns:
            For each question its figures by name, which begins with `PAGE`, 0 to 1.
        """
        found = self._scored(self.names, orders, [dict.fromkeys(set().union(*sets), 1) for sets in judged])
        names = list(filter(_is_of_pages, self.names))
        places = [place for place, sets in enumerate(judged) for _ in sets if len(sets) > 1]
        single = [dict.fromkeys(one, 1) for sets in judged for one in sets if len(sets) > 1]
        by_set = self._scored(names, [orders[place] for place in places], single)
        for name in names:
            best: dict[int, float] = {}
            for place, values in zip(places, by_set, strict=True):
                best[place] = max(values[name], best.get(place, 0.0))
            for place, value in best.items():
                found[place][name] = value
        return [{PAGE + name: value for name, value in one.items()} for one in found]

    def _page(self, passage: str) -> str:
        return (self.page_of(passage) if self.page_of else None) or passage

    def _scored(
        self, names: Sequence[str], orders: Sequence[Sequence[str]], judged: Sequence[Judged]
    ) -> list[dict[str, float]]:
        found = [dict.fromkeys(names, 0.0) for _ in orders]
        if not names or not found:
            return found
        library = check_installed()
        measures = {library.parse_measure(name): name for name in names}
        qrels: dict[str, dict[str, int]] = {}
        runs: dict[str, dict[str, float]] = {}
        for number, (order, grades) in enumerate(zip(orders, judged, strict=True)):
            # Numbers stand for ids, which may hold what a C string cannot. The order is ours, so that every measure has
            # the same, and no two scores are equal.
            numbers = {passage: str(place) for place, passage in enumerate(dict.fromkeys([*order, *grades]))}
            qrels[str(number)] = {numbers[passage]: grade for passage, grade in grades.items()}
            if order:
                runs[str(number)] = {numbers[passage]: float(-place) for place, passage in enumerate(order)}
        for metric in library.evaluator(list(measures), qrels).iter_calc(runs):
            found[int(metric.query_id)][measures[metric.measure]] = float(metric.value)
        return found


def _is_of_pages(name: str) -> bool:
    return re.split(r"[@(]", name)[0] in _OF_PAGES


def check_installed() -> Any:
    """Returns the library of measures.

    Raises:
        InputError: it is not installed.
    """
    try:
        import ir_measures
        import pytrec_eval  # noqa: F401
    except ImportError as error:
        raise InputError(
            "rankings are measured with ir_measures and pytrec-eval-terrier, which are not installed",
            value=str(error),
            remedy="pip install 'ragbeam[qrels]'",
        ) from error
    return ir_measures
