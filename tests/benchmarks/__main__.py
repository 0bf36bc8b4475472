"""Runs the benchmarks: `make bench`, or `python -m tests.benchmarks chunk embed` for some of them.

Each result is a ratio of two things measured in one run on one machine. Exit code 1 when one is not what it must be, or
a benchmark failed; the others are run all the same.
"""

from __future__ import annotations

import argparse
import contextlib
import io
import json
import sys
from collections.abc import Sequence
from pathlib import Path

from tests.benchmarks.running import read_records, run_all, updated, why_not_comparable

NAMES = (
    *(
        "chunk",
        "dump",
        "embed",
        "precision",
        "openvino",
        "answer",
        "decode",
        "narrow",
        "sequence",
        "lazy",
        "causal",
        "exact",
        "index",
        "ivf",
        "specs",
        "bm25",
        "search",
        "memory",
        "plan",
    ),
    *("finetune", "reader", "rows", "markup", "tables", "fuzz", "arguments"),
    *("flink", "gpu"),
)


def module_of(name: str) -> str:
    """The module of a benchmark: its `run(directory, sizes)`, and its `TOY` sizes for the tests."""
    return f"tests.benchmarks.bench_{name}"


def main(arguments: Sequence[str]) -> int:
    """Runs the named benchmarks, all by default, and prints a line for each result."""
    parser = argparse.ArgumentParser(prog="python -m tests.benchmarks", description=__doc__.splitlines()[0])
    parser.add_argument("names", nargs="*", metavar="NAME", help=f"of {', '.join(NAMES)}; all by default")
    where = parser.add_mutually_exclusive_group()
    where.add_argument("--output", type=Path, help="a file for the results, a JSON object a line")
    where.add_argument("--update", type=Path, help="such a file, in which the results of these benchmarks are replaced")
    flags = parser.parse_args(arguments)
    unknown = [name for name in flags.names if name not in NAMES]
    if unknown:
        print(f"unknown benchmark {unknown[0]!r}; there are {', '.join(NAMES)}", file=sys.stderr)
        return 2
    modules = [(name, module_of(name)) for name in flags.names or NAMES]
    if flags.update:
        if reason := why_not_comparable(read_records(flags.update)):
            print(reason, file=sys.stderr)
            return 2
        found = io.StringIO()
        missed = run_all(modules, found)
        records = updated(read_records(flags.update), [json.loads(row) for row in found.getvalue().splitlines()])
        ordered = sorted(records[1:], key=lambda record: NAMES.index(record["benchmark"]))
        lines = [json.dumps(record, ensure_ascii=False) + "\n" for record in [records[0], *ordered]]
        flags.update.write_text("".join(lines), encoding="utf-8")
        return 1 if missed else 0
    with flags.output.open("w", encoding="utf-8") if flags.output else contextlib.nullcontext() as output:
        return 1 if run_all(modules, output) else 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
