"""Two runs joined row by row, and the passage that made the difference."""

import pytest

from rag_ops.evaluation import differences
from rag_ops.evaluation.differences import decisive
from rag_ops.evaluation.figures import AnswerSet
from tests.pipelines.workspace import answer_row, write_answers


def passage(name: str, share: float | None, text: str = "") -> dict:
    return {"id": name, "title": name, "section": "", "text": text or f"of {name}", "score": 1.0, "posterior": share}


CASES = {
    # what each run was answered from; the change, its passage, its ranks, its shares
    "gained": ([("a", 0.6), ("b", 0.4)], [("c", 0.7), ("a", 0.3)], ("gained", "c", None, 1, None, 0.7)),
    "lost": ([("a", 0.9), ("b", 0.1)], [("b", 0.5), ("c", 0.5)], ("lost", "a", 1, None, 0.9, None)),
    "moved": ([("a", 0.8), ("b", 0.2)], [("b", 0.7), ("a", 0.3)], ("moved", "a", 1, 2, 0.8, 0.3)),
    "reweighted": ([("a", 0.2), ("b", 0.8)], [("a", 0.7), ("b", 0.3)], ("reweighted", "a", 1, 1, 0.2, 0.7)),
    # of equal differences one that is lost before one that stays
    "lost first": ([("a", 0.5), ("b", 0.5)], [("a", 1.0)], ("lost", "b", 2, None, 0.5, None)),
    # one that was lost, but hardly counted, is not what made the difference
    "hardly lost": ([("a", 0.6), ("b", 0.39), ("c", 0.01)], [("a", 0.1), ("b", 0.9)], ("moved?", "b", 2, 2, 0.39, 0.9)),
    # kept by --retrieve, but not read in B
    "kept only": ([("a", 1.0), ("b", None)], [("b", 1.0), ("a", None)], ("lost", "a", 1, 2, 1.0, None)),
}


@pytest.mark.parametrize("case", CASES)
def test_the_passage_whose_share_differs_most_made_the_difference(case):
    a, b, (change, name, *rest) = CASES[case]
    found = decisive([passage(*one) for one in a], [passage(*one) for one in b])
    assert found is not None
    assert found.passage["id"] == name
    assert [found.rank_a, found.rank_b, found.share_a, found.share_b] == rest
    assert found.change == ("reweighted" if change == "moved?" else change)


def test_a_passage_whose_text_another_corpus_has_otherwise_is_rewritten():
    found = decisive([passage("a", 0.9, "old"), passage("b", 0.1)], [passage("a", 0.2, "new"), passage("b", 0.8)])
    assert found is not None
    assert (found.change, found.passage["text"]) == ("rewritten", "new")


def test_answers_without_passages_have_none_that_made_the_difference():
    assert decisive([], []) is None
    assert decisive([passage("a", None)], []) is None


def rows(answers: dict[str, str | None]) -> list[dict]:
    """A row for each answer; an error for those that are None."""
    return [
        answer_row(name, f"what is {name}", answer, ["right"], error=None if answer else "no")
        for name, answer in answers.items()
    ]


@pytest.mark.parametrize("order", [list, lambda rows: rows[::-1]])
def test_rows_are_joined_by_id_whatever_their_order(order, tmp_path):
    a = {"q1": "x", "q2": "right", "q3": None, "q4": "x", "q5": None, "gone": "x"}
    b = {"q1": "x", "q2": "wrong", "q3": "x", "q4": None, "q5": None, "new": "right"}
    urls = write_answers(tmp_path / "a", rows(a)), write_answers(tmp_path / "b", order(rows(b)), row_group_rows=2)
    found = {row["question_id"]: row for row in differences.differences(*map(AnswerSet.open, urls))}
    assert {name: row["outcome"] for name, row in found.items()} == {
        "q1": "same",
        "q2": "changed",
        "q3": "error in A",
        "q4": "error in B",
        "q5": "error in both",
        "gone": "only in A",
        "new": "only in B",
    }
    assert list(found)[-1] == "new"
    assert (found["q2"]["right_a"], found["q2"]["right_b"]) == (True, False)
    assert (found["q3"]["right_a"], found["q3"]["error_a"]) == (False, "no")
    assert (found["new"]["right_a"], found["new"]["right_b"]) == (None, True)


def test_rows_of_one_id_are_joined_in_their_order_and_an_id_of_another_question_is_not_joined(tmp_path):
    a = [answer_row("1", "who", "x", None), answer_row("1", "who", "y", None), answer_row("2", "when", "z", None)]
    b = [answer_row("1", "who", "x", None), answer_row("2", "where", "z", None), answer_row("1", "who", "w", None)]
    urls = write_answers(tmp_path / "a", a), write_answers(tmp_path / "b", b)
    found = [
        (row["question"], row["outcome"], row["answer_a"], row["answer_b"])
        for row in differences.differences(*map(AnswerSet.open, urls))
    ]
    assert found == [
        ("who", "same", "x", "x"),
        ("who", "changed", "y", "w"),
        ("when", "only in A", "z", None),
        ("where", "only in B", None, "z"),
    ]
