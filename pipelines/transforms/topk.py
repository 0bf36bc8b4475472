"""Top-k arrays in a pipeline: their coder, without which Beam pickles them, and the merge of what shards found."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import apache_beam as beam

from rag_ops.retrieval.topk import TopK, merge


class TopKCoder(beam.coders.Coder):
    """Top-k arrays by their own bytes."""

    def encode(self, value: TopK) -> bytes:
        """See TopK.to_bytes."""
        return value.to_bytes()

    def decode(self, encoded: bytes) -> TopK:
        """See TopK.from_bytes."""
        return TopK.from_bytes(encoded)

    def is_deterministic(self) -> bool:
        """True, so that it may be a key."""
        return True

    def to_type_hint(self) -> Any:
        """The type that it codes."""
        return TopK


def register_coder() -> None:
    """Registers the coder with Beam; called wherever a pipeline is built."""
    beam.coders.registry.register_coder(TopK, TopKCoder)


class MergeTopK(beam.CombineFn):
    """Merges the hits of several index shards for one block."""

    def __init__(self, k: int):
        self._k = k

    def create_accumulator(self) -> list[TopK]:
        """No hits yet."""
        return []

    def add_input(self, accumulator: list[TopK], element: TopK) -> list[TopK]:
        """Adds one shard's hits."""
        return [merge([*accumulator, element], self._k)]

    def merge_accumulators(self, accumulators: Iterable[list[TopK]]) -> list[TopK]:
        """Merges several accumulators."""
        parts = [part for accumulator in accumulators for part in accumulator]
        return [merge(parts, self._k)] if parts else []

    def extract_output(self, accumulator: list[TopK]) -> TopK:
        """The best k."""
        return accumulator[0]
