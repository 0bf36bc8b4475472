"""Writes README's table of speed from what `make bench` measured: `make bench-table`."""

from __future__ import annotations

import sys
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from tests.benchmarks.running import read_records

MEASURED = Path(__file__).with_name("measured.jsonl")
README = Path(__file__).parents[2] / "README.md"
RULE = "|---|---|---|---|"
BEGIN, END = "<!-- Written by make bench-table. -->", "<!-- As far as here. -->"
SHOWN = (  # the rest is in the file
    *("chunk", "dump", "embed", "precision", "openvino", "answer", "decode", "narrow", "sequence", "lazy"),
    *("index", "bm25", "flink", "gpu"),
)
IN_THE_FILE_ALONE = ("peak memory of", "index of words, peak", "scores of words", "recall@20 of rescored", "dump: peak")


class TableError(Exception):
    """There is no whole table to be written."""


def render(records: Iterable[dict[str, Any]]) -> str:
    """The machine, and a table row for each result, in Markdown.

    Args:
        records: the lines of a file that `running.run_all` wrote.

    Raises:
        TableError: no machine stands first, a benchmark that is shown failed, or there is no result.
    """
    machine, *rest = records
    if "machine" not in machine:
        raise TableError("the first line does not name the machine: make bench writes the file")
    rows = []
    for record in rest:
        if record["benchmark"] not in SHOWN:
            continue
        if "error" in record:
            raise TableError(f"the benchmark {record['benchmark']} failed: {record['error']}")
        if "ratio" in record and not record["name"].startswith(IN_THE_FILE_ALONE):
            cells = (record["name"], f"{record['ratio']:.2f}", record["wanted"], record["figures"])
            rows.append("| " + " | ".join(cell.replace("|", "\\|") for cell in cells) + " |")
    if not rows:
        raise TableError("there is no result to show")
    versions = ", ".join(f"{name} {version}" for name, version in machine["versions"].items())
    later: dict[str, list[str]] = {}  # benchmarks that were run again, by day
    for record in rest:
        if record.get("date", machine["date"]) != machine["date"] and record["benchmark"] in SHOWN:
            later.setdefault(record["date"], []).append(record["benchmark"])
    again = "; ".join(f"{', '.join(names)}: {date}" for date, names in sorted(later.items()))
    again = f" ({again})" if again else ""
    where = f"Measured on {machine['date']}{again}, on {machine['cores']} cores of {machine['machine']}, with Python"
    return "\n".join([f"{where} {machine['python']}, {versions}:", "", "| | ratio | wanted | figures |", RULE, *rows])


def replaced(text: str, table: str) -> str:
    """README's text with the table between its two marks.

    Raises:
        TableError: the marks are not there, once each and in order.
    """
    if text.count(BEGIN) != 1 or text.count(END) != 1 or text.index(BEGIN) > text.index(END):
        raise TableError(f"README must have {BEGIN!r} and {END!r} once each, in this order")
    before, after = text[: text.index(BEGIN)], text[text.index(END) :]
    return f"{before}{BEGIN}\n{table}\n{after}"


def read(path: Path) -> list[dict[str, Any]]:
    """The records of a file.

    Raises:
        TableError: it is not there.
    """
    if not path.exists():
        raise TableError(f"{path} is not there: make bench writes it")
    return read_records(path)


def main() -> int:
    """Rewrites README's table; exit code 1 where that cannot be done."""
    try:
        text = replaced(README.read_text(encoding="utf-8"), render(read(MEASURED)))
    except TableError as error:
        print(error, file=sys.stderr)
        return 1
    README.write_text(text, encoding="utf-8")
    return 0


if __name__ == "__main__":
    sys.exit(main())
