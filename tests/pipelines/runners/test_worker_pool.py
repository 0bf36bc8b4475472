"""Our worker pool: two task managers that name their workers alike do not disturb one another."""

import re
import signal
import subprocess
import sys
import types
from socket import gethostname
from unittest import mock

import pytest
from apache_beam.portability.api import beam_fn_api_pb2

from pipelines.cli import main
from pipelines.runners import preflight, worker_pool
from tests.runners.flink import worker_pool as pool_beside
from tests.runners.listening import free_port, is_open, listeners


class Context:
    """What gRPC hands to a servicer."""

    def set_trailing_metadata(self, pairs):
        self.pairs = pairs


@pytest.fixture
def started(monkeypatch):
    """A pool whose workers just sleep; gives it and a function that starts a worker of a name."""
    monkeypatch.setattr(worker_pool, "WORKER", "import time; time.sleep(60)")
    pool = worker_pool.WorkerPool(use_process=True)
    processes = []

    def start(name):
        context = Context()
        assert not pool.StartWorker(beam_fn_api_pb2.StartWorkerRequest(worker_id=name), context).error
        assert worker_pool.OURS in context.pairs
        processes.append(pool._worker_processes[name])
        return processes[-1]

    yield pool, start
    for process in processes:
        process.kill()
        process.wait()


def stop(pool, name):
    pool.StopWorker(beam_fn_api_pb2.StopWorkerRequest(worker_id=name), Context())


def test_a_worker_is_stopped_by_its_name(started):
    pool, start = started
    one, other = start("1-1"), start("2-1")
    stop(pool, "1-1")
    assert one.wait(10) == -signal.SIGTERM
    assert other.poll() is None
    stop(pool, "unknown")


def test_of_two_workers_of_one_name_neither_is_stopped(started):
    pool, start = started
    first, second = start("1-1"), start("1-1")
    stop(pool, "1-1")
    stop(pool, "1-1")
    assert first.poll() is None
    assert second.poll() is None


def test_the_command_serves_this_very_python_and_ends_when_told(tmp_path, monkeypatch):
    monkeypatch.setenv("PATH", "/nowhere")  # no `python` there
    with pool_beside(tmp_path) as port:
        assert preflight.probe(f"localhost:{port}") is True
    line = (tmp_path / "worker-pool.log").read_text()
    assert f"workers: listening on localhost:{port}; --environment_type EXTERNAL" in line
    port = free_port()
    process = subprocess.Popen([sys.executable, "-m", "pipelines.cli", "workers", "--port", str(port)])
    while preflight.probe(f"localhost:{port}") is None:
        assert process.poll() is None
    process.terminate()
    assert process.wait(20) == 0


def test_a_taken_port_is_told(tmp_path):
    with pool_beside(tmp_path) as port:
        command = [sys.executable, "-m", "pipelines.cli", "workers", "--port", str(port)]
        done = subprocess.run(command, capture_output=True, text=True, timeout=60)
    assert done.returncode == 1
    assert f"ragbeam: error: the port is taken: {port}; give another --port" in done.stderr


def test_an_address_that_others_reach_is_opened_with_a_warning(tmp_path):
    port = free_port()
    command = [sys.executable, "-m", "pipelines.cli", "workers", "--port", str(port), "--host", "0.0.0.0"]
    with (tmp_path / "log").open("wb") as log:
        process = subprocess.Popen(command, stdout=log, stderr=log)
    try:
        while not (found := listeners(process.pid)):
            assert process.poll() is None, (tmp_path / "log").read_text()
        assert [(is_open(address), number) for _, address, number in found] == [(True, port)]
        assert preflight.probe(f"localhost:{port}") is True
    finally:
        process.terminate()
        process.wait(20)
    lines = (tmp_path / "log").read_text()
    assert (
        f"listening on 0.0.0.0:{port}; --environment_type EXTERNAL --environment_config {gethostname()}:{port}" in lines
    )
    assert f"workers: warning: whoever reaches 0.0.0.0:{port} runs any code as this user" in lines


def test_a_port_that_the_system_chooses_is_told(monkeypatch, caplog):
    def until_told(_):
        (port,) = re.findall(r"listening on localhost:(\d+);", caplog.text)
        assert preflight.probe(f"localhost:{port}") is True
        raise KeyboardInterrupt

    caplog.set_level("INFO")
    monkeypatch.setattr(worker_pool, "time", types.SimpleNamespace(sleep=until_told))
    monkeypatch.setattr(worker_pool.signal, "signal", mock.Mock())
    worker_pool.serve(0)


@pytest.mark.parametrize("host", ["a..b", "x" * 70, "host name", "http://127.0.0.1"])
def test_what_is_no_address_is_one_line_of_ours(host, capfd):
    assert main(["workers", "--port", "0", "--host", host]) == 1
    (line,) = capfd.readouterr().err.splitlines()  # gRPC's own lines too
    assert line.startswith(f"ragbeam: error: cannot listen on port 0 there: {host!r}; expected an address")


def test_an_address_of_another_machine_is_one_line(tmp_path):
    command = [sys.executable, "-m", "pipelines.cli", "workers", "--port", str(free_port()), "--host", "192.0.2.1"]
    done = subprocess.run(command, capture_output=True, text=True, timeout=60)
    assert done.returncode == 1
    assert "ragbeam: error: cannot listen on port" in done.stderr
    assert "'192.0.2.1'; expected an address of this machine" in done.stderr
    assert "Traceback" not in done.stderr
