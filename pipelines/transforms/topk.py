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


@beam.typehints.with_input_types(TopK)  # CombinePerKey's own hints do not reach what comes out of it
@beam.typehints.with_output_types(TopK)
class MergeTopK(beam.CombineFn):
    """Merges the hits of several index shards for one block; an accumulator is the hits so far."""

    def __init__(self, k: int):
        self._k = k

    def create_accumulator(self) -> TopK:
        """No hits yet, and no question."""
        return TopK.empty(0, self._k)

    def add_input(self, accumulator: TopK, element: TopK) -> TopK:
        """Adds one shard's hits."""
        return self.merge_accumulators([accumulator, element])

    def merge_accumulators(self, accumulators: Iterable[TopK]) -> TopK:
        """Merges several accumulators."""
        parts = [part for part in accumulators if len(part.rows)]
        return merge(parts, self._k) if parts else self.create_accumulator()

    def extract_output(self, accumulator: TopK) -> TopK:
        """The best k."""
        return accumulator

    def get_accumulator_coder(self) -> beam.coders.Coder:
        """The coder of accumulators, which a runner may shuffle."""
        return TopKCoder()
