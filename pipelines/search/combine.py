"""The hits of two searches as one list for each block."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import Any

import apache_beam as beam
import numpy as np
import pyarrow as pa

from pipelines.runners.counters import StepCounters
from pipelines.transforms.work import Work
from rag_ops.retrieval.fusion import FusionSettings, fuse
from rag_ops.retrieval.topk import TopK
from rag_ops.storage import store
from rag_ops.storage.parquet import read_parquet, write_parquet

DENSE, BM25 = "dense_score", "bm25_score"
SCORES = pa.schema([pa.field(DENSE, pa.float32()), pa.field(BM25, pa.float32())])
Side = tuple[int, tuple[str, TopK]]


@beam.ptransform_fn
def combine(sides: Any, how: FusionSettings, depth: int, work: Work) -> Any:
    """(block, TopK) of the vectors' search and of the words' to (block, TopK); either score goes to a file."""
    dense, bm25 = sides
    tagged = [
        hits | f"Name {name}" >> beam.Map(_named, name).with_output_types(Side)
        for name, hits in ((DENSE, dense), (BM25, bm25))
    ]
    return (
        tagged
        | beam.Flatten()
        | "GroupByBlock" >> beam.GroupByKey()
        | "Fuse" >> beam.FlatMap(fuse_block, how, depth, work).with_output_types(tuple[int, TopK])
    )


def _named(element: tuple[int, TopK], name: str) -> Side:
    return element[0], (name, element[1])


def fuse_block(
    element: tuple[int, Iterable[tuple[str, TopK]]], how: FusionSettings, depth: int, work: Work
) -> Iterator[tuple[int, TopK]]:
    """Fuses the hits of a block, and writes the scores that they had."""
    block, sides = element[0], dict(element[1])
    counters = StepCounters("Fuse")
    with counters.timed():
        fused = fuse(sides[DENSE], sides[BM25], how, depth)
        table = pa.table([pa.array(scores.reshape(-1)) for scores in (fused.dense, fused.bm25)], schema=SCORES)
        with store.atomic_write(work.url, work.name("scores", block)) as file:
            write_parquet(file, iter([table]), SCORES)
    counters.add(rows_in=len(fused.hits.rows), rows_out=len(fused.hits.rows))
    yield block, fused.hits


def read_scores(work: Work, block: int, shape: tuple[int, int]) -> dict[str, np.ndarray]:
    """The scores of a block's fused passages by name, float32 of that shape; NaN for none."""
    table = read_parquet(work.path(work.name("scores", block)))
    return {name: table[name].to_numpy().reshape(shape) for name in SCORES.names}
