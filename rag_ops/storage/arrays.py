"""Several arrays in one file, in the safetensors format: written as they come, and opened without being read.

The library of that name reads these files; it writes only what is in memory as a whole, and its arrays are copies.
"""

from __future__ import annotations

import json
import math
import os
from collections.abc import Iterator, Mapping
from typing import Any

import numpy as np

from rag_ops.errors import InputError
from rag_ops.storage import store

DTYPES = {"U8": "<u1", "U16": "<u2", "U32": "<u4", "U64": "<u8", "I32": "<i4", "I64": "<i8"}
_NAMES = {np.dtype(dtype): name for name, dtype in DTYPES.items()}
HEADER_BYTES = 1 << 20  # of the JSON that names the arrays, at most


class ArraysWriter:
    """Writes arrays of one dimension to an open file, one after the other.

    Args:
        file: open file; never sought in.
        arrays: name to dtype and length of each array, in the order in which they are written.
    """

    def __init__(self, file: Any, arrays: Mapping[str, tuple[Any, int]]):
        header, start = {}, 0
        for name, (dtype, length) in arrays.items():
            end = start + np.dtype(dtype).itemsize * length
            header[name] = {"dtype": _NAMES[np.dtype(dtype)], "shape": [length], "data_offsets": [start, end]}
            start = end
        text = json.dumps(header, separators=(",", ":")).encode()
        text += b" " * (-len(text) % 8)  # so that all numbers lie where a processor reads them at once
        file.write(len(text).to_bytes(8, "little") + text)
        self._file, self._left = file, {name: (np.dtype(dtype), length) for name, (dtype, length) in arrays.items()}

    def write(self, name: str, values: np.ndarray) -> None:
        """Writes the next values of an array, (n,); arrays are written whole, in their order.

        Raises:
            ValueError: it is not that array's turn, or there are more values than were announced.
        """
        while self._left:
            current, (dtype, length) = next(iter(self._left.items()))
            if current == name and len(values) <= length:
                self._file.write(np.ascontiguousarray(values, dtype))
                self._left[name] = dtype, length - len(values)
                return
            if length:
                break
            del self._left[current]
        raise ValueError(f"{len(values)} values of {name} are not what follows")


def open_arrays(path: str, dtypes: Mapping[str, tuple[str, ...]], url: str | None = None) -> dict[str, np.ndarray]:
    """The arrays of a local file that `ArraysWriter` wrote, by name, mapped: each is read when it is used.

    Args:
        path: local path of the file.
        dtypes: name to the dtypes that it may have, of each array that must be there.
        url: URL of the file for errors, if it is not `path`.

    Raises:
        InputError: it is missing, cut, or no file of such arrays.
    """
    try:
        with open(path, "rb") as file:
            size = os.fstat(file.fileno()).st_size
            header_bytes = int.from_bytes(file.read(8), "little")
            if not 2 <= header_bytes <= HEADER_BYTES:
                raise ValueError(f"its header has {header_bytes} bytes")
            header = json.loads(file.read(header_bytes))
        found = dict(_arrays(path, header, 8 + header_bytes, size))
    except FileNotFoundError as error:
        raise InputError("a file is missing", value=url or path, remedy="run the stage that writes it again") from error
    except (ValueError, KeyError, TypeError, AttributeError, RecursionError) as error:
        raise _damaged(url or path, str(error)) from error
    for name, allowed in dtypes.items():
        if name not in found or found[name].dtype not in [np.dtype(dtype) for dtype in allowed]:
            raise _damaged(url or path, f"it has no array {name} of {' or '.join(allowed)}")
    return found


def read_array(url: str, name: str) -> np.ndarray:
    """One array of a file by its URL, without the others.

    Raises:
        InputError: the file is missing, cut, or has no such array.
    """
    try:
        with store.open_read(url) as file:
            header_bytes = int.from_bytes(file.read(8), "little")
            if not 2 <= header_bytes <= HEADER_BYTES:
                raise ValueError(f"its header has {header_bytes} bytes")
            entry = json.loads(file.read(header_bytes))[name]
            start, end = entry["data_offsets"]
            file.seek(8 + header_bytes + start)
            return np.frombuffer(file.read(end - start), DTYPES[entry["dtype"]])
    except FileNotFoundError as error:
        raise InputError("a file is missing", value=url, remedy="run the stage that writes it again") from error
    except (ValueError, KeyError, TypeError, AttributeError, RecursionError) as error:
        raise _damaged(url, str(error)) from error


def _arrays(path: str, header: Mapping[str, Any], start: int, size: int) -> Iterator[tuple[str, np.ndarray]]:
    """Maps every array that a header names."""
    for name, entry in header.items():
        if name == "__metadata__":
            continue
        dtype, (length,), (first, end) = np.dtype(DTYPES[entry["dtype"]]), entry["shape"], entry["data_offsets"]
        if any(type(value) is not int for value in (length, first, end)):
            raise ValueError(f"{name} has places that are no whole numbers")
        if not (0 <= first <= end <= size - start) or length < 0 or end - first != dtype.itemsize * length:
            raise ValueError(f"{name} is not within its {size} bytes")
        shape = (length,)
        yield name, np.memmap(path, dtype, "r", start + first, shape) if math.prod(shape) else np.empty(shape, dtype)


def _damaged(url: str, why: str) -> InputError:
    return InputError(f"a file of arrays cannot be read: {why}", value=url, remedy="run its stage again with --verify")
