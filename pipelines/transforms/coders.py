"""The coder for what crosses a shuffle beside rows and names: without it Beam pickles."""

from __future__ import annotations

from typing import Any

import apache_beam as beam

from rag_ops.retrieval.topk import TopK


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


def register() -> None:
    """Registers our coder with Beam; called wherever a pipeline is built."""
    beam.coders.registry.register_coder(TopK, TopKCoder)
