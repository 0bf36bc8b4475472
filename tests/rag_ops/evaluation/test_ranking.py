"""Figures of rankings next to pytrec_eval's own, and R-precision by page next to KILT's definition."""

import random
import re

import pytest
import pytrec_eval

from rag_ops.errors import InputError
from rag_ops.evaluation.ranking import Measures, check_measures, page_of, trec_order

OF_TREC = {
    "nDCG@10": "ndcg_cut_10",
    "nDCG@3": "ndcg_cut_3",
    "nDCG": "ndcg",
    "RR": "recip_rank",
    "AP": "map",
    "AP@20": "map_cut_20",
    "Rprec": "Rprec",
    "R@5": "recall_5",
    "R@20": "recall_20",
    "P@5": "P_5",
    "Success@5": "success_5",
}
RUNS, QUESTIONS = 1000, 2


@pytest.fixture(scope="module")
def random_runs():
    """Rankings and judgements of 1,000 runs over 2 questions each: ties, grades, nothing relevant, nothing found."""
    chance = random.Random(7)
    rankings, judged = [], []
    for _ in range(RUNS):
        pool = [f"{chance.choice('äzé𝄞')}{n % 9}:{n}" for n in range(60)]
        for _ in range(QUESTIONS):
            found = chance.sample(pool, chance.choice((1, 5, 25, 40)))
            steps = chance.choice((3, 1000))
            rankings.append([(one, chance.randrange(steps) / 7) for one in found])
            grades = (0,) if chance.random() < 0.05 else (0, 0, 1, 2, 3)
            judged.append({one: chance.choice(grades) for one in chance.sample(pool, chance.randint(1, 20))})
    return rankings, judged


def of_trec(rankings, judged, names, level=1):
    """The figures of pytrec_eval, given the scores as they are."""
    qrels = {str(n): one for n, one in enumerate(judged)}
    runs = {str(n): dict(one) for n, one in enumerate(rankings)}
    found = pytrec_eval.RelevanceEvaluator(qrels, set(names), relevance_level=level).evaluate(runs)
    return [found[str(n)] for n in range(len(rankings))]


def test_figures_of_1000_random_runs_equal_pytrec_evals(random_runs):
    rankings, judged = random_runs
    found = Measures((*OF_TREC, "RR@3")).score(rankings, judged)
    expected = of_trec(rankings, judged, OF_TREC.values())
    assert len(found) == RUNS * QUESTIONS
    ties = sum(len({score for _, score in ranking}) < len(ranking) for ranking in rankings)
    assert ties > len(rankings) / 4
    for one, other in zip(found, expected, strict=True):
        assert {OF_TREC[name]: value for name, value in one.items() if name in OF_TREC} == other
        assert one["RR@3"] == (one["RR"] if one["RR"] >= 1 / 3 else 0)


def test_relevance_from_a_grade_on_equals_pytrec_evals(random_runs):
    rankings, judged = (part[:400] for part in random_runs)
    found = Measures(("RR(rel=2)", "R(rel=2)@5")).score(rankings, judged)
    expected = of_trec(rankings, judged, ("recip_rank", "recall_5"), level=2)
    assert [(one["RR(rel=2)"], one["R(rel=2)@5"]) for one in found] == [
        (other["recip_rank"], other["recall_5"]) for other in expected
    ]
    assert any(one["RR(rel=2)"] for one in found)


def test_scores_that_are_equal_in_float32_are_ties():
    """As in trec_eval, which keeps scores in float32: the higher id is first, whatever the digits behind say."""
    ranking = [("a", 1.0 + 1e-12), ("b", 1.0), ("é", 0.5), ("z", 0.5)]
    assert trec_order(ranking) == ["b", "a", "é", "z"]
    assert trec_order([("b", 1e300), ("a", 2e300), ("c", -1e300)]) == ["b", "a", "c"]
    for relevant in "abéz":
        (found,) = Measures(("RR",)).score([ranking], [{relevant: 1}])
        assert found["RR"] == of_trec([ranking], [{relevant: 1}], ["recip_rank"])[0]["recip_rank"]


def kilt_rprec(pages: list[str], relevant: set[str]) -> float:
    """R-precision of KILT: relevant ones among the first R distinct pages, R pages being relevant."""
    distinct = []
    for page in pages:
        if page not in distinct:
            distinct.append(page)
    return sum(page in relevant for page in distinct[: len(relevant)]) / len(relevant) if relevant else 0.0


def test_r_precision_and_recall_by_page_are_kilts(random_runs):
    rankings, judged = (part[:800] for part in random_runs)
    measures = Measures(("RR", "Rprec", "R@5"), page_of)
    assert measures.columns == ["RR", "Rprec", "R@5", "page Rprec", "page R@5"]
    found = measures.score(rankings, judged)
    differ = 0
    for one, ranking, grades in zip(found, rankings, judged, strict=True):
        pages = [passage.split(":")[0] for passage in trec_order(ranking)]
        relevant = {passage.split(":")[0] for passage, grade in grades.items() if grade}
        assert one["page Rprec"] == pytest.approx(kilt_rprec(pages, relevant))
        first = set(list(dict.fromkeys(pages))[:5])
        assert one["page R@5"] == pytest.approx(len(first & relevant) / len(relevant) if relevant else 0.0)
        differ += one["page Rprec"] != one["Rprec"]
    assert differ > 100


def test_several_passages_of_a_page_count_as_one_and_judged_pages_need_no_passage():
    ranking = [("7:0", 9.0), ("7:1", 8.0), ("8:0", 7.0), ("9:4", 6.0)]
    measures = Measures(("Rprec", "R@5"), page_of)
    (by_passage,) = measures.score([ranking], [{"7:1": 1, "9:0": 2}])
    assert (by_passage["Rprec"], by_passage["R@5"], by_passage["page Rprec"], by_passage["page R@5"]) == (
        0.5,
        0.5,
        0.5,
        1,
    )
    (by_page,) = measures.score([ranking], [{"7": 1, "8": 1}])
    assert (by_page["Rprec"], by_page["page Rprec"]) == (0, 1)
    named = Measures(("Rprec",), {"x": "7", "y": "7", "z": "8"}.get)
    assert named.score([[("x", 3.0), ("y", 2.0), ("z", 1.0)]], [{"7": 1, "8": 1}])[0]["page Rprec"] == 1


def test_nothing_found_is_0_and_nothing_asked_is_nothing():
    assert Measures(("RR", "R@5")).score([[], [("a", 1.0)]], [{"a": 1}, {"a": 1}]) == [
        {"RR": 0.0, "R@5": 0.0},
        {"RR": 1.0, "R@5": 1.0},
    ]
    assert Measures(("RR",)).score([], []) == []


def test_ids_may_hold_anything():
    ranking = [("a\0b", 3.0), ("a\0c", 2.0), ("\ud800", 1.0), ("", 0.0)]
    found = Measures(("RR",)).score([ranking] * 3, [{"a\0c": 1}, {"\ud800": 1}, {"": 1}])
    assert [one["RR"] for one in found] == [1 / 2, 1 / 3, 1 / 4]


@pytest.mark.parametrize(
    "name", ["R", "P", "nDCG@0", "nDCG@-1", "Rprec@5", "ERR@20", "NumQ", "nDCG@99999", "__import__('os')", "", "rr"]
)
def test_names_of_no_measure_are_refused(name):
    with pytest.raises(InputError, match="names no measure of rankings: .*" + re.escape(name[:8])):
        check_measures(["nDCG@10", name])
