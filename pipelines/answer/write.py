"""Results to answer shards, once the job has not failed as a whole."""

from __future__ import annotations

from collections.abc import Iterator

import apache_beam as beam
import pyarrow as pa

from pipelines.answer.generate import RESULT_ROWS
from pipelines.answer.plan import Plan
from pipelines.runners.counters import StepCounters
from rag_ops.questions import blocks
from rag_ops.storage.parquet import write_parquet
from rag_ops.storage.stages import write_shard
from schemas import answers


class CheckFailures(beam.DoFn):
    """Ends the job, before any answer is written, when the model failed alike on over half of its questions."""

    def __init__(self, plan: Plan):
        self._work_url, self._keep_going = plan.work.url, plan.options.keep_going

    def process(self, numbers: list[int], results: list[int]) -> Iterator[int]:
        """See the class; the files are read, because a runner that tries again gives the results of its last try."""
        if not self._keep_going:
            blocks.failures(self._work_url, numbers).check()
        yield len(results)


class WriteAnswers(beam.DoFn):
    """Writes an answer shard: every row of the question files with its result, in the files' order."""

    def __init__(self, plan: Plan):
        self._output, self._work, self._cuts = plan.options.output, plan.work, plan.cuts
        self._names, self._fingerprint, self._digests = plan.names, plan.fingerprint, dict(plan.digests)
        self._counters = StepCounters("WriteAnswers")

    def process(self, shard: int, checked: list[int]) -> None:
        """See the class; `checked` is there to wait for all blocks, because a question may be answered in another's."""
        with self._counters.timed():
            tables = blocks.join_answers(self._work.url, self._work.url, self._cuts[shard], self._digests)
            record = write_shard(
                self._output,
                self._names[shard],
                self._fingerprint,
                lambda file: write_parquet(file, self._counted(tables), answers.SCHEMA, RESULT_ROWS),
            )
        self._counters.add(rows_out=record.rows, bytes=record.bytes)

    def _counted(self, tables: Iterator[pa.Table]) -> Iterator[pa.Table]:
        for table in tables:
            self._counters.add(rows_in=table.num_rows, errors=table.num_rows - table["error"].null_count)
            yield table
