"""An index as transformers' RagRetriever opens it."""

from __future__ import annotations

import os
from collections.abc import Iterator
from typing import Any

import faiss
import numpy as np

from rag_ops.errors import InputError
from rag_ops.retrieval import faiss_factory, faiss_index
from rag_ops.retrieval.faiss_kind import Faiss, lists
from rag_ops.retrieval.kinds import kind_of
from rag_ops.retrieval.passage_index import PassageIndex
from rag_ops.storage import store
from rag_ops.storage.manifests import read_manifest
from rag_ops.storage.parquet import read_parquet
from rag_ops.storage.places import check_empty
from rag_ops.storage.rows import read_matrix


def export_custom(index_url: str, output: str) -> str:
    """Writes an index as transformers' RagRetriever opens it with index_name "custom".

    Args:
        index_url: output of `ragbeam index`.
        output: local directory; gets `dataset` (a `datasets` directory with title, text and embeddings) and
            `index.faiss`.

    Returns:
        The vectors' dimension and the two paths, as a line of Python that loads them.

    Raises:
        InputError: `output` holds files, or the index is a graph, whose shards cannot be joined or whose
            vectors are augmented.
    """
    from datasets import Dataset, Features, Sequence, Value

    check_empty(output)
    opened = PassageIndex(index_url)
    manifest, spec = opened.manifest, opened.manifest.info["spec"]
    if kind_of(spec) is not Faiss:
        raise InputError(
            "an index of another kind than FAISS cannot be exported", value=spec, remedy="run index with --spec Flat"
        )
    if manifest.info.get("augmented") or faiss_factory.is_graph(spec):
        raise InputError(
            "a graph index cannot be exported",
            value=spec,
            expected="an index that transformers can search",
            remedy="run index with --spec Flat, SQ8 or IVF, and export that",
        )
    features = Features({"title": Value("string"), "text": Value("string"), "embeddings": Sequence(Value("float32"))})
    dataset_path, index_path = os.path.join(output, "dataset"), os.path.join(output, "index.faiss")
    cache = os.path.join(output, ".cache")
    os.makedirs(output, exist_ok=True)
    dataset = Dataset.from_generator(_rows, features=features, cache_dir=cache, gen_kwargs={"opened": opened})
    dataset.save_to_disk(dataset_path)
    parts = _shards(opened)
    whole = next(parts)
    for part in parts:
        try:
            whole.merge_from(part, whole.ntotal if lists(spec) else 0)
        except RuntimeError as error:
            raise InputError(
                "FAISS cannot join the shards of such an index",
                value=spec,
                remedy="run index with --num_shards 1, or with --spec Flat, SQ8 or IVF, and export that",
            ) from error
    faiss_index.set_search(whole, **manifest.info.get("search", {}))
    faiss.write_index(whole, index_path)
    return (
        f'RagRetriever.from_pretrained(MODEL, index_name="custom", retrieval_vector_size={opened.dimension}, '
        f"passages_path={dataset_path!r}, index_path={index_path!r})"
    )


def _rows(opened: PassageIndex) -> Iterator[dict[str, Any]]:
    texts = read_manifest(opened.passages_url, "chunk")
    embedded = read_manifest(opened.embeddings_url, "embed")
    for left, right in zip(texts.shards, embedded.shards, strict=True):
        table = read_parquet(store.join(opened.passages_url, left.path), ["title", "text"])
        vectors = read_matrix(store.join(opened.embeddings_url, right.path), right.rows)
        for row, vector in zip(table.to_pylist(), vectors, strict=True):
            yield {**row, "embeddings": vector.astype(np.float32)}


def _shards(opened: PassageIndex) -> Iterator[Any]:
    for shard in opened.manifest.shards:
        copy = store.local_copy(store.join(opened.url, shard.path), shard.sha256, sha256=shard.sha256)
        part = faiss_index.read_index(copy, mapped=False)
        if reason := faiss_factory.why_unreadable(part):
            raise InputError(f"an index shard {reason}", value=shard.path, remedy="run index again")
        yield part
