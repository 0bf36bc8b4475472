"""What does not answer, or has no room, is told in one line before a job is sent off."""

import contextlib
import http.server
import json
import os
import socket
import subprocess
import sys
import threading
import time

import pytest
from apache_beam.options.pipeline_options import PipelineOptions

from pipelines.runners import launch, preflight
from rag_ops.errors import InputError, JobError
from tests.pipelines.workspace import fails, write_articles
from tests.runners.listening import free_port


@contextlib.contextmanager
def flink_overview(content: bytes):
    """A server that answers as Flink's REST interface does."""

    class Handler(http.server.BaseHTTPRequestHandler):
        def do_GET(self):
            self.send_response(200 if self.path == "/overview" else 404)
            self.end_headers()
            self.wfile.write(content)

        def log_message(self, *_):
            pass

    server = http.server.HTTPServer(("localhost", 0), Handler)
    thread = threading.Thread(target=server.serve_forever, args=(0.01,))
    thread.start()
    try:
        yield f"localhost:{server.server_port}"
    finally:
        server.shutdown()
        thread.join()
        server.server_close()


@pytest.mark.parametrize(
    ("free", "total", "parallelism", "message"),
    [
        (2, 2, 2, None),
        (1, 4, 2, None),
        (0, 4, 1, "too few slots: '0 free of 4'; expected 1"),
        (0, 0, -1, "too few slots"),
        (2, 2, 3, "expected 3 for the job"),
    ],
)
def test_a_cluster_must_have_slots(free, total, parallelism, message):
    with flink_overview(json.dumps({"slots-available": free, "slots-total": total}).encode()) as master:
        if message is None:
            preflight.check_flink(master, parallelism)
            preflight.check_flink(f"http://{master}/", parallelism)
        else:
            with pytest.raises(JobError, match=message):
                preflight.check_flink(master, parallelism)


def test_a_cluster_must_answer_as_flink_does():
    for master in (f"localhost:{free_port()}", "host name:8081", "a..b:8081"):
        with pytest.raises(JobError, match="the Flink cluster does not answer"):
            preflight.check_flink(master, 1)
    with flink_overview(b"hello") as master, pytest.raises(JobError, match="does not answer"):
        preflight.check_flink(master, 1)


def test_a_job_server_that_never_answers_is_told(monkeypatch):
    monkeypatch.setattr(preflight, "ANSWER_SECS", 1)
    with socket.socket() as silent:  # accepts connections and says nothing
        silent.bind(("localhost", 0))
        silent.listen()
        with pytest.raises(JobError, match="the job server does not answer: 'localhost"):
            preflight.check_job_server(f"localhost:{silent.getsockname()[1]}")


def test_an_external_environment_must_name_its_pool():
    options = launch.pipeline_options(["--runner=FlinkRunner", "--environment_type=EXTERNAL"])
    with pytest.raises(InputError, match="EXTERNAL names no worker pool"):
        preflight.check(options, "FlinkRunner")


def test_a_pool_that_is_not_there_is_told():
    with pytest.raises(JobError, match="the worker pool does not answer"):
        preflight.check_worker_pool(f"localhost:{free_port()}")
    with pytest.raises(JobError, match="the worker pool does not answer"):
        preflight.check_worker_pool("50000x")


def test_what_beam_starts_open_to_others_is_warned_of_once(caplog):
    preflight._warn_of.cache_clear()
    for _ in range(2):
        preflight.check(PipelineOptions(["--flink_master=[auto]"]), "FlinkRunner")
        preflight.check(PipelineOptions(["--job_endpoint=embed"]), "PrismRunner")
    assert caplog.text.count("Beam's job server for Flink listens on every address of this machine") == 1
    assert "Prism" not in caplog.text
    preflight.check(PipelineOptions([]), "PrismRunner")
    assert "Prism listens on every address of this machine" in caplog.text


def test_the_embedded_job_service_takes_no_pool_of_another_machine():
    arguments = ["--job_endpoint=embed", "--environment_type=EXTERNAL", "--environment_config=192.0.2.1:50000"]
    with pytest.raises(InputError, match=r"on this machine alone, and the pool is on another: '192\.0\.2\.1:50000'"):
        preflight.check(PipelineOptions(arguments), "PortableRunner")


@contextlib.contextmanager
def pool(path: str):
    """Beam's worker pool with a PATH of its own."""
    port = free_port()
    command = [sys.executable, "-m", "apache_beam.runners.worker.worker_pool_main", f"--service_port={port}"]
    environment = os.environ | {"PATH": path}
    process = subprocess.Popen(
        command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, env=environment, start_new_session=True
    )
    try:
        end = time.monotonic() + 60
        while time.monotonic() < end:
            with contextlib.suppress(OSError), socket.create_connection(("localhost", port), 1):
                break
            time.sleep(0.2)
        yield f"localhost:{port}"
    finally:
        with contextlib.suppress(ProcessLookupError):
            os.killpg(process.pid, 9)
        process.wait()


def test_a_pool_whose_python_has_no_beam_is_told_and_a_good_one_is_not(tmp_path, monkeypatch):
    monkeypatch.setattr(preflight, "START_SECS", 2)
    bare = tmp_path / "bin"
    bare.mkdir()
    (bare / "python").write_text("#!/bin/sh\nexit 1\n")
    (bare / "python").chmod(0o755)
    with pool(f"{bare}:/usr/bin:/bin") as address, pytest.raises(JobError, match="starts no worker within 2 s"):
        preflight.check_worker_pool(address)
    monkeypatch.setattr(preflight, "START_SECS", 60)
    with pool(f"{os.path.dirname(sys.executable)}:/usr/bin:/bin") as address:
        preflight.check_worker_pool(address)


def test_the_command_says_so_in_one_line(tmp_path, capsys):
    write_articles(tmp_path / "a.jsonl", count=3)
    master = f"localhost:{free_port()}"
    code, line = fails(
        *(capsys, "chunk", "--input", tmp_path / "a.jsonl", "--output", tmp_path / "out"),
        *("--runner", "FlinkRunner", "--flink_master", master),
    )
    assert code == 1
    assert f"the Flink cluster does not answer ([Errno 111] Connection refused): '{master}'" in line


def test_what_hangs_up_at_the_end_is_not_reported():
    class HungError(Exception):
        def code(self):
            return type("Code", (), {"name": "CANCELLED"})

    seen = []
    hook = preflight.quiet_hang_up(seen.append)
    hook(type("Arguments", (), {"exc_value": HungError()}))
    assert seen == []
    arguments = type("Arguments", (), {"exc_value": ValueError("real")})
    hook(arguments)
    assert seen == [arguments]
