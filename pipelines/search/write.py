"""Results to shards of hits, once the job has not failed as a whole."""

from __future__ import annotations

from pipelines.search.plan import Plan
from pipelines.transforms.question_blocks import write_rows
from rag_ops.retrieval import hit_table
from schemas import hits

ROW_GROUP_ROWS = 1000


def write_hits(shard: int, plan: Plan) -> None:
    """Writes a shard: the passages of every row of the question files, in the files' order."""
    tables = hit_table.hit_rows(plan.work.url, plan.cuts[shard])
    write_rows("WriteHits", plan, shard, tables, hits.SCHEMA, ROW_GROUP_ROWS)
