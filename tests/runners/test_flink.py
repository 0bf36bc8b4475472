"""The same bytes on a real Flink session cluster: a job manager, two task managers, Beam's job server."""

import functools
import os
import signal
import time

import pytest

from rag_ops.models.compose import compose
from schemas.layout import STATISTICS
from tests import warmed
from tests.benchmarks import bench_flink
from tests.pipelines.workspace import digests, instead, ragbeam, write_articles, write_questions
from tests.runners import flink, listening
from tests.runners.conftest import all_digests, run_arguments

JOB_SECS = 300
SHARDS = 8
# The steps that Flink runs as one, and the bytes that they may send: the numbers of 3 blocks, say.
MODEL_STEPS = {
    "Embed/{ReadPassages, Encode, WriteEmbeddings}": 0,
    "EncodeQuestions/{Read, Encode, Write}": 3 * 64,
    "Answer/{Texts, Generate, Write}": 3 * 64,
}
UNIT_BYTES, HIT_BYTES = 1024, 16  # of a shard or block; of a candidate


@pytest.fixture(scope="module")
def cluster(tmp_path_factory):
    """Two task managers of one slot each."""
    with flink.cluster(tmp_path_factory.mktemp("flink") / "cluster") as running:
        yield running


@pytest.fixture(scope="module")
def endpoint(cluster):
    """The address of a job server for all tests."""
    with cluster.job_server() as address:
        yield address


@pytest.fixture(scope="module")
def pool(server, tmp_path_factory):
    """The port of `ragbeam workers`, which begins as a fork, after the imports, as its workers do."""
    with flink.worker_pool(tmp_path_factory.mktemp("pool"), functools.partial(warmed.start, server)) as port:
        yield port


def on_flink(cluster) -> list[object]:
    return ["--runner", "FlinkRunner", "--flink_master", cluster.master, "--flink_version", "1.19", "--parallelism", 2]


def test_workers_in_the_launcher_give_the_local_bytes(cluster, endpoint, a_run, local, tmp_path, seen):
    """With --worker_memory, which makes an environment of its own; texts and vectors stay within one operator."""
    ragbeam(*a_run, *on_flink(cluster), "--job_endpoint", endpoint, "--worker_memory", "1GiB")
    assert all_digests(tmp_path) == local
    assert {program for program, _, _ in seen} >= {"python"}
    assert listening.open_to_others(seen) == []
    sent = cluster.sent()
    assert len(sent) > 20
    for steps, most in MODEL_STEPS.items():
        (bytes_sent,) = [count for name, count in sent if steps in name]
        assert bytes_sent <= most, steps
    for name, count in sent:
        assert count <= UNIT_BYTES * 4 + HIT_BYTES * 4 * 7 * 3, name  # 4 shards, 7 questions, 3 candidates of each


def test_an_index_of_words_has_the_local_bytes(cluster, endpoint, local_workspace, tmp_path):
    command = ["index", "--kind", "bm25", "--passages", local_workspace / "passages", "--num_shards", 3]
    ragbeam(*command, "--output", tmp_path / "here")
    ragbeam(*command, "--output", tmp_path / "there", *on_flink(cluster), "--job_endpoint", endpoint)
    assert digests(tmp_path / "there", "bm25") == digests(tmp_path / "here", "bm25")
    here, there = (tmp_path / name / STATISTICS for name in ("here", "there"))
    assert there.read_bytes() == here.read_bytes()


def test_the_benchmark_runs_at_toy_size(server, cluster, endpoint, pool, tmp_path, monkeypatch, minilm, some_pages):
    def warm(arguments, log):
        return warmed.start(server, arguments, log).wait()

    monkeypatch.setenv("RAGBEAM_BENCH_DUMP", some_pages)
    results = bench_flink.compare(tmp_path, cluster, endpoint, pool, bench_flink.TOY, warm)
    assert [result.ratio > 0 for result in results] == [True, True]


def test_a_pool_of_workers_gives_the_local_bytes_though_a_task_manager_is_killed(
    server, cluster, endpoint, pool, tmp_path, minilm, tiny_bart
):
    """All four stages by EXTERNAL; one of the task managers is killed in the middle of embed."""
    write_articles(tmp_path / "articles.jsonl", count=120)
    write_questions(tmp_path / "questions.jsonl")
    model = tmp_path / "model"
    compose(minilm, tiny_bart, str(model))
    cut = ["--num_shards", SHARDS, "--passage_words", 100, "--compute_dtype", "float32"]  # which takes no measuring
    job = instead(run_arguments(tmp_path, tmp_path / "expected", minilm, model), cut)
    ragbeam(*job)
    out = tmp_path / "out"
    external = ["--environment_type", "EXTERNAL", "--environment_config", f"localhost:{pool}"]
    command = [*instead(job, ["--workspace", out]), *on_flink(cluster), "--job_endpoint", endpoint, *external]
    running = warmed.start(server, command, tmp_path / "run.log")
    try:
        wait_for_shards(running, tmp_path, count=2)
        found = listening.listeners(os.getpid())  # of which the job, the pool and its workers are children
        cluster.task_managers[0].kill()
        left = len(list((out / "embeddings").glob("*.parquet")))
        cluster.start_task_manager()
        code = running.wait(JOB_SECS)
    finally:
        if running.poll() is None:
            os.killpg(running.pid, signal.SIGKILL)
    assert code == 0, (tmp_path / "run.log").read_text()
    assert left < SHARDS  # so the kill came in the middle
    assert all_digests(out) == all_digests(tmp_path / "expected")
    assert pool in {number for _, _, number in found}
    assert listening.open_to_others(found) == []


def wait_for_shards(running: warmed.Forked, directory, count: int) -> None:
    """Waits until embed has written so many shards."""
    end = time.monotonic() + JOB_SECS
    while len(list((directory / "out" / "embeddings").glob("*.parquet"))) < count:
        assert running.poll() is None, (directory / "run.log").read_text()
        assert time.monotonic() < end, (directory / "run.log").read_text()
        time.sleep(0.1)
