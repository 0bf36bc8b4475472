"""Texts and vectors stay within a stage, whatever the workers must have; what crosses a stage's border is small."""

import itertools
from typing import Any

import numpy as np
import pytest

from rag_ops.retrieval.topk import TopK
from rag_ops.storage.manifests import read_manifest
from tests.pipelines import crossings
from tests.pipelines.workspace import TOPICS, digests, fails, ragbeam, write_articles, write_questions

GPU, RAM = "type:nvidia-l4;count:1;install-nvidia-driver", str(1 << 30)
MEMORY = ["--worker_memory", "1GiB"]
HINTS = {
    "accelerator": (["--accelerator", GPU], {"accelerator": GPU}),
    "memory": (MEMORY, {"min_ram_bytes": RAM}),
    "both": (["--accelerator", GPU, *MEMORY], {"accelerator": GPU, "min_ram_bytes": RAM}),
}
QUESTIONS, CANDIDATES, SPLITS = 76, 20, 6  # distinct questions, of --rescore, of the articles' file
JOBS = {
    "embed": [],
    "embed with --previous": ["--previous", "embeddings"],
    "answer": [],
    "answer with --rescore": ["--rescore", CANDIDATES],
    "search with --rerank": [],
}
# Of the stages that have the hints: what reads, what runs a model, and what writes, each in one stage after a shuffle.
MODEL_STAGES = {
    "embed": [("Embed/Shards/Deal/ReshufflePerKey/GroupByKey/Read", "Embed", "ReadPassages", "WriteEmbeddings")],
    "answer": [
        ("EncodeQuestions/Blocks/Deal/ReshufflePerKey/GroupByKey/Read", "EncodeQuestions", "Read", "Write"),
        ("Join/GroupByOutputShard/Read", "Answer", "Texts", "Write"),
    ],
    "search": [
        ("EncodeQuestions/Blocks/Deal/ReshufflePerKey/GroupByKey/Read", "EncodeQuestions", "Read", "Write"),
        ("Join/GroupByOutputShard/Read", "Rank", "Texts", "Write"),
    ],
}
SHARD_BYTES, HIT_BYTES = 4096, 16  # what a shard or a block may send, and for each of its candidates
KEY_BYTES = 64  # of an element of candidates: key, block, shape, window and timestamp


@pytest.fixture(scope="module")
def stages(tmp_path_factory, sentence_encoder):
    """What embed and answer read: six shards of passages and vectors, three of an index, 76 questions in two blocks."""
    directory = tmp_path_factory.mktemp("stages")
    write_articles(directory / "articles.jsonl", count=400)
    more = [{"id": f"n{n}", "question": f"what is the {TOPICS[n % 7]} number {n}"} for n in range(QUESTIONS - 7)]
    write_questions(directory / "questions.jsonl", more)
    ragbeam(*chunk(directory, directory / "passages"))
    ragbeam(*embed(directory, sentence_encoder, directory / "embeddings"))
    ragbeam(*index(directory, directory / "index"))
    return directory


def chunk(stages, output) -> list[Any]:
    sizes = ["--num_shards", 6, "--passage_words", 20, "--split_bytes", 20_000]
    return ["chunk", "--input", stages / "articles.jsonl", "--output", output, *sizes]


def embed(stages, encoder, output) -> list[Any]:
    sizes = ["--threads", 1, "--compute_dtype", "float32"]  # which the launcher does not measure
    return ["embed", "--passages", stages / "passages", "--encoder", encoder, "--output", output, *sizes]


def index(stages, output) -> list[Any]:
    sizes = ["--num_shards", 3, "--spec", "IVF4,Flat", "--recall_queries", 20, "--threads", 1]
    return ["index", "--embeddings", stages / "embeddings", "--output", output, *sizes]


def answer(stages, model, output) -> list[Any]:
    sizes = ["--block_questions", 64, "--num_shards", 2, "--max_new_tokens", 3, "--n_docs", 3, "--threads", 1]
    read = ["--questions", stages / "questions.jsonl", "--index", stages / "index", "--model", model]
    return ["answer", *read, "--output", output, *sizes]


def search(stages, encoder, reranker, output) -> list[Any]:
    sizes = ["--block_questions", 64, "--num_shards", 2, "--n_docs", 3, "--threads", 1, "--rerank", reranker]
    read = ["--questions", stages / "questions.jsonl", "--index", stages / "index", "--question_encoder", encoder]
    return ["search", *read, "--output", output, *sizes]


@pytest.fixture
def command(stages, tmp_path, sentence_encoder, tiny_rag, cross_encoder):
    """Gives the command of one of `JOBS`."""

    def make(job: str) -> list[Any]:
        if "search" in job:
            return search(stages, sentence_encoder, cross_encoder, tmp_path / job)
        more = [stages / part if part == "embeddings" else part for part in JOBS[job]]
        made = answer(stages, tiny_rag, tmp_path / job) if "answer" in job else None
        return [*(made or embed(stages, sentence_encoder, tmp_path / job)), *more]

    return make


@pytest.mark.parametrize(("job", "hints"), itertools.product(JOBS, HINTS))
def test_a_job_has_the_same_stages_whatever_its_workers_must_have(command, job, hints, monkeypatch, capsys):
    flags, wanted = HINTS[hints]
    pipelines = crossings.pipelines_of(monkeypatch)
    for more in ([], flags):
        code, line = fails(capsys, *command(job), *more)
        assert (code, "ended without a shard" in line) == (1, True), line  # nothing was run
    half = len(pipelines) // 2  # with --previous two: what it has no vectors for is made by a second one
    for plain, fused in zip(pipelines[:half], pipelines[half:], strict=True):
        check_stages(crossings.stages_of(plain), crossings.stages_of(fused), MODEL_STAGES[job.split()[0]], wanted)


def check_stages(plain, fused, models, hints) -> None:
    """Checks that hints change no stage, reach the whole of every stage of a model, and no other."""
    assert {stage.steps for stage in fused} == {stage.steps for stage in plain}
    assert crossings.passed_on(fused) == []
    assert [stage.hints for stage in plain] == [{}] * len(plain)
    for stage in fused:
        composites = {step.split("/")[0] for step in stage.steps} & {name for _, name, _, _ in models}
        assert stage.hints == (hints if composites else {}), stage.steps
    for shuffled, name, *ends in models:
        (stage,) = [stage for stage in fused if shuffled in stage.steps]
        assert {f"{name}/{end}" for end in ends} < stage.steps
        assert [step for step in stage.steps if step.startswith(f"{name}/") and "BeamML_RunInference" in step]


@pytest.fixture
def crossed(monkeypatch):
    return crossings.record(monkeypatch)


def hits_in(value: Any) -> int:
    """How many candidates, or rows of candidates, an element holds."""
    if isinstance(value, TopK):
        return int((value.rows >= 0).sum())
    if isinstance(value, bytes):
        return len(value) // 8
    return sum(map(hits_in, value)) if isinstance(value, tuple | list) else 0


def check_sizes(crossed: list[crossings.Crossing], shards: int, hits: int) -> None:
    """Checks every collection and element against the bytes that shards, blocks and candidates may send."""
    assert len(crossed) > 0
    for crossing in crossed:
        found = list(map(hits_in, crossing.elements))
        assert sum(crossing.sizes) <= SHARD_BYTES * shards + HIT_BYTES * sum(found), crossing.name
        assert sum(found) <= hits, crossing.name
        for size, count in zip(crossing.sizes, found, strict=True):
            assert size <= SHARD_BYTES + HIT_BYTES * count, crossing.name
            assert not count or size <= KEY_BYTES + HIT_BYTES * count


def test_what_crosses_in_chunk_is_small(stages, tmp_path, crossed):
    ragbeam(*chunk(stages, tmp_path / "out"))
    assert sum(len(crossing.sizes) for crossing in crossed) <= 2 * (6 + SPLITS), "nothing for pairs of split and shard"
    check_sizes(crossed, shards=6 + SPLITS, hits=0)


@pytest.mark.parametrize("more", [[], MEMORY])
@pytest.mark.parametrize("job", ["embed", "embed with --previous"])
def test_what_crosses_in_embed_is_small(stages, command, tmp_path, crossed, job, more):
    ragbeam(*command(job), *more)
    assert [len(crossing.sizes) for crossing in crossed] == [6]  # the list of shards, and nothing else
    check_sizes(crossed, shards=6, hits=0)
    assert digests(tmp_path / job, "embed") == digests(stages / "embeddings", "embed")


def test_what_crosses_in_index_is_small(stages, tmp_path, crossed):
    ragbeam(*index(stages, tmp_path / "out"))
    check_sizes(crossed, shards=3 + 6, hits=3 * 2 * 20 * 100)  # exact and found hits of 20 queries at depth 100


@pytest.mark.parametrize("more", [[], MEMORY])
@pytest.mark.parametrize("job", ["answer", "answer with --rescore"])
def test_what_crosses_in_answer_is_small_and_goes_where_it_is(stages, command, crossed, job, more):
    ragbeam(*command(job), *more)
    depth = CANDIDATES if "rescore" in job else 3
    check_sizes(crossed, shards=6 + 6 + 3 + 2 + 2, hits=3 * QUESTIONS * depth)
    by_name = {crossing.name: crossing.elements for crossing in crossed}
    starts = {
        name: read_manifest(str(stages / name), of).row_starts()
        for name, of in (("embeddings", "embed"), ("passages", "chunk"))
    }
    for shard, (_, rows) in by_name["FetchTexts/GroupByPassageShard"]:
        check_lies_in(np.frombuffer(rows, np.int64), starts["passages"], shard)
    if "rescore" in job:
        candidates = by_name["Rescore/GroupByEmbeddingShard"]
        assert sum(map(hits_in, candidates)) == QUESTIONS * depth  # each goes to one shard
        for shard, (_, hits) in candidates:
            check_lies_in(hits.rows[hits.rows >= 0], starts["embeddings"], shard)


def check_lies_in(rows: np.ndarray, starts: list[int], shard: int) -> None:
    assert len(rows) > 0
    assert starts[shard] <= rows.min() <= rows.max() < starts[shard + 1]
