"""What jobs over blocks of questions do around their models: go on with blocks that are done, fail, and warn."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from typing import Any

import apache_beam as beam
import pyarrow as pa

from pipelines.runners.counters import StepCounters
from pipelines.transforms.stage_job import StageJob, distribute
from pipelines.transforms.work import Work
from rag_ops.questions import blocks
from rag_ops.storage import store
from rag_ops.storage.parquet import write_parquet
from rag_ops.storage.stages import write_shard

FEW_ERRORS = 0.01  # share of the rows: of more with an error, or cut, there is a warning


@dataclasses.dataclass(frozen=True, kw_only=True)
class BlockPlan:
    """The blocks of a job over questions, and the shards that they go to.

    Attributes:
        output: directory of the job.
        work: working directory of the job.
        fingerprint: of its shards.
        keep_going: whether no number of failures ends the job.
        todo: blocks that no earlier run has finished.
        cuts: numbers of the blocks of each shard.
        names: file names of the shards.
        wanted: those of them that are to be written.
    """

    output: str
    work: Work
    fingerprint: str
    keep_going: bool
    todo: Sequence[blocks.Block]
    cuts: Sequence[Sequence[int]]
    names: Sequence[str]
    wanted: Sequence[str]

    @property
    def block_numbers(self) -> list[int]:
        """All blocks of the job, those that an earlier run finished among them."""
        return sorted(block for numbers in self.cuts for block in numbers)

    @property
    def shard_of_block(self) -> dict[int, int]:
        """The shard that each block belongs to."""
        return {block: shard for shard, numbers in enumerate(self.cuts) for block in numbers}

    @property
    def questions(self) -> int:
        """Distinct questions that are left."""
        return sum(block.questions for block in self.todo)

    def finished(self) -> int:
        """How many of those have results by now, also by workers that are not in this process."""
        there = set(blocks.result_names(self.work.url))
        return sum(block.questions for block in self.todo if blocks.result_name(block.number) in there)

    def made(self) -> list[str]:
        """The shards that are there; finish says what lacks."""
        return [name for name in self.names if store.exists(store.join(self.output, name))]

    def info(self, prepared: blocks.Prepared) -> dict[str, Any]:
        """What a manifest says of the questions and of what became of them."""
        made = self.made()
        return {
            "questions": prepared.rows,
            "distinct_questions": sum(block.questions for block in prepared.blocks),
            "unreadable_questions": prepared.errors,
            "errors": blocks.error_counts(self.output, made),
            "truncated": blocks.truncated_rows(self.output, made),
            "unreadable_gold_answers": prepared.notes,
            "first_unreadable_gold_answers": prepared.first_note,
        }

    def report(self) -> dict[str, Any]:
        """What run.json says of the blocks."""
        total = len(self.block_numbers)
        return {"blocks": {"total": total, "reused": total - len(self.todo), "made": len(self.todo)}}


def deal(
    job: StageJob,
    prepared: blocks.Prepared,
    work: Work,
    name: Callable[[int, int], str],
    num_shards: int | None,
    *,
    keep_going: bool,
) -> BlockPlan:
    """Deals the blocks of a job to shards, and finds what is left to do.

    Args:
        job: the job; it is asked which shards are to be written.
        prepared: all questions in blocks.
        work: working directory.
        name: the file name of a shard, from its number and how many there are.
        num_shards: number of shards; None for one by the number of blocks.
        keep_going: whether no number of failures ends the job.
    """
    cuts = blocks.cut_shards(prepared.blocks, num_shards)
    names = [name(number, len(cuts)) for number in range(len(cuts))]
    fingerprint = job.output.fingerprint
    wanted = job.todo(dict.fromkeys(names, fingerprint))
    there = set(blocks.result_names(work.url))
    return BlockPlan(
        output=job.output.url,
        work=work,
        fingerprint=fingerprint,
        keep_going=keep_going,
        todo=[block for block in prepared.blocks if blocks.result_name(block.number) not in there],
        cuts=cuts,
        names=names,
        wanted=wanted,
    )


def write_when_checked(
    pipeline: beam.Pipeline, done: Any, plan: BlockPlan, label: str, write: Callable[..., None]
) -> None:
    """Adds the transforms that check for failures, and then write the shards.

    Args:
        pipeline: pipeline to add to.
        done: numbers of the blocks that the job has finished.
        plan: plan of the job; `write` takes a shard's number and this.
        label: of the step that writes: "Write" and what.
        write: writes a shard.
    """
    made = [number for number, name in enumerate(plan.names) if name in plan.wanted]
    checked = (
        pipeline
        | distribute("Job", [plan.block_numbers] if made else [])
        | "CheckFailures" >> beam.Map(check_failures, plan.work, plan.keep_going, done=beam.pvalue.AsIter(done))
    )
    _ = (
        pipeline
        | distribute("Shards", made)
        | "WaitForCheck" >> beam.WaitOn(checked)  # and so for all blocks: a question may stand in another's
        | label >> beam.Map(write, plan)
    )


def write_rows(
    label: str, plan: BlockPlan, shard: int, tables: Iterator[pa.Table], schema: pa.Schema, group_rows: int
) -> None:
    """Writes a shard of tables whose column `error` says which rows have one, and counts them.

    Args:
        label: of the step, for its counters.
        plan: plan of the job.
        shard: number of the shard.
        tables: the rows, in order.
        schema: their schema.
        group_rows: rows of a row group.
    """
    counters = StepCounters(label)

    def counted() -> Iterator[pa.Table]:
        for table in tables:
            counters.add(rows_in=table.num_rows, errors=table.num_rows - table["error"].null_count)
            yield table

    with counters.timed():
        record = write_shard(
            plan.output,
            plan.names[shard],
            plan.fingerprint,
            lambda file: write_parquet(file, counted(), schema, group_rows),
        )
    counters.add(rows_out=record.rows, bytes=record.bytes)


def keep_finished(keep_going: bool, work: Work, job: StageJob) -> bool:
    """Whether an unfinished run leaves blocks to the next one; those that failed the job are asked again.

    So are the results that a run with --keep_going made of them.
    """
    if not keep_going and blocks.forget_failures(work.url):
        job.forget()
    return bool(blocks.result_names(work.url))


def check_failures(numbers: list[int], work: Work, keep_going: bool, done: Iterable[int]) -> int:
    """Ends the job, before any shard is written, when the model failed alike on over half of its questions.

    The files are read, because a runner that tries again gives the results of its last try.

    Args:
        numbers: numbers of all blocks.
        work: working directory of the job.
        keep_going: whether no number of failures ends the job.
        done: numbers of the blocks that this run has done; a side input, so that the check comes after them.
    """
    if not keep_going:
        blocks.failures(work.url, numbers).check()
    return len(numbers)


def warnings(info: Mapping[str, Any], questions: int, rows: int) -> Iterator[str]:
    """Warnings for a reader: many errors, with the commonest reason; many cut texts; unreadable gold answers.

    Args:
        info: what the manifest says.
        questions: rows of the question files.
        rows: rows of the output.
    """
    errors = info["errors"]
    count = sum(errors.values())
    if count > FEW_ERRORS * questions:
        reason = max(errors, key=lambda reason: errors[reason])
        yield (
            f"{count:,} of {questions:,} rows ({count / questions:.1%}) have an error, {errors[reason]:,} of them: "
            f"{reason}; the column error says more"
        )
    if (cut := info.get("truncated", 0)) > FEW_ERRORS * rows:
        yield (
            f"in {cut:,} of {rows:,} rows ({cut / rows:.1%}) the question or a passage is cut to fit a model; "
            "the column truncated says in which"
        )
    if unreadable := info.get("unreadable_gold_answers", 0):
        first = info.get("first_unreadable_gold_answers")
        yield f"gold answers of {unreadable:,} of {questions:,} rows cannot be read and are left out: {first}"
