"""Arrow files, as the datasets library saves them: their record batches, and the files of a saved dataset."""

from __future__ import annotations

import json
import posixpath
from collections.abc import Iterator, Sequence
from typing import Any

import pyarrow as pa

from rag_ops import machine
from rag_ops.errors import InputError
from rag_ops.storage import store

SUFFIX = ".arrow"
STATE, SPLITS = "state.json", "dataset_dict.json"  # of a dataset, and of a folder with one for each split
MAGIC = b"ARROW1"  # of a file with a footer; the datasets library writes streams, which have none
BATCH_ROWS = 256


def column_names(url: str) -> list[str]:
    """The names of a file's columns.

    Raises:
        InputError: it is no Arrow file.
    """
    with store.open_read(url) as file:
        try:
            return list(_opened(file).schema.names)
        except (pa.ArrowException, OSError, UnicodeDecodeError) as error:
            machine.check(error)
            raise _damaged(url, error, 0) from error


def batches(url: str, columns: Sequence[str] | None = None) -> Iterator[pa.RecordBatch]:
    """Yields record batches of at most `BATCH_ROWS` rows, in order.

    Args:
        url: a file or a stream of Arrow's.
        columns: names of the columns to read; None for all.

    Raises:
        InputError: it is no whole Arrow file, or a text in it is not UTF-8.
    """
    number = 0
    with store.open_read(url) as file:
        try:
            reader = _opened(file)
            of_file = isinstance(reader, pa.RecordBatchFileReader)
            whole = map(reader.get_batch, range(reader.num_record_batches)) if of_file else reader
            for batch in whole:
                batch = batch if columns is None else batch.select(list(columns))
                batch.validate(full=True)
                for start in range(0, batch.num_rows, BATCH_ROWS):
                    yield batch.slice(start, BATCH_ROWS)
                    number += min(BATCH_ROWS, batch.num_rows - start)
        except (pa.ArrowException, OSError, UnicodeDecodeError) as error:
            machine.check(error)
            raise _damaged(url, error, number) from error


def saved_files(url: str, split: str | None = None) -> list[str] | None:
    """The Arrow files of a dataset that the datasets library saved to disk, in order; None if `url` is no such folder.

    Args:
        url: a folder that `save_to_disk` wrote, of one dataset or of a dictionary of splits.
        split: which of several splits; None if there may be but one.

    Raises:
        InputError: it has several splits and `split` is none of them, or its lists of files cannot be read.
    """
    fs, path = store.filesystem(url)
    if not fs.isdir(path):
        return None
    if store.exists(store.join(url, SPLITS)):
        names = _names(_json(store.join(url, SPLITS)), "splits", url)
        chosen = split if split in names else names[0] if len(names) == 1 else None
        if chosen is None:
            raise InputError(
                "a saved dataset has several splits",
                value=f"{url}: {', '.join(names)}",
                expected="one of them",
                remedy="name its folder, or give --dataset_split to chunk",
            )
        return saved_files(store.join(url, chosen))
    if not store.exists(store.join(url, STATE)):
        return None
    files = _json(store.join(url, STATE)).get("_data_files")
    listed = {"files": [one.get("filename") if isinstance(one, dict) else None for one in files or []]}
    return [store.join(url, name) for name in _names(listed, "files", url)]


def _opened(file: Any) -> Any:
    head = file.read(len(MAGIC))
    file.seek(0)
    return pa.ipc.open_file(file) if head == MAGIC else pa.ipc.open_stream(file)


def _json(url: str) -> dict[str, Any]:
    try:
        value = json.loads(store.read_text(url))
    except (ValueError, RecursionError) as error:
        raise InputError(f"a file of a saved dataset is not JSON ({error})", value=url) from error
    if not isinstance(value, dict):
        raise InputError("a file of a saved dataset is no JSON object", value=url)
    return value


def _names(value: dict[str, Any], key: str, url: str) -> list[str]:
    """Names of files or folders in the dataset's own folder."""
    names = value.get(key)
    plain = isinstance(names, list) and all(
        isinstance(name, str) and name not in ("", ".", "..") and posixpath.basename(name) == name for name in names
    )
    if not plain or not names:
        raise InputError(
            f"a saved dataset lists no {key}",
            value=url,
            expected="a folder that save_to_disk of the datasets library wrote",
        )
    return names


def _damaged(url: str, error: Exception, number: int) -> InputError:
    return InputError(
        f"not a whole Arrow file, or its texts are not UTF-8 ({error})",
        value=f"{url}, after row {number}" if number else url,
        expected="a file that the datasets library saved",
    )
