"""The diff command: what it prints and writes."""

import csv
import json

import pyarrow.parquet as pq
import pytest

from rag_ops.evaluation.differences import SCHEMA
from tests.pipelines.workspace import answer_row, fails, ragbeam, write_answers


def found(name: str, share: float) -> dict:
    return {"id": name, "title": f"Title {name}", "section": "", "text": name, "score": 1.0, "posterior": share}


@pytest.fixture
def runs(tmp_path) -> tuple[str, str]:
    """Two runs over four questions, of which two have other answers, and one an error in B."""
    same = answer_row("same", "who is he", "he", ["he"])
    a = [
        *(same, answer_row("better", "where, \x1b[2J is it", "there", ["here"], passages=[found("p1", 1.0)])),
        *(answer_row("other", "when", "then", None, passages=[found("p2", 1.0)]), answer_row("bad", "why", "so", None)),
    ]
    b = [
        *(same, answer_row("better", "where, \x1b[2J is it", "here", ["here"], passages=[found("p3", 1.0)])),
        answer_row("other", "when", 'now, "now"', None, passages=[found("p2", 0.25), found("p4", 0.75)]),
        answer_row("bad", "why", None, None, error="the model failed (x)"),
    ]
    return write_answers(tmp_path / "a", a), write_answers(tmp_path / "b", b)


def test_what_changed_is_counted_and_shown_with_the_passage_that_did_it(runs, capsys):
    ragbeam("diff", *runs)
    lines = capsys.readouterr().out.splitlines()
    assert lines == [
        "4 in both: 1 same, 2 changed, 0 error in A, 1 error in B, 0 error in both; 0 only in A, 0 only in B",
        "right: 1 in both, 0 only in A, 1 only in B, 0 in neither",
        "better  where, \\x1b[2J is it",
        "  A: there  (wrong)",
        "  B: here  (right)",
        "  gold: here",
        "  lost: Title p1 (p1), rank 1 -> -, share 1.00 -> -",
        "other  when",
        "  A: then",
        '  B: now, "now"',
        "  gained: Title p4 (p4), rank - -> 2, share - -> 0.75",
        "bad  why",
        "  A: so",
        "  B: error: the model failed (x)",
    ]


def test_an_answer_that_is_not_given_says_why(tmp_path, capsys):
    given = answer_row("q", "who", "he", ["he"], passages=[found("p1", 1.0)])
    held = given | {"answer": None, "abstained": "the score is below -1"}
    urls = write_answers(tmp_path / "a", [given]), write_answers(tmp_path / "b", [held])
    ragbeam("diff", *urls, "--output", tmp_path / "out.jsonl")
    assert capsys.readouterr().out.splitlines()[3:5] == ["  A: he  (right)", "  B: not answered: the score is below -1"]
    row = json.loads((tmp_path / "out.jsonl").read_text())
    assert (row["outcome"], row["abstained_a"], row["abstained_b"]) == ("changed", None, "the score is below -1")


def test_limit_bounds_what_is_printed_and_not_what_is_written(runs, tmp_path, capsys):
    ragbeam("diff", *runs, "--limit", 0, "--output", tmp_path / "out.jsonl")
    lines = capsys.readouterr().out.splitlines()
    more, written = lines[2:]
    assert more == "3 more; --limit prints them, --output writes all"
    assert written == f"diff: 3 rows in {tmp_path / 'out.jsonl'}"
    assert len((tmp_path / "out.jsonl").read_text().splitlines()) == 3


def test_the_file_has_the_same_rows_in_each_form(runs, tmp_path):
    paths = [tmp_path / f"out.{suffix}" for suffix in ("parquet", "jsonl", "csv")]
    for path in paths:
        ragbeam("diff", *runs, "--output", path)
    rows = pq.read_table(paths[0]).to_pylist()
    assert [(row["question_id"], row["outcome"], row["change"], row["passage_id"]) for row in rows] == [
        ("better", "changed", "lost", "p1"),
        ("other", "changed", "gained", "p4"),
        ("bad", "error in B", None, None),
    ]
    assert [json.loads(line) for line in paths[1].read_text().splitlines()] == rows
    with paths[2].open(newline="") as file:
        cells = list(csv.DictReader(file))
    assert list(cells[0]) == SCHEMA.names
    assert cells[1]["answer_b"] == 'now, "now"'
    assert [cell["share_b"] for cell in cells] == ["", "0.75", ""]
    assert sorted(path.name for path in tmp_path.iterdir()) == ["a", "b", *sorted(path.name for path in paths)]


def test_two_runs_that_are_the_same_give_a_file_without_rows(runs, tmp_path):
    for suffix in ("parquet", "csv", "jsonl"):
        ragbeam("diff", runs[0], runs[0], "--output", tmp_path / f"out.{suffix}")
    assert pq.read_table(tmp_path / "out.parquet").schema.names == SCHEMA.names
    assert (tmp_path / "out.csv").read_text().strip() == ",".join(SCHEMA.names)
    assert (tmp_path / "out.jsonl").read_text() == ""


def test_a_bad_directory_and_a_file_that_is_there_are_refused_in_one_line(runs, tmp_path, capsys):
    (tmp_path / "out.csv").write_text("mine")
    for flags, says in {
        (runs[0], tmp_path / "none"): "no manifest.json: there is no such directory",
        (runs[0], tmp_path / "out.csv"): "no manifest.json: it is a file",
        (*runs, "--output", tmp_path / "out.csv"): "--output is there already",
        (*runs, "--output", tmp_path / "out.txt"): "--output has another suffix",
        (*runs, "--output", f"{runs[0]}/out.csv"): "--output overlaps --a",
    }.items():
        code, line = fails(capsys, "diff", *flags)
        assert code == 2
        assert says in line
    assert (tmp_path / "out.csv").read_text() == "mine"
    ragbeam("diff", *runs, "--output", tmp_path / "out.csv", "--overwrite")
    assert (tmp_path / "out.csv").read_text() != "mine"
