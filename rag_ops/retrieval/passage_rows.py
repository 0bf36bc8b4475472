"""Rows of passages by their ids: one pass over the column of ids, a row group at a time."""

from __future__ import annotations

from collections.abc import Iterable

from rag_ops.storage import store
from rag_ops.storage.parquet import open_parquet
from schemas.manifest import Manifest

UNKNOWN, SEVERAL = -1, -2  # in place of a row: no passage has the id, or more than one


def rows_of(ids: Iterable[str], url: str, passages: Manifest) -> dict[str, int]:
    """The row of each id in the passages at directory `url`; `UNKNOWN` or `SEVERAL` if there is no one row.

    Memory is some 150 bytes an id and one row group's ids.
    """
    found = dict.fromkeys(ids, UNKNOWN)
    for shard, first in zip(passages.shards, passages.row_starts(), strict=False):
        row = first
        with open_parquet(store.join(url, shard.path), shard.rows) as parquet:
            for group in range(parquet.num_row_groups):
                for passage_id in parquet.read_row_group(group, columns=["id"])["id"].to_pylist():
                    if passage_id in found:
                        found[passage_id] = row if found[passage_id] == UNKNOWN else SEVERAL
                    row += 1
    return found
