"""Results to shards of hits, once the job has not failed as a whole; and a TREC run of them."""

from __future__ import annotations

from collections.abc import Iterator

import pyarrow as pa

from pipelines.runners.counters import StepCounters
from pipelines.search.plan import Plan
from rag_ops.retrieval import hit_table
from rag_ops.storage.parquet import write_parquet
from rag_ops.storage.stages import write_shard
from schemas import hits

ROW_GROUP_ROWS = 1000


def write_hits(shard: int, plan: Plan) -> None:
    """Writes a shard: the passages of every row of the question files, in the files' order."""
    counters = StepCounters("WriteHits")

    def counted(tables: Iterator[pa.Table]) -> Iterator[pa.Table]:
        for table in tables:
            counters.add(rows_in=table.num_rows, errors=table.num_rows - table["error"].null_count)
            yield table

    with counters.timed():
        record = write_shard(
            plan.options.output,
            plan.names[shard],
            plan.fingerprint,
            lambda file: write_parquet(
                file, counted(hit_table.hit_rows(plan.work.url, plan.cuts[shard])), hits.SCHEMA, ROW_GROUP_ROWS
            ),
        )
    counters.add(rows_out=record.rows, bytes=record.bytes)
