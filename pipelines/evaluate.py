"""evaluate: turns answers into figures (JSON), a table on the terminal and a one-file HTML report. No pipeline."""

from __future__ import annotations

import dataclasses
import json
import logging
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from pipelines.console.command import Command, say
from pipelines.console.options import Options
from pipelines.console.progress import Progress
from pipelines.transforms.model_workers import WorkerOptions
from rag_ops.errors import InputError
from rag_ops.evaluation import figures as scoring
from rag_ops.evaluation import report
from rag_ops.evaluation.figures import AnswerSet, GoldFile
from rag_ops.evaluation.sweep import Sweep
from rag_ops.questions.reading import QuestionOptions, expand_question_files
from rag_ops.redaction import public_url
from rag_ops.settings import setting
from rag_ops.storage import store

logger = logging.getLogger("ragbeam")
REPORT_MARK = "<title>ragbeam evaluation</title>"
MAX_NAME_CHARS = 40  # width of the table's first column


@dataclasses.dataclass(frozen=True, kw_only=True)
class EvaluateOptions(Options):
    """evaluate: `answers` directories to figures and report, `output` with .json and .html."""

    answers: Sequence[str] = setting(..., "outputs of ragbeam answer", metavar="DIR")
    output: str = setting(..., "NAME.json or NAME.html; both are written, side by side", metavar="FILE", writes=True)
    gold: Sequence[str] | None = setting(
        None,
        "question files whose answers replace the answers' own, by question id, else by question",
        group="questions",
        metavar="URL",
    )
    reading: QuestionOptions = dataclasses.field(default_factory=QuestionOptions)
    regex_answers: bool = setting(
        False, "gold answers are regular expressions, as CuratedTREC has them", group="questions"
    )
    sweep: Sequence[int] | None = setting(
        None,
        "numbers of passages; answers are generated again from the passages that stand beside them",
        group="n_docs",
        metavar="N",
        at_least=1,
        at_most=10_000,
        memory=True,
    )
    model: str | None = setting(
        None, "of --sweep: the RAG-Token model that gave the answers", group="n_docs", metavar="MODEL"
    )
    report_rows: int = setting(1000, "rows that the report lists, 0 or more", at_least=0, at_most=1_000_000)
    workers: WorkerOptions = dataclasses.field(default_factory=WorkerOptions)

    def __post_init__(self) -> None:
        if not self.output.endswith((".json", ".html")):
            raise InputError("--output has another suffix", value=self.output, expected="NAME.json or NAME.html")
        super().__post_init__()
        if bool(self.sweep) != bool(self.model):
            raise InputError("--sweep and --model go together", expected="both or neither")
        if len(set(self.answers)) < len(self.answers):
            raise InputError("--answers names a directory twice", value=" ".join(self.answers))

    @property
    def written(self) -> Sequence[str]:
        """Both files."""
        return self.outputs

    @property
    def outputs(self) -> tuple[str, str]:
        """Paths of the figures and of the report."""
        stem = self.output[: -len(".json")]  # as long as ".html"
        return stem + ".json", stem + ".html"


def run(options: EvaluateOptions, beam_arguments: Sequence[str] = ()) -> None:
    """Writes both files and prints the table.

    Raises:
        InputError: a directory is no output of answer, a gold file is missing or matches nothing, no row has a gold
            answer, or the model is not the answers'.
        JobError: a file cannot be written, or the model failed on most answers of --sweep.
    """
    sets = [AnswerSet.open(url) for url in options.answers]
    gold = GoldFile(expand_question_files(options.gold), options.reading) if options.gold else None
    if gold and gold.unreadable:
        logger.warning("--gold: %d rows cannot be read in full: %s", gold.unreadable, gold.first_unreadable)
    for url in options.outputs:
        _check_own(url)
    done, sweep = Counter[str](), sorted(set(options.sweep or ()))
    again: list[Sweep] = []
    if options.model is not None:
        where = {name: getattr(options.workers, name) for name in ("device", "batch_tokens")}
        where["threads"] = options.workers.cpu_threads
        again = [Sweep(one, sweep, options.model, on_rows=lambda n: done.update(rows=n), **where) for one in sets]
    selection = report.Selection(options.report_rows)
    rows = sum(one.manifest.rows for one in sets)

    def look(scored: scoring.Scored) -> None:
        selection.add(scored)
        done["rows"] += not sweep

    with Progress("evaluate", None if sweep else rows, lambda: done["rows"], "answers"):
        figures = scoring.evaluate(
            sets, gold_file=gold, patterns=options.regex_answers, sweep=sweep, again=again, on_row=look
        )
    for one in again:
        one.check()
    gold_urls = list(map(public_url, options.gold)) if options.gold else options.gold
    figures["settings"] = {"gold": gold_urls, "regex_answers": options.regex_answers, "sweep": sweep or None}
    figures_url, report_url = options.outputs
    store.write_file(figures_url, (json.dumps(figures, indent=2, sort_keys=True) + "\n").encode())
    store.write_file(report_url, report.page(figures, selection).encode())
    for line in table(figures):
        say(line)
    say(f"evaluate: {figures_url}, {report_url}")


def _check_own(url: str) -> None:
    """Checks that a file to be written does not exist yet, or is one that evaluate wrote."""
    if store.is_directory(url):
        raise InputError("--output is a directory", value=url, expected="a file's name")
    if not store.exists(url):
        return
    try:
        text = store.read_text(url)
        own = REPORT_MARK in text if url.endswith(".html") else {"all", "files", "settings"} <= set(json.loads(text))
    except (ValueError, TypeError):
        own = False
    if not own:
        raise InputError(
            "--output is a file that evaluate did not write", value=url, remedy="give another --output, or move it away"
        )


def table(figures: Mapping[str, Any]) -> Iterator[str]:
    """The figures as lines of text: directories, their question files, all; then EM and F1 by number of passages."""
    ks = scoring.recall_at(figures)
    lines = [["", "rows", "scored", "errors", "EM", "F1", *(f"R@{k}" for k in ks)]]
    for one in figures["files"]:
        lines.append(_cells(one["name"], one, ks))
        lines += [_cells("  " + part["name"], part, ks) for part in one["question_files"]]
    if len(figures["files"]) > 1:
        lines.append(_cells("all", figures["all"], ks))
    yield from _aligned(lines)
    total = figures["all"]
    if points := total["sweep"]:
        yield ""
        shares = [[label, *(_percent(point[name]) for point in points)] for label, name in (("EM", "em"), ("F1", "f1"))]
        yield from _aligned([["n_docs", *(str(point["n_docs"]) for point in points)], *shares])
    if total["without_gold"]:
        yield f"{total['without_gold']:,} rows have no gold answer and are not scored"
    if figures["gold"]:
        yield "gold: " + ", ".join(f"{count:,} {how.replace('_', ' ')}" for how, count in figures["gold"].items())


def _cells(name: str, one: Mapping[str, Any], ks: Sequence[str]) -> list[str]:
    shown = name if len(name) <= MAX_NAME_CHARS else "..." + name[3 - MAX_NAME_CHARS :]
    counts = [f"{one[column]:,}" for column in ("rows", "scored", "errors")]
    return [shown, *counts, _percent(one["em"]), _percent(one["f1"]), *(_percent(one["recall"].get(k)) for k in ks)]


def _percent(value: float | None) -> str:
    return "-" if value is None else f"{100 * value:.1f}"


def _aligned(lines: Sequence[Sequence[str]]) -> Iterator[str]:
    widths = [max(len(line[column]) for line in lines) for column in range(len(lines[0]))]
    for line in lines:
        figures = (cell.rjust(width) for cell, width in zip(line[1:], widths[1:], strict=True))
        yield "  ".join([line[0].ljust(widths[0]), *figures])


COMMAND = Command.of(
    "evaluate",
    "EM, F1 and recall@k of answers, as JSON, a table and a report",
    "Scores answers by their gold answers; --sweep generates again from fewer or more passages.",
    EvaluateOptions,
    run,
    takes_beam_flags=False,
)

if __name__ == "__main__":
    COMMAND.main()
