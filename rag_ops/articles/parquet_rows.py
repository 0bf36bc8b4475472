"""Parquet files: cut at row groups, and their rows."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from functools import partial
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from rag_ops import machine
from rag_ops.articles.article import Split
from rag_ops.errors import InputError
from rag_ops.storage import store

BATCH_ROWS = 256


def group_cuts(url: str, cut_bytes: int) -> Iterator[tuple[int, int]]:
    """Cuts a file after row groups that have `cut_bytes` together, compressed."""
    with open_parquet(url) as parquet:
        # Of columns, whose compressed sizes there are too, an encrypted one ends the process.
        sizes = [parquet.metadata.row_group(group).total_byte_size for group in range(parquet.num_row_groups)]
        compressed, start, size = store.size_bytes(url) / max(sum(sizes), 1), 0, 0.0
        for group, uncompressed in enumerate(sizes):
            size += uncompressed * compressed
            if size >= cut_bytes:
                yield start, group + 1
                start, size = group + 1, 0.0
        if start < parquet.num_row_groups:
            yield start, parquet.num_row_groups


def column_names(url: str) -> list[str]:
    """The names of a file's columns.

    Raises:
        InputError: it is no whole Parquet file.
    """
    with open_parquet(url) as parquet:
        return list(parquet.schema_arrow.names)


def parquet_rows(
    split: Split, columns: Sequence[str], batch_rows: int = BATCH_ROWS
) -> Iterator[tuple[Callable[[], str], dict[str, Any]]]:
    """Yields the rows of a split's row groups, each behind a function that says where it stands.

    Raises:
        InputError: the file is damaged.
    """
    with open_parquet(split.url) as parquet:
        end = parquet.num_row_groups if split.end is None else split.end
        number = sum(parquet.metadata.row_group(group).num_rows for group in range(split.start))
        groups = list(range(split.start, end))
        try:
            for batch in parquet.iter_batches(batch_rows, groups, columns):
                for row in batch.to_pylist():
                    number += 1
                    yield partial("{}, row {}".format, split.url, number), row
        except (pa.ArrowException, OSError, UnicodeDecodeError) as error:
            machine.check(error)
            raise InputError(
                f"a Parquet file is damaged, or its texts are not UTF-8 ({error})",
                value=f"{split.url}, after row {number}",
                remedy="download it again",
            ) from error


def open_parquet(url: str) -> pq.ParquetFile:
    """Opens a file.

    Raises:
        InputError: it is no whole Parquet file.
    """
    try:
        return pq.ParquetFile(store.open_read(url))
    except (pa.ArrowException, OSError, UnicodeDecodeError) as error:
        machine.check(error)
        raise InputError(
            f"not a whole Parquet file ({error})", value=url, remedy="check --format, or download it again"
        ) from error
