"""answer with a closed set of answers, from the flag and from a column, and the column `without`."""

import json

import numpy as np
import pyarrow.parquet as pq
import pytest

from rag_ops.storage.manifests import read_manifest
from tests.pipelines.workspace import fails, ragbeam

QUESTION = "what is the moon 0"


def answered(stage, model, questions, output, *more: object, n_docs: int = 3) -> list[dict]:
    command = ["answer", "--questions", questions, "--index", stage / "index", "--model", model, "--output", output]
    ragbeam(*command, "--n_docs", n_docs, "--threads", 1, *more)
    shards = read_manifest(str(output), "answer").shards
    return [row for shard in shards for row in pq.read_table(output / shard.path).to_pylist()]


@pytest.fixture(scope="module")
def files(tmp_path_factory):
    """The same questions as JSONL, CSV and Parquet: some with choices of their own."""
    directory = tmp_path_factory.mktemp("choices")
    sets = [["moon", "river"], ["river", "moon", "king"], None, ["moon"], ["moon", "river"]]
    rows = [{"id": f"q{n}", "question": QUESTION, "answer": "moon", "choices": own} for n, own in enumerate(sets)]
    (directory / "q.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    cells = [json.dumps(own).replace('"', '""') if own else "" for own in sets]
    lines = [f'q{n},{QUESTION},moon,"{cell}"' for n, cell in enumerate(cells)]
    (directory / "q.csv").write_text("\n".join(["id,question,answer,choices", *lines]) + "\n")
    return directory


def test_a_column_of_choices_counts_for_each_row_and_the_flag_for_the_others(searchable, tiny_rag, files, tmp_path):
    more = ("--choices", 'yes,"no, never"', "--retrieve", 5)
    rows = answered(searchable, tiny_rag, files / "q.jsonl", tmp_path / "out", *more)
    sets = [[one["choice"] for one in row["choices"] or ()] for row in rows]
    assert sets == [["moon", "river"], ["river", "moon", "king"], ["yes", "no, never"], [], ["moon", "river"]]
    assert rows[3]["error"].startswith("the choices are no closed set of answers (1 given, at least 2 are needed")
    assert {**rows[0], "question_id": ""} == {**rows[4], "question_id": ""}
    for row in rows:
        if row["error"] is None:
            scores = np.array([one["score"] for one in row["choices"]])
            assert row["answer"] == row["choices"][int(scores.argmax())]["choice"]
            assert row["score"] == pytest.approx(scores.max(), abs=1e-6)
            shares = np.exp(scores - np.logaddexp.reduce(scores))
            np.testing.assert_allclose([one["probability"] for one in row["choices"]], shares, atol=1e-5)
            assert sum(token["log_probability"] for token in row["tokens"]) == pytest.approx(row["score"], abs=1e-5)
            assert [one is None for one in row["without"]] == [False] * 3 + [True] * 2
    by_name = {one["choice"]: one["score"] for one in rows[1]["choices"]}
    for one in rows[0]["choices"]:
        assert one["score"] == pytest.approx(by_name[one["choice"]], abs=1e-5)
    ragbeam("evaluate", "--answers", tmp_path / "out", "--output", tmp_path / "f.json")
    figures = json.loads((tmp_path / "f.json").read_text())["all"]
    assert figures["em"] == pytest.approx(sum(row["answer"] == "moon" for row in rows) / 5)
    manifest = read_manifest(str(tmp_path / "out"), "answer")
    assert manifest.config["choices"] == more[1]
    assert manifest.info["distinct_questions"] == 3


def test_choices_in_a_table_are_those_of_json_and_rows_without_any_are_decoded(searchable, tiny_rag, files, tmp_path):
    short = ("--max_new_tokens", 6, "--num_beams", 2)
    first = answered(searchable, tiny_rag, files / "q.jsonl", tmp_path / "json", *short)
    assert answered(searchable, tiny_rag, files / "q.csv", tmp_path / "csv", *short)[:3] == first[:3]
    assert first[2]["choices"] is None
    assert first[2]["error"] is None
    assert "choices" not in read_manifest(str(tmp_path / "json"), "answer").config
    alone = answered(searchable, tiny_rag, files / "q.jsonl", tmp_path / "alone", *short, n_docs=1)
    assert {row["without"] is None for row in alone} == {True}
    command = ("evaluate", "--answers", tmp_path / "json", "--output", tmp_path / "f.json", "--threads", 1)
    ragbeam(*command, "--model", tiny_rag, "--sweep", 1, 3)
    points = {one["n_docs"]: one["em"] for one in json.loads((tmp_path / "f.json").read_text())["all"]["sweep"]}
    assert points[3] == pytest.approx(sum(row["answer"] == "moon" for row in first) / 5)
    assert points[1] == pytest.approx(sum(row["answer"] == "moon" for row in alone) / 5)


def test_choices_that_the_model_cannot_write_are_one_line(searchable, tiny_rag, files, tmp_path, capsys):
    command = ["answer", "--questions", files / "q.csv", "--index", searchable / "index", "--model", tiny_rag]
    command += ["--output", tmp_path / "out", "--threads", 1]
    code, line = fails(capsys, *command, "--choices", "yes,no", "--num_beams", 4)
    assert code == 2
    assert "--num_beams is for answers that are decoded, and --choices leaves nothing to decode: 4" in line
    code, line = fails(capsys, *command, "--choices", "yes,the moon is the sun", "--max_new_tokens", 3)
    assert code == 2
    assert "--choices does not go with the model or --max_new_tokens" in line
