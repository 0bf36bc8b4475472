"""The index of words as a job: scores, reuse, killed and resumed, --previous, several processes, what is refused."""

from __future__ import annotations

import contextlib
import json
import os
import shutil
import signal
import time

import fsspec
import numpy as np
import pytest

from pipelines.index import bm25_job
from pipelines.index.bm25_options import Bm25Options
from rag_ops.errors import InputError
from rag_ops.retrieval.bm25 import open_bm25
from rag_ops.retrieval.corpus import open_corpus
from rag_ops.retrieval.topk import merge
from rag_ops.storage import store
from rag_ops.storage.manifests import read_manifest
from rag_ops.storage.parquet import read_parquet
from schemas.layout import BM25, STATISTICS
from tests import warmed, wikis
from tests.pipelines.workspace import chunked, fails, ragbeam, write_articles, write_questions
from tests.rag_ops.retrieval.test_bm25 import scores_of_bm25s

QUESTIONS = ["what is the moon 7", "which river", "king 10 sun 3", "nothing known", ""]


@pytest.fixture(scope="module")
def passages(tmp_path_factory):
    """Passages of 120 articles in seven shards."""
    return chunked(tmp_path_factory.mktemp("bm25"), 120, 7)


@pytest.fixture(scope="module")
def index(passages, tmp_path_factory):
    """Their index of words, in three shards."""
    return build(passages, tmp_path_factory.mktemp("bm25") / "bm25", "--num_shards", 3)


def build(passages, output, *more: object):
    """Runs the job; gives its output."""
    ragbeam("index", "--kind", "bm25", "--passages", passages, "--output", output, *more)
    return output


def texts_of(passages) -> list[str]:
    """What is indexed of passages, in order of row."""
    shards = read_manifest(str(passages), "chunk").shards
    tables = [read_parquet(store.join(str(passages), shard.path)) for shard in shards]
    return [f"{row['title']}\n{row['text']}" for table in tables for row in table.to_pylist()]


def files_of(index) -> dict[str, bytes]:
    """The bytes of all files but the report of the run."""
    return {path.name: path.read_bytes() for path in index.iterdir() if path.name != "run.json"}


@pytest.mark.parametrize(("num_shards", "k1", "b"), [(1, 0.9, 0.4), (3, 0.9, 0.4), (7, 1.2, 0.75)])
def test_hits_have_the_scores_of_bm25s_over_all_passages(passages, tmp_path, num_shards, k1, b):
    index = build(passages, tmp_path / "i", "--num_shards", num_shards, "--k1", k1, "--b", b)
    corpus = open_bm25(str(index))
    assert len(corpus.shards) == num_shards
    corpus.check_digests()
    corpus.check_unchanged()
    found = merge([corpus.open_shard(number).search(QUESTIONS, 30) for number in range(num_shards)], 30)
    expected = scores_of_bm25s(texts_of(passages), QUESTIONS, k1, b, "english")
    for scores, hits, rows in zip(expected, found.scores, found.rows, strict=True):
        best = np.lexsort((np.arange(len(scores)), -scores.astype(np.float32)))[:30]
        best = best[scores[best] > 0]
        assert len(best) == (rows >= 0).sum()
        np.testing.assert_allclose(hits[: len(best)], scores[rows[: len(best)]], rtol=1e-6)
        np.testing.assert_allclose(hits[: len(best)], scores[best], rtol=1e-6)
    assert found.rows[0, 0] >= 0
    assert (found.rows[3:] == -1).all()


def test_what_is_finished_is_reused(passages, index, capsys):
    before = files_of(index)
    build(passages, index, "--num_shards", 3)
    assert "all reused, nothing to do" in capsys.readouterr().out
    assert files_of(index) == before
    report = json.loads((index / "run.json").read_text())
    assert (report["rows"], report["shards"]["made"]) == (read_manifest(str(passages), "chunk").rows, 3)


@pytest.mark.parametrize("lost", [["manifest.json"], ["manifest.json", STATISTICS], [BM25.shard(1, 3)]])
def test_a_run_that_was_cut_short_goes_on_to_the_same_bytes(passages, index, tmp_path, lost):
    shutil.copytree(index, again := tmp_path / "again")
    for name in lost:
        (again / name).unlink()
    build(passages, again, "--num_shards", 3)
    assert files_of(again) == files_of(index)


def test_a_run_that_fails_in_the_middle_leaves_shards_that_the_next_one_reuses(passages, index, tmp_path, monkeypatch):
    def fail(*arguments):
        raise RuntimeError("out of luck")

    with monkeypatch.context() as patched:
        patched.setattr(bm25_job, "write_statistics", fail)
        with pytest.raises(Exception, match="out of luck"):
            bm25_job.run(Bm25Options(passages=str(passages), output=str(tmp_path / "i"), num_shards=3))
    assert not (tmp_path / "i" / "manifest.json").exists()
    done = bm25_job.run(Bm25Options(passages=str(passages), output=str(tmp_path / "i"), num_shards=3))
    assert done.reused == 3
    assert files_of(tmp_path / "i") == files_of(index)


@pytest.mark.parametrize("moment", ["index", "index/*.safetensors", "index/statistics.safetensors"])
def test_a_job_that_is_killed_is_finished_to_the_same_bytes(passages, index, server, tmp_path, moment):
    """Right at its start, in the middle of its shards, and when these are done."""
    arguments = ["--passages", passages, "--output", tmp_path / "index", "--num_shards", 3]
    command = ["index", "--kind", "bm25", *map(str, arguments)]
    process = warmed.start(server, command, tmp_path / "log")
    while process.poll() is None and not list(tmp_path.glob(moment)):
        time.sleep(0.001)
    with contextlib.suppress(ProcessLookupError):
        os.killpg(process.pid, signal.SIGKILL)
    process.wait()
    ragbeam(*command)
    assert files_of(tmp_path / "index") == files_of(index)
    assert not (tmp_path / "index" / store.INCOMPLETE).exists()


def test_an_object_store_holds_the_same_bytes(passages, index):
    """Statistics are merged from what is read of each shard, and a search copies it."""
    fs = fsspec.filesystem("memory")
    fs.put(f"{passages}/", "/words/passages/", recursive=True)
    options = Bm25Options(passages="memory://words/passages", output="memory://words/bm25", num_shards=3)
    bm25_job.run(options)
    for name, data in files_of(index).items():
        if name != "manifest.json":  # which says where passages are
            assert fs.cat(f"/words/bm25/{name}") == data
    found, expected = (open_bm25(url).open_shard(1).search(QUESTIONS, 5) for url in (options.output, str(index)))
    assert found.rows.tolist() == expected.rows.tolist()


def test_several_processes_write_the_same_bytes(passages, index, tmp_path, warm_workers):
    flags = ["--direct_running_mode", "multi_processing", "--direct_num_workers", 2]
    assert files_of(build(passages, tmp_path / "i", "--num_shards", 3, *flags)) == files_of(index)


@pytest.mark.parametrize("num_shards", [1, 3, 7])
def test_counts_of_unchanged_passages_come_from_an_earlier_index(index, tmp_path, monkeypatch, num_shards):
    directory = tmp_path / "later"
    directory.mkdir()
    write_articles(directory / "articles.jsonl", count=120)
    changed = (directory / "articles.jsonl").read_text().replace("the king 10 is", "the queen 10 is")
    (directory / "articles.jsonl").write_text(changed)
    arguments = ["--input", directory / "articles.jsonl", "--output", directory / "p", "--num_shards", 7]
    ragbeam("chunk", *arguments)
    fresh = build(directory / "p", tmp_path / "fresh", "--num_shards", num_shards)
    counted = []
    count = bm25_job.texts
    monkeypatch.setattr(bm25_job, "texts", lambda url, rows: counted.append(url) or count(url, rows))
    taken = build(directory / "p", tmp_path / "taken", "--num_shards", num_shards, "--previous", index)
    assert files_of(taken) == files_of(fresh)
    assert files_of(fresh) != files_of(index)
    assert len(counted) == 1  # the shard of the article that changed


def test_a_previous_index_whose_content_changed_is_refused(passages, index, tmp_path, capsys):
    shutil.copytree(index, damaged := tmp_path / "damaged")
    data = bytearray((damaged / BM25.shard(1, 3)).read_bytes())
    data[-1] ^= 1
    (damaged / BM25.shard(1, 3)).write_bytes(data)
    arguments = ["--passages", passages, "--output", tmp_path / "i", "--previous", damaged]
    code, line = fails(capsys, "index", "--kind", "bm25", *arguments)
    assert code == 2
    assert "an index shard of --previous has another content" in line
    assert not (tmp_path / "i").exists()


def test_a_previous_index_of_another_language_is_refused(passages, index, tmp_path, capsys):
    arguments = ["--passages", passages, "--output", tmp_path / "i", "--previous", index, "--language", "de"]
    code, line = fails(capsys, "index", "--kind", "bm25", *arguments)
    assert code == 2
    assert 'language "en" as it has, not "de"' in line


def test_the_language_is_what_chunk_was_told_or_read(tmp_path, capsys, caplog):
    write_articles(tmp_path / "a.jsonl", count=3)
    for code, stemmer in (("de", "german"), ("xx", "no")):
        ragbeam("chunk", "--input", tmp_path / "a.jsonl", "--output", tmp_path / code, "--language", code)
        index = build(tmp_path / code, tmp_path / f"{code}-index")
        assert open_bm25(str(index)).scoring.language == code
        assert f"by the {stemmer} stemmer" in capsys.readouterr().out
    assert "no stemmer for language xx" in caplog.text
    dump = "<mediawiki xml:lang='fr'><page><title>A</title><ns>0</ns><id>1</id><revision><text>Les rois.</text>"
    (tmp_path / "wiki.xml").write_text(dump + "</revision></page></mediawiki>")
    ragbeam("chunk", "--input", tmp_path / "wiki.xml", "--output", tmp_path / "fr")
    assert open_bm25(str(build(tmp_path / "fr", tmp_path / "fr-index"))).scoring.language == "fr"
    german = {"in_language": {"identifier": "de"}, "is_part_of": {"identifier": "dewiki"}}
    inputs = [
        wikis.write_json(tmp_path / "de.ndjson", [row | german for row in wikis.ARTICLES]),
        wikis.write_json(tmp_path / "fine.jsonl", [row | {"in_language": "de"} for row in wikis.FINEWIKI[1:2]]),
    ]
    ragbeam("chunk", "--input", *inputs, "--prefix_ids", "--output", tmp_path / "said")
    assert open_bm25(str(build(tmp_path / "said", tmp_path / "said-index"))).scoring.language == "de"
    wikis.write_json(inputs[1], wikis.FINEWIKI[1:2])
    ragbeam("chunk", "--input", *inputs, "--prefix_ids", "--output", tmp_path / "mixed")
    assert "language" not in read_manifest(str(tmp_path / "mixed"), "chunk").info
    build(tmp_path / "de", tmp_path / "en-index", "--language", "EN")
    assert open_bm25(str(tmp_path / "en-index")).scoring.language == "en"


@pytest.mark.parametrize(
    ("flags", "says"),
    [
        (["--kind", "bm25", "--embeddings", "e", "--passages", "p"], "--embeddings is of --kind vectors"),
        (["--kind", "bm25", "--spec", "Flat", "--passages", "p"], "--spec is of --kind vectors"),
        (["--embeddings", "e", "--k1", 1], "--k1 is of --kind bm25"),
        (["--embeddings", "e", "--previous", "p"], "--previous is of --kind bm25"),
        (["--kind", "bm25"], "required: --passages"),
        ([], "required: --embeddings"),
        (["--kind", "tfidf", "--passages", "p"], "--kind is unknown: 'tfidf'; expected vectors or bm25"),
        (["--kind", "bm25", "--passages", "p", "--k1", 0], "--k1 is out of range"),
        (["--kind", "bm25", "--passages", "p", "--b", 1.5], "--b is out of range"),
        (["--kind", "bm25", "--passages", "p", "--language", "../de"], "--language is no code"),
        (["--kind", "bm25", "--passages", "nowhere"], "no manifest.json"),
        (["--kind", "bm25", "--passages", ""], "--passages is empty"),
        (["--kind", "bm25", "--passages", "p", "--output", "p/x"], "--output overlaps --passages"),
        (["--kind", "bm25", "--passages", "p", "--previous", "i"], "--output overlaps --previous"),
    ],
)
def test_what_does_not_go_together_is_refused(flags, says, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    output = [] if "--output" in flags else ["--output", "i"]
    code, line = fails(capsys, "index", *flags, *output)
    assert code == 2
    assert says in line
    assert list(tmp_path.iterdir()) == []


def test_more_shards_than_passages_have_are_refused(passages, tmp_path, capsys):
    arguments = ["--passages", passages, "--output", tmp_path / "i", "--num_shards", 8]
    code, line = fails(capsys, "index", "--kind", "bm25", *arguments)
    assert (code, "--num_shards is more than there are passage shards" in line) == (2, True)


def test_another_k1_is_another_configuration(passages, index, capsys):
    arguments = ["--passages", passages, "--output", index, "--num_shards", 3, "--k1", 2]
    code, line = fails(capsys, "index", "--kind", "bm25", *arguments)
    assert code == 2
    assert "k1 0.9 as it has, not 2.0" in line


def test_an_index_of_words_is_no_index_of_vectors_and_the_line_says_what_it_is_for(index, passages):
    with pytest.raises(InputError, match=r"another stage's output.*ragbeam search --bm25"):
        open_corpus(str(index))
    with pytest.raises(InputError, match="ragbeam index --kind bm25"):
        open_bm25(str(passages))


def test_answer_says_in_one_line_what_an_index_of_words_is_for(index, tiny_rag, tmp_path, capsys):
    write_questions(tmp_path / "questions.jsonl")
    command = ["answer", "--questions", tmp_path / "questions.jsonl", "--model", tiny_rag, "--index", index]
    code, line = fails(capsys, *command, "--output", tmp_path / "answers")
    assert code == 2
    assert "an index of words finds passages by ragbeam search --bm25 DIR" in line
    assert not (tmp_path / "answers").exists()


def test_verify_finds_what_is_wrong_with_an_index_of_words(passages, index, tmp_path, capsys):
    ragbeam("verify", index)
    assert "bm25: ok" in capsys.readouterr().out
    for name in (STATISTICS, BM25.shard(0, 3)):
        shutil.copytree(index, copy := tmp_path / name)
        shutil.copytree(passages, tmp_path / passages.name, dirs_exist_ok=True)
        data = bytearray((copy / name).read_bytes())
        data[-1] ^= 1
        (copy / name).write_bytes(data)
        ragbeam_fails = pytest.raises(AssertionError)
        with ragbeam_fails:
            ragbeam("verify", copy)
        said = capsys.readouterr()
        assert "another content" in said.out + said.err
        assert "ragbeam index --kind bm25 again" in said.out + said.err


def test_plan_says_what_an_index_of_words_takes(passages, capsys):
    ragbeam("plan", "--passages", passages)
    assert "index --kind bm25, if you want one: disk" in capsys.readouterr().out
