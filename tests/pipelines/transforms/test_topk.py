"""The coder of top-k arrays: what goes in comes out."""

import numpy as np

from pipelines.transforms.topk import TopKCoder
from rag_ops.retrieval.topk import TopK


def test_top_k():
    found = TopK.sorted(np.array([[1.0, 3.0]]), np.array([[5, 6]]), 3)
    back = TopKCoder().decode(TopKCoder().encode(found))
    assert back.rows.tolist() == [[6, 5, -1]]
    assert back.scores.tolist() == found.scores.tolist()
