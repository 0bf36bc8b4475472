"""What listens while a job runs: nobody but this machine reaches any of it."""

import os
import socket
import sys

import pytest

from tests.runners import flink
from tests.runners.listening import is_open, listeners, open_to_others, watched

CHUNK = [sys.executable, "-m", "pipelines.cli", "chunk", "--num_shards", 2]


@pytest.fixture
def chunk(inputs, tmp_path):
    """A job, as a command."""
    return [*CHUNK, "--input", inputs / "articles.jsonl", "--output", tmp_path / "out"]


def test_a_listener_on_every_address_is_found():
    """The test's own measure: it sees what is open, and what is not."""
    with socket.socket() as one, socket.socket() as two, socket.socket(socket.AF_INET6) as three:
        one.bind(("0.0.0.0", 0))
        two.bind(("127.0.0.1", 0))
        three.bind(("::", 0))
        expected = {(of.getsockname()[0], of.getsockname()[1]) for of in (one, two, three)}
        for each in (one, two, three):
            each.listen()
        found = {(address, port) for _, address, port in listeners(os.getpid())}
    assert expected <= found
    assert {is_open(address) for address, _ in expected} == {True, False}


def test_worker_processes(chunk, tmp_path):
    found = watched([*chunk, "--direct_running_mode=multi_processing", "--direct_num_workers=2"], tmp_path / "log")
    assert len(found) >= 5  # control, data, state and logging of the runner, logging of a worker
    assert open_to_others(found) == []


def test_a_pool(chunk, tmp_path):
    with flink.worker_pool(tmp_path) as port:
        external = ["--environment_type", "EXTERNAL", "--environment_config", f"localhost:{port}"]
        more = ["--runner", "PortableRunner", "--job_endpoint", "embed", *external]
        found = watched([*chunk, *more], tmp_path / "log", also=os.getpid())
    assert port in {number for _, _, number in found}
    assert open_to_others(found) == []
