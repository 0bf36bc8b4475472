"""Searches: the passages and scores of answer, a row for each, errors as rows, runs as TREC has them."""

import json
import shutil

import numpy as np
import pyarrow.parquet as pq
import pytest

from rag_ops.storage import verify
from rag_ops.storage.manifests import read_manifest
from schemas import hits as schema
from tests.pipelines.workspace import TOPICS, digests, fails, ragbeam

BLOCKS = ("--block_questions", 3, "--num_shards", 2)


def command(stage, encoder, output, *more: object, questions: object = None) -> list[object]:
    asked = ["--questions", questions or stage / "questions.jsonl"]
    searched = ["--index", stage / "index", "--question_encoder", encoder]
    return ["search", *asked, *searched, "--output", output, "--threads", 1, *more]


def rows_of(output, stage="search") -> list[dict]:
    shards = read_manifest(str(output), stage).shards
    return [row for shard in shards for row in pq.read_table(output / shard.path).to_pylist()]


@pytest.fixture(scope="module")
def found(searchable, sentence_encoder, tmp_path_factory):
    """Seven passages for each of nine rows, of which one repeats a question and one is empty; a run beside them."""
    directory = tmp_path_factory.mktemp("found")
    run = directory / "hits.run"
    ragbeam(*command(searchable, sentence_encoder, directory / "hits", "--n_docs", 7, *BLOCKS, "--trec", run))
    return directory


def test_hits_are_the_passages_and_scores_of_answer(searchable, sentence_encoder, tiny_rag, found, tmp_path):
    answer = ["answer", "--questions", searchable / "questions.jsonl", "--index", searchable / "index"]
    ragbeam(*answer, "--model", tiny_rag, "--output", tmp_path / "a", *("--n_docs", 7, "--max_new_tokens", 2))
    answered = [row for row in rows_of(tmp_path / "a", "answer") if row["error"] is None]
    expected = [
        (row["question_id"], row["question"], rank, *(one[name] for name in ("id", "title", "text", "score")))
        for row in answered
        for rank, one in enumerate(row["passages"], 1)
    ]
    names = ("question_id", "question", "rank", "passage_id", "title", "text", "score")
    ours = [tuple(row[name] for name in names) for row in rows_of(found / "hits") if row["error"] is None]
    assert len(ours) == 7 * (len(TOPICS) + 1)
    assert ours == expected
    whole = ["--n_docs", 7, *BLOCKS, "--model", tiny_rag]
    given = command(searchable, sentence_encoder, tmp_path / "by model", *whole)
    place = given.index("--question_encoder")
    ragbeam(*given[:place], *given[place + 2 :])  # the question encoder of the model is the same
    assert rows_of(tmp_path / "by model") == rows_of(found / "hits")


def test_rows_are_in_the_schema_and_a_row_of_the_corpus_is_the_passages(searchable, found):
    manifest = read_manifest(str(found / "hits"), "search")
    tables = [pq.read_table(found / "hits" / shard.path) for shard in manifest.shards]
    assert [shard.path for shard in manifest.shards] == ["hits-00000-of-00002.parquet", "hits-00001-of-00002.parquet"]
    assert all(table.schema.equals(schema.SCHEMA) for table in tables)
    corpus = [
        row
        for shard in read_manifest(str(searchable / "passages"), "chunk").shards
        for row in pq.read_table(searchable / "passages" / shard.path).to_pylist()
    ]
    rows = [row for row in rows_of(found / "hits") if row["error"] is None]
    assert [corpus[row["row"]]["id"] for row in rows] == [row["passage_id"] for row in rows]
    assert [row["dense_score"] for row in rows] == [row["score"] for row in rows]
    assert {row["bm25_score"] for row in rows} == {row["rerank_score"] for row in rows} == {None}
    assert [row["gold_answers"] for row in rows if row["question_id"] == "q1"] == [[TOPICS[1]]] * 7
    assert manifest.info["errors"] == {"the question is empty": 1}
    assert (manifest.info["questions"], manifest.info["distinct_questions"]) == (len(TOPICS) + 2, len(TOPICS))


def test_every_row_of_the_question_files_comes_out_and_an_error_is_one_row(
    searchable, sentence_encoder, tmp_path, capsys
):
    lines = ['{"id": "a", "question": "what is ice"}', '{"id": ', '{"id": "c", "question": ""}', '{"question": "who"}']
    (tmp_path / "q.jsonl").write_text("\n".join(lines))
    more = ["--n_docs", 3, "--trec", tmp_path / "run"]
    ragbeam(*command(searchable, sentence_encoder, tmp_path / "out", *more, questions=tmp_path / "q.jsonl"))
    assert capsys.readouterr().out.splitlines()[-1].endswith("; 4 questions, 2 with an error")
    rows = rows_of(tmp_path / "out")
    assert [row["rank"] for row in rows] == [1, 2, 3, None, None, 1, 2, 3]
    bad = [row for row in rows if row["error"]]
    assert [row["error"].partition(" (")[0] for row in bad] == ["the line is not JSON", "the question is empty"]
    nothing = {field.name for field in schema.HIT_FIELDS}
    assert all(row[name] is None for row in bad for name in nothing)
    assert len((tmp_path / "run").read_text().splitlines()) == 6


def test_more_passages_than_there_are_gives_all_of_them(searchable, sentence_encoder, tmp_path):
    total = read_manifest(str(searchable / "passages"), "chunk").rows
    ragbeam(*command(searchable, sentence_encoder, tmp_path / "out", "--n_docs", total + 5))
    rows = [row for row in rows_of(tmp_path / "out") if row["question_id"] == "q0"]
    assert sorted(row["row"] for row in rows) == list(range(total))


def test_a_run_has_every_digit_of_a_score(found):
    rows = [row for row in rows_of(found / "hits") if row["rank"]]
    lines = [line.split(" ") for line in (found / "hits.run").read_text().splitlines()]
    assert [(a, c, int(d), float(e)) for a, _, c, d, e, _ in lines] == [
        (row["question_id"], row["passage_id"], row["rank"], row["score"]) for row in rows
    ]
    assert sorted(path.name for path in found.iterdir()) == ["hits", "hits.run"]
    encoder = read_manifest(str(found / "hits"), "search").info["encoder_digest"]
    assert {(q0, tag) for _, q0, _, _, _, tag in lines} == {("Q0", f"ragbeam-dense-{encoder}")}
    assert [np.float32(line[4]) for line in lines] == [np.float32(row["score"]) for row in rows]


@pytest.mark.parametrize(
    ("rows", "says"),
    [
        ([{"id": "a b", "question": "what is ice"}], "no place for the id of a question: 'a b'"),
        ([{"id": "a", "question": "what is ice"}, {"id": "a", "question": "who"}], "two different questions have one"),
    ],
)
def test_ids_that_a_run_cannot_hold_are_refused_in_one_line(searchable, sentence_encoder, tmp_path, capsys, rows, says):
    (tmp_path / "q.jsonl").write_text("\n".join(map(json.dumps, rows)))
    more = ["--n_docs", 2, "--trec", tmp_path / "run"]
    code, line = fails(
        capsys, *command(searchable, sentence_encoder, tmp_path / "out", *more, questions=tmp_path / "q.jsonl")
    )
    assert code == 2
    assert says in line
    assert "leave out --trec" in line
    assert not (tmp_path / "run").exists()
    assert read_manifest(str(tmp_path / "out"), "search").rows == 2 * len(rows)


def test_the_same_command_reuses_all_and_another_is_refused(searchable, sentence_encoder, found, tmp_path, capsys):
    shutil.copytree(found / "hits", tmp_path / "hits")
    again = command(searchable, sentence_encoder, tmp_path / "hits", "--n_docs", 7, *BLOCKS, "--trec", tmp_path / "run")
    capsys.readouterr()
    ragbeam(*again)
    assert "all reused, nothing to do" in capsys.readouterr().out
    assert (tmp_path / "run").read_bytes() == (found / "hits.run").read_bytes()
    code, line = fails(capsys, *command(searchable, sentence_encoder, tmp_path / "hits", "--n_docs", 6, *BLOCKS))
    assert code == 2
    assert "n_docs 7 as it has, not 6" in line
    ragbeam(*command(searchable, sentence_encoder, tmp_path / "hits", "--n_docs", 6, *BLOCKS, "--overwrite"))
    assert max(row["rank"] for row in rows_of(tmp_path / "hits") if row["rank"]) == 6


def test_a_run_that_is_cut_short_goes_on_to_the_same_bytes(searchable, sentence_encoder, found, tmp_path, monkeypatch):
    from pipelines.search import job

    def stops(*_: object) -> None:
        raise RuntimeError("cut short")

    with monkeypatch.context() as patched:
        patched.setattr(job, "write_hits", stops)
        with pytest.raises(AssertionError):
            ragbeam(*command(searchable, sentence_encoder, tmp_path / "hits", "--n_docs", 7, *BLOCKS))
    assert not (tmp_path / "hits" / "manifest.json").exists()
    ragbeam(*command(searchable, sentence_encoder, tmp_path / "hits", "--n_docs", 7, *BLOCKS))
    report = json.loads((tmp_path / "hits" / "run.json").read_text())
    assert report["blocks"] == {"total": 3, "reused": 3, "made": 0}
    assert digests(tmp_path / "hits", "search") == digests(found / "hits", "search")


def test_verify_knows_hits_and_sees_a_damaged_shard(searchable, sentence_encoder, tmp_path, found, capsys):
    assert verify.check_stage(str(found / "hits")).problems == ()
    shutil.copytree(searchable, tmp_path / "wiki")
    ragbeam(*command(tmp_path / "wiki", sentence_encoder, tmp_path / "wiki" / "hits", "--n_docs", 2))
    findings = {finding.stage: finding.problems for finding in verify.verify(str(tmp_path / "wiki"))}
    assert findings == dict.fromkeys(("chunk", "embed", "index", "search"), ())
    more = ["--output", tmp_path / "wiki" / "index", "--spec", "SQfp16", "--overwrite", "--threads", 1]
    ragbeam("index", "--embeddings", tmp_path / "wiki" / "embeddings", *more)
    assert "another state of" in verify.check_stage(str(tmp_path / "wiki" / "hits")).problems[0]
    shard = tmp_path / "wiki" / "hits" / "hits-00000-of-00001.parquet"
    shard.write_bytes(shard.read_bytes()[:-1] + b"!")
    assert "another content" in verify.check_stage(str(tmp_path / "wiki" / "hits")).problems[0]


@pytest.mark.parametrize("text", ["mine", "a b c d e f\n", "q Q0 p 1 2.5\n"])
def test_a_file_that_is_no_run_is_refused_and_stays(searchable, sentence_encoder, tmp_path, capsys, text):
    (tmp_path / "notes").write_text(text)
    code, line = fails(capsys, *command(searchable, sentence_encoder, tmp_path / "out", "--trec", tmp_path / "notes"))
    assert (code, "--trec is a file that is no run" in line) == (2, True), line
    assert (tmp_path / "notes").read_text() == text
    code, line = fails(capsys, *command(searchable, sentence_encoder, tmp_path / "out", "--trec", tmp_path))
    assert (code, "--trec overlaps" in line or "--trec is a directory" in line) == (2, True), line
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize(
    ("more", "says"),
    [
        (["--model", "m"], "an index of vectors is searched with one encoder of questions: 'both"),
        (["--rescore", 3], "--rescore is less than the passages that are wanted of --index: 3; expected at least 100"),
        (["--trec", "out/run"], "--trec overlaps --output, and the same command writes both"),
        (["--questions", "nothing.jsonl"], "no such question file"),
        (["--trec", "a.run.gz"], "--trec is written as plain text: 'a.run.gz'; expected a name without .gz or .bz2"),
        (["--rrf_k", 5], "--rrf_k is for two searches: 5; expected both --index and --bm25"),
        (["--fusion", "weighted"], "--fusion is for two searches: 'weighted'"),
        (["--dense_weight", 0.3], "--dense_weight has no meaning with --fusion rrf: 0.3"),
    ],
)
def test_settings_that_do_not_go_together_are_refused(
    searchable, sentence_encoder, tmp_path, capsys, more, says, monkeypatch
):
    monkeypatch.chdir(tmp_path)
    code, line = fails(capsys, *command(searchable, sentence_encoder, "out", *more))
    assert (code, says in line) == (2, True), line
    assert list(tmp_path.iterdir()) == []


def test_an_encoder_of_other_vectors_is_refused(searchable, dpr_pair, tmp_path, capsys):
    code, line = fails(capsys, *command(searchable, dpr_pair[1], tmp_path / "out"))
    assert code == 2
    assert "its normalisation differs: False; expected True" in line


def test_evaluate_judges_the_hits_and_the_run_alike(found, tmp_path):
    hits = [row for row in rows_of(found / "hits") if row["rank"] in (2, 5)]
    judged = [f"{row['question_id']} 0 {row['passage_id']} {row['rank'] % 3}\n" for row in hits]
    (tmp_path / "qrels").write_text("".join(judged))
    figures = []
    for name, place in (("answers", found / "hits"), ("run", found / "hits.run")):
        output = tmp_path / f"{name}.json"
        ragbeam("evaluate", f"--{name}", place, "--qrels", tmp_path / "qrels", "--bootstrap", 100, "--output", output)
        figures.append(json.loads(output.read_text())["all"])
    of_hits, of_run = figures
    assert of_hits["judged"] == of_run["judged"] == len(TOPICS) + 1
    assert of_hits["ranking"] == of_run["ranking"]
    assert of_hits["intervals"]["ranking"] == of_run["intervals"]["ranking"]
    assert of_hits["ranking"]["R@5"] == of_hits["ranking"]["page R@5"] == 1  # both of a question are relevant
    assert of_hits["ranking"]["R@1"] < 0.5  # of another order among equal scores one may come first
    assert of_hits["scored"] == len(TOPICS)  # the questions of which the file has answers
