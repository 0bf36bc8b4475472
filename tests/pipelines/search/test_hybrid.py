"""Searches by words, by both, through a filter and a cross-encoder: each against its parts."""

import itertools
import json
import shutil

import numpy as np
import pyarrow.parquet as pq
import pytest

from rag_ops.models.cross_encoder import CrossEncoder
from rag_ops.retrieval.bm25 import open_bm25
from rag_ops.retrieval.fusion import FusionSettings, fuse
from rag_ops.retrieval.topk import TopK, merge
from rag_ops.storage import verify
from rag_ops.storage.manifests import read_manifest
from rag_ops.storage.stages import StageOutput
from tests.pipelines.workspace import TOPICS, digests, fails, ragbeam

BLOCKS = ("--block_questions", 3, "--num_shards", 2)
CANDIDATES = 12


@pytest.fixture(scope="module")
def stage(searchable, tmp_path_factory):
    """The passages with an index of vectors and one of words, in two shards."""
    directory = tmp_path_factory.mktemp("hybrid") / "wiki"
    shutil.copytree(searchable, directory)
    ragbeam("index", "--kind", "bm25", "--passages", directory / "passages", "--output", directory / "bm25")
    return directory


@pytest.fixture(scope="module")
def searched(stage, sentence_encoder):
    """Gives the rows of a search, by its flags: run once for each set of them."""
    known: dict[tuple, list[dict]] = {}

    def rows(*flags: object) -> list[dict]:
        key = tuple(map(str, flags))
        if key not in known:
            output = stage.parent / f"hits {len(known)}"
            ragbeam(*command(stage, output, *flags))
            shards = read_manifest(str(output), "search").shards
            known[key] = [row for shard in shards for row in pq.read_table(output / shard.path).to_pylist()]
        return known[key]

    return rows


def command(stage, output, *flags: object) -> list[object]:
    return ["search", "--questions", stage / "questions.jsonl", "--output", output, "--threads", 1, *BLOCKS, *flags]


def by_vectors(stage, encoder) -> list[object]:
    return ["--index", stage / "index", "--question_encoder", encoder]


def questions(rows: list[dict]) -> dict[str, list[dict]]:
    """The rows with passages by question id, in order of rank."""
    found: dict[str, list[dict]] = {}
    for row in rows:
        if row["error"] is None:
            found.setdefault(row["question_id"], []).append(row)
    for ranked in found.values():
        assert [row["rank"] for row in ranked] == list(range(1, len(ranked) + 1))
        assert sorted((row["score"] for row in ranked), reverse=True) == [row["score"] for row in ranked]
    return found


def test_a_search_that_is_killed_once_its_shards_are_searched_does_not_search_them_again(
    stage, sentence_encoder, tmp_path, monkeypatch
):
    from rag_ops.retrieval import passage_texts
    from rag_ops.retrieval.bm25 import Bm25Shard
    from rag_ops.retrieval.index_kind import IndexShard

    def stops(*_: object) -> None:
        raise RuntimeError("killed")

    asked = [*by_vectors(stage, sentence_encoder), "--bm25", stage / "bm25", "--n_docs", 5]
    with monkeypatch.context() as patched:
        patched.setattr(passage_texts, "fetch", stops)
        patched.setattr(StageOutput, "abandon", lambda output: None)  # a process that is killed tidies nothing up
        with pytest.raises(AssertionError):
            ragbeam(*command(stage, tmp_path / "hits", *asked))
    with monkeypatch.context() as patched:
        for shard in (IndexShard, Bm25Shard):
            patched.setattr(shard, "search", stops)
        ragbeam(*command(stage, tmp_path / "hits", *asked))
    steps = json.loads((tmp_path / "hits" / "run.json").read_text())["steps"]
    assert [steps[name]["reused"] for name in ("SearchShards", "SearchWords")] == [3, 3]
    ragbeam(*command(stage, tmp_path / "fresh", *asked))
    assert digests(tmp_path / "hits", "search") == digests(tmp_path / "fresh", "search")


def as_topk(rows: list[dict], score: str, k: int) -> TopK:
    found = TopK.empty(1, k)
    for place, row in enumerate(rows[:k]):
        found.rows[0, place], found.scores[0, place] = row["row"], row[score]
    return found


def test_words_alone_give_what_the_index_of_words_does(stage, searched):
    corpus = open_bm25(str(stage / "bm25"))
    rows = searched("--bm25", stage / "bm25", "--n_docs", CANDIDATES)
    for asked in questions(rows).values():
        parts = [corpus.open_shard(n).search([asked[0]["question"]], CANDIDATES) for n in range(len(corpus.shards))]
        hits = merge(parts, CANDIDATES)
        real = hits.rows[0] >= 0
        assert [row["row"] for row in asked] == hits.rows[0, real].tolist()
        assert [row["score"] for row in asked] == [row["bm25_score"] for row in asked] == hits.scores[0, real].tolist()
        assert {row["dense_score"] for row in asked} == {None}
    assert len(questions(rows)) == len(TOPICS) + 1


def test_a_question_without_a_known_word_is_one_row_that_says_so(stage, tmp_path):
    (tmp_path / "q.jsonl").write_text("\n".join(map(json.dumps, [{"question": "xyzzy"}, {"question": "the moon"}])))
    flags = ["--bm25", stage / "bm25", "--n_docs", 2, "--questions", tmp_path / "q.jsonl", "--output", tmp_path / "out"]
    ragbeam("search", *flags)
    shards = read_manifest(str(tmp_path / "out"), "search").shards
    rows = [row for shard in shards for row in pq.read_table(tmp_path / "out" / shard.path).to_pylist()]
    assert [(row["rank"], row["error"]) for row in rows] == [
        (None, "no passage was found for the question"),
        (1, None),
        (2, None),
    ]


@pytest.mark.parametrize(
    ("how", "flags"),
    [
        (FusionSettings(), []),
        (FusionSettings(fusion="weighted", dense_weight=0.3), ["--fusion", "weighted", "--dense_weight", 0.3]),
    ],
    ids=["rrf", "weighted"],
)
def test_both_are_the_fusion_of_either(stage, searched, sentence_encoder, how, flags):
    dense, words = by_vectors(stage, sentence_encoder), ["--bm25", stage / "bm25"]
    sides = [questions(searched(*one, "--n_docs", CANDIDATES)) for one in (dense, words)]
    both = questions(searched(*dense, *words, "--n_docs", 5, "--candidates", CANDIDATES, *flags))
    assert both.keys() == sides[0].keys()
    for name, rows in both.items():
        parts = as_topk(sides[0][name], "dense_score", CANDIDATES), as_topk(sides[1][name], "bm25_score", CANDIDATES)
        fused = fuse(*parts, how, 5)
        assert [row["row"] for row in rows] == fused.hits.rows[0].tolist()
        assert [row["score"] for row in rows] == fused.hits.scores[0].tolist()
        for column, scores in (("dense_score", fused.dense), ("bm25_score", fused.bm25)):
            ours = [np.nan if row[column] is None else row[column] for row in rows]
            np.testing.assert_array_equal(np.float32(ours), scores[0])


FILTERS = {
    "title in ('moon 0', 'moon 7', 'sun 1')": lambda row: row["title"] in ("moon 0", "moon 7", "sun 1"),
    "position > 0 and title != 'king 10'": lambda row: (
        int(row["passage_id"].split(":")[1]) > 0 and row["title"] != "king 10"
    ),
}


@pytest.mark.parametrize(
    ("side", "expression"), [*itertools.product(("vectors", "words"), FILTERS), ("both", next(iter(FILTERS)))]
)
def test_a_filter_leaves_the_first_of_all_passages_that_pass(stage, searched, sentence_encoder, side, expression):
    total = read_manifest(str(stage / "passages"), "chunk").rows
    flags = {"vectors": by_vectors(stage, sentence_encoder), "words": ["--bm25", stage / "bm25"]}
    flags["both"] = [*flags["vectors"], *flags["words"]]
    found = questions(searched(*flags[side], "--filter", expression, "--n_docs", 6))
    passes = FILTERS[expression]
    if side == "both":  # whose sides are the other two
        assert all(passes(row) for rows in found.values() for row in rows)
        assert {len(rows) for rows in found.values()} == {6}
        return
    whole = questions(searched(*flags[side], "--n_docs", total))
    for name, rows in whole.items():
        expected = [(row["row"], row["score"]) for row in rows if passes(row)][:6]
        assert [(row["row"], row["score"]) for row in found.get(name, [])] == expected
    assert any(len(rows) == 6 for rows in found.values())


def test_a_filter_that_nothing_passes_gives_each_question_its_row(stage, searched):
    rows = searched("--bm25", stage / "bm25", "--n_docs", 3, "--filter", "title = 'nobody'")
    assert [row["rank"] for row in rows] == [None] * (len(TOPICS) + 2)


def test_a_cross_encoder_orders_the_first_passages(stage, searched, sentence_encoder, cross_encoder):
    dense = by_vectors(stage, sentence_encoder)
    before = questions(searched(*dense, "--n_docs", CANDIDATES))
    after = questions(searched(*dense, "--n_docs", 8, "--rerank", cross_encoder, "--rerank_top", 5))
    deeper = questions(searched(*dense, "--n_docs", 4, "--rerank", cross_encoder, "--rerank_top", CANDIDATES))
    model = CrossEncoder.load(cross_encoder, device="cpu", threads=1)
    moved = 0
    for name, rows in before.items():
        texts = [f"{row['title']} {row['text']}" for row in rows]
        scored = model.score([rows[0]["question"]] * len(rows), texts)[0].tolist()
        scores = dict(zip([row["row"] for row in rows], scored, strict=True))
        first = sorted(rows[:5], key=lambda row: -scores[row["row"]])
        assert [row["row"] for row in after[name][5:]] == [row["row"] for row in rows[5:8]]
        assert [row["rerank_score"] is None for row in after[name]] == [False] * 5 + [True] * 3
        best = sorted(rows, key=lambda row: -scores[row["row"]])[:4]
        for ours, expected in ((after[name][:5], first), (deeper[name], best)):
            found = [row["rerank_score"] for row in ours]
            np.testing.assert_allclose(found, [scores[row["row"]] for row in expected], rtol=1e-4, atol=1e-5)
            assert [row["score"] for row in ours] == found
        moved += [row["row"] for row in first] != [row["row"] for row in rows[:5]]
    assert moved > 0


@pytest.fixture(scope="module")
def everything(stage, sentence_encoder, cross_encoder) -> list[object]:
    """The flags of a search that does all there is."""
    flags = [*by_vectors(stage, sentence_encoder), "--bm25", stage / "bm25", "--n_docs", 4, "--filter", "position < 3"]
    return [*flags, "--rerank", cross_encoder]


@pytest.fixture(scope="module")
def whole(stage, everything):
    """Its output."""
    ragbeam(*command(stage, stage.parent / "whole", *everything))
    return stage.parent / "whole"


def test_several_processes_write_the_same_bytes(stage, everything, whole, tmp_path, warm_workers):
    processes = ["--direct_running_mode", "multi_processing", "--direct_num_workers", 2]
    ragbeam(*command(stage, tmp_path / "hits", *everything, *processes))
    assert digests(tmp_path / "hits", "search") == digests(whole, "search")


def test_everything_at_once_is_reused_and_cut_short_goes_on(stage, everything, whole, tmp_path, monkeypatch, capsys):
    from pipelines.search import job

    flags = [*everything, "--trec", tmp_path / "run"]
    assert verify.check_stage(str(whole)).problems == ()

    def stops(*_: object) -> None:
        raise RuntimeError("cut short")

    with monkeypatch.context() as patched:
        patched.setattr(job, "write_hits", stops)
        with pytest.raises(AssertionError):
            ragbeam(*command(stage, tmp_path / "hits", *flags))
    ragbeam(*command(stage, tmp_path / "hits", *flags))
    assert digests(tmp_path / "hits", "search") == digests(whole, "search")
    capsys.readouterr()
    ragbeam(*command(stage, tmp_path / "hits", *flags))
    assert "nothing to do" in capsys.readouterr().out
    info = read_manifest(str(tmp_path / "hits"), "search").info
    assert {"index_digest", "bm25_digest", "reranker_digest", "encoder_digest", "filter"} <= info.keys()


@pytest.mark.parametrize(
    ("more", "says"),
    [
        (["--filter", "author = 'x'"], "do not have: 'author'; expected id or title"),
        (["--filter", "title"], "--filter cannot be read"),
        (["--rerank_top", 3], "--rerank_top goes with --rerank"),
        (["--candidates", 300], "--candidates is for two searches"),
        (["--question_encoder", "e"], "--question_encoder goes with --index"),
        (["--rescore", 300], "--rescore goes with --index"),
    ],
)
def test_what_does_not_go_together_is_refused_in_one_line(stage, tmp_path, capsys, more, says):
    code, line = fails(capsys, *command(stage, tmp_path / "out", "--bm25", stage / "bm25", *more))
    assert (code, says in line) == (2, True), line
    assert list(tmp_path.iterdir()) == []


def test_indexes_of_other_passages_and_models_of_another_kind_are_refused(
    stage, sentence_encoder, tiny_rag, tmp_path, capsys
):
    dense = by_vectors(stage, sentence_encoder)
    chunk = ["chunk", "--input", stage / "articles.jsonl", "--output", tmp_path / "p", "--passage_words", 30]
    ragbeam(*chunk)
    ragbeam("index", "--kind", "bm25", "--passages", tmp_path / "p", "--output", tmp_path / "bm25")
    code, line = fails(capsys, *command(stage, tmp_path / "out", *dense, "--bm25", tmp_path / "bm25"))
    assert (code, "--index and --bm25 are over different passages" in line) == (2, True), line
    code, line = fails(capsys, *command(stage, tmp_path / "out", *dense, "--rerank", sentence_encoder))
    assert (code, "--rerank is no cross-encoder" in line) == (2, True), line
    code, line = fails(capsys, *command(stage, tmp_path / "out", *dense, "--bm25", stage / "bm25", "--candidates", 3))
    assert (code, "--candidates is less than --n_docs: 3; expected at least 100" in line) == (2, True), line
    code, line = fails(capsys, *command(stage, tmp_path / "out", "--bm25", stage / "index"))
    assert (code, "holds another stage's output" in line) == (2, True), line
    assert not (tmp_path / "out").exists()
