"""What jobs over blocks of questions do around their models: go on with blocks that are done, fail, and warn."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from typing import Any

from pipelines.transforms.stage_job import StageJob
from pipelines.transforms.work import Work
from rag_ops.questions import blocks

FEW_ERRORS = 0.01  # share of the rows: of more with an error, or cut, there is a warning


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
