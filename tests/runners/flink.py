"""A real Flink session cluster on this machine: job manager, task managers, Beam's job server."""

from __future__ import annotations

import contextlib
import dataclasses
import json
import os
import shutil
import socket
import subprocess
import sys
import time
import urllib.request
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import pytest

from tests.runners import programs
from tests.runners.listening import free_port

JOB_SERVER_MAIN = "org.apache.beam.runners.flink.FlinkJobServerDriver"
JOB_MANAGER_MAIN = "org.apache.flink.runtime.entrypoint.StandaloneSessionClusterEntrypoint"
TASK_MANAGER_MAIN = "org.apache.flink.runtime.taskexecutor.TaskManagerRunner"
STARTUP_SECS = 90
OPENED = (
    "lang net io nio lang.reflect text time util util.concurrent util.concurrent.atomic util.concurrent.locks".split()
)
JAVA_FLAGS = [
    *("-XX:TieredStopAtLevel=1", "-XX:+UseSerialGC"),  # jobs of a minute: no time for the optimising compiler
    *(f"--add-opens=java.base/java.{name}=ALL-UNNAMED" for name in OPENED),
    "--add-opens=java.base/sun.nio.ch=ALL-UNNAMED",
    "--add-exports=java.base/sun.net.util=ALL-UNNAMED",
]
CONFIG = """\
jobmanager.rpc.address: localhost
jobmanager.rpc.port: {rpc}
jobmanager.bind-host: localhost
jobmanager.memory.process.size: 1200m
rest.address: localhost
rest.port: {rest}
rest.bind-address: localhost
taskmanager.host: localhost
taskmanager.bind-host: localhost
taskmanager.numberOfTaskSlots: 1
taskmanager.cpu.cores: 1.0
taskmanager.memory.framework.heap.size: 128m
taskmanager.memory.framework.off-heap.size: 128m
taskmanager.memory.task.heap.size: 256m
taskmanager.memory.task.off-heap.size: 0m
taskmanager.memory.managed.size: 256m
taskmanager.memory.network.min: 64m
taskmanager.memory.network.max: 64m
taskmanager.memory.jvm-metaspace.size: 256m
taskmanager.memory.jvm-overhead.min: 192m
taskmanager.memory.jvm-overhead.max: 192m
io.tmp.dirs: {folder}/tmp
blob.storage.directory: {folder}/blobs
parallelism.default: 2
classloader.resolve-order: parent-first
restart-strategy.type: fixed-delay
restart-strategy.fixed-delay.attempts: 10
restart-strategy.fixed-delay.delay: 2 s
heartbeat.interval: 1000
heartbeat.timeout: 6000
"""


@dataclasses.dataclass
class Cluster:
    """A running session cluster.

    Attributes:
        master: host and port of its REST interface, for --flink_master.
        job_server_jar: for --flink_job_server_jar.
        task_managers: its processes.
    """

    master: str
    job_server_jar: Path
    folder: Path
    jars: Path
    job_manager: subprocess.Popen
    task_managers: list[subprocess.Popen]

    def start_task_manager(self) -> None:
        """One more, with one slot."""
        self.task_managers.append(_java(self.jars, TASK_MANAGER_MAIN, self.folder, f"task-{len(self.task_managers)}"))

    @contextlib.contextmanager
    def job_server(self) -> Iterator[str]:
        """A job server for several jobs; gives its address, for --job_endpoint."""
        port = free_port()
        arguments = [f"--flink-master={self.master}", f"--job-port={port}", "--artifact-port=0", "--expansion-port=0"]
        command = ["java", *JAVA_FLAGS, "-cp", self.job_server_jar, JOB_SERVER_MAIN, *arguments]
        command.append(f"--artifacts-dir={self.folder}/artifacts")
        with (self.folder / "job-server.log").open("wb") as log:
            process = subprocess.Popen([str(part) for part in command], stdout=log, stderr=log)
        try:
            wait_until(lambda: listens(port), "the job server", self.folder)
            yield f"localhost:{port}"
        finally:
            process.kill()
            process.wait()

    def flags(self, endpoint: str, parallelism: int, pool: int | None = None) -> list[str]:
        """The flags of a job on it, by a job server: in LOOPBACK, or by the worker pool that listens on a port."""
        flags = ["--runner=FlinkRunner", f"--flink_master={self.master}", "--flink_version=1.19"]
        flags += [f"--parallelism={parallelism}", f"--job_endpoint={endpoint}"]
        external = ["--environment_type=EXTERNAL", f"--environment_config=localhost:{pool}"]
        return flags if pool is None else flags + external

    def slots(self) -> int:
        """Slots of the task managers that are connected."""
        return int(self._get("overview")["slots-total"])

    def sent(self) -> list[tuple[str, int]]:
        """The operators of all jobs so far, and the bytes that each has sent to others; those of a chain are one."""
        jobs = [self._get(f"jobs/{job['jid']}") for job in self._get("jobs/overview")["jobs"]]
        operators = [operator for job in jobs for operator in job["vertices"]]
        assert all(operator["metrics"]["write-bytes-complete"] for operator in operators)
        return [(operator["name"], operator["metrics"]["write-bytes"]) for operator in operators]

    def _get(self, path: str) -> Any:
        with urllib.request.urlopen(f"http://{self.master}/{path}", timeout=5) as reply:
            return json.load(reply)

    def wait_for_slots(self, count: int) -> None:
        """Waits until that many are there."""
        wait_until(lambda: self.slots() >= count, f"{count} Flink slots", self.folder)

    def stop(self) -> None:
        """Ends all processes."""
        for process in [*self.task_managers, self.job_manager]:
            process.kill()
            process.wait()


@contextlib.contextmanager
def cluster(folder: Path, task_managers: int = 2) -> Iterator[Cluster]:
    """Starts a cluster; skips the test where Java, Maven or the packages are not to be had."""
    if shutil.which("java") is None:
        pytest.skip("no java here: Flink needs it")
    jars, job_server = programs.flink_jars(), programs.job_server()
    rest = free_port()
    (folder / "tmp").mkdir(parents=True)
    (folder / "config.yaml").write_text(CONFIG.format(rpc=free_port(), rest=rest, folder=folder))
    manager = _java(jars, JOB_MANAGER_MAIN, folder, "jobmanager", "--executionMode", "cluster")
    running = Cluster(f"localhost:{rest}", job_server, folder, jars, manager, [])
    try:
        for _ in range(task_managers):
            running.start_task_manager()
        running.wait_for_slots(task_managers)
        yield running
    finally:
        running.stop()


def start_cold(arguments: Sequence[str], log: Path) -> subprocess.Popen:
    """Starts `ragbeam ARGUMENTS` as a process that imports everything anew, in a process group of its own."""
    with log.open("wb") as file:
        command = [sys.executable, "-m", "pipelines.cli", *arguments]
        return subprocess.Popen(command, stdout=file, stderr=file, start_new_session=True)


@contextlib.contextmanager
def worker_pool(folder: Path, start: Callable[[Sequence[str], Path], Any] = start_cold) -> Iterator[int]:
    """`ragbeam workers`, as its own process, which `start` starts; gives the port."""
    port = free_port()
    process = start(["workers", "--port", str(port)], folder / "worker-pool.log")
    try:
        wait_until(lambda: listens(port), "the worker pool", folder)
        yield port
    finally:
        with contextlib.suppress(ProcessLookupError):
            os.killpg(process.pid, 9)
        process.wait()


def _java(jars: Path, main: str, folder: Path, name: str, *arguments: str) -> subprocess.Popen:
    # Beam's jars too, where a parent-first class loader finds them: its classes are loaded once, not for each job.
    classes = f"{jars}/*:{programs.job_server()}"
    command = ["java", "-Xmx400m", *JAVA_FLAGS, "-cp", classes, main, "--configDir", str(folder), *arguments]
    with (folder / f"{name}.log").open("wb") as log:
        return subprocess.Popen(command, stdout=log, stderr=log)


def listens(port: int) -> bool:
    """Whether something accepts connections on a port of this machine."""
    with socket.socket() as probe:
        probe.settimeout(1)
        return probe.connect_ex(("localhost", port)) == 0


def wait_until(ready: Callable[[], bool], what: str, folder: Path) -> None:
    """Waits for `ready`, and fails the test with the logs in `folder` where that takes too long."""
    end = time.monotonic() + STARTUP_SECS
    while time.monotonic() < end:
        with contextlib.suppress(OSError):
            if ready():
                return
        time.sleep(0.1)
    logs = "\n".join(path.read_text(errors="replace")[-2000:] for path in sorted(folder.glob("*.log")))
    pytest.fail(f"{what} did not come up within {STARTUP_SECS} s\n{logs}")
