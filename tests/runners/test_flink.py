"""The same bytes on a real Flink session cluster: a job manager, two task managers, Beam's job server."""

import os
import signal
import subprocess
import sys
import time

import pytest

from rag_ops.models.compose import compose
from tests.benchmarks import bench_flink
from tests.pipelines.workspace import ragbeam, write_articles, write_questions
from tests.runners import flink, listening
from tests.runners.conftest import all_digests, run_arguments

JOB_SECS = 300
SHARDS = 16
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


def on_flink(cluster) -> list[object]:
    return ["--runner", "FlinkRunner", "--flink_master", cluster.master, "--flink_version", "1.19", "--parallelism", 2]


def test_workers_in_the_launcher_give_the_local_bytes(cluster, inputs, local, tmp_path, sentence_encoder, tiny_rag):
    """With --worker_memory, which makes an environment of its own; texts and vectors stay within one operator."""
    with cluster.job_server() as endpoint:
        more = [*on_flink(cluster), "--job_endpoint", endpoint, "--worker_memory", "1GiB"]
        ragbeam(*run_arguments(inputs, tmp_path, sentence_encoder, tiny_rag), *more)
    assert all_digests(tmp_path) == local
    sent = cluster.sent()
    assert len(sent) > 20
    for steps, most in MODEL_STEPS.items():
        (bytes_sent,) = [count for name, count in sent if steps in name]
        assert bytes_sent <= most, steps
    for name, count in sent:
        assert count <= UNIT_BYTES * 4 + HIT_BYTES * 4 * 7 * 3, name  # 4 shards, 7 questions, 3 candidates of each


def test_a_pool_of_workers_gives_the_local_bytes_though_a_task_manager_is_killed(cluster, tmp_path, minilm, tiny_bart):
    """All four stages by EXTERNAL; one of the task managers is killed in the middle of embed."""
    write_articles(tmp_path / "articles.jsonl", count=400)
    write_questions(tmp_path / "questions.jsonl")
    model = tmp_path / "model"
    compose(minilm, tiny_bart, str(model))
    job = [str(part) for part in run_arguments(tmp_path, tmp_path / "expected", minilm, model)]
    job += ["--num_shards", str(SHARDS), "--passage_words", "100"]
    ragbeam(*job)
    out = tmp_path / "out"
    cluster.wait_for_slots(2)
    with flink.worker_pool(tmp_path) as port, cluster.job_server() as endpoint:
        external = ["--environment_type", "EXTERNAL", "--environment_config", f"localhost:{port}"]
        command = [sys.executable, "-m", "pipelines.cli", *job, "--workspace", out, *on_flink(cluster)]
        command += ["--job_endpoint", endpoint, *external]
        with (tmp_path / "run.log").open("wb") as log:
            running = subprocess.Popen([str(part) for part in command], stdout=log, stderr=log, start_new_session=True)
        try:
            wait_for_shards(running, tmp_path, count=2)
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


def test_nothing_that_a_job_or_a_pool_listens_on_is_open_to_others(cluster, inputs, tmp_path):
    """LOOPBACK and EXTERNAL, in our own processes; Beam's Java has no setting for it."""
    job = [sys.executable, "-m", "pipelines.cli", "chunk", "--input", inputs / "articles.jsonl", "--num_shards", 2]
    cluster.wait_for_slots(2)
    with flink.worker_pool(tmp_path) as port, cluster.job_server() as endpoint:
        job += [*on_flink(cluster), "--job_endpoint", endpoint, "--output"]
        external = ["--environment_type", "EXTERNAL", "--environment_config", f"localhost:{port}"]
        loopback = listening.watched([*job, tmp_path / "loopback"], tmp_path / "loopback.log")
        pool = listening.watched([*job, tmp_path / "pool", *external], tmp_path / "pool.log", also=os.getpid())
    assert {program for program, _, _ in loopback} == {"python"}
    assert port in {number for _, _, number in pool}
    assert [place for place in loopback | pool if place[0].startswith("python") and listening.is_open(place[1])] == []


def test_the_benchmark_runs_at_toy_size(cluster, tmp_path, monkeypatch, minilm, some_pages):
    monkeypatch.setenv("RAGBEAM_BENCH_DUMP", some_pages)
    cluster.wait_for_slots(2)
    with flink.worker_pool(tmp_path) as port:
        results = bench_flink.compare(tmp_path, cluster, port, bench_flink.TOY)
    assert [result.ratio > 0 for result in results] == [True, True]


def wait_for_shards(running: subprocess.Popen, directory, count: int) -> None:
    """Waits until embed has written so many shards."""
    end = time.monotonic() + JOB_SECS
    while len(list((directory / "out" / "embeddings").glob("*.parquet"))) < count:
        assert running.poll() is None, (directory / "run.log").read_text()
        assert time.monotonic() < end, (directory / "run.log").read_text()
        time.sleep(0.1)
