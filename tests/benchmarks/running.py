"""Runs benchmarks one after the other, each in a process of its own, and keeps what they measured as JSON lines.

A process of its own has the memory, the threads and the heap of a fresh start, and one that dies takes no other along.
"""

from __future__ import annotations

import contextlib
import dataclasses
import datetime
import importlib
import importlib.metadata
import json
import logging
import multiprocessing
import os
import platform
import tempfile
import time
import traceback
from collections.abc import Iterable, Sequence
from concurrent.futures import ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from pathlib import Path
from typing import IO, Any

import pytest

from pipelines.console.command import QUIET
from tests.benchmarks.results import NotHereError

MEASURED_WITH = ("torch", "transformers", "faiss-cpu", "apache-beam", "numpy")


def run_all(modules: Iterable[tuple[str, str]], output: IO[str] | None = None) -> int:
    """Runs benchmarks and prints a line for each result.

    Args:
        modules: name of each benchmark, and the module whose `run(directory)` gives its results.
        output: what gets a JSON object a line: first the machine, then results, skipped benchmarks and failures.

    Returns:
        How many results are not what they must be, and benchmarks that failed.
    """

    def keep(record: dict[str, Any]) -> None:
        if output is not None:
            output.write(json.dumps(record, ensure_ascii=False) + "\n")
            output.flush()

    keep(machine())
    missed = 0
    for name, module in modules:
        started = time.perf_counter()
        records = run_apart(module)
        seconds = time.perf_counter() - started
        for record in records:
            keep({"benchmark": name, **record})
            print(line(name, record), flush=True)
            missed += "error" in record or not record.get("ok", True)
        keep({"benchmark": name, "seconds": round(seconds, 1), "date": datetime.date.today().isoformat()})
        print(f"     {name} took {seconds:.0f} s", flush=True)
    return missed


def line(name: str, record: dict[str, Any]) -> str:
    """What is printed of a record."""
    if "skipped" in record:
        return f"skip {name}: {record['skipped']}"
    if "error" in record:
        return f"FAIL {name}: {record['error']}\n{record['traceback']}".rstrip()
    mark = "ok  " if record["ok"] else "MISS"
    return f"{mark} {record['name']}: {record['ratio']:.2f} (wanted {record['wanted']}); {record['figures']}"


def run_apart(module: str) -> list[dict[str, Any]]:
    """The records of one benchmark, run in a process of its own."""
    with ProcessPoolExecutor(1, mp_context=multiprocessing.get_context("spawn")) as pool:
        try:
            return pool.submit(run_here, module).result()
        except BrokenProcessPool:
            return [{"error": "its process died, killed by a signal or for want of memory", "traceback": ""}]


def run_here(module: str) -> list[dict[str, Any]]:
    """The records of one benchmark: its results, why it is skipped, or how it failed."""
    os.environ.update(QUIET)
    logging.disable(logging.WARNING)
    with tempfile.TemporaryDirectory(prefix="ragbeam-bench-") as directory:
        try:
            return [dataclasses.asdict(result) for result in importlib.import_module(module).run(Path(directory))]
        except NotHereError as reason:
            return [{"skipped": str(reason)}]
        except (Exception, SystemExit, pytest.fail.Exception) as error:  # the last is what a cluster's start raises
            return [{"error": f"{type(error).__name__}: {error}", "traceback": traceback.format_exc()}]


def read_records(path: Path) -> list[dict[str, Any]]:
    """The records of a file that `run_all` wrote; empty if there is none."""
    return [json.loads(row) for row in path.read_text(encoding="utf-8").splitlines()] if path.exists() else []


def why_not_comparable(kept: Sequence[dict[str, Any]]) -> str | None:
    """Why results of this machine can't stand beside kept ones; None if they can."""
    here = machine()
    for name in ("machine", "cores", "python", "versions") if kept else ():
        if kept[0].get(name) != here[name]:
            return f"{name} was {kept[0].get(name)}, here it is {here[name]}: measure all anew, with --output"
    return None


def updated(kept: Sequence[dict[str, Any]], found: Sequence[dict[str, Any]]) -> list[dict[str, Any]]:
    """Kept records with those of the benchmarks in `found` replaced; the first says on which machine.

    >>> old = [{"machine": "m"}, {"benchmark": "a", "ratio": 1}, {"benchmark": "b", "ratio": 2}]
    >>> updated(old, [{"machine": "m"}, {"benchmark": "a", "ratio": 3}])
    [{'machine': 'm'}, {'benchmark': 'b', 'ratio': 2}, {'benchmark': 'a', 'ratio': 3}]
    """
    again = {record["benchmark"] for record in found[1:]}
    first = kept[0] if kept else found[0]
    return [first, *(record for record in kept[1:] if record["benchmark"] not in again), *found[1:]]


def machine() -> dict[str, Any]:
    """What the figures were measured on and with."""
    return {
        "machine": processor(),
        "cores": os.cpu_count(),
        "python": platform.python_version(),
        "versions": {name: importlib.metadata.version(name) for name in MEASURED_WITH},
        "date": datetime.date.today().isoformat(),
    }


def processor() -> str:
    """The processor's name, as Linux gives it."""
    with contextlib.suppress(OSError), open("/proc/cpuinfo", encoding="utf-8") as file:
        return next((row.split(":", 1)[1].strip() for row in file if row.startswith("model name")), platform.machine())
    return platform.machine()
