"""The passages that a filter leaves: found once for each passage shard, and read by whoever searches."""

from __future__ import annotations

import dataclasses
from typing import Any

import apache_beam as beam
import numpy as np

from pipelines.runners.counters import StepCounters
from pipelines.transforms.work import Work
from rag_ops.retrieval.filters import Filter
from rag_ops.storage import store
from rag_ops.storage.parquet import open_parquet
from schemas.manifest import Manifest


@dataclasses.dataclass(frozen=True)
class Allowed:
    """The passages that pass a filter, a bit for each row, in a file for each passage shard.

    Attributes:
        url: directory of the passages.
        passages: their manifest.
        condition: the filter.
        work: where the files lie.
    """

    url: str
    passages: Manifest
    condition: Filter
    work: Work

    def path(self, shard: int) -> str:
        """The URL of the file of a passage shard."""
        return self.work.path(self.work.name("allowed", shard, "bits"))

    def places(self, first: int, rows: int) -> np.ndarray:
        """The passages that pass among so many rows from the first, counted from there, int64 ascending."""
        found, starts = np.zeros(rows, bool), self.passages.row_starts()
        for number, shard in enumerate(self.passages.shards):
            begin, end = max(first, starts[number]), min(first + rows, starts[number + 1])
            if begin < end:
                with store.open_read(self.path(number)) as file:
                    bits = np.unpackbits(np.frombuffer(file.read(), np.uint8), count=shard.rows).astype(bool)
                found[begin - first : end - first] = bits[begin - starts[number] : end - starts[number]]
        return np.flatnonzero(found)


@beam.ptransform_fn
def find_allowed(numbers: Any, allowed: Allowed) -> Any:
    """Finds the passages that pass in passage shards, by their numbers; emits the numbers."""
    return numbers | "Compare" >> beam.Map(compare_rows, allowed)


def compare_rows(number: int, allowed: Allowed) -> int:
    """Writes which passages of a shard pass, unless an earlier try has; returns its number."""
    path, shard = allowed.path(number), allowed.passages.shards[number]
    if store.exists(path):
        return number
    counters, bits = StepCounters("CompareRows"), np.zeros(shard.rows, bool)
    with counters.timed(), open_parquet(store.join(allowed.url, shard.path), shard.rows) as parquet:
        allowed.condition.check(parquet.schema_arrow)
        start = 0
        for group in range(parquet.num_row_groups):
            table = parquet.read_row_group(group, columns=allowed.condition.columns)
            bits[start : start + len(table)] = allowed.condition.matches(table)
            start += len(table)
    store.write_bytes(allowed.work.url, allowed.work.name("allowed", number, "bits"), np.packbits(bits).tobytes())
    counters.add(rows_in=shard.rows, rows_out=int(bits.sum()))
    return number
