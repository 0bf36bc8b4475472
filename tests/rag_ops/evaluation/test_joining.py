"""Rows of two runs are joined alike wherever two runs are put beside each other."""

import json
from collections import Counter

import pytest

from rag_ops.evaluation.differences import differences
from rag_ops.evaluation.figures import AnswerSet
from rag_ops.evaluation.joining import RowKeys
from tests.pipelines.workspace import answer_row, ragbeam, write_answers

A = [("1", "who"), ("1", "where"), ("2", "when"), ("2", "when"), ("4", "")]
B = [("1", "where"), ("1", "who"), ("2", "when"), ("3", "when"), ("4", "")]


def test_an_id_that_stands_for_several_questions_is_as_many_rows_in_any_order(tmp_path):
    urls = [
        write_answers(tmp_path / name, [answer_row(*row, "yes", ["yes"]) for row in rows])
        for name, rows in (("a", A), ("b", B))
    ]
    outcomes = Counter(row["outcome"] for row in differences(*map(AnswerSet.open, urls)))
    assert outcomes == {"same": 4, "only in A": 1, "only in B": 1}
    output = tmp_path / "e.json"
    ragbeam("evaluate", "--answers", urls[0], "--compare", urls[1], "--output", output, "--bootstrap", 0)
    found = json.loads(output.read_text())["comparison"]
    assert (found["in_both"], found["only_in_a"], found["only_in_b"]) == (4, 1, 1)


@pytest.mark.parametrize("by_question", [True, False])
def test_a_question_counts_only_if_both_have_one(by_question):
    one, other = RowKeys(by_question), RowKeys(by_question)
    assert (one.next("1", "who") == other.next("1", "")) == (not by_question)
    assert one.next("1", "who") != other.next("2", "who")
    assert len({one.next("\ud800", ""), one.next("\ud800", "")}) == 2  # half of a character pair, as JSON allows it
