"""The layout of a table by its first lines: what is a header, what is a row, and what is between cells."""

import csv
import io

import pytest

from rag_ops.errors import InputError
from rag_ops.questions.columns import QuestionOptions
from rag_ops.questions.tables import Layout, layout_of

AUTO = QuestionOptions()
QUESTIONS = ["what is ice, then", "who; when", "1066", "is it"]


def lines_of(rows: list[list[object]], delimiter: str) -> list[str]:
    out = io.StringIO()
    csv.writer(out, delimiter=delimiter, lineterminator="\n").writerows(rows)
    return out.getvalue().splitlines(keepends=True)


@pytest.mark.parametrize("between", [",", "\t", ";"])
@pytest.mark.parametrize("expected", [",", "\t"])
def test_the_delimiter_is_that_which_shows_a_question(between, expected):
    with_header = lines_of([["qid", "query"], *([n, text] for n, text in enumerate(QUESTIONS))], between)
    assert layout_of("q", with_header, expected, AUTO) == Layout(between, ["qid", "query"], True)
    without = lines_of([[n, text] for n, text in enumerate(QUESTIONS)], between)
    assert layout_of("q", without, expected, AUTO) == Layout(between, ("id", "question"), False)


def test_dprs_rows_are_told_by_their_lists_alone():
    rows = [["who", "['me']"], ["what", "['it', \"it's\"]"]]
    assert layout_of("q", lines_of(rows, "\t"), ",", AUTO) == Layout("\t", ("question", "answers"), False)
    for other in ([["who", "me"]], [["['me']", "who"]], [["1", "who", "['me']"]]):
        with pytest.raises(InputError, match="lacks the question column"):
            layout_of("q", lines_of(other, "\t"), "\t", AUTO)


@pytest.mark.parametrize("options", [{"question_column": "q"}, {"id_column": "id"}, {"answer_column": "a"}])
def test_a_named_column_wants_a_header(options):
    for rows in ([["who", "['me']"]], [[7, "who is it"]]):
        with pytest.raises(InputError, match="lacks the"):
            layout_of("q", lines_of(rows, "\t"), "\t", QuestionOptions(**options))
    name = next(iter(options.values()))
    names = [name, "question"]
    assert layout_of("q", lines_of([names, ["x", "y"]], "\t"), "\t", QuestionOptions(**options)).names == names


@pytest.mark.parametrize(
    "rows", [[[1, 2], [3, 4]], [["q7", "who is it"]], [[1, "who", ""]], [[1, "who is"], ["x", "y z"]]]
)
def test_ids_are_never_questions(rows):
    with pytest.raises(InputError, match="lacks the question column"):
        layout_of("q", lines_of(rows, "\t"), "\t", AUTO)


def test_nothing_has_no_layout():
    assert layout_of("q", [], ",", AUTO) is None
    assert layout_of("q", ["\n", "\n"], ",", AUTO) is None
