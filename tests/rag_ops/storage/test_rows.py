"""Rows of shards by their number, beside NumPy."""

import numpy as np
import pytest

from rag_ops.storage.manifests import read_manifest
from rag_ops.storage.rows import RowReader, read_corpus_rows
from tests.pipelines.workspace import write_corpus


@pytest.mark.parametrize("rows", [[0, 3, 6], [5], [6, 0, 3, 3], [2, 2, 2], list(range(7))])
def test_rows_of_the_corpus_in_any_order_and_more_than_once(rows, tmp_path):
    parts = [np.random.default_rng(n).standard_normal((n, 4)).astype(np.float16) for n in (3, 0, 4)]
    write_corpus(tmp_path, parts, normalize=False)
    url, every = str(tmp_path / "embeddings"), np.concatenate(parts)
    manifest = read_manifest(url, "embed")
    wanted = np.array(rows, np.int64)
    np.testing.assert_array_equal(read_corpus_rows(url, manifest, wanted), every[wanted].astype(np.float32))
    read = RowReader(url, manifest, ["vector"]).read(wanted, lambda table: table["vector"].to_pylist())
    np.testing.assert_array_equal(np.array(read, np.float32), every[wanted].astype(np.float32))
