"""Progress of a local run: a bar with a rate on a terminal, plain lines or JSON events otherwise.

The local runner has its metrics only at the end, so the bar looks at what every runner leaves behind: the records of
finished shards; rows within a shard are added when the worker lives in this process.
"""

from __future__ import annotations

import sys
import threading
import time
from collections.abc import Callable

from tqdm import tqdm

from pipelines.console import events
from rag_ops.storage import store
from rag_ops.storage.stages import RECORD_SUFFIX
from schemas.layout import QUANTISED, TRAINED

POLL_SECS = 0.5
PLAIN_LINE_SECS = 10.0  # without a terminal: a line at most this often


class Progress:
    """Shows how far a stage is while the block runs.

    Args:
        total: rows (or files) to do.
        done: function that returns how many are done; called from another thread, often.
        unit: what is counted, plural.
        shards: function that returns how many shards are complete, and of how many.
    """

    def __init__(
        self,
        label: str,
        total: int | None,
        done: Callable[[], int],
        unit: str,
        shards: Callable[[], tuple[int, int]] | None = None,
    ):
        self._label, self._total, self._done, self._unit, self._shards = label, total, done, unit, shards
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._watch, name=f"progress-{label}", daemon=True)

    def __enter__(self) -> Progress:
        self._start = time.monotonic()
        events.stage(self._label)
        events.event("stage_started", self._unit, {"total": self._total} if self._total is not None else None)
        self._bar = (
            tqdm(total=self._total, desc=self._label, unit=f" {self._unit}", dynamic_ncols=True)
            if sys.stderr.isatty() and not events.is_json()
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
            if time.monotonic() < next_line:
                continue
            next_line += PLAIN_LINE_SECS
            if self._bar is not None:
                self._bar.set_postfix_str(self._shards_line(), refresh=False)
            else:
                self._print_line(done)

    def _print_line(self, done: int) -> None:
        seconds = time.monotonic() - self._start
        total = f" of {self._total:,}" if self._total is not None else ""
        line = f"{self._label}: {done:,}{total} {self._unit}, {done / seconds:,.1f}/s"
        left = seconds * (self._total - done) / done if self._total and done else None
        if left is not None:
            line += f", {left:,.0f} s left"
        if shards := self._shards_line():
            line += f", {shards}"
        if not events.is_json():
            sys.stderr.write(line + "\n")
            return
        finished, wanted = self._shards() if self._shards else (None, None)
        counts = {
            "done": done,
            "total": self._total,
            "per_sec": round(done / seconds, 1),
            "seconds": round(seconds, 1),
            "seconds_left": None if left is None else round(left),
            "shards": finished,
            "shards_total": wanted,
        }
        events.event("progress", line, {name: count for name, count in counts.items() if count is not None})

    def _shards_line(self) -> str:
        if self._shards is None:
            return ""
        finished, wanted = self._shards()
        return f"{finished:,} of {wanted:,} shards"


def shards_of(url: str, total: int) -> Callable[[], tuple[int, int]]:
    """A function that counts the complete shards in a stage's unfinished output directory, by one listing."""

    def count() -> tuple[int, int]:
        names = store.names_in(store.join(url, store.INCOMPLETE))
        finished = {name.removesuffix(RECORD_SUFFIX) for name in names if name.endswith(RECORD_SUFFIX)}
        done = len(finished - {TRAINED, QUANTISED})
        return min(done, total), total

    return count
