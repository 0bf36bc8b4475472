"""Each form of passages found elsewhere, as its publisher describes it, and what is no such file."""

import gzip
import json
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from rag_ops.errors import InputError
from rag_ops.questions.columns import QuestionOptions
from rag_ops.retrieval import retrieved_files
from rag_ops.retrieval.retrieved_files import JSON, PARQUET, RUN, kind_of

READING = QuestionOptions()
TREC = """\
301 Q0 FR940202-2-00150 1 2.129133 STANDARD
301 Q0 FR940202-2-00151 2 -1.5e-1 STANDARD
302\tQ0\ta passage:3\t1\t0.1\tname of a run

302 Q0 p 2 nan STANDARD
303 Q0 p 1 7 STANDARD with more words
"""


def written(path: Path, content: str | bytes) -> str:
    path.write_bytes(content if isinstance(content, bytes) else content.encode())
    return str(path)


@pytest.mark.parametrize("pack", [bytes, gzip.compress])
def test_a_trec_run(pack, tmp_path):
    url = written(tmp_path / ("run.gz" if pack is gzip.compress else "run"), pack(TREC.encode()))
    assert kind_of(url) == RUN
    found = [(hit.question_id, hit.passage_id, hit.rank, hit.score, hit.line) for hit in retrieved_files.run_hits(url)]
    assert found[:3] == [
        ("301", "FR940202-2-00150", 1, 2.129133, 1),
        ("301", "FR940202-2-00151", 2, -0.15, 2),
        ("302", "a passage:3", 1, 0.1, 3),
    ]
    assert [one[4] for one in found] == [1, 2, 3, 5, 6]
    assert retrieved_files.tag_of(url) == "STANDARD"


def dpr(number: int) -> dict:
    """A question as DPR's dense_retriever.py writes it."""
    contexts = [
        {"id": f"wiki:{number}", "title": "Moon", "text": "It is far.", "score": "81.25", "has_answer": True},
        {"id": f"wiki:{number + 1}", "title": "Sun", "text": "It is hot.", "score": "80.5", "has_answer": False},
    ]
    return {"question": f"what is {number}", "answers": ["a rock", "rock"], "ctxs": contexts}


def pyserini(number: int) -> dict:
    """A question as Pyserini's convert_trec_run_to_dpr_retrieval_run.py writes it, under its id."""
    contexts = [
        {"docid": str(number), "score": "81.25", "text": '"Moon"\nIt is far.', "has_answer": True},
        {"docid": str(number + 1), "score": 80.5, "text": '"Sun"\nIt is hot.', "has_answer": False},
    ]
    return {"question": f"what is {number}", "answers": ["a rock", "rock"], "contexts": contexts}


FORMS = {
    "array": lambda: json.dumps([dpr(n) for n in range(5)], indent=4),
    "array in a line": lambda: json.dumps([dpr(n) for n in range(5)]),
    "lines": lambda: "\n".join(json.dumps(dpr(n)) for n in range(5)),
    "by id": lambda: json.dumps({f"q{n}": pyserini(n) for n in range(5)}),
    "by id, indented": lambda: json.dumps({f"q{n}": pyserini(n) for n in range(5)}, indent=4),
}


@pytest.mark.parametrize("form", FORMS)
def test_json_of_dpr_and_of_pyserini(form, tmp_path):
    url = written(tmp_path / "found", FORMS[form]())
    assert kind_of(url) == JSON
    records = list(retrieved_files.json_records(url, READING))
    assert [row.question for _, row, _ in records] == [f"what is {n}" for n in range(5)]
    assert {tuple(row.answers) for _, row, _ in records} == {("a rock", "rock")}
    assert [row.question_id for _, row, _ in records] == [f"q{n}" if "by id" in form else None for n in range(5)]
    for number, (_, _, hits) in enumerate(records):
        assert [(hit.rank, hit.score, hit.title, hit.text) for hit in hits] == [
            (1, 81.25, "Moon", "It is far."),
            (2, 80.5, "Sun", "It is hot."),
        ]
        assert [hit.passage_id.removeprefix("wiki:") for hit in hits] == [str(number), str(number + 1)]
        assert {hit.problem for hit in hits} == {None}


def test_what_is_wrong_with_one_question_is_its_own_problem(tmp_path):
    good = json.dumps(dpr(1))
    lines = [
        good,
        '{"question": "cut',
        "7",
        '{"question": "a", "ctxs": {"id": 1}}',
        '{"question": "b", "ctxs": [3]}',
        '{"question": "c", "ctxs": [{"id": 1, "text": [1], "score": true}]}',
        '{"question": "d", "ctxs": [{"id": 1, "title": null, "text": "\\ud800", "score": 1e999}]}',
        '{"question": "e"}',
    ]
    records = list(retrieved_files.json_records(written(tmp_path / "found", "\n".join(lines)), READING))
    assert len(records) == len(lines)
    assert records[1][1].problem.startswith("the line is not JSON (")
    assert records[2][1].problem == "the row is no JSON object (int)"
    problems = [[hit.problem for hit in hits] for _, _, hits in records[3:]]
    assert problems[:3] == [
        ["the passages are no list (dict)"],
        ["a passage is no JSON object (int)"],
        ["a passage's text is no text (list)"],
    ]
    assert problems[3:] == [[None], []]
    assert records[5][2][0].score is None
    assert records[6][2][0].text == "?"


def table(**more) -> pa.Table:
    columns = {
        "question_id": ["q1", "q1", "q2", "q3"],
        "question": ["who", "who", "why", ""],
        "rank": [1, 2, 1, None],
        "passage_id": ["p1", "p2", "p1", None],
        "title": ["Moon", "Sun", "Moon", None],
        "text": ["far", "hot", "far", None],
        "score": pa.array([3.5, 2.5, 1.5, None], pa.float32()),
        "gold_answers": [["me"], ["me"], None, None],
        "error": [None, None, None, "the question is empty"],
    }
    return pa.table(columns | more)


def test_parquet_of_a_search(tmp_path):
    pq.write_table(table(), tmp_path / "hits")
    url = str(tmp_path / "hits")
    assert kind_of(url) == PARQUET
    records = list(retrieved_files.parquet_records(url, READING))
    assert [(row.question_id, row.question, row.answers) for _, row, _ in records] == [
        ("q1", "who", ["me"]),
        ("q2", "why", None),
        ("q3", "", None),
    ]
    assert [[(hit.passage_id, hit.score, hit.text) for hit in hits if not hit.problem] for _, _, hits in records] == [
        [("p1", 3.5, "far"), ("p2", 2.5, "hot")],
        [("p1", 1.5, "far")],
        [],
    ]
    assert [hit.passage_id for hit in retrieved_files.parquet_hits(url) if not hit.problem] == ["p1", "p2", "p1"]


def test_a_question_that_was_searched_twice_in_a_row_comes_twice(tmp_path):
    pq.write_table(table(question_id=["q1", "q1", "q1", "q3"], question=["who"] * 4), tmp_path / "hits")
    records = list(retrieved_files.parquet_records(str(tmp_path / "hits"), READING))
    assert [len(hits) for _, _, hits in records] == [2, 1, 1]


def test_parquet_without_ids_or_without_questions_is_refused(tmp_path):
    url = str(tmp_path / "hits")
    pq.write_table(table().drop_columns(["passage_id"]), url)
    with pytest.raises(InputError, match="lacks the column passage_id"):
        list(retrieved_files.parquet_hits(url))
    pq.write_table(table().drop_columns(["question"]), url)
    with pytest.raises(
        InputError, match=r"does not have the questions' texts.*give the question files with --questions"
    ):
        list(retrieved_files.parquet_records(url, READING))
    (tmp_path / "hits").write_bytes((tmp_path / "hits").read_bytes()[:200])
    with pytest.raises(InputError, match="not a whole Parquet file"):
        list(retrieved_files.parquet_hits(url))


@pytest.mark.parametrize(
    "content",
    [
        "q1\tp1\t1\n",
        "what is the moon\n",
        "",
        "\n\n",
        "1 Q0 p first 2.5 t\n",
        "1 Q0 p 1_0 2.5 t\n",
        "1 Q0 p 1 2_5 t\n",
        "1 Q0 p 9999999999999999999 2.5 t\n",
        "a,b\n1,2\n",
    ],
)
def test_another_file_is_refused_with_what_was_expected(content, tmp_path):
    with pytest.raises(InputError, match=r"none that ragbeam knows.*expected the output of ragbeam search, a TREC run"):
        kind_of(written(tmp_path / "file", content))


def test_a_file_that_cannot_be_unpacked_is_refused(tmp_path):
    url = written(tmp_path / "run.gz", gzip.compress(TREC.encode() * 5000)[:-400])
    with pytest.raises(InputError, match="cannot be decompressed"):
        list(retrieved_files.run_hits(url))
