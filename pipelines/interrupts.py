"""Ctrl-C and its like: the process ends with one line and an exit code, whatever it is doing.

The first signal raises KeyboardInterrupt in the main thread, so that what is open is put away. The main thread may be
in a library's code, wait for a thread that is, or lose the exception in code of Beam's: a thread ends the process when
that takes more than `GRACE_SECS`, and at once when a second signal comes.
"""

from __future__ import annotations

import atexit
import contextlib
import os
import select
import signal
import sys
import threading
from collections.abc import Callable
from typing import Any

GRACE_SECS = 8.0  # a job on another machine is cancelled meanwhile
EXIT_SECS = 2.0  # for servers and processes that libraries stop when the process ends
WORDS = {"SIGINT": "interrupted", "SIGTERM": "terminated", "SIGHUP": "hung up"}
GOES_ON = "the same command goes on where this one stopped"

_received: list[int] = []
_raised: list[int] = []
_children: list[Callable[[], None]] = []
Say = Callable[[str, int], Any]
_said = threading.Lock()  # held from the one line on


def received() -> int | None:
    """The signal that asked the process to end; None if there was none, or `begin` was not called."""
    return _received[0] if _received else None


def on_signal(stop: Callable[[], None]) -> None:
    """Has a function called, in another thread, as soon as a signal comes: it kills processes of the job."""
    if stop not in _children:
        _children.append(stop)


def begin(say: Say) -> None:
    """Takes over the signals that ask the process to end, apart from those that it was started to ignore.

    Args:
        say: function that writes the one line; it has the exit code too.
    """
    read, write = os.pipe()
    os.set_blocking(write, False)
    signal.set_wakeup_fd(write, warn_on_full_buffer=False)
    for number in _numbers():
        signal.signal(number, _raise)
    threading.Thread(target=_watch, args=(read, say), name="signals", daemon=True).start()


def report(say: Say) -> int:
    """Says that the process was asked to end, unless that was said; returns the exit code."""
    number = _received[0]
    code = 128 + number
    if _said.acquire(blocking=False):
        with contextlib.suppress(Exception):
            say(f"{WORDS[signal.Signals(number).name]}; {GOES_ON}", code)
    return code


def end(code: int, say: Say) -> int:
    """The exit code of a command that is done; ends the process here if a signal asked it to."""
    if code and received():
        _exit(report(say))
    for one in _numbers():
        signal.signal(one, signal.SIG_DFL)  # nothing is left to put away
    return code


def _numbers() -> list[int]:
    found = [getattr(signal, name) for name in WORDS if hasattr(signal, name)]
    return [number for number in found if signal.getsignal(number) != signal.SIG_IGN]


def _raise(number: int, frame: Any) -> None:
    _received.append(number)
    if not _raised:
        _raised.append(number)
        raise KeyboardInterrupt


def _watch(read: int, say: Say) -> None:
    """Waits for a signal, which reaches this thread even if the main one is in a library's code."""
    _received.append(os.read(read, 1)[0])
    threading.excepthook = lambda _: None  # what breaks now breaks for this reason
    sys.unraisablehook = lambda _: None
    for stop in _children:
        stop()
    select.select([read], [], [], GRACE_SECS)
    _exit(report(say))


def _exit(code: int) -> Any:
    """Ends the process without waiting for its threads, but with what libraries do at its end."""
    last = threading.Thread(target=atexit._run_exitfuncs, daemon=True)
    last.start()
    last.join(EXIT_SECS)
    with contextlib.suppress(OSError, ValueError):
        sys.stdout.flush()
    os._exit(code)
