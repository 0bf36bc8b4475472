"""diff: which answers changed between two runs, and which passage did it. No pipeline."""

from __future__ import annotations

import contextlib
import csv
import dataclasses
import io
import json
from collections import Counter
from collections.abc import Callable, Iterator, Mapping
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from pipelines.console.command import Command, say
from pipelines.console.options import Options
from pipelines.console.progress import Progress
from rag_ops.errors import InputError, printable
from rag_ops.evaluation import differences
from rag_ops.evaluation.differences import CHANGED, ERROR_A, ERROR_B, ERRORS, ONLY_A, ONLY_B, SAME, SCHEMA
from rag_ops.evaluation.figures import AnswerSet
from rag_ops.settings import setting
from rag_ops.storage import store

SUFFIXES = (".parquet", ".jsonl", ".csv")
BATCH_ROWS = 500
SHOWN_CHARS = 100  # of a text on the terminal


@dataclasses.dataclass(frozen=True, kw_only=True)
class DiffOptions(Options):
    """diff: answers directories `a` and `b` to lines, and rows in `output`."""

    a: str = setting(..., "output of ragbeam answer", positional=True, metavar="DIR")
    b: str = setting(..., "another, over the same questions", positional=True, metavar="DIR")
    output: str | None = setting(
        None,
        "rows that are not the same in both: NAME.parquet, NAME.jsonl or NAME.csv",
        metavar="FILE",
        writes=True,
    )
    overwrite: bool = setting(False, "replace a file at --output")
    limit: int = setting(20, "rows that are printed", at_least=0, at_most=1_000_000)

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.output is not None and not self.output.endswith(SUFFIXES):
            raise InputError("--output has another suffix", value=self.output, expected=" or ".join(SUFFIXES))


def run(options: DiffOptions, beam_arguments: object = ()) -> None:
    """Prints what changed, and writes it if there is an output.

    Raises:
        InputError: a directory is no output of answer, or there is a file at --output.
        JobError: the file cannot be written.
    """
    sets = AnswerSet.open(options.a), AnswerSet.open(options.b)
    if options.output is not None and store.is_directory(options.output):
        raise InputError("--output is a directory", value=options.output, expected="a file's name")
    if options.output is not None and store.exists(options.output) and not options.overwrite:
        raise InputError("--output is there already", value=options.output, remedy="give another, or --overwrite")
    outcomes, judged, done, lines = Counter[str](), Counter[tuple[bool, bool]](), 0, list[str]()
    total = max(one.manifest.rows for one in sets)
    with contextlib.ExitStack() as stack:
        stack.enter_context(Progress("diff", total, lambda: done, "answers"))
        write = stack.enter_context(_writer(options.output)) if options.output is not None else None
        shown = 0
        for row in differences.differences(*sets):
            done += 1
            outcomes[row["outcome"]] += 1
            if row["outcome"] not in (ONLY_A, ONLY_B) and row["right_a"] is not None:
                judged[row["right_a"], row["right_b"]] += 1
            if row["outcome"] in (SAME, ERRORS):
                continue
            if write is not None:
                write(row)
            if shown < options.limit:
                shown += 1
                lines += described(row)
    for line in [*counts(outcomes, judged), *lines]:
        say(line)
    listed = sum(outcomes.values()) - outcomes[SAME] - outcomes[ERRORS]
    if shown < listed:
        say(f"{listed - shown:,} more; --limit prints them, --output writes all")
    if options.output is not None:
        say(f"diff: {listed:,} rows in {options.output}")


def counts(outcomes: Mapping[str, int], judged: Mapping[tuple[bool, bool], int]) -> Iterator[str]:
    """The counts of all rows as lines: by outcome, and of those with gold answers in which run they are right."""
    both = sum(outcomes.get(name, 0) for name in (SAME, CHANGED, ERROR_A, ERROR_B, ERRORS))
    by_name = ", ".join(f"{outcomes.get(name, 0):,} {name}" for name in (SAME, CHANGED, ERROR_A, ERROR_B, ERRORS))
    yield f"{both:,} in both: {by_name}; {outcomes.get(ONLY_A, 0):,} {ONLY_A}, {outcomes.get(ONLY_B, 0):,} {ONLY_B}"
    if judged:
        names = {(True, True): "in both", (True, False): ONLY_A, (False, True): ONLY_B, (False, False): "in neither"}
        yield "right: " + ", ".join(f"{judged.get(key, 0):,} {name}" for key, name in names.items())


def described(row: Mapping[str, Any]) -> Iterator[str]:
    """A row that is not the same in both as lines for the terminal."""
    yield f"{_short(row['question_id'])}  {_short(row['question'])}"
    for side in "ab":
        if row["outcome"] == (ONLY_B if side == "a" else ONLY_A):
            continue
        yield f"  {side.upper()}: {_said(row, side)}"
    if row["gold_answers"]:
        yield f"  gold: {_short(' | '.join(row['gold_answers']))}"
    if row["change"]:
        ranks = f"rank {row['rank_a'] or '-'} -> {row['rank_b'] or '-'}"
        shares = f"share {_share(row['share_a'])} -> {_share(row['share_b'])}"
        yield f"  {row['change']}: {_short(row['title'])} ({_short(row['passage_id'])}), {ranks}, {shares}"


def _said(row: Mapping[str, Any], side: str) -> str:
    """What a run says to a question: its answer, whether that is right, or why there is none."""
    for name, what in (("error", "error"), ("abstained", "not answered")):
        if why := row[f"{name}_{side}"]:
            return f"{what}: {_short(why)}"
    right = {True: "  (right)", False: "  (wrong)", None: ""}[row[f"right_{side}"]]
    return _short(row[f"answer_{side}"]) + right


def _short(text: str | None) -> str:
    line = " ".join((text or "").split())
    return printable(line if len(line) <= SHOWN_CHARS else line[: SHOWN_CHARS - 3] + "...")


def _share(share: float | None) -> str:
    return "-" if share is None else f"{share:.2f}"


@contextlib.contextmanager
def _writer(url: str) -> Iterator[Callable[[Mapping[str, Any]], None]]:
    """Yields a function that writes a row to a file of the kind that its suffix says."""
    with store.write_stream(url) as file:
        if url.endswith(".jsonl"):
            yield lambda row: _put(file, json.dumps(dict(row), ensure_ascii=False) + "\n")
        elif url.endswith(".csv"):
            text = io.StringIO(newline="")
            cells = csv.DictWriter(text, SCHEMA.names)
            cells.writeheader()

            def line(row: Mapping[str, Any]) -> None:
                gold = json.dumps(row["gold_answers"], ensure_ascii=False) if row["gold_answers"] else None
                cells.writerow({**row, "gold_answers": gold})
                _put(file, text.getvalue())
                text.seek(0)
                text.truncate()

            yield line
            _put(file, text.getvalue())  # of a table without rows the header
        else:
            waiting: list[Mapping[str, Any]] = []
            with pq.ParquetWriter(file, SCHEMA, compression="zstd") as parquet:

                def add(row: Mapping[str, Any]) -> None:
                    waiting.append(row)
                    if len(waiting) >= BATCH_ROWS:
                        parquet.write_table(pa.Table.from_pylist(waiting, schema=SCHEMA))
                        waiting.clear()

                yield add
                parquet.write_table(pa.Table.from_pylist(waiting, schema=SCHEMA))


def _put(file: Any, text: str) -> None:
    file.write(text.encode("utf-8", "replace"))


COMMAND = Command.of(
    "diff",
    "which answers changed between two runs, and which passage did it",
    "Joins two answers directories by question id; shows what changed, and the passage whose share differs most.",
    DiffOptions,
    run,
    takes_beam_flags=False,
)

if __name__ == "__main__":
    COMMAND.main()
