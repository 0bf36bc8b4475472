"""All four stages on a real Flink session cluster give the local run's bytes, also when a task manager dies."""

import subprocess
import sys
import threading
import time

import pytest

from tests.pipelines.workspace import digests, ragbeam, write_articles, write_questions
from tests.runners import flink

STAGES = [("passages", "chunk"), ("embeddings", "embed"), ("index", "index"), ("answers", "answer")]


@pytest.fixture(scope="module")
def cluster(tmp_path_factory):
    """Two task managers of one slot each."""
    with flink.cluster(tmp_path_factory.mktemp("flink") / "cluster") as running:
        yield running


@pytest.fixture(scope="module")
def inputs(tmp_path_factory):
    directory = tmp_path_factory.mktemp("inputs")
    write_articles(directory / "articles.jsonl", count=40)
    write_questions(directory / "questions.jsonl")
    return directory


@pytest.fixture(scope="module")
def local(inputs, tmp_path_factory, sentence_encoder, tiny_rag):
    """The local run's digests, by stage."""
    workspace = tmp_path_factory.mktemp("local")
    ragbeam(*run_arguments(inputs, workspace, sentence_encoder, tiny_rag))
    return {name: digests(workspace / name, stage) for name, stage in STAGES}


def run_arguments(inputs, workspace, encoder, model) -> list[object]:
    return [
        *("run", "--workspace", workspace, "--input", inputs / "articles.jsonl", "--encoder", encoder),
        *("--questions", inputs / "questions.jsonl", "--model", model, "--num_shards", 4, "--passage_words", 20),
        *("--max_new_tokens", 5, "--n_docs", 3, "--block_questions", 3, "--threads", 1),
    ]


def on_flink(cluster) -> list[object]:
    return [
        *("--runner", "FlinkRunner", "--flink_master", cluster.master, "--flink_version", "1.19"),
        *("--flink_job_server_jar", cluster.job_server_jar, "--parallelism", 2),
    ]


def test_workers_in_the_launcher_give_the_local_bytes(cluster, inputs, local, tmp_path, sentence_encoder, tiny_rag):
    ragbeam(*run_arguments(inputs, tmp_path, sentence_encoder, tiny_rag), *on_flink(cluster))
    assert {name: digests(tmp_path / name, stage) for name, stage in STAGES} == local


def test_workers_of_a_pool_give_the_local_bytes_though_a_task_manager_dies(
    cluster, inputs, local, tmp_path, sentence_encoder, tiny_rag
):
    with flink.worker_pool(tmp_path) as port, cluster.job_server() as job_server:
        workspace = tmp_path / "ws"
        arguments = [
            *run_arguments(inputs, workspace, sentence_encoder, tiny_rag),
            *("--runner", "FlinkRunner", "--flink_master", cluster.master, "--job_endpoint", job_server),
            *("--parallelism", 2, "--environment_type", "EXTERNAL", "--environment_config", f"localhost:{port}"),
        ]
        command = [sys.executable, "-m", "pipelines.cli", *map(str, arguments)]
        killed = threading.Event()

        def kill_one_during_embed() -> None:
            end = time.monotonic() + 200
            while time.monotonic() < end and not (workspace / "embeddings" / "_incomplete").exists():
                time.sleep(0.05)
            time.sleep(1)  # the job is on its way to the cluster
            cluster.task_managers[0].kill()
            killed.set()
            cluster.start_task_manager()

        killer = threading.Thread(target=kill_one_during_embed)
        killer.start()
        done = subprocess.run(command, capture_output=True, text=True, timeout=400)
        killer.join()
        assert done.returncode == 0, done.stderr[-3000:]
        assert killed.is_set()
    assert {name: digests(workspace / name, stage) for name, stage in STAGES} == local
