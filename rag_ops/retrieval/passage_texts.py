"""Texts of the found passages: each passage shard is read once for all questions, and what is needed of it is kept.

Like chunk's spill files: one file for each passage shard, in it one record batch for each answer shard, so that neither
article text nor a join of candidates goes through a shuffle.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping

import numpy as np
import pyarrow as pa

from rag_ops.storage import store
from rag_ops.storage.rows import take_rows
from schemas.passages import Passage

SCHEMA = pa.schema(
    [
        pa.field("row", pa.int64(), nullable=False),
        pa.field("id", pa.string(), nullable=False),
        pa.field("title", pa.string(), nullable=False),
        pa.field("text", pa.string(), nullable=False),
        pa.field("section", pa.string(), nullable=False),  # empty if models read titles alone
    ]
)
COLUMNS = SCHEMA.names[1:]
_OPTIONS = pa.ipc.IpcWriteOptions(compression="zstd")


def fetch(
    passages_url: str,
    first_row: int,
    wanted: Mapping[int, np.ndarray],
    directory: str,
    name: str,
    sections: bool = False,
) -> dict[int, int]:
    """Reads a passage shard once and writes the wanted rows, a record batch for each answer shard.

    Args:
        passages_url: URL of the shard.
        first_row: its first row in the corpus.
        wanted: answer shard to rows of the corpus, ascending, all within this passage shard.
        directory: directory to write to.
        name: name of the file.
        sections: whether sections belong to what models read (`TITLE_SECTION`).

    Returns:
        Answer shard to number of its record batch.
    """
    everything = np.unique(np.concatenate(list(wanted.values())))
    table = take_rows(passages_url, COLUMNS if sections else COLUMNS[:-1], everything - first_row)
    if not sections:
        table = table.append_column("section", pa.array([""] * len(table)))
    with store.atomic_write(directory, name) as file, pa.ipc.new_file(file, SCHEMA, options=_OPTIONS) as writer:
        for shard in sorted(wanted):
            taken = table.take(pa.array(np.searchsorted(everything, wanted[shard])))
            columns = [pa.array(wanted[shard]), *(taken[field].combine_chunks() for field in COLUMNS)]
            writer.write_batch(pa.RecordBatch.from_arrays(columns, schema=SCHEMA))
    return {shard: number for number, shard in enumerate(sorted(wanted))}


def load(references: Iterable[tuple[str, int]]) -> dict[int, Passage]:
    """Row to passage, from the record batches (file URL, number) of one answer shard."""
    found: dict[int, Passage] = {}
    for url, number in references:
        with store.open_read(url) as file, pa.ipc.open_file(file) as reader:
            batch = reader.get_batch(number).to_pydict()
        for row, *passage in zip(*(batch[name] for name in SCHEMA.names), strict=True):
            found[row] = Passage(*passage)
    return found
