"""Hits and texts to files of results, reranked or as they are."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import Any

import apache_beam as beam
import numpy as np
from apache_beam.ml.inference.base import RunInference

from pipelines.runners.counters import StepCounters
from pipelines.search import combine
from pipelines.search.plan import Plan
from pipelines.search.rerank import RankUnit, RerankHandler
from pipelines.transforms.question_vectors import encoding_errors
from pipelines.transforms.work import Work
from rag_ops.questions import blocks
from rag_ops.questions.failures import NOT_ENCODED
from rag_ops.retrieval import hit_table, passage_texts
from rag_ops.retrieval.topk import TopK
from rag_ops.storage import store
from rag_ops.storage.parquet import read_parquet, write_parquet
from schemas import hits as schema

RESULT_ROWS = 100  # of questions, each with its passages, in a row group


@beam.ptransform_fn
def rank(joined: Any, plan: Plan) -> Any:
    """Writes files of results from hits and texts; emits the numbers of finished blocks."""
    units = joined | "Texts" >> beam.FlatMap(read_units, plan)
    if plan.reranker is not None:
        handler = RerankHandler("Rerank", plan.reranker, plan.options.reranked, plan.options.n_docs)
        units = units | "Rerank" >> RunInference(handler)
    return units | "Write" >> beam.Map(write_results, plan.work)


def read_units(element: tuple[int, Iterable[tuple[str, int, TopK]]], plan: Plan) -> Iterator[RankUnit]:
    """Reads the texts that a shard needs, and emits its blocks one by one with their passages.

    Blocks that the runner's earlier try has written are left out.
    """
    joined, work = sorted(element[1], key=lambda found: found[:2]), plan.work
    hits_of = {block: hits for file, block, hits in joined if not file}
    todo = [block for block in hits_of if not store.exists(work.path(blocks.result_name(block)))]
    passages = passage_texts.load([(file, batch) for file, batch, _ in joined if file]) if todo else {}
    for block in todo:
        hits = hits_of[block]
        asked = read_parquet(work.path(blocks.block_name(block)))["question"].to_pylist()
        truncated, failed = np.zeros(len(asked), bool), dict[int, str]()
        if plan.sources.dense is not None:
            truncated, failed = encoding_errors(work, block)
        if plan.options.fuses:
            scores = combine.read_scores(work, block, hits.rows.shape)
        else:
            name = combine.DENSE if plan.sources.dense is not None else combine.BM25
            scores = {name: np.where(hits.rows < 0, np.float32(np.nan), hits.scores)}
        errors = {row: f"{NOT_ENCODED} ({reason})" for row, reason in failed.items()}
        StepCounters("ReadTexts").add(rows_out=len(asked))
        yield RankUnit(block, asked, hits, scores, passages, truncated, errors)


def write_results(unit: RankUnit, work: Work) -> int:
    """Writes the results of a block; returns its number."""
    counters = StepCounters("WriteResults")
    table = hit_table.result_table(unit.hits, unit.sources, unit.passages, unit.truncated.tolist(), unit.errors)
    with store.atomic_write(work.url, blocks.result_name(unit.block)) as file:
        write_parquet(file, iter([table]), schema.RESULTS, RESULT_ROWS)
    counters.add(rows_in=len(unit.hits.rows), rows_out=table.num_rows, bytes=file.bytes_written)
    counters.tick(table.num_rows)
    return unit.block
