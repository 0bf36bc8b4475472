"""Signals at moments of a whole run: one line, the exit code, no process left, and the same command finishes it."""

import contextlib
import itertools
import os
import re
import shutil
import signal
import time
from pathlib import Path

import pytest

from tests import warmed
from tests.end_to_end import kills

CODES = {signal.SIGINT: 130, signal.SIGTERM: 143, signal.SIGHUP: 129}
REPORT = re.compile(r"(  |\{'|(ragbeam: )?[\w.]+: ).*(?<! stopped)")  # what a run says of its stages
LIMIT_SECS = 60


@pytest.fixture(scope="module")
def command(tmp_path_factory):
    return kills.prepare(tmp_path_factory.mktemp("inputs"))


@pytest.fixture(scope="module")
def undisturbed(server, command, tmp_path_factory):
    """Seconds that a run takes from its first file on, by number of worker processes, and what it leaves."""
    directory = tmp_path_factory.mktemp("undisturbed")
    found = {}
    for workers, more in enumerate(kills.WORKERS):
        job = kills.Job(command, server, directory / f"log{workers}")
        found[workers] = kills.finish(job, directory / f"workspace{workers}", more)
    return found, kills.contents(directory / "workspace0")


def processes_of(group: int) -> list[str]:
    """The command lines of the processes of a group that have not ended."""
    found = []
    for path in Path("/proc").glob("[0-9]*/stat"):
        try:
            fields = path.read_text().rsplit(")", 1)[1].split()
            if int(fields[2]) == group and fields[0] != "Z":
                found.append((path.parent / "cmdline").read_text().replace("\0", " "))
        except (OSError, IndexError):
            continue
    return found


def end(process, log: Path, signals: list, to_group: bool, may_be_done: bool = False) -> bool:
    """Sends signals, with pauses between them, and checks how the process ends; whether it was not done before."""
    for one in signals:
        if isinstance(one, float):
            time.sleep(one)
        else:
            with contextlib.suppress(ProcessLookupError):  # the first was enough
                (os.killpg if to_group else os.kill)(process.pid, one)
    started = time.monotonic()
    while process.poll() is None and time.monotonic() < started + LIMIT_SECS:
        time.sleep(0.02)
    assert process.poll() is not None, "it hangs"
    lines = [line for line in log.read_text().splitlines() if not REPORT.fullmatch(line) or "error" in line]
    if may_be_done and process.poll() == 0:
        return False
    assert process.poll() == CODES[signals[0]], lines
    assert len(lines) == 1, lines
    assert re.fullmatch("ragbeam: (interrupted|terminated|hung up); the same command goes on .*", lines[0])
    ended = time.monotonic() + 0.2
    while processes_of(process.pid) and time.monotonic() < ended:
        time.sleep(0.01)
    assert not processes_of(process.pid)
    return True


ENDS = [
    ([signal.SIGINT], True, 0),
    ([signal.SIGINT], True, 1),
    ([signal.SIGINT, 0.2, signal.SIGINT], False, 1),
    ([signal.SIGINT, 0.2, signal.SIGINT], True, 0),
    ([signal.SIGTERM], False, 1),
    ([signal.SIGTERM], True, 0),
    ([signal.SIGHUP], True, 1),
]


@pytest.mark.parametrize(("signals", "to_group", "workers"), ENDS)
def test_a_signal_at_any_moment_ends_the_command_with_one_line_and_a_resume_finishes_it(
    server, command, undisturbed, tmp_path, signals, to_group, workers
):
    seconds, contents = undisturbed
    moment = (ENDS.index((signals, to_group, workers)) + 0.5) / len(ENDS) * seconds[workers]  # another in each test
    stopped = False
    while not stopped:
        shutil.rmtree(tmp_path / "workspace", ignore_errors=True)
        job = kills.Job(command, server, tmp_path / f"log-{moment}")
        process = job.start(tmp_path / "workspace", kills.WORKERS[workers])
        until = kills.wait_for_work(process, tmp_path / "workspace") + moment
        while time.monotonic() < until and process.poll() is None:
            time.sleep(0.01)
        stopped = process.poll() is None and end(process, job.log, signals, to_group, may_be_done=True)
        moment /= 2  # where this run was faster than the undisturbed one
    kills.finish(kills.Job(command, server, tmp_path / "log"), tmp_path / "workspace", [])
    assert kills.contents(tmp_path / "workspace") == contents


def test_other_commands_end_so_too(server, command, tmp_path_factory):
    directory = tmp_path_factory.mktemp("others")
    kills.finish(kills.Job(command, server, directory / "log"), directory / "workspace", [])
    given, workspace = dict(itertools.pairwise(command)), directory / "workspace"
    model, encoder, questions = given["--model"], given["--encoder"], given["--questions"]
    commands = [
        ["finetune", "--model", model, "--index", workspace / "index", "--train", questions, "--max_steps", 10_000],
        ["evaluate", "--answers", workspace / "answers", "--output", directory / "report.json"],
        ["verify", workspace],
        ["plan", "--num_passages", 1_000_000],
        ["compose", "--question_encoder", encoder, "--generator", Path(encoder).parent / "bart"],
        ["export", "--index", workspace / "index"],
    ]
    ended = []
    for number, arguments in enumerate(commands):
        output = ["--output", directory / f"out{number}"] if arguments[0] in ("finetune", "compose", "export") else []
        for moment in (0.1, 0.5, 2.0):
            log = directory / f"log{number}-{moment}"
            process = warmed.start(server, [str(argument) for argument in (*arguments, *output)], log)
            while not log.exists():
                time.sleep(0.01)
            until = time.monotonic() + moment
            while time.monotonic() < until and process.poll() is None:
                time.sleep(0.01)
            if process.poll() is None and end(process, log, [signal.SIGINT], True, may_be_done=True):
                ended.append(arguments[0])
            shutil.rmtree(directory / f"out{number}", ignore_errors=True)
    assert {"finetune", "compose"} <= set(ended)
