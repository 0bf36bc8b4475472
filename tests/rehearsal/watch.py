"""Runs a command, kills it once in the middle, runs it again, and measures both: memory, disk, files and seconds."""

from __future__ import annotations

import contextlib
import dataclasses
import datetime
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

POLL_SECS = 0.5
DISK_SECS = 2.0  # between looks at the disk
ROOT = Path(__file__).parents[2]


@dataclasses.dataclass
class Watched:
    """What a command took.

    Attributes:
        sessions: those of processes besides the command's own that count as its workers: a cluster's.
        seconds: of its runs, in order: until it was killed, then until it ended.
        launcher, worker: peak resident bytes of the command's own process and of the largest of its others.
        disk, files: the most bytes and files in its directories at any time.
        load: the machine's load, on average over the looks.
    """

    sessions: set[int] = dataclasses.field(default_factory=set)
    seconds: list[float] = dataclasses.field(default_factory=list)
    launcher: int = 0
    worker: int = 0
    disk: int = 0
    files: int = 0
    load: float = 0.0
    _looks: int = 0

    def as_dict(self) -> dict[str, Any]:
        """The figures for `measured.jsonl`."""
        return {
            "seconds": [round(secs, 1) for secs in self.seconds],
            "launcher_bytes": self.launcher,
            "worker_bytes": self.worker,
            "peak_disk_bytes": self.disk,
            "peak_files": self.files,
            "load": round(self.load, 1),
        }

    def run(self, command: Sequence[object], places: Sequence[Path], killed: Callable[[], bool] | None = None) -> bool:
        """Runs `ragbeam COMMAND` to its end, or until `killed` says that it is to be killed with all its workers.

        Args:
            command: arguments of ragbeam.
            places: directories whose bytes and files count; the last is for temporary files.
            killed: asked all the time; None for never.

        Returns:
            Whether it was killed.

        Raises:
            RuntimeError: the command failed.
        """
        places[-1].mkdir(parents=True, exist_ok=True)
        log = places[-1].parent / "log.txt"
        environment = {**os.environ, "TMPDIR": str(places[-1]), "PYTHONPATH": str(ROOT)}
        started = looked = time.monotonic()
        with log.open("ab") as output:
            process = subprocess.Popen(
                [sys.executable, "-m", "pipelines.cli", *map(str, command)],
                stdout=output,
                stderr=output,
                env=environment,
                start_new_session=True,
            )
            while process.poll() is None:
                self._look_at_memory(process.pid)
                if killed and killed():
                    os.killpg(process.pid, signal.SIGKILL)
                    process.wait()
                    self.seconds.append(time.monotonic() - started)
                    return True
                if time.monotonic() - looked > DISK_SECS:
                    looked = time.monotonic()
                    self._look_at_disk(places)
                time.sleep(POLL_SECS)
        self._look_at_disk(places)
        self.seconds.append(time.monotonic() - started)
        if process.returncode:
            raise RuntimeError(f"{' '.join(map(str, command))} failed; the end of {log}: {log.read_text()[-1500:]}")
        return False

    def _look_at_memory(self, session: int) -> None:
        for entry in Path("/proc").iterdir():
            with contextlib.suppress(OSError, ValueError, StopIteration):  # it has ended
                if not entry.name.isdigit() or os.getsid(int(entry.name)) not in {session, *self.sessions}:
                    continue
                lines = (entry / "status").read_text().splitlines()
                peak = int(next(line for line in lines if line.startswith("VmHWM:")).split()[1]) * 1024
                if entry.name == str(session):
                    self.launcher = max(self.launcher, peak)
                else:
                    self.worker = max(self.worker, peak)

    def _look_at_disk(self, places: Sequence[Path]) -> None:
        sizes = [size for place in places for size in file_sizes(place)]
        self.disk, self.files = max(self.disk, sum(sizes)), max(self.files, len(sizes))
        self._looks += 1
        self.load += (os.getloadavg()[0] - self.load) / self._looks


def file_sizes(place: Path) -> list[int]:
    """The sizes of all files in a directory and below; of one that goes meanwhile none."""
    sizes = []
    for directory, _, names in os.walk(place):
        for name in names:
            with contextlib.suppress(OSError):
                sizes.append(os.stat(os.path.join(directory, name)).st_size)
    return sizes


def now() -> str:
    """The moment, for a record."""
    return datetime.datetime.now(datetime.timezone.utc).isoformat(timespec="seconds")
