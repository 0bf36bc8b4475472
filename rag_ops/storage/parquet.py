"""Parquet files: our own have the same bytes for the same tables; all are opened with our errors."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator, Sequence
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from rag_ops import machine
from rag_ops.errors import InputError
from rag_ops.storage.store import open_read

ROW_GROUP_ROWS = (
    1000  # a passage or vector is fetched by reading its row group: about 0.5 MB of text, 1.5 MB of vectors
)


def write_parquet(
    file: Any, batches: Iterator[pa.Table], schema: pa.Schema, row_group_rows: int = ROW_GROUP_ROWS
) -> int:
    """Writes tables of `schema` to an open file as Parquet (text and vectors in zstd); returns the number of rows.

    The same tables give the same bytes: no dictionary guesses across tables, no time stamps.
    """
    rows = 0
    with pq.ParquetWriter(file, schema, compression="zstd", use_dictionary=False, write_statistics=False) as writer:
        for table in batches:
            writer.write_table(table, row_group_size=row_group_rows)
            rows += table.num_rows
    return rows


@contextlib.contextmanager
def open_parquet(url: str, rows: int | None = None) -> Iterator[pq.ParquetFile]:
    """Opens a Parquet file of our own.

    Args:
        url: URL of the file.
        rows: number of rows that its manifest says; None if there is none.

    Raises:
        InputError: there is none, it is cut or not Parquet, or it holds another number of rows.
    """
    try:
        with open_read(url) as file, pq.ParquetFile(file, pre_buffer=False) as parquet:
            if rows not in (None, parquet.metadata.num_rows):
                raise InputError(
                    "a shard does not hold what its manifest says",
                    value=f"{url} ({parquet.metadata.num_rows} rows)",
                    expected=f"{rows} rows",
                    remedy="run its stage again",
                )
            yield parquet
    except FileNotFoundError as error:
        raise InputError("a file is missing", value=url, remedy="run the stage that writes it again") from error
    except pa.ArrowInvalid as error:
        raise InputError(f"not a whole Parquet file ({error})", value=url, remedy="run its stage again") from error
    except OSError as error:
        if error.errno is not None:
            raise
        # Arrow's own: a page that cannot be decompressed
        raise InputError(
            f"the Parquet file is damaged ({error})", value=url, remedy="run its stage again with --verify"
        ) from error


@contextlib.contextmanager
def open_given_parquet(url: str, reached: Sequence[int] = (0,)) -> Iterator[pq.ParquetFile]:
    """Opens a Parquet file that a user gives.

    Args:
        url: URL of the file.
        reached: the number of the last row that was read, which an error names; whoever reads keeps it.

    Raises:
        InputError: it is cut, damaged or not Parquet.
    """
    with open_read(url) as file:
        try:
            with pq.ParquetFile(file) as parquet:
                yield parquet
        except (pa.ArrowException, OSError, UnicodeDecodeError) as error:
            machine.check(error)
            where = f"{url}, after row {reached[0]}" if reached[0] else url
            raise InputError(f"not a whole Parquet file ({error})", value=where) from error


def read_parquet(url: str, columns: list[str] | None = None, rows: int | None = None) -> pa.Table:
    """The whole of a Parquet file of our own, or the named columns; `rows` as for `open_parquet`."""
    with open_parquet(url, rows) as parquet:
        return parquet.read(columns=columns)
