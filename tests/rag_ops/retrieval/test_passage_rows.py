"""Rows of passages by id, over several shards and row groups."""

import numpy as np

from rag_ops.retrieval.passage_rows import SEVERAL, UNKNOWN, rows_of
from rag_ops.storage.manifests import read_manifest
from tests.pipelines.workspace import write_corpus


def test_rows_are_counted_across_shards_and_an_id_that_is_not_there_or_twice_says_so(tmp_path):
    write_corpus(tmp_path, [np.ones((1500, 2), np.float32), np.ones((3, 2), np.float32)], normalize=False)
    url = str(tmp_path / "passages")
    manifest = read_manifest(url, "chunk")
    assert rows_of(["0", "1499", "1500", "1502", "none"], url, manifest) == {
        "0": 0,
        "1499": 1499,
        "1500": 1500,
        "1502": 1502,
        "none": UNKNOWN,
    }
    twice = type(manifest)(**{**vars(manifest), "shards": (manifest.shards[1], manifest.shards[1])})
    assert rows_of(["1500"], url, twice) == {"1500": SEVERAL}
