"""Results to answer shards, once the job has not failed as a whole."""

from __future__ import annotations

from pipelines.answer.generate import RESULT_ROWS
from pipelines.answer.plan import Plan
from pipelines.transforms.question_blocks import write_rows
from rag_ops.questions import blocks
from schemas import answers


def write_answers(shard: int, plan: Plan) -> None:
    """Writes an answer shard: every row of the question files with its result, in the files' order."""
    tables = blocks.join_answers(plan.work.url, plan.work.url, plan.cuts[shard], dict(plan.digests))
    write_rows("WriteAnswers", plan, shard, tables, answers.SCHEMA, RESULT_ROWS)
