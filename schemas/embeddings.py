"""Embeddings: one vector a passage, row-aligned with the passage shards; the rows of `embeddings/`."""

from __future__ import annotations

from typing import Any

import pyarrow as pa

from schemas.passages import CONTENT_HASH_BYTES

DTYPES = {"float16": pa.float16(), "float32": pa.float32()}


def schema(dimension: int, dtype: str) -> pa.Schema:
    """The Arrow schema for vectors of `dimension` numbers of `dtype` ("float16" or "float32").

    `content_hash` repeats the passage's: it proves the alignment and lets a later run reuse the vector.
    """
    return pa.schema(
        [
            pa.field("content_hash", pa.binary(CONTENT_HASH_BYTES), nullable=False),
            pa.field("vector", pa.list_(DTYPES[dtype], dimension), nullable=False),
        ]
    )


def table(content_hash: Any, vectors: Any, dtype: str) -> pa.Table:
    """The table of an embedding shard from hashes and vectors, (rows, dimension), without copying the numbers."""
    dimension = vectors.shape[1]
    values = pa.array(vectors.reshape(-1), type=DTYPES[dtype])
    column = pa.FixedSizeListArray.from_arrays(values, dimension)
    return pa.table([content_hash, column], schema=schema(dimension, dtype))
