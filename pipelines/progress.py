"""Progress of a local run: a bar with a rate on a terminal, plain lines otherwise.

The local runner tells its metrics only at the end, so the bar looks at what every runner leaves behind: the records of
finished shards; rows within a shard are added when the worker lives in this process.
"""

from __future__ import annotations

import sys
import threading
import time
from collections.abc import Callable

from tqdm import tqdm

POLL_SECS = 0.5
PLAIN_LINE_SECS = 10.0  # without a terminal: a line at most this often


class Progress:
    """Shows how far a stage is while the block runs.

    Args:
        label: the stage, as the user named it.
        total: rows (or files) to do.
        done: tells how many are done; called from another thread, often.
        unit: what is counted, plural.
    """

    def __init__(self, label: str, total: int | None, done: Callable[[], int], unit: str):
        self._label, self._total, self._done, self._unit = label, total, done, unit
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._watch, name=f"progress-{label}", daemon=True)

    def __enter__(self) -> Progress:
        self._start = time.monotonic()
        self._bar = (
            tqdm(total=self._total, desc=self._label, unit=f" {self._unit}", dynamic_ncols=True)
            if sys.stderr.isatty()
            else None
        )
        self._thread.start()
        return self

    def __exit__(self, *exc_info: object) -> None:
        self._stop.set()
        self._thread.join()
        if self._bar is not None:
            if exc_info[0] is None and self._total is not None:
                self._bar.update(self._total - self._bar.n)
            self._bar.close()

    def _watch(self) -> None:
        next_line = self._start + PLAIN_LINE_SECS
        while not self._stop.wait(POLL_SECS):
            done = self._done()
            if self._bar is not None:
                self._bar.update(max(0, done - self._bar.n))
            elif time.monotonic() >= next_line:
                next_line += PLAIN_LINE_SECS
                self._print_line(done)

    def _print_line(self, done: int) -> None:
        seconds = time.monotonic() - self._start
        total = f" of {self._total:,}" if self._total is not None else ""
        line = f"{self._label}: {done:,}{total} {self._unit}, {done / seconds:,.1f}/s"
        if self._total and done:
            line += f", {seconds * (self._total - done) / done:,.0f} s left"
        sys.stderr.write(line + "\n")
