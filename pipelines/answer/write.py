"""Results to answer shards, once the job has not failed as a whole."""

from __future__ import annotations

from collections.abc import Iterator

import pyarrow as pa

from pipelines.answer.generate import RESULT_ROWS
from pipelines.answer.plan import Plan
from pipelines.runners.counters import StepCounters
from rag_ops.questions import blocks
from rag_ops.storage.parquet import write_parquet
from rag_ops.storage.stages import write_shard
from schemas import answers


def write_answers(shard: int, plan: Plan) -> None:
    """Writes an answer shard: every row of the question files with its result, in the files' order."""
    counters = StepCounters("WriteAnswers")

    def counted(tables: Iterator[pa.Table]) -> Iterator[pa.Table]:
        for table in tables:
            counters.add(rows_in=table.num_rows, errors=table.num_rows - table["error"].null_count)
            yield table

    with counters.timed():
        tables = blocks.join_answers(plan.work.url, plan.work.url, plan.cuts[shard], dict(plan.digests))
        record = write_shard(
            plan.options.output,
            plan.names[shard],
            plan.fingerprint,
            lambda file: write_parquet(file, counted(tables), answers.SCHEMA, RESULT_ROWS),
        )
    counters.add(rows_out=record.rows, bytes=record.bytes)
