"""Commands and Beam's workers as forks of a process that has imported torch and Beam: tests need many of each.

A fork begins after the imports, which take 5 s of a processor each time, and is otherwise a process of its own: a
command leads a process group, its workers join it, and SIGKILL to the group ends all of them at once.
"""

from __future__ import annotations

import contextlib
import errno
import fcntl
import gc
import importlib
import json
import os
import select
import signal
import socket
import subprocess
import sys
import tempfile
import threading
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import fsspec

from tests import quick_beam
from tests.conftest import ENVIRONMENT

IMPORTED = (
    *("torch", "faiss", "transformers", "transformers.models.rag", "apache_beam.runners.worker.sdk_worker_main"),
    *("apache_beam.runners.portability.fn_api_runner.worker_handlers", "pipelines.cli", "pipelines.answer.command"),
    *(
        "pipelines.chunk.job",
        "pipelines.embed.job",
        "pipelines.index.job",
        "pipelines.index.bm25_job",
        "pipelines.answer.job",
        "pipelines.runners.worker_pool",
        "rag_ops.interop.model_card",
    ),
)
CLASSES = "AutoTokenizer BertModel BartForConditionalGeneration DPRQuestionEncoder RagTokenForGeneration".split()
WORKER = "apache_beam.runners.worker.sdk_worker_main"
OWN_THREADS = {Path("/proc/self/comm").read_text().strip(), "jemalloc_bg_thd"}  # the latter stops before a fork
START_SECS = 300


class Forked:
    """A fork, as far as `subprocess.Popen` is asked of here: it is the server's child, which reports how it ended."""

    def __init__(self, address: str, request: Mapping[str, Any]):
        self._socket = socket.socket(socket.AF_UNIX)
        self._socket.connect(address)
        self._lines = self._socket.makefile("rw", encoding="utf-8")
        self._lines.write(json.dumps(request) + "\n")
        self._lines.flush()
        self._lock = threading.Lock()
        self.pid = int(self._lines.readline())
        self.returncode: int | None = None

    def wait(self, timeout: float | None = None) -> int:
        """Waits for its end; gives the exit code, or the negative number of the signal.

        Raises:
            subprocess.TimeoutExpired: it goes on after so many seconds.
        """
        if self.returncode is None and not select.select([self._socket], [], [], timeout)[0]:
            raise subprocess.TimeoutExpired(f"the fork {self.pid}", timeout or 0)
        with self._lock:  # a pool waits for a worker in one thread, and stops it in another
            if self.returncode is None:
                self.returncode = int(self._lines.readline())
        return self.returncode

    def poll(self) -> int | None:
        """The same where it has ended, else None."""
        with contextlib.suppress(subprocess.TimeoutExpired):
            return self.wait(0)
        return None

    def terminate(self) -> None:
        """Asks it alone to end."""
        os.kill(self.pid, signal.SIGTERM)

    def kill(self) -> None:
        """Kills it alone."""
        os.kill(self.pid, signal.SIGKILL)


@contextlib.contextmanager
def server() -> Iterator[str]:
    """Starts the server, which imports everything; gives its address, for `start`."""
    with tempfile.TemporaryDirectory() as directory:
        address = os.path.join(directory, "socket")
        command = [sys.executable, "-m", "tests.warmed", address]
        process = subprocess.Popen(command, stdout=subprocess.PIPE, env={**ENVIRONMENT, **os.environ})
        try:
            assert process.stdout is not None
            ready = select.select([process.stdout], [], [], START_SECS)[0] and process.stdout.readline()
            assert ready == b"ready\n", "the server did not start"
            yield address
        finally:
            process.kill()
            process.communicate()


def start(
    address: str, arguments: Sequence[object], log: Path, locks: bool = True, errors: Path | None = None
) -> Forked:
    """Starts `ragbeam ARGUMENTS` in a process group of its own, with what it prints in a file.

    Args:
        address: address of the server.
        arguments: the command's.
        log: file for what it prints.
        locks: whether its file system has locks.
        errors: file for what it prints on stderr, if that is another.
    """
    request = {"arguments": [*map(str, arguments)], "locks": locks, "errors": str(errors or log)}
    return Forked(address, request | surroundings(log))


def surroundings(log: object) -> dict[str, Any]:
    """What a fork takes over from the process that asks for it."""
    return {"log": str(log), "directory": os.getcwd(), "environment": dict(os.environ)}


def workers_of(command: int) -> list[int]:
    """The process numbers of the workers of a command that was started here: in its group, and forks as it is."""
    parents = {}
    for path in Path("/proc").glob("[0-9]*/stat"):
        with contextlib.suppress(OSError):
            state, parent, group = path.read_text().rsplit(")", 1)[1].split()[:3]
            if int(group) == command and state != "Z":
                parents[int(path.parent.name)] = int(parent)
    return sorted(pid for pid, parent in parents.items() if pid != command and parent == parents.get(command))


def serve(address: str) -> None:
    """Forks for each request, and reports the end of each fork, until it is killed."""
    for name in IMPORTED:
        importlib.import_module(name)
    for name in CLASSES:
        getattr(sys.modules["transformers"], name)
    quick_beam.install()
    gc.collect()
    gc.freeze()  # what all forks share is not copied for being looked at
    others = {path.read_text().strip() for path in Path("/proc/self/task").glob("*/comm")} - OWN_THREADS
    assert not others, f"a fork has one thread, so that locks which others hold stay held: {others}"
    listening = socket.socket(socket.AF_UNIX)
    listening.bind(address)
    listening.listen()
    sys.stdout.write("ready\n")
    sys.stdout.flush()
    running: dict[int, socket.socket] = {}
    ends: dict[int, int] = {}  # by the descriptor that tells the end of a process, which that is
    while True:
        ready = select.select([listening, *ends], [], [])[0]
        for descriptor in ends.keys() & {*ready}:
            pid = ends.pop(descriptor)
            os.close(descriptor)
            connection = running.pop(pid)
            report(connection, os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]))
            connection.close()
        if listening in ready:
            connection = listening.accept()[0]
            request = json.loads(connection.makefile("r", encoding="utf-8").readline())
            if request.get("group", 0) not in (0, *running):
                connection.close()  # the command was killed meanwhile
                continue
            pid = os.fork()
            if pid == 0:
                for other in (listening, connection, *running.values()):
                    other.close()
                for descriptor in ends:
                    os.close(descriptor)
                become(address, request)
            with contextlib.suppress(OSError):
                os.setpgid(pid, request.get("group", 0))
            running[pid], ends[os.pidfd_open(pid)] = connection, pid
            report(connection, pid)


def report(connection: socket.socket, number: int) -> None:
    """A line with a number; who asked may be dead."""
    with contextlib.suppress(OSError):
        connection.sendall(f"{number}\n".encode())


def become(address: str, request: dict[str, Any]) -> None:
    """What a fork does, to its end."""
    code = 1
    try:
        os.setpgid(0, request.get("group", 0))
        os.chdir(request["directory"])
        os.environ.clear()
        os.environ.update(request["environment"])
        fsspec.config.set_conf_env(fsspec.config.conf)  # which it did when it was imported
        tempfile.tempdir = None
        if "arguments" in request:
            fork_workers(address, request["log"], os.getpid())
            fork_pools_workers(address, request["log"], os.getpid())
            if not request["locks"]:
                fcntl.flock = no_locks
            sys.argv = ["ragbeam", *request["arguments"]]
            print_to(request)
            code = sys.modules["pipelines.cli"].main()
        elif "of_pool" in request:
            print_to(request)
            sys.modules["pipelines.runners.worker_pool"].work(*request["of_pool"])
            code = 0
        else:
            for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):  # as `local_workers.DEAF` has it
                signal.signal(number, signal.SIG_IGN)
            sys.argv = [WORKER]
            print_to(request)
            sys.modules[WORKER].main(sys.argv)
            code = 0
    except BaseException:
        sys.excepthook(*sys.exc_info())
    finally:
        with contextlib.suppress(OSError):
            sys.stdout.flush()
            sys.stderr.flush()
        os._exit(code)


def print_to(request: dict[str, Any]) -> None:
    """Opens the files for what a fork prints, last of all: who finds them knows that its work begins."""
    for number, name in ((1, "log"), (2, "errors")):
        os.dup2(os.open(request.get(name, request["log"]), os.O_WRONLY | os.O_CREAT | os.O_APPEND), number)


def no_locks(descriptor: int, operation: int) -> None:
    """What flock does on some network file systems."""
    raise OSError(errno.EOPNOTSUPP, os.strerror(errno.EOPNOTSUPP))


def fork_workers(address: str, log: str, group: int = 0) -> None:
    """Has Beam's local runner, in this process, take its workers from the server too.

    Args:
        address: address of the server.
        log: file for what the workers print.
        group: the process group that they join, led by a fork of the server; 0 for one of their own each.
    """
    from apache_beam.runners.portability import local_job_service

    def popen(command: str, shell: bool, env: Mapping[str, str]) -> Forked:
        assert shell
        assert command.endswith(f"-m {WORKER}"), command
        return Forked(address, {**surroundings(log), "group": group, "environment": dict(env)})

    local_job_service.subprocess = SimpleNamespace(Popen=popen)


def fork_pools_workers(address: str, log: str, group: int) -> None:
    """Has `ragbeam workers`, in this process, take its workers from the server too; the same arguments."""
    from pipelines.runners import worker_pool

    def popen(command: Sequence[str], stdin: int) -> Forked:
        assert [*command[:3]] == [sys.executable, "-c", worker_pool.WORKER], command
        return Forked(address, {**surroundings(log), "group": group, "of_pool": [*command[3:]]})

    worker_pool.subprocess = SimpleNamespace(Popen=popen, DEVNULL=subprocess.DEVNULL)  # type: ignore[attr-defined]


if __name__ == "__main__":
    serve(sys.argv[1])
