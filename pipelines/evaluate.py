"""evaluate: turns answers into figures (JSON), a table on the terminal and a one-file HTML report. No pipeline."""

from __future__ import annotations

import dataclasses
import json
import logging
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

from pipelines.console.command import Command, say
from pipelines.console.options import Options
from pipelines.console.progress import Progress
from pipelines.transforms.model_workers import WorkerOptions
from rag_ops.errors import InputError
from rag_ops.evaluation import figures as scoring
from rag_ops.evaluation import ranking, report
from rag_ops.evaluation.comparison import Comparison
from rag_ops.evaluation.figures import AnswerSet, GoldFile, RowSet
from rag_ops.evaluation.hit_sets import RunSet, open_set
from rag_ops.evaluation.judging import Judge
from rag_ops.evaluation.page_judgements import PageJudgements, read_judgements
from rag_ops.evaluation.pages import find_pages, pages_by_id, pages_of_corpus
from rag_ops.evaluation.promise import CONFIDENCE, Sample, check_replaceable
from rag_ops.evaluation.ranking import check_measures
from rag_ops.evaluation.resampling import RESAMPLES
from rag_ops.evaluation.scored import Scored
from rag_ops.evaluation.sweep import Sweep
from rag_ops.evaluation.tally import RECALL_AT, Bootstrap
from rag_ops.questions.reading import QuestionOptions, expand_question_files
from rag_ops.redaction import public_url
from rag_ops.settings import setting
from rag_ops.storage import arrow, places, store

logger = logging.getLogger("ragbeam")
REPORT_MARK = "<title>ragbeam evaluation</title>"
MAX_NAME_CHARS = 40  # width of the table's first column


@dataclasses.dataclass(frozen=True, kw_only=True)
class EvaluateOptions(Options):
    """evaluate: `answers` directories or a `run` to figures and report, `output` with .json and .html."""

    answers: Sequence[str] = setting((), "outputs of ragbeam answer, or of ragbeam search", metavar="DIR")
    run: Sequence[str] = setting((), "or TREC runs, which --qrels judges", metavar="URL")
    output: str | None = setting(
        None, "NAME.json or NAME.html; both are written, side by side", metavar="FILE", writes=True
    )
    compare: str | None = setting(
        None,
        "another output or run over the same questions: differences, their intervals, and a paired randomisation test",
        metavar="DIR",
    )
    qrels: Sequence[str] | None = setting(
        None,
        "judgements of passages, in TREC's form or BEIR's, or of pages, as KILT's and HotpotQA's question files have "
        "them: nDCG, MRR, MAP, R-precision and recall by id",
        group="rankings",
        metavar="URL",
    )
    measures: Sequence[str] | None = setting(
        None,
        "what --qrels measures, by the names of ir_measures: nDCG@K, RR, RR@K, AP, Rprec, R@K, P@K, Success@K; "
        "by default nDCG@10 RR AP Rprec, and R@K for K 1, 5, 20, 100 and all, as far as passages are kept",
        group="rankings",
        metavar="NAME",
    )
    complete: bool = setting(
        False, "judged questions that no row asks count as 0, as with trec_eval's -c", group="rankings"
    )
    passages: str | None = setting(
        None,
        "with --qrels: output of ragbeam chunk, which names the pages of passages whose ids do not",
        group="rankings",
        metavar="DIR",
    )
    bootstrap: int = setting(
        RESAMPLES, "resamples of the figures' 95% intervals; 0 for none", at_least=0, at_most=1_000_000
    )
    seed: int = setting(0, "seed of the intervals, the p values and --calibrate", at_least=0)
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
        None, "with --sweep: the RAG model that gave the answers", group="n_docs", metavar="MODEL"
    )
    calibrate: str | None = setting(
        None,
        "learn from gold answers, for shares of errors from 0.01 to 0.5, the score from which on no more answers are "
        "wrong, for answer --max_error",
        group="calibration",
        metavar="FILE",
        writes=True,
    )
    confidence: float | None = setting(
        None,
        f"with --calibrate: probability that a threshold holds; by default {CONFIDENCE}",
        group="calibration",
        within=(0, 1),
    )
    report_rows: int = setting(1000, "rows that the report lists, 0 or more", at_least=0, at_most=1_000_000)
    workers: WorkerOptions = dataclasses.field(default_factory=WorkerOptions)

    def __post_init__(self) -> None:
        if self.output is not None and not self.output.endswith((".json", ".html")):
            raise InputError("--output has another suffix", value=self.output, expected="NAME.json or NAME.html")
        super().__post_init__()
        if not self.answers and not self.run:
            raise InputError("there is nothing to evaluate", expected="--answers DIR or --run FILE")
        if bool(self.sweep) != bool(self.model):
            raise InputError("--sweep and --model go together", expected="both or neither")
        if self.run and self.sweep:
            raise InputError("--sweep generates answers again, and --run has none", expected="one of them")
        named = [*self.answers, *self.run]
        if len(set(named)) < len(named):
            flag = "--answers" if len(set(self.answers)) < len(self.answers) else "--run"
            raise InputError(f"{flag} names a directory or file twice", value=" ".join(named), remedy="name each once")
        if self.compare is not None and len(named) != 1:
            raise InputError(
                "--compare compares one with one", value=" ".join(named), expected="one --answers or --run"
            )
        if self.run and not self.qrels:
            raise InputError("--run has no answers to score", expected="--qrels FILE as well")
        given = [name for name in ("measures", "complete", "passages") if getattr(self, name)]
        if given and not self.qrels:
            raise InputError(f"--{given[0]} is about --qrels, which is not given", expected="--qrels FILE as well")
        check_measures(self.measures or ())
        if self.confidence is not None and not 0 < self.confidence < 1:
            raise InputError("--confidence is out of range", value=self.confidence, expected="over 0, less than 1")
        if self.confidence is not None and self.calibrate is None:
            raise InputError(
                "--confidence is about --calibrate, which is not given", expected="--calibrate FILE as well"
            )
        if self.calibrate is not None and places.location(self.calibrate) in map(places.location, self.outputs):
            raise InputError(
                "--calibrate is one of the two files of --output", value=self.calibrate, expected="a file of its own"
            )
        if self.calibrate is not None and (len(named) != 1 or self.run):
            raise InputError(
                "--calibrate learns from the answers of one directory", value=" ".join(named), expected="one --answers"
            )

    @property
    def written(self) -> Sequence[str]:
        """The files, if any."""
        return [*self.outputs, *([self.calibrate] if self.calibrate else [])]

    @property
    def outputs(self) -> Sequence[str]:
        """Paths of the figures and of the report; none if nothing is to be written."""
        if self.output is None:
            return ()
        stem = self.output[: -len(".json")]  # as long as ".html"
        return stem + ".json", stem + ".html"


def run(options: EvaluateOptions, beam_arguments: Sequence[str] = ()) -> None:
    """Writes both files, if asked for, and prints the table.

    Raises:
        InputError: a directory is no output of answer or search, a gold file, a run or judgements are missing,
            malformed or match nothing, no row has a gold answer or is judged, or the model is not the answers'.
        JobError: a file cannot be written, or the model failed on most answers of --sweep.
    """
    sets = [
        *map(open_set, options.answers),
        *(RunSet(found) for url in options.run for found in store.expand(url, "run")),
    ]
    other = _other(options.compare) if options.compare is not None else None
    gold = GoldFile(expand_question_files(options.gold), options.reading) if options.gold else None
    if gold and gold.unreadable:
        logger.warning("--gold: %d rows cannot be read in full: %s", gold.unreadable, gold.first_unreadable)
    for url in options.outputs:
        _check_own(url)
    sample = None
    if options.calibrate:
        check_replaceable(options.calibrate)
        sample = Sample(_with_answers(sets[0], "--calibrate learns from"))
    done, sweep = Counter[str](), sorted(set(options.sweep or ()))
    again: list[Sweep] = []
    if options.model is not None:
        where = {name: getattr(options.workers, name) for name in ("device", "batch_tokens")}
        where["threads"] = options.workers.cpu_threads
        again = [
            Sweep(
                _with_answers(one, "--sweep generates again"),
                sweep,
                options.model,
                on_rows=lambda n: done.update(rows=n),
                **where,
            )
            for one in sets
        ]
    every = [*sets, *([other] if other else [])]
    judges = _judges(options, every)
    columns = judges[0].measures.columns if judges[0] else ()
    selection = report.Selection(options.report_rows)
    kept, by_question = min(one.kept for one in every), not any(isinstance(one, RunSet) for one in every)
    comparison = Comparison(kept, columns, options.report_rows, by_question) if other else None
    counts = [one.rows for one in every]

    def look(scored: Scored) -> None:
        selection.add(scored)
        if comparison:
            comparison.add_first(scored)
        if sample:
            sample.add(scored)
        done["rows"] += not sweep

    def look_at_other(scored: Scored) -> None:
        if comparison:
            comparison.add_second(scored)
        done["rows"] += not sweep

    bootstrap = Bootstrap(options.bootstrap, options.seed)
    common: dict[str, Any] = {"gold_file": gold, "patterns": options.regex_answers, "bootstrap": bootstrap}
    with Progress("evaluate", sum(counts) if all(counts) and not sweep else None, lambda: done["rows"], "answers"):
        figures = scoring.evaluate(sets, sweep=sweep, again=again, on_row=look, judge=judges[0], **common)
        figures["comparison"] = None
        if other and comparison:
            if gold:
                gold.joined = dict.fromkeys(gold.joined, 0)
            beside = scoring.evaluate([other], on_row=look_at_other, judge=judges[1], **common)
            figures["comparison"] = {
                "name": beside["files"][0]["name"],
                "all": beside["all"],
                "gold": beside["gold"],
                "qrels": beside["qrels"],
                **comparison.figures(bootstrap),
            }
    for one in again:
        one.check()
    if figures["qrels"] and not figures["qrels"]["judged_passages_found"]:
        logger.warning("--qrels: no passage that was found is judged; are its ids those of another corpus?")
    figures["settings"] = {
        "gold": _public(options.gold),
        "regex_answers": options.regex_answers,
        "sweep": sweep or None,
        "qrels": _public(options.qrels),
        "bootstrap": options.bootstrap,
        "seed": options.seed,
    }
    if options.outputs:
        figures_url, report_url = options.outputs
        store.write_file(figures_url, (json.dumps(figures, indent=2, sort_keys=True) + "\n").encode())
        store.write_file(report_url, report.page(figures, selection).encode())
    for line in table(figures):
        say(line)
    if options.calibrate and sample:
        learned = sample.learn(options.confidence or CONFIDENCE, options.seed)
        store.write_file(options.calibrate, learned.to_json().encode())
        for line in learned.lines():
            say(line)
    if options.written:
        say(f"evaluate: {', '.join(options.written)}")


def _public(urls: Sequence[str] | None) -> list[str] | None:
    return list(map(public_url, urls)) if urls else None


def _other(url: str) -> RowSet:
    """What --compare names: a file is a TREC run, all else a directory of answer or search."""
    is_file = store.exists(url) and not store.is_directory(url)
    return RunSet(url) if is_file else open_set(url)


def _with_answers(one: RowSet, what: str) -> AnswerSet:
    if not isinstance(one, AnswerSet):
        raise InputError(f"{what} answers, and a search has none", value=one.url)
    return one


def _judges(options: EvaluateOptions, sets: Sequence[RowSet]) -> tuple[Judge, Judge] | tuple[None, None]:
    """What measures the rankings of --answers or --run, and those of --compare."""
    if not options.qrels:
        return None, None
    urls = [found for url in options.qrels for found in arrow.saved_files(url) or store.expand(url, "file of --qrels")]
    judgements = read_judgements(urls, options.reading)
    deepest = max(one.kept for one in sets)
    recalls = sorted({*(k for k in RECALL_AT if k <= deepest), *(one.kept for one in sets)})
    names = options.measures or (*ranking.DEFAULT, *(f"R@{k}" for k in recalls))
    ranking.check_installed()
    names = tuple(dict.fromkeys(names))
    if isinstance(judgements, PageJudgements):
        measures = ranking.Measures(names, pages_alone=True)
        find = find_pages(options.passages, sets, judgements)
        return Judge(judgements, measures, options.complete, find), Judge(judgements, measures, options.complete, find)
    pages = pages_of_corpus(options.passages, sets, judgements) if options.passages else pages_by_id(sets)
    measures = ranking.Measures(names, pages)
    return Judge(judgements, measures, options.complete), Judge(judgements, measures, options.complete)


def _check_own(url: str) -> None:
    """Checks that a file to be written does not exist yet, or is one that evaluate wrote."""
    if store.is_directory(url):
        raise InputError("--output is a directory", value=url, expected="a file's name")
    if not store.exists(url):
        return
    try:
        text = store.read_text(url)
        own = REPORT_MARK in text if url.endswith(".html") else {"all", "files", "settings"} <= set(json.loads(text))
    except (ValueError, TypeError, RecursionError):
        own = False
    if not own:
        raise InputError(
            "--output is a file that evaluate did not write", value=url, remedy="give another --output, or move it away"
        )


def table(figures: Mapping[str, Any]) -> Iterator[str]:
    """The figures as lines of text, under each the interval, if there is one.

    Directories, their question files, all; the same of rankings; EM and F1 by number of passages; the comparison.
    """
    ks = scoring.recall_at(figures)
    total = figures["all"]
    rows = [("", one) for one in figures["files"]]
    rows = [(name, each) for _, one in rows for name, each in (("", one), *(("  ", p) for p in one["question_files"]))]
    rows += [("", total)] if len(figures["files"]) > 1 else []
    lines = [["", "rows", "scored", "errors", "EM", "F1", *(f"R@{k}" for k in ks)]]
    for indent, one in rows:
        lines += _lines(indent, one, ("rows", "scored", "errors"), lambda part: _cells(part, ks))
    yield from _aligned(lines)
    if total["ranking"]:
        columns = [
            name for name in total["ranking"] if any((one["ranking"] or {}).get(name) is not None for _, one in rows)
        ]
        yield ""
        lines = [["by --qrels", "judged", *columns]]
        for indent, one in rows:
            lines += _lines(
                indent, one, ("judged",), lambda part: [(part["ranking"] or {}).get(name) for name in columns]
            )
        yield from _aligned(lines)
    if points := total["sweep"]:
        yield ""
        shares = [[label, *(_percent(point[name]) for point in points)] for label, name in (("EM", "em"), ("F1", "f1"))]
        yield from _aligned([["n_docs", *(str(point["n_docs"]) for point in points)], *shares])
    if total["without_gold"]:
        yield f"{total['without_gold']:,} rows have no gold answer and are not scored"
    if total["abstained"]:
        wrong = _percent(total["wrong_of_answered"])
        yield f"{total['abstained']:,} rows are not answered (--max_error); of the answers given {wrong}% are wrong"
    if figures["gold"]:
        yield "gold: " + ", ".join(f"{count:,} {how.replace('_', ' ')}" for how, count in figures["gold"].items())
    if figures["qrels"]:
        yield _judged_line(figures["qrels"])
    if figures["comparison"]:
        yield from _comparison_lines(figures["comparison"])


def _judged_line(qrels: Mapping[str, Any]) -> str:
    asked = "count as 0, as with trec_eval -c" if qrels["complete"] else "are left out, as by trec_eval without -c"
    irrelevant = f"{qrels['rows_without_a_relevant_passage']:,}"
    return (
        f"qrels: {qrels['rows_judged']:,} rows are judged (of {irrelevant} no passage is relevant: they are 0); "
        f"{qrels['rows_without_judgements']:,} rows have no judgements and are left out; "
        f"{qrels['questions_not_asked']:,} judged questions were not asked and {asked}"
    )


def _comparison_lines(comparison: Mapping[str, Any]) -> Iterator[str]:
    """The comparison with B: figures one a line, then how many rows were compared."""
    yield ""
    yield f"A less B, B being {comparison['name']}"
    lines = [["", "rows", "A", "B", "A - B", "95%", "p", "A better", "B better"]]
    for name, one in comparison["figures"].items():
        cells = [
            _percent(one["a"]),
            _percent(one["b"]),
            f"{100 * one['difference']:+.1f}",
            _interval(one["interval"], "+.1f", " to "),
        ]
        lines.append(
            [name, f"{one['rows']:,}", *cells, f"{one['p']:.4f}", f"{one['a_better']:,}", f"{one['b_better']:,}"]
        )
    yield from _aligned(lines)
    yield (
        f"{comparison['in_both']:,} rows are in both, {comparison['only_in_a']:,} only in A, "
        f"{comparison['only_in_b']:,} only in B; p: paired randomisation test, two-sided, of each figure alone"
    )


def _lines(
    indent: str, one: Mapping[str, Any], counts: Sequence[str], shares: Callable[[Mapping[str, Any]], list[Any]]
) -> Iterator[list[str]]:
    """Yields the cells of a scope, and those of its intervals if it has any."""
    name = one["name"] if len(one["name"]) <= MAX_NAME_CHARS else "..." + one["name"][3 - MAX_NAME_CHARS :]
    yield [indent + name, *(f"{one[column]:,}" for column in counts), *map(_percent, shares(one))]
    if one["intervals"]:
        yield [indent + "  95%", *("" for _ in counts), *map(_interval, shares(one["intervals"]))]


def _cells(one: Mapping[str, Any], ks: Sequence[str]) -> list[Any]:
    return [one["em"], one["f1"], *(one["recall"].get(k) for k in ks)]


def _interval(ends: tuple[float, float] | None, form: str = ".1f", between: str = "-") -> str:
    return "-" if ends is None else between.join(f"{100 * end:{form}}" for end in ends)


def _percent(value: float | None) -> str:
    return "-" if value is None else f"{100 * value:.1f}"


def _aligned(lines: Sequence[Sequence[str]]) -> Iterator[str]:
    widths = [max(len(line[column]) for line in lines) for column in range(len(lines[0]))]
    for line in lines:
        figures = (cell.rjust(width) for cell, width in zip(line[1:], widths[1:], strict=True))
        yield "  ".join([line[0].ljust(widths[0]), *figures])


COMMAND = Command.of(
    "evaluate",
    "EM, F1 and recall@k of answers, nDCG and the like of passages, as JSON, a table and a report",
    "Scores answers by their gold answers, and passages by --qrels; --compare tests the difference to another run; "
    "--sweep generates again from fewer or more passages.",
    EvaluateOptions,
    run,
    takes_beam_flags=False,
)

if __name__ == "__main__":
    COMMAND.main()
