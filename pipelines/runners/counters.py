"""Counters of every transform (rows in and out, bytes, milliseconds), as Beam metrics and for run.json."""

from __future__ import annotations

import contextlib
import threading
import time
from collections import Counter
from collections.abc import Iterator
from typing import Any

from apache_beam.metrics import Metrics

NAMESPACE = "ragbeam."

_live: Counter[str] = Counter()  # rows done in this process, by step; only a local run's launcher shares it
_late: dict[str, Counter[str]] = {}  # counts that wait for a bundle, by step
_live_lock = threading.Lock()


class StepCounters:
    """The counters of one labelled step.

    >>> counters = StepCounters("ReadSplits")
    >>> with counters.timed():
    ...     counters.add(rows_in=3, rows_out=2, bytes=100)
    """

    def __init__(self, step: str):
        self.step = step

    def add(self, **counts: int) -> None:
        """Adds to the named counters: rows_in, rows_out, bytes, or a step's own."""
        with _live_lock:
            late = _late.pop(self.step, Counter())
        for name, count in [*counts.items(), *late.items()]:
            Metrics.counter(NAMESPACE + self.step, name).inc(count)

    def add_later(self, **counts: int) -> None:
        """Adds to the named counters with the step's next `add` in this process; Beam counts nothing in a setup."""
        with _live_lock:
            _late.setdefault(self.step, Counter()).update(counts)

    @contextlib.contextmanager
    def timed(self) -> Iterator[None]:
        """Adds the wall time of the block to the counter `millis`."""
        start = time.perf_counter()
        try:
            yield
        finally:
            self.add(millis=round(1000 * (time.perf_counter() - start)))

    def tick(self, rows: int) -> None:
        """Reports to the progress display, if it is in this process, that `rows` more are done."""
        with _live_lock:
            _live[self.step] += rows


def live_rows(step: str) -> int:
    """Rows that `tick` has counted for `step` in this process."""
    with _live_lock:
        return _live[step]


def reset_live() -> None:
    """Forgets the live counts, at the start of a pipeline."""
    with _live_lock:
        _live.clear()
        _late.clear()


def summarise(result: Any) -> dict[str, dict[str, float]]:
    """Collects our counters of a finished pipeline: step to counter to value, with rows per second if time was taken.

    A runner that keeps no metrics gives an empty table.
    """
    steps: dict[str, dict[str, float]] = {}
    try:
        counters = result.metrics().query()["counters"]
    except (AttributeError, NotImplementedError):
        return {}
    for counter in counters:
        name = counter.key.metric
        if name.namespace.startswith(NAMESPACE):
            value = counter.committed if counter.committed is not None else counter.attempted
            step = steps.setdefault(name.namespace[len(NAMESPACE) :], {})
            step[name.name] = step.get(name.name, 0) + value
    for step in steps.values():
        rows, millis = step.get("rows_out", step.get("rows_in", 0)), step.get("millis", 0)
        if millis:
            step["rows_per_sec"] = round(1000 * rows / millis, 1)
    return dict(sorted(steps.items()))
