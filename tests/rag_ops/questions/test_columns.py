"""Which columns are read: those that are named, or those of well-known names, and never one by a guess."""

import itertools

import pytest

from rag_ops.errors import InputError
from rag_ops.questions.columns import Columns, QuestionOptions, choose

AUTO = QuestionOptions()


@pytest.mark.parametrize(
    ("names", "question", "question_id", "answers"),
    [
        (["question"], "question", None, ()),
        (["id", "question", "answer"], "question", "id", ("answer",)),
        (["Question ID", "Question Text", "Gold-Answers"], "Question Text", "Question ID", ("Gold-Answers",)),
        (["input", "id", "output", "meta"], "input", "id", ("output",)),  # KILT
        (["question", "output"], "question", None, ()),  # a column of that name says nothing elsewhere
        (["_id", "text", "metadata"], "text", "_id", ()),  # BEIR
        (["qid", "_id", "id", "question"], "question", "id", ()),  # as it is written comes first
        (["query", "question"], "question", None, ()),
        (["Query", "QID", "possible_answers", "answers"], "Query", "QID", ("answers", "possible_answers")),
    ],
)  # fmt: skip
def test_well_known_names_are_found_in_any_order(names, question, question_id, answers):
    for order in itertools.permutations(names):
        evidence = "output" if "output" in answers else None
        assert choose("q.csv", order, AUTO) == Columns(question, question_id, answers, evidence=evidence)


@pytest.mark.parametrize(
    "names", [[], ["text"], ["id", "answer"], ["prompt"], ["query", "input"], ["Question", "query"], ["questions"]]
)
def test_what_is_not_plainly_a_question_is_no_question(names):
    with pytest.raises(InputError, match="--question_column"):
        choose("q.csv", names, AUTO)


def test_objects_of_ids_and_answers_alone_lack_their_questions():
    assert choose("q.jsonl", ["id", "answer"], AUTO, keys=True) == Columns("question", "id", ("answer",))


@pytest.mark.parametrize("field", ["question_column", "id_column", "answer_column"])
def test_a_column_that_is_named_is_read_or_refused(field):
    names = ["id", "question", "answer", "mine"]
    assert "mine" in str(choose("q.csv", names, QuestionOptions(**{field: "mine"})))
    for absent in ("Question", "ID", "Answer", "answers", ""):
        with pytest.raises(InputError, match="lacks the"):
            choose("q.csv", names, QuestionOptions(**{field: absent}))


def test_the_first_column_that_has_something_gives_a_rows_answers():
    columns = Columns("question", None, ("answer", "answers"))
    for row, expected in (
        ({"answer": None, "answers": ["a"]}, ["a"]),
        ({"answer": "", "answers": ["a"]}, ["a"]),
        ({"answer": 0, "answers": ["a"]}, 0),
        ({"answer": [], "answers": None}, []),
        ({"answers": "b"}, "b"),
        ({}, None),
    ):
        assert columns.answers_of(row) == expected
