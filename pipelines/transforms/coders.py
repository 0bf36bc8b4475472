"""Coders for what crosses a shuffle: without them Beam pickles tables, and a slice of a table with its whole parent."""

from __future__ import annotations

from typing import Any

import apache_beam as beam
import pyarrow as pa

from rag_ops.retrieval.topk import TopK


class TableCoder(beam.coders.Coder):
    """Arrow tables as an IPC stream; equal tables give equal bytes."""

    def encode(self, value: pa.Table) -> bytes:
        """The table's rows and schema; of a slice, the slice alone."""
        sink = pa.BufferOutputStream()
        with pa.ipc.new_stream(sink, value.schema) as writer:
            writer.write_table(value.combine_chunks())
        return sink.getvalue().to_pybytes()

    def decode(self, encoded: bytes) -> pa.Table:
        """The inverse of `encode`."""
        with pa.ipc.open_stream(encoded) as reader:
            return reader.read_all()

    def is_deterministic(self) -> bool:
        """True, so that it may be a key."""
        return True

    def to_type_hint(self) -> Any:
        """The type that it codes."""
        return pa.Table


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
    """Registers our coders with Beam; called wherever a pipeline is built."""
    beam.coders.registry.register_coder(pa.Table, TableCoder)
    beam.coders.registry.register_coder(TopK, TopKCoder)
