"""Locks end with their process; temporary files of killed processes go, those of living ones stay."""

import subprocess
import sys

import pytest

from rag_ops.errors import JobError
from rag_ops.storage import locks

HOLD_FILE = """import sys, time
from rag_ops.storage.locks import temporary_file
with temporary_file(sys.argv[1] + ".1.tmp", sys.argv[1]) as file:
    file.write(b"one")
    file.flush()
    print(flush=True)
    time.sleep(60)
"""


def test_a_directory_is_held_by_one_and_goes_where_it_stays_empty(tmp_path):
    path = str(tmp_path / "a")
    with locks.directory_held(path):
        with pytest.raises(JobError, match="another job is writing"), locks.directory_held(path):
            pass
        assert (tmp_path / "a").exists()
    assert not (tmp_path / "a").exists()
    with locks.directory_held(path):
        (tmp_path / "a" / "file").touch()
    with locks.directory_held(path):
        pass
    assert (tmp_path / "a" / "file").exists()


def test_a_directory_below_a_file_is_one_error(tmp_path):
    (tmp_path / "file").touch()
    with pytest.raises(JobError, match="cannot write"), locks.directory_held(str(tmp_path / "file" / "x")):
        pass


def test_what_a_killed_process_left_goes_and_what_a_living_one_writes_stays(tmp_path):
    final = tmp_path / "x.faiss"
    process = subprocess.Popen([sys.executable, "-c", HOLD_FILE, str(final)], stdout=subprocess.PIPE)
    assert process.stdout is not None
    process.stdout.readline()
    for content in (b"two", b"three"):
        locks.remove_stale(f"{final}.")
        with locks.temporary_file(f"{final}.2.tmp", str(final)) as file:
            file.write(content)
        assert final.read_bytes() == content
        left = [path.name for path in tmp_path.iterdir() if path != final]
        assert left == (["x.faiss.1.tmp"] if content == b"two" else [])
        process.kill()
        process.wait()


def test_a_failed_write_leaves_nothing(tmp_path):
    def fail():
        with locks.temporary_file(str(tmp_path / "a.1.tmp"), str(tmp_path / "a")) as file:
            file.write(b"half")
            raise RuntimeError("boom")

    with pytest.raises(RuntimeError):
        fail()
    assert list(tmp_path.iterdir()) == []


def test_where_nothing_can_be_held_nothing_is_taken_for_stale(tmp_path, monkeypatch):
    def unsupported(*_: object) -> None:
        raise OSError(95, "Operation not supported")

    monkeypatch.setattr(locks.fcntl, "flock", unsupported)
    (tmp_path / "a.1.tmp").write_bytes(b"another job's")
    locks.remove_stale(str(tmp_path / "a."))
    with locks.directory_held(str(tmp_path)), locks.directory_held(str(tmp_path)):
        assert (tmp_path / "a.1.tmp").exists()
