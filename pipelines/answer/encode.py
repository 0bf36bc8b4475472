"""Encodes blocks of questions into files of vectors."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import apache_beam as beam
import pyarrow as pa
from apache_beam.ml.inference.base import RunInference

from pipelines.answer.plan import Plan, Work
from pipelines.runners.counters import StepCounters
from pipelines.transforms.inference import (
    EncoderHandler,
    TextUnit,
    VectorUnit,
)
from rag_ops.questions import blocks
from rag_ops.storage import store
from rag_ops.storage.parquet import read_parquet, write_parquet


class EncodeQuestions(beam.PTransform):
    """Encodes blocks into files of question vectors; emits the numbers of finished blocks."""

    def __init__(self, plan: Plan):
        super().__init__()
        self._plan = plan

    def expand(self, pcoll: Any) -> Any:
        """See the class."""
        handler = EncoderHandler("EncodeQuestions", self._plan.settings, "question", ("question",), "float32")
        return (
            pcoll
            | "Read" >> beam.ParDo(ReadBlocks(self._plan.work))
            | "Encode" >> RunInference(handler)
            | "Write" >> beam.ParDo(WriteVectors(self._plan.work))
        )


class ReadBlocks(beam.DoFn):
    """Reads a block of questions."""

    def __init__(self, work: Work):
        self._work = work
        self._counters = StepCounters("ReadBlocks")

    def process(self, block: blocks.Block) -> Iterator[TextUnit]:
        """See the class."""
        with self._counters.timed():
            table = read_parquet(self._work.path(blocks.block_name(block.number)))
        self._counters.add(rows_out=table.num_rows, bytes=table.nbytes)
        yield TextUnit(block.number, table)


class WriteVectors(beam.DoFn):
    """Writes the vectors of a block."""

    def __init__(self, work: Work):
        self._work = work

    def process(self, unit: VectorUnit) -> Iterator[int]:
        """See the class."""
        counters = StepCounters("WriteVectors")
        dimension = unit.vectors.shape[1]
        column = pa.FixedSizeListArray.from_arrays(pa.array(unit.vectors.reshape(-1), pa.float32()), dimension)
        errors = pa.array([unit.errors.get(row) for row in range(len(unit.vectors))], pa.string())
        table = pa.table({"truncated": pa.array(unit.truncated), "error": errors, "vector": column})
        with store.atomic_write(self._work.url, self._work.name("vectors", unit.key)) as file:
            write_parquet(file, iter([table]), table.schema)
        counters.add(rows_in=len(unit.vectors), rows_out=table.num_rows, bytes=file.bytes_written)
        yield unit.key
