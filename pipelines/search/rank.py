"""Hits and texts to files of results."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import Any

import apache_beam as beam
import numpy as np

from pipelines.runners.counters import StepCounters
from pipelines.search.plan import Plan
from pipelines.transforms.question_vectors import encoding_errors
from rag_ops.questions import blocks
from rag_ops.questions.failures import NOT_ENCODED
from rag_ops.retrieval import hit_table, passage_texts
from rag_ops.retrieval.topk import TopK
from rag_ops.storage import store
from rag_ops.storage.parquet import write_parquet
from schemas import hits as schema

RESULT_ROWS = 100  # of questions, each with its passages, in a row group


@beam.ptransform_fn
def rank(joined: Any, plan: Plan) -> Any:
    """Writes files of results from hits and texts; emits the numbers of finished blocks."""
    return joined | "Write" >> beam.FlatMap(write_results, plan)


def write_results(element: tuple[int, Iterable[tuple[str, int, TopK]]], plan: Plan) -> Iterator[int]:
    """Reads the texts that a shard needs, and writes the results of its blocks; yields their numbers.

    Blocks that the runner's earlier try has written are left out.
    """
    joined, work = sorted(element[1], key=lambda found: found[:2]), plan.work
    hits_of = {block: hits for file, block, hits in joined if not file}
    todo = [block for block in hits_of if not store.exists(work.path(blocks.result_name(block)))]
    passages = passage_texts.load([(file, batch) for file, batch, _ in joined if file]) if todo else {}
    counters = StepCounters("WriteResults")
    for block in todo:
        hits = hits_of[block]
        truncated, failed = encoding_errors(work, block)
        errors = {row: f"{NOT_ENCODED} ({reason})" for row, reason in failed.items()}
        scores = {"dense_score": np.where(hits.rows < 0, np.float32(np.nan), hits.scores)}
        table = hit_table.result_table(hits, scores, passages, truncated.tolist(), errors)
        with store.atomic_write(work.url, blocks.result_name(block)) as file:
            write_parquet(file, iter([table]), schema.RESULTS, RESULT_ROWS)
        counters.add(rows_in=len(hits.rows), rows_out=table.num_rows, bytes=file.bytes_written)
        counters.tick(table.num_rows)
        yield block
