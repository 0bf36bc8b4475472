"""Encodes blocks of questions into files of vectors."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import apache_beam as beam
import numpy as np
import pyarrow as pa
from apache_beam.ml.inference.base import RunInference

from pipelines.runners.counters import StepCounters
from pipelines.transforms.inference import EncoderHandler, ModelSettings, TextUnit, VectorUnit
from pipelines.transforms.stage_job import distribute
from pipelines.transforms.work import Work
from rag_ops.questions import blocks
from rag_ops.storage import store
from rag_ops.storage.parquet import read_parquet, write_parquet
from rag_ops.storage.rows import as_matrix


@beam.ptransform_fn
def encode_questions(pipeline: Any, todo: Sequence[blocks.Block], work: Work, settings: ModelSettings) -> Any:
    """Encodes blocks into files of question vectors; emits the numbers of finished blocks."""
    handler = EncoderHandler("EncodeQuestions", settings, "question", ("question",), "float32")
    return (
        pipeline
        | distribute("Blocks", todo)
        | "Read" >> beam.Map(read_block, work)
        | "Encode" >> RunInference(handler)
        | "Write" >> beam.Map(write_vectors, work)
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


def question_vectors(work: Work, block: int) -> np.ndarray:
    """The vectors of a block, float32 (questions, dimension)."""
    return as_matrix(read_parquet(work.path(work.name("vectors", block)), ["vector"])["vector"])


def encoding_errors(work: Work, block: int) -> tuple[np.ndarray, dict[int, str]]:
    """Whether each question of a block was cut, bool (questions,); and why some could not be encoded, by row."""
    encoded = read_parquet(work.path(work.name("vectors", block)), ["truncated", "error"])
    errors = {row: error for row, error in enumerate(encoded["error"].to_pylist()) if error is not None}
    return encoded["truncated"].to_numpy(), errors
