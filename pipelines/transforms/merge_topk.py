"""Merges what several shards found."""

from __future__ import annotations

from collections.abc import Iterable

import apache_beam as beam

from rag_ops.retrieval.topk import TopK, merge


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
