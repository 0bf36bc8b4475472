"""Encodes blocks of questions into files of vectors."""

from __future__ import annotations

import dataclasses
from typing import Any

import apache_beam as beam
import pyarrow as pa
from apache_beam.ml.inference.base import RunInference

from pipelines.answer.plan import Plan, Work
from pipelines.runners.counters import StepCounters
from pipelines.transforms.inference import EncoderHandler, TextUnit, VectorUnit
from pipelines.transforms.stage_job import distribute
from rag_ops.questions import blocks
from rag_ops.storage import store
from rag_ops.storage.parquet import read_parquet, write_parquet


@beam.ptransform_fn
def encode_questions(pipeline: Any, plan: Plan) -> Any:
    """Encodes blocks into files of question vectors; emits the numbers of finished blocks."""
    settings = dataclasses.replace(plan.settings, dtype=plan.question_dtype)
    handler = EncoderHandler("EncodeQuestions", settings, "question", ("question",), "float32")
    return (
        pipeline
        | distribute("Blocks", plan.todo)
        | "Read" >> beam.Map(read_block, plan.work)
        | "Encode" >> RunInference(handler)
        | "Write" >> beam.Map(write_vectors, plan.work)
    )


def read_block(block: blocks.Block, work: Work) -> TextUnit:
    """Reads a block of questions."""
    counters = StepCounters("ReadBlocks")
    with counters.timed():
        table = read_parquet(work.path(blocks.block_name(block.number)))
    counters.add(rows_out=table.num_rows, bytes=table.nbytes)
    return TextUnit(block.number, table)


def write_vectors(unit: VectorUnit, work: Work) -> int:
    """Writes the vectors of a block; returns its number."""
    dimension = unit.vectors.shape[1]
    column = pa.FixedSizeListArray.from_arrays(pa.array(unit.vectors.reshape(-1), pa.float32()), dimension)
    errors = pa.array([unit.errors.get(row) for row in range(len(unit.vectors))], pa.string())
    table = pa.table({"truncated": pa.array(unit.truncated), "error": errors, "vector": column})
    with store.atomic_write(work.url, work.name("vectors", unit.key)) as file:
        write_parquet(file, iter([table]), table.schema)
    StepCounters("WriteVectors").add(rows_in=len(unit.vectors), rows_out=table.num_rows, bytes=file.bytes_written)
    return unit.key
