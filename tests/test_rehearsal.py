"""The rehearsal at toy size: its inputs are what they say, each stage runs, and one that is killed is resumed."""

import csv
import json

import numpy as np
import pytest

from rag_ops.storage.manifests import read_manifest
from rag_ops.storage.parquet import read_parquet
from rag_ops.storage.rows import as_matrix
from tests.pipelines.workspace import ragbeam
from tests.rehearsal import __main__ as rehearsal
from tests.rehearsal import corpus, scale, watch
from tests.rehearsal.watch import Watched

ROWS = 300


@pytest.fixture
def toy(monkeypatch, minilm):
    monkeypatch.setattr(corpus, "SHARD_ROWS", 100)
    monkeypatch.setattr(corpus, "INDEX_ROWS", 150)


def rehearse(stage, tmp_path, *more, rows=ROWS):
    flags = ["--directory", tmp_path, "--rows", rows, "--measured", tmp_path / "measured.jsonl", *more]
    assert rehearsal.main([stage, *map(str, flags)]) == 0
    return json.loads((tmp_path / "measured.jsonl").read_text().splitlines()[-1])


def test_the_tsv_is_what_csv_reads_and_its_passages_have_a_hundred_words(tmp_path, toy):
    path = corpus.write_tsv(tmp_path / "psgs.tsv", 9000)
    with path.open(newline="") as file:
        header, *rows = csv.reader(file, delimiter="\t")
    assert header == ["id", "text", "title"]
    assert [row[0] for row in rows] == [str(n) for n in range(1, 9001)]
    assert {len(row[1].split(" ")) for row in rows} == {corpus.WORDS}
    assert rows[0][2] == rows[5][2] != rows[6][2]
    assert any('"' in row[1] for row in rows)
    part = [text for block in corpus.blocks(8000, 8500) for text in block["text"].to_pylist()]
    assert part == [row[1] for row in rows[8000:8500]]


def test_a_stage_that_is_killed_is_resumed_and_measured(tmp_path, monkeypatch, toy):
    monkeypatch.setattr(rehearsal, "SPLIT_BYTES", 1 << 30)  # killed once a part is there
    monkeypatch.setattr(watch, "POLL_SECS", 0.01)
    record = rehearse("chunk", tmp_path, "--workers", 0, rows=2000)
    assert record["killed_after"] == "1 of _incomplete/parts-*/*.arrow"
    assert len(record["seconds"]) == 2
    assert record["launcher_bytes"] > 50e6
    assert record["disk_bytes"] > record["manifest_bytes"] > 0
    found = {}
    for shard in read_manifest(str(tmp_path / "2000-rows" / "passages"), "chunk").shards:
        table = read_parquet(str(tmp_path / "2000-rows" / "passages" / shard.path))
        found |= dict(zip(table["id"].to_pylist(), table["text"].to_pylist(), strict=True))
    (block,) = corpus.blocks(0, 2000)
    assert found == dict(zip(block["id"].to_pylist(), block["text"].to_pylist(), strict=True))


def test_an_unbroken_one_is_not_killed_and_shows_its_rate(tmp_path, monkeypatch, toy):
    monkeypatch.setattr(Watched, "run", lambda self, command, *_: (ragbeam(*command), self.seconds.append(100.0)))
    record = rehearse("chunk", tmp_path, "--workers", 0, "--unbroken", rows=2000)
    assert (record["killed_after"], len(record["seconds"])) == (None, 1)
    rate = record["rate"]
    report = json.loads((tmp_path / "2000-rows" / "passages" / "run.json").read_text())
    work = sum(step["millis"] for step in report["steps"].values()) / 1000
    assert rate["rows_per_sec"] == pytest.approx(2000 / work)
    assert rate["start_secs"] == pytest.approx(100 - work, abs=0.01)
    assert rate["row_bytes"] * 2000 == report["bytes"]
    with pytest.raises(RuntimeError, match="give --again"):
        rehearse("chunk", tmp_path, "--workers", 0, "--unbroken", rows=2000)


def test_embed_index_and_answer_run_over_what_is_made_from_the_seed(tmp_path, monkeypatch, toy):
    monkeypatch.setattr(Watched, "run", lambda self, command, places, killed=None: ragbeam(*command))
    sizes = ["--workers", 0, "--embedded", 100, "--questions", 5, "--spec", "IVF2,SQ8"]
    record = rehearse("embed", tmp_path, *sizes)
    assert (record["rows"], record["made_rows"]) == (ROWS, 100)
    assert record["shards"] == {"total": 3, "reused": 2, "made": 1}
    vectors = [
        as_matrix(read_parquet(str(path))["vector"])
        for path in sorted((tmp_path / "300-rows" / "embeddings-100").glob("*.parquet"))
    ]
    same = [np.array_equal(found, corpus.vectors(number, 100)) for number, found in enumerate(vectors)]
    assert same == [False, True, True]
    record = rehearse("answer", tmp_path, *sizes)
    assert record["made_rows"] == 5
    answers = tmp_path / "300-rows" / "answers-IVF2-SQ8"
    assert read_manifest(str(answers), "answer").info["errors"] == {}
    assert len(read_manifest(str(tmp_path / "300-rows" / "index-IVF2-SQ8"), "index").shards) == 2
    assert rehearse("index", tmp_path, *sizes)["files"] == 5  # shards, trained, manifest, run


def test_the_page_shows_what_was_measured_last():
    records = [json.loads(line) for line in rehearsal.MEASURED.read_text().splitlines()]
    shown, wanted = (text.partition("## Planned")[0] for text in (scale.PAGE.read_text(), scale.page(records, {})))
    assert shown == wanted, "python -m tests.rehearsal.scale"


def test_the_page_tells_growth_plan_and_gpus():
    one = {"stage": "chunk", "spec": None, "rows": 10**6, "made_rows": 10**6, "shards": {"total": 10}, "load": 1.0}
    one |= {"launcher_bytes": 2e8, "worker_bytes": 5e8, "disk_bytes": 277e6, "peak_disk_bytes": 5e8, "files": 12}
    one |= {"peak_files": 30, "manifest_bytes": 1000, "seconds": [5.0, 6.0], "cores": 2, "machine": "M", "date": "2026"}
    two = one | {"rows": 10**7, "made_rows": 10**7, "launcher_bytes": 3e8, "manifest_bytes": 9000}
    assert list(scale.growth([two, one])) == [("chunk", "1,000,000 to 10,000,000", "10.00", "1.50", "1.00", "9.00")]
    assert list(scale.growth([one])) == []
    assert [row[-4:] for row in scale.planned([one, two])] == [("1.00", "", "", ""), ("0.10", "", "", "")]
    rate = {"rows_per_sec": 1e4, "start_secs": 4.0, "row_bytes": 27.7, "search_secs": 0.0}
    few = one | {"rows": 10**4, "made_rows": 10**4, "seconds": [5.0], "workers": 1, "rate": rate}
    assert list(scale.growth([few, one])) == [], "one that was not killed is no beginning"
    whole = [row for row in scale.planned([few, one | {"workers": 1}]) if row[1] == "1,000,000"]
    assert [row[-4:] for row in whole] == [("10.00", "108 s", "11 s", "0.10")]  # 100 s of work and two starts
    index = one | {"stage": "index", "spec": "Flat", "rows": 21_015_324, "seconds": [300.0, 0.0]}
    rows = {row[0]: row for row in scale.wikipedia([index], {"L4": 2 * 85e6 * 137 * 21_015_324 / 36_000}, 10)}
    assert rows["index"][3] == "1.0"  # 300 s for vectors of 64, an hour for those of 768
    assert rows["embed"][-2:] == ("not measured", "10.0 in all, 1.2 long")
