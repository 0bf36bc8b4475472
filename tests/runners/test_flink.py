"""The same bytes on a real Flink session cluster: a job manager, two task managers, Beam's job server."""

import os
import signal
import subprocess
import sys
import time

import pytest

from tests.pipelines.workspace import digests, ragbeam, write_articles
from tests.runners import flink
from tests.runners.conftest import all_digests, run_arguments

JOB_SECS = 300


@pytest.fixture(scope="module")
def cluster(tmp_path_factory):
    """Two task managers of one slot each."""
    with flink.cluster(tmp_path_factory.mktemp("flink") / "cluster") as running:
        yield running


def on_flink(cluster) -> list[object]:
    return ["--runner", "FlinkRunner", "--flink_master", cluster.master, "--flink_version", "1.19", "--parallelism", 2]


def test_workers_in_the_launcher_give_the_local_bytes(cluster, inputs, local, tmp_path, sentence_encoder, tiny_rag):
    with cluster.job_server() as endpoint:
        more = [*on_flink(cluster), "--job_endpoint", endpoint]
        ragbeam(*run_arguments(inputs, tmp_path, sentence_encoder, tiny_rag), *more)
    assert all_digests(tmp_path) == local


def test_a_killed_task_manager_costs_no_byte(cluster, tmp_path, minilm):
    write_articles(tmp_path / "articles.jsonl", count=700)
    passages, expected = tmp_path / "passages", tmp_path / "expected"
    ragbeam("chunk", "--input", tmp_path / "articles.jsonl", "--output", passages, "--num_shards", 24)
    job = ["embed", "--passages", passages, "--encoder", minilm, "--threads", 1]
    ragbeam(*job, "--output", expected)
    cluster.wait_for_slots(2)
    with flink.worker_pool(tmp_path) as port:
        external = ["--environment_type", "EXTERNAL", "--environment_config", f"localhost:{port}"]
        command = [sys.executable, "-m", "pipelines.cli", *job, "--output", tmp_path / "out", *on_flink(cluster)]
        command += ["--flink_job_server_jar", cluster.job_server_jar, *external]
        with (tmp_path / "embed.log").open("wb") as log:
            running = subprocess.Popen([str(part) for part in command], stdout=log, stderr=log, start_new_session=True)
        try:
            wait_for_shards(running, tmp_path, count=2)
            left = len(list((tmp_path / "out").glob("*.parquet")))
            cluster.task_managers[0].kill()
            cluster.start_task_manager()
            code = running.wait(JOB_SECS)
        finally:
            if running.poll() is None:
                os.killpg(running.pid, signal.SIGKILL)
        assert code == 0, (tmp_path / "embed.log").read_text()
        assert left < 24  # so the kill came in the middle
    assert digests(tmp_path / "out", "embed") == digests(expected, "embed")


def wait_for_shards(running: subprocess.Popen, directory, count: int) -> None:
    """Waits until the job has written so many shards."""
    end = time.monotonic() + JOB_SECS
    while len(list((directory / "out").glob("*.parquet"))) < count:
        assert running.poll() is None, (directory / "embed.log").read_text()
        assert time.monotonic() < end, (directory / "embed.log").read_text()
        time.sleep(0.1)
