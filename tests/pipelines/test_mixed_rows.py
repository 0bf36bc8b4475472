"""Rows in equals rows out over a file with every kind of bad row; the benchmark `rows` does it with 30,000."""

import json

import pyarrow.parquet as pq
import pytest

from rag_ops.storage.manifests import read_manifest
from tests import mixed_rows
from tests.pipelines.workspace import ragbeam, write_articles

ROWS = 500


@pytest.fixture(scope="module")
def index(tmp_path_factory, sentence_encoder):
    """An index of some short passages."""
    directory = tmp_path_factory.mktemp("mixed")
    write_articles(directory / "articles.jsonl", count=10, words=7)
    ragbeam("chunk", "--input", directory / "articles.jsonl", "--output", directory / "passages")
    ragbeam("embed", "--passages", directory / "passages", "--encoder", sentence_encoder, "--output", directory / "e")
    ragbeam("index", "--embeddings", directory / "e", "--output", directory / "index")
    return directory / "index"


def test_every_row_comes_out_as_it_must(index, tiny_rag, tmp_path):
    expected = mixed_rows.write(tmp_path / "q.jsonl", ROWS)
    command = ["answer", "--questions", tmp_path / "q.jsonl", "--index", index, "--model", tiny_rag]
    ragbeam(*command, "--output", tmp_path / "answers", "--n_docs", 2, "--max_new_tokens", 3, "--block_questions", 64)
    manifest = read_manifest(str(tmp_path / "answers"), "answer")
    rows = [row for shard in manifest.shards for row in pq.read_table(tmp_path / "answers" / shard.path).to_pylist()]
    assert mixed_rows.differences(rows, expected) == []
    reasons = [row.reason for row in expected if row.reason]
    assert manifest.info["errors"] == {reason: reasons.count(reason) for reason in sorted(set(reasons))}
    assert len(manifest.info["errors"]) == 7
    odd = [number for number, row in enumerate(expected) if (row.question or "").startswith("who won")]
    assert manifest.info["unreadable_gold_answers"] == len(odd) > 0
    assert all(rows[number]["answer"] is not None and rows[number]["gold_answers"] is None for number in odd)
    written = json.loads((tmp_path / "answers" / "run.json").read_text())["steps"]["WriteAnswers"]
    assert (written["rows_in"], written["rows_out"], written["errors"]) == (ROWS, ROWS, len(reasons))
    # What could not be read is told with its file and line; blank lines count, being lines.
    number = next(place for place, row in enumerate(expected) if row.reason == mixed_rows.NO_TEXT)
    blank = sum(place % 97 == 0 for place in range(number))
    assert rows[number]["error"] == f"the question is no text (int, q.jsonl:{number + 1 + blank})"
    long = next(row for row in rows if len(row["question"]) > 1_000_000)
    assert long["truncated"]
    assert long["answer"] is not None
    again = [row for row in rows if row["question"] == "who was king"]
    assert len(again) > 1
    assert len({row["answer"] for row in again}) == 1
    assert sum(row["question_id"] == "same" for row in rows) > 1
