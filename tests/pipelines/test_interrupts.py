"""Signals, where the main thread does not end by itself: a grace period, a second signal, signals to be ignored."""

import signal
import subprocess
import sys
import time

import pytest

PROGRAM = """
import os, sys, time
from pipelines import interrupts
interrupts.GRACE_SECS = float(sys.argv[1])
interrupts.on_signal(lambda: os.write(1, b"children are killed\\n"))
interrupts.begin(lambda line, code: sys.stderr.write(f"{line} {code}\\n"))
said, ends = False, time.monotonic() + 30
while time.monotonic() < ends:  # what ends the main thread is lost in somebody's code
    try:
        said = said or bool(os.write(1, b"ready\\n"))
        time.sleep(1)
    except KeyboardInterrupt:
        os.write(1, b"caught\\n")
"""


def start(grace: float, before=None) -> subprocess.Popen:
    process = subprocess.Popen(
        [sys.executable, "-c", PROGRAM, str(grace)],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        preexec_fn=before,
    )
    assert process.stdout.readline() == "ready\n"
    return process


@pytest.mark.parametrize(
    ("number", "code", "word"),
    [(signal.SIGINT, 130, "interrupted"), (signal.SIGTERM, 143, "terminated"), (signal.SIGHUP, 129, "hung up")],
)
def test_a_process_that_goes_on_is_ended_after_the_grace_period(number, code, word):
    process, started = start(1.0), time.monotonic()
    process.send_signal(number)
    said, line = process.communicate(timeout=20)
    assert process.returncode == code
    assert line == f"{word}; the same command goes on where this one stopped {code}\n"
    assert set(said.splitlines()) - {"ready"} == {"caught", "children are killed"}
    assert time.monotonic() - started > 1


def test_a_second_signal_ends_it_at_once():
    process = start(60.0)
    process.send_signal(signal.SIGINT)
    time.sleep(0.2)
    process.send_signal(signal.SIGINT)
    _, line = process.communicate(timeout=20)
    assert process.returncode == 130
    assert line.count("\n") == 1


def test_what_it_was_started_to_ignore_stays_ignored():
    process = start(60.0, lambda: signal.signal(signal.SIGHUP, signal.SIG_IGN))  # nohup does this
    process.send_signal(signal.SIGHUP)
    time.sleep(0.5)
    assert process.poll() is None
    process.send_signal(signal.SIGTERM)
    time.sleep(0.2)
    process.send_signal(signal.SIGTERM)
    process.communicate(timeout=70)
    assert process.returncode == 143
