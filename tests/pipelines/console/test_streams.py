"""A closed stdout or stderr, and a reader that goes away: the work is done and the exit code is the job's own."""

import os
import subprocess
import sys

import pytest

from tests.pipelines.workspace import digests, fails, ragbeam, write_articles

WRITES_LATER = """import sys
from pipelines.console import streams
streams.keep()
for number in range(3):
    print(number, flush=True)
open({done!r}, "w").close()
sys.exit(7)
"""
PYTHON = f"{sys.executable} -m pipelines.cli"


@pytest.fixture(scope="module")
def articles(tmp_path_factory):
    path = tmp_path_factory.mktemp("articles") / "articles.jsonl"
    write_articles(path, count=6)
    return path


@pytest.mark.parametrize("closed", ["> >(true)", ">&-", "2>&-", ">&- 2>&- <&-", ">/dev/full 2>/dev/full"])
def test_what_nobody_reads_stops_nothing(articles, tmp_path, closed):
    chunk = f"{PYTHON} chunk --input {articles} --output"
    done = subprocess.run(
        ["bash", "-c", f"{chunk} {tmp_path}/out {closed}; echo $?; {chunk} /proc/none {closed}; echo $?"],
        capture_output=True,
        text=True,
        timeout=240,
    )
    assert done.stdout.split()[-1] in "12", done  # a job that fails still says so
    assert "0" in done.stdout.split()[:-1], done
    assert "Traceback" not in done.stderr
    assert "Exception ignored" not in done.stderr
    ragbeam("chunk", "--input", articles, "--output", tmp_path / "usual")
    assert digests(tmp_path / "out", "chunk") == digests(tmp_path / "usual", "chunk")


def test_a_reader_that_goes_away_does_not_stop_what_is_written_later(tmp_path):
    code = WRITES_LATER.format(done=str(tmp_path / "done"))
    read, write = os.pipe()
    os.close(read)
    done = subprocess.run([sys.executable, "-c", code], stdout=write, stderr=subprocess.PIPE, timeout=60)
    os.close(write)
    assert (done.returncode, done.stderr) == (7, b"")
    assert (tmp_path / "done").exists()


def test_an_output_in_memory_is_refused_by_the_command_alone(articles, tmp_path):
    url = "memory://chunked/passages"
    whole = [*PYTHON.split(), "chunk", "--input", str(articles), "--output", url]
    done = subprocess.run(whole, capture_output=True, text=True, timeout=240)
    assert done.returncode == 2
    assert done.stderr.count("\n") == 1
    assert "--output is gone when the command ends" in done.stderr
    ragbeam("chunk", "--input", articles, "--output", url)
    assert digests(url, "chunk")


@pytest.mark.parametrize("variable", ["STORAGE_EMULATOR_HOST", "AWS_ENDPOINT_URL"])
@pytest.mark.parametrize("answers", [False, True])
def test_an_object_store_that_does_not_answer_is_one_line(capsys, articles, monkeypatch, tmp_path, variable, answers):
    import socket
    import time

    from rag_ops.storage import store

    with socket.socket() as listening:
        listening.bind(("127.0.0.1", 0))
        if answers:  # to the call, and then says nothing
            listening.listen()
        monkeypatch.setenv(variable, f"http://127.0.0.1:{listening.getsockname()[1]}")
        for name in ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY"):
            monkeypatch.setenv(name, "none")
        monkeypatch.setattr(store, "ANSWER_SECS", 0.5)
        scheme, started = "gs" if variable.startswith("STORAGE") else "s3", time.monotonic()
        url = f"{scheme}://silent-{answers}/articles.jsonl".lower()
        code, line = fails(capsys, "chunk", "--input", url, "--output", tmp_path / "out")
        assert code == 1
        assert "the object store does not answer" in line
        assert time.monotonic() - started < 20
        assert not (tmp_path / "out").exists()
