"""Runs the benchmarks: `make bench`, or `python -m tests.benchmarks chunk embed` for some of them.

Each is a ratio of two things measured in one run on one machine. Exit code 1 when one is not what it must be.
"""

from __future__ import annotations

import importlib
import logging
import os
import sys
import tempfile
from pathlib import Path

NAMES = (
    *("chunk", "embed", "answer", "decode", "index", "specs", "memory", "plan", "finetune", "reader", "rows", "fuzz"),
    *("flink", "gpu"),
)


def main(names: list[str]) -> int:
    """Runs the named benchmarks, all by default, and prints a line each."""
    from pipelines.cli import QUIET
    from tests.benchmarks.common import NotHereError

    os.environ.update(QUIET)
    logging.disable(logging.WARNING)
    unknown = [name for name in names if name not in NAMES]
    if unknown:
        print(f"unknown benchmark {unknown[0]!r}; there are {', '.join(NAMES)}", file=sys.stderr)
        return 2
    missed = 0
    for name in names or NAMES:
        with tempfile.TemporaryDirectory(prefix="ragbeam-bench-") as directory:
            try:
                results = importlib.import_module(f"tests.benchmarks.bench_{name}").run(Path(directory))
            except NotHereError as reason:
                print(f"skip {name}: {reason}", flush=True)
                continue
            for result in results:
                mark = "ok  " if result.ok else "MISS"
                print(
                    f"{mark} {result.name}: {result.ratio:.2f} (wanted {result.wanted}); {result.figures}", flush=True
                )
                missed += not result.ok
    return 1 if missed else 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
