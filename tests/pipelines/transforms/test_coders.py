"""Coders: what goes in comes out, a slice without its parent."""

import numpy as np
import pyarrow as pa

from pipelines.transforms.coders import TableCoder, TopKCoder
from rag_ops.retrieval.topk import TopK


def test_tables_and_their_slices():
    table = pa.table(
        {"text": ["x" * 1000] * 1000, "vector": pa.FixedSizeListArray.from_arrays(pa.array(np.zeros(4000)), 4)}
    )
    coder = TableCoder()
    assert coder.decode(coder.encode(table)).equals(table)
    part = coder.encode(table.slice(10, 2))
    assert len(part) < 5000
    assert coder.decode(part).equals(table.slice(10, 2))
    assert coder.encode(table) == coder.encode(table)


def test_top_k():
    found = TopK.sorted(np.array([[1.0, 3.0]]), np.array([[5, 6]]), 3)
    back = TopKCoder().decode(TopKCoder().encode(found))
    assert back.rows.tolist() == [[6, 5, -1]]
    assert back.scores.tolist() == found.scores.tolist()
