"""Tests of rag_ops.training.data: which questions are trained on and which are held out."""

import pytest

from rag_ops.errors import InputError
from rag_ops.questions.reading import Question
from rag_ops.training.data import split_questions


def question(text: str, *answers: str, error: str | None = None) -> Question:
    return Question(text, text, answers or None, error, "test")


def test_which_questions_are_held_out_depends_on_the_question_alone():
    rows = [question(f"what is {number}", "it") for number in range(400)]
    training, held_out = split_questions(rows, None, 0.25)
    assert 60 < len(held_out) < 140
    assert len(training) + len(held_out) == 400
    backwards = split_questions(rows[::-1], None, 0.25)[1]
    assert sorted(row["question"] for row in backwards) == sorted(row["question"] for row in held_out)


def test_questions_without_answers_are_left_out_and_counted(caplog):
    rows = [question("a", "b"), question("c"), question("d", ""), question("", "x", error="empty")]
    training, held_out = split_questions(rows, [question("e", "f")], 0.1)
    assert caplog.messages == ["--train: 3 of 4 rows are left out, first for: no gold answers (test)"]
    assert [row["question"] for row in training] == ["a"]
    assert [row["question"] for row in held_out] == ["e"]
    with pytest.raises(InputError, match=r"no question to train on.*0 questions with answers"):
        split_questions([question("c")], [question("e", "f")], 0.1)
    with pytest.raises(InputError, match="no question held out"):
        split_questions(rows, [question("e")], 0.1)
