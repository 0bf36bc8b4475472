"""Writes pipelines/SCALE.md from what was measured: `python -m tests.rehearsal.scale`.

What no machine here can measure is derived from what was, and the page says how, or it is left open: `--flops H100=N`
gives the FLOP a second that a GPU reaches, from a source that whoever gives it knows.
"""

from __future__ import annotations

import argparse
import dataclasses
import json
import re
import sys
import textwrap
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from rag_ops import planning
from rag_ops.generation.batch_memory import Decoder
from rag_ops.generation.settings import GenerationSettings
from rag_ops.sizes import duration, size
from schemas.layout import STAGES
from tests.rehearsal import corpus
from tests.rehearsal.__main__ import EMBED_TOKENS, MAX_NEW_TOKENS, MEASURED, ROWS

PAGE = Path(__file__).parents[2] / "pipelines" / "SCALE.md"
BENCHMARKS = Path(__file__).parents[1] / "benchmarks" / "measured.jsonl"
# corpus.Models: bytes, feed-forward, and the decoder
ENCODER, MODEL = planning.Model(8_085_000, 128), planning.Model(16_500_000, 128, Decoder(128, 64, 30_522, 1, True))
AS_RUN: dict[str, Any] = {  # what the commands of rehearsals say
    "compute_dtype": corpus.COMPUTE_DTYPE,
    "embed_batch_tokens": EMBED_TOKENS,
    "generation": GenerationSettings(max_new_tokens=MAX_NEW_TOKENS),
}
PAGES = 6_900_000  # articles of the English Wikipedia
PASSAGE_TOKENS = 137  # of a passage and its title, as DPR's encoder reads them
BERT_BASE_WEIGHTS = 85e6  # that a token meets: without the embeddings
READER_WEIGHTS, ANSWER_DOCS, CONTEXT_TOKENS, ANSWER_TOKENS = 203e6, 5, 170, 10  # BART-large, each half
CHIPS = {"H100": 1, "L4": 8}
BOX_CORES = 32
Record = Mapping[str, Any]


def of_stage(records: Sequence[Record], stage: str) -> list[Record]:
    """The records of a stage, by spec and runner, then by the rows that it worked on."""
    found = [record for record in records if record["stage"] == stage]
    return sorted(found, key=lambda record: (name_of(record), record["rows"], record["made_rows"]))


def name_of(record: Record) -> str:
    """A stage, with the spec of its index, and its runner if that is not the local one."""
    on = f"on {record['runner']}" if record.get("runner") else ""
    return " ".join(part for part in (record["stage"], record["spec"], on) if part)


def table(head: str, rows: Iterator[Sequence[str]]) -> list[str]:
    """A table in Markdown."""
    return [f"| {head} |", "|" + "---|" * (head.count("|") + 1), *(f"| {' | '.join(row)} |" for row in rows), ""]


def measured(records: Sequence[Record]) -> Iterator[Sequence[str]]:
    """Rows of what each rehearsal took."""
    for stage in STAGES:
        for record in of_stage(records, stage):
            passages = f"{record['rows']:,}" + (f", {record['made_rows']:,} made" if stage == "embed" else "")
            seconds = " + ".join(f"{secs:,.0f}" for secs in record["seconds"])
            memory = [size(record[name]) for name in ("launcher_bytes", "worker_bytes")]
            files = f"{record['files']:,} ({record['peak_files']:,})"
            disk = f"{size(record['disk_bytes'])} ({size(record['peak_disk_bytes'])})"
            manifest = f"{record['manifest_bytes']:,}"
            yield name_of(record), passages, *memory, disk, files, manifest, seconds, str(record["load"])


def growth(records: Sequence[Record]) -> Iterator[Sequence[str]]:
    """Rows of how memory grows from the smallest to the largest rehearsal of each stage, of those that were killed."""
    records = [record for record in records if not record.get("rate")]
    for name in dict.fromkeys(name_of(record) for stage in STAGES for record in of_stage(records, stage)):
        few, *_, many = [record for record in records if name_of(record) == name] * 2
        few, many = sorted((few, many), key=lambda record: (record["rows"], record["made_rows"]))
        if (few["rows"], few["made_rows"]) != (many["rows"], many["made_rows"]):
            work = "made_rows" if few["stage"] == "embed" else "rows"
            ratios = [many[key] / few[key] for key in (work, "launcher_bytes", "worker_bytes", "manifest_bytes")]
            yield name, f"{few[work]:,} to {many[work]:,}", *(f"{ratio:.2f}" for ratio in ratios)


def dumps(records: Sequence[Record]) -> Iterator[Sequence[str]]:
    """Rows of the benchmark `dump` at the size of a rehearsal: what is compared, the ratio, its mark, the figures."""
    for record in records:
        if record.get("benchmark") == "dump" and "ratio" in record:
            beside = f"; {record['beside']}" if "beside" in record else ""
            yield record["name"], f"{record['ratio']:.2f}", record["wanted"], record["figures"] + beside


def planned(records: Sequence[Record]) -> Iterator[Sequence[str]]:
    """Rows of what `ragbeam plan` says beside what was taken; measured over planned.

    Memory is planned from formats and constants alone. So is disk, unless an unbroken rehearsal of fewer rows shows a
    rate, from which time is planned too.
    """
    for stage in STAGES:
        for record in of_stage(records, stage):
            shards, rows = record["shards"]["total"], record["rows"]
            files = shards if stage in ("chunk", "embed") else -(-rows // corpus.SHARD_ROWS)
            index_shards = shards if stage == "index" else corpus.index_shards(rows)
            questions = record["made_rows"] if stage == "answer" else 0
            spec, sizes = record["spec"] or "Flat", {"encoder": ENCODER, "model": MODEL, **AS_RUN}
            job = planning.Job(
                rows, corpus.DIMENSION, "float16", spec, files, index_shards, questions=questions, **sizes
            )
            rate = rate_below(records, record)
            if rate and record["made_rows"] < rows and stage == "embed":  # the others' vectors are no encoder's
                rate = dataclasses.replace(rate, row_bytes=None)
            needs = planning.plan(job, {stage: rate} if rate else {}).stage(stage)
            cells = compared(size, needs.memory_bytes, record["worker_bytes"])
            if rate or stage != "answer":  # whose size follows from how alike the passages are that were found
                cells += compared(size, needs.disk_bytes, record["disk_bytes"])
            else:
                cells += [""] * 3
            if rate:
                again = rate.start_secs * (len(record["seconds"]) - 1)
                searched = corpus.searched(spec, rows)
                secs = rate.seconds(record["made_rows"], searched, record["workers"] or 1) + again
                cells += compared(duration, secs, sum(record["seconds"]))
            else:
                cells += [""] * 3
            yield name_of(record), f"{rows:,}", *cells


def rate_below(records: Sequence[Record], record: Record) -> planning.Rate | None:
    """The rate that the largest unbroken rehearsal of the same stage, but of fewer rows, shows; None without one."""
    found = [
        one
        for one in of_stage(records, record["stage"])
        if one.get("rate") and name_of(one) == name_of(record) and one["rows"] < record["rows"]
    ]
    return planning.Rate(**found[-1]["rate"]) if found else None


def compared(show: Callable[[float], str], planned: float, measured: float) -> list[str]:
    """Cells of a planned and a measured figure, and the ratio of the second to the first."""
    return [show(planned), show(measured), f"{measured / planned:.2f}"]


def benchmark(pattern: str) -> float:
    """A figure of the kept benchmarks, by the words around it."""
    found = re.search(pattern, BENCHMARKS.read_text(encoding="utf-8"))
    if found is None:
        raise ValueError(f"{BENCHMARKS} has no {pattern!r}: make bench writes it")
    return float(found[1])


def wikipedia(records: Sequence[Record], flops: Mapping[str, float], questions: int) -> Iterator[Sequence[str]]:
    """Rows of what DPR's Wikipedia takes: stage, bytes, core-hours, hours of a box, and hours of GPUs."""
    core_flops = benchmark(r"limit at (\d+) GFLOP/s") * 1e9 / 2
    pages = benchmark(r"(\d+) pages/s, bare loop") / 2
    plan = planning.plan(planning.Job(ROWS, spec="Flat", questions=questions))
    index = max(of_stage(records, "index"), key=lambda record: (record["spec"] == "Flat", record["rows"]))
    index_secs = sum(index["seconds"]) / index["rows"] * ROWS * 768 / corpus.DIMENSION
    work = {
        "embed": 2 * BERT_BASE_WEIGHTS * PASSAGE_TOKENS * ROWS,
        "answer": 2 * READER_WEIGHTS * ANSWER_DOCS * (CONTEXT_TOKENS + ANSWER_TOKENS) * questions,
    }
    core_hours = {"chunk": PAGES / pages / 3600, "index": index_secs / 3600}
    core_hours |= {stage: flop / core_flops / 3600 for stage, flop in work.items()}
    for stage in STAGES:
        cells = [size(plan.stage(stage).disk_bytes), size(plan.stage(stage).memory_bytes)]
        cells += [f"{core_hours[stage]:,.1f}", f"{core_hours[stage] / BOX_CORES:,.1f}"]
        for chip, count in CHIPS.items():
            known = stage in work and chip in flops
            hours = work.get(stage, 0) / flops.get(chip, 1) / 3600
            cells.append(
                f"{hours:,.1f} in all, {hours / count:,.1f} long" if known else "not measured" * (stage in work)
            )
        yield stage, *cells


PLANNED = textwrap.fill(
    "What `ragbeam plan` says of the same jobs, from formats and constants alone; time, and disk beside it, from the "
    "rate of an unbroken rehearsal of a hundredth of the rows, with its start once more for the kill.",
    120,
)
HOW = """
Written by `python -m tests.rehearsal.scale` from `tests/rehearsal/measured.jsonl`. A rehearsal is one stage over
synthetic passages of real length, with vectors of {dimension} numbers and models of one layer, in a launcher and one
worker process, or on a Flink cluster of two workers with one thread each. It is killed once with SIGKILL when half of
it is done, and run again, the cluster too; one with a single number of seconds was not killed. `python -m
tests.rehearsal STAGE --directory DIR` makes one. A size that is not in the table was not run.
"""
WHERE = """
On {machines}, {when}. Seconds are until the kill, and of the run after it. `load` is the machine's mean load: where it
is much over the processes' own threads, other work took part of the two cores.
"""
DERIVED = """
{rows:,} passages (DPR's), vectors of 768 float16, exact search, {questions:,} questions (NQ's test set). All of
it is derived, none measured. Bytes and memory: `ragbeam plan`. chunk: {pages:,} articles of a dump at the pages
a second that `tests/benchmarks/measured.jsonl` has for 2 cores. index: seconds a row of the largest rehearsal,
kill and load included, times 768 / {dimension}. embed: 2 FLOP for each of BERT-base's {bert:.0f} million
weights and {tokens} tokens a passage. answer: 2 FLOP for each of {reader:.0f} million weights of half a
BART-large and {docs} passages of {context} tokens read and {written} written, without the search. Both at the FLOP a
second of a core that the benchmark `decode` measured, and as if the work reached all of them. FLOP a second of
GPUs were not measured here; given with `--flops`: {given}.
"""


def page(records: Sequence[Record], flops: Mapping[str, float]) -> str:
    """The page's text."""
    of_dumps, records = list(dumps(records)), [record for record in records if "stage" in record]
    dates = sorted({record["date"][:10] for record in records})
    facts = {
        "when": " to ".join(dict.fromkeys((dates[0], dates[-1]))),
        "machines": ", ".join(sorted({f"{record['cores']} cores of {record['machine']}" for record in records})),
        **{
            "when": " to ".join(dict.fromkeys((dates[0], dates[-1]))),
            "dimension": corpus.DIMENSION,
            "rows": ROWS,
            "pages": PAGES,
        },
        **{"questions": corpus.QUESTIONS, "tokens": PASSAGE_TOKENS, "docs": ANSWER_DOCS, "context": CONTEXT_TOKENS},
        **{"bert": BERT_BASE_WEIGHTS / 1e6, "reader": READER_WEIGHTS / 1e6, "written": ANSWER_TOKENS},
        "given": ", ".join(f"{chip} {rate:.3g}" for chip, rate in flops.items()) or "none",
    }
    how, where, derived = (
        textwrap.fill(text.format(**facts).strip(), 120, break_on_hyphens=False) for text in (HOW, WHERE, DERIVED)
    )
    memory = "launcher, peak | worker, peak | disk (peak) | files (peak) | manifest, bytes"
    planned_head = " | ".join(f"{what}, planned | measured | ratio" for what in ("worker", "disk", "time"))
    took = f"core-hours | hours on {BOX_CORES} cores | hours of one H100 | hours of {CHIPS['L4']} L4"
    lines = ["# What a whole Wikipedia takes", "", how, "", "## Measured", "", where, ""]
    lines += table(f"stage | passages | {memory} | seconds | load", measured(records))
    if of_dumps:
        lines += ["A dump of Wikipedia's form (`RAGBEAM_BENCH_PAGES=200000 python -m tests.benchmarks dump`):", ""]
        lines += table("what | ratio | wanted | figures", iter(of_dumps))
    lines += ["How it grows with the work (1.00: not at all; memory may grow to 1.10):", ""]
    lines += table("stage | rows | times the rows | launcher | worker | manifest", growth(records))
    lines += ["## Planned", "", PLANNED, ""]
    lines += table(f"stage | passages | {planned_head}", planned(records))
    lines += ["## Wikipedia", "", derived, ""]
    lines += table(f"stage | disk | memory of a worker | {took}", wikipedia(records, flops, corpus.QUESTIONS))
    return "\n".join(lines)


def main(arguments: Sequence[str]) -> int:
    """Writes the page."""
    parser = argparse.ArgumentParser(prog="python -m tests.rehearsal.scale", description=__doc__.splitlines()[0])
    parser.add_argument("--flops", nargs="*", default=[], metavar="CHIP=N", help=f"of {', '.join(CHIPS)}")
    parser.add_argument("--output", type=Path, default=PAGE)
    flags = parser.parse_args(arguments)
    flops = {chip: float(number) for chip, _, number in (text.partition("=") for text in flags.flops)}
    records = [json.loads(line) for line in MEASURED.read_text(encoding="utf-8").splitlines()]
    flags.output.write_text(page(records, flops), encoding="utf-8")
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
