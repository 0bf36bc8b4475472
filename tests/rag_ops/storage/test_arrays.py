"""Files of arrays: what the safetensors library reads, mapped, and damaged ones refused."""

from __future__ import annotations

import io
import json

import numpy as np
import pytest
from safetensors.numpy import load_file

from rag_ops.errors import InputError
from rag_ops.storage.arrays import ArraysWriter, open_arrays

ARRAYS = {"a": np.arange(7, dtype="<u1"), "none": np.empty(0, "<i8"), "b": np.arange(5, dtype="<u8") << np.uint64(60)}


def write(path) -> None:
    """Writes ARRAYS, in pieces."""
    with open(path, "wb") as file:
        writer = ArraysWriter(file, {name: (values.dtype, len(values)) for name, values in ARRAYS.items()})
        for name, values in ARRAYS.items():
            for start in range(0, len(values), 3):
                writer.write(name, values[start : start + 3])


def test_the_library_reads_what_is_written(tmp_path) -> None:
    """And so do we, with the same dtypes."""
    write(path := tmp_path / "arrays")
    for found in (load_file(path), open_arrays(str(path), {"b": ("<u8",)})):
        assert found.keys() == ARRAYS.keys()
        assert all(found[name].dtype == ARRAYS[name].dtype for name in ARRAYS)
        assert all(found[name].tolist() == ARRAYS[name].tolist() for name in ARRAYS)


def test_values_out_of_turn_are_a_mistake_of_the_caller() -> None:
    """Another array's, or too many."""
    for name, values in (("b", np.arange(2)), ("a", np.arange(3))):
        with pytest.raises(ValueError, match="not what follows"):
            ArraysWriter(io.BytesIO(), {"a": ("<i4", 2), "b": ("<i4", 2)}).write(name, values)


@pytest.mark.parametrize(
    "header",
    [
        {"a": {"dtype": "F99", "shape": [1], "data_offsets": [0, 1]}},
        {"a": {"dtype": "U8", "shape": [1000], "data_offsets": [0, 1000]}},
        {"a": {"dtype": "U8", "shape": [-1], "data_offsets": [1, 0]}},
        {"a": {"dtype": "U8", "shape": [1], "data_offsets": [0.0, 1.0]}},
        {"a": {"dtype": "U8", "shape": [1, 1], "data_offsets": [0, 1]}},
        {"a": {"dtype": "U16", "shape": [1], "data_offsets": [0, 2]}},
        {"b": {"dtype": "U8", "shape": [1], "data_offsets": [0, 1]}},
        {"a": 7},
        [],
    ],
)
def test_a_file_that_is_not_what_it_should_be_is_an_error(tmp_path, header) -> None:
    """Of one line with its name."""
    text = json.dumps(header).encode()
    (tmp_path / "arrays").write_bytes(len(text).to_bytes(8, "little") + text + bytes(100))
    with pytest.raises(InputError, match=r"a file of arrays cannot be read: .*arrays"):
        open_arrays(str(tmp_path / "arrays"), {"a": ("<u1",)})


def test_a_missing_file_is_an_error(tmp_path) -> None:
    """Too."""
    with pytest.raises(InputError, match="a file is missing"):
        open_arrays(str(tmp_path / "nothing"), {})
