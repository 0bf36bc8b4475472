"""An index as transformers' RagRetriever opens it."""

from __future__ import annotations

import contextlib
import logging
import os
import shutil
from collections.abc import Iterator, Mapping
from typing import Any

import faiss
import numpy as np

from rag_ops.errors import InputError
from rag_ops.retrieval import faiss_factory, faiss_index
from rag_ops.retrieval.corpus import Corpus, open_corpus
from rag_ops.retrieval.faiss_kind import Faiss, lists
from rag_ops.retrieval.kinds import kind_of
from rag_ops.storage import store
from rag_ops.storage.manifests import reads_sections
from rag_ops.storage.parquet import read_parquet
from rag_ops.storage.places import check_empty, local_output
from rag_ops.storage.rows import read_matrix
from schemas.manifest import Manifest
from schemas.passages import heading

logger = logging.getLogger("ragbeam")


def export_custom(index_url: str, output: str) -> str:
    """Writes an index as transformers' RagRetriever opens it with index_name "custom".

    Args:
        index_url: output of `ragbeam index`.
        output: local directory; gets `dataset` (a `datasets` directory with title, text and embeddings) and
            `index.faiss`.

    Returns:
        The vectors' dimension and the two paths, as a line of Python that loads them.

    Raises:
        InputError: `output` holds files, the index is a graph, whose shards cannot be joined or whose vectors are
            augmented, its vectors are cut to --dimensions, or its passages or embeddings are missing or others by now.
    """
    from datasets import Dataset, Features, Sequence, Value
    from datasets.exceptions import DatasetGenerationError

    output = local_output(output)
    check_empty(output)
    corpus = open_corpus(index_url)
    spec, embedded = corpus.index.info["spec"], corpus.embeddings
    if kind_of(spec) is not Faiss:
        raise InputError(
            "an index of another kind than FAISS cannot be exported", value=spec, remedy="run index with --spec Flat"
        )
    if corpus.index.info.get("augmented") or faiss_factory.is_graph(spec):
        raise InputError(
            "a graph index cannot be exported",
            value=spec,
            expected="an index that transformers can search",
            remedy="run index with --spec Flat, SQ8 or IVF, and export that",
        )
    _check_questions(corpus.index.info)
    whole = _joined(corpus, spec)
    features = Features({"title": Value("string"), "text": Value("string"), "embeddings": Sequence(Value("float32"))})
    dataset_path, index_path = os.path.join(output, "dataset"), os.path.join(output, "index.faiss")
    cache = os.path.join(output, ".cache")
    os.makedirs(output, exist_ok=True)
    try:
        rows = {"corpus": corpus, "embedded": embedded}
        Dataset.from_generator(_rows, features=features, cache_dir=cache, gen_kwargs=rows).save_to_disk(dataset_path)
        faiss.write_index(whole, index_path)
    except DatasetGenerationError as error:  # around what went wrong with a row
        raise error.__cause__ or error from error
    finally:
        if not os.path.exists(index_path):
            shutil.rmtree(dataset_path, ignore_errors=True)
        shutil.rmtree(cache, ignore_errors=True)
        with contextlib.suppress(OSError):  # it holds something
            os.rmdir(output)
    return (
        f'RagRetriever.from_pretrained(MODEL, index_name="custom", '
        f"retrieval_vector_size={corpus.index.info['dimension']}, "
        f"passages_path={dataset_path!r}, index_path={index_path!r})"
    )


def _check_questions(info: Mapping[str, Any]) -> None:
    """Refuses what the layout cannot ask of an encoder of questions; warns of what a model can have of its own.

    Raises:
        InputError: the vectors are the first dimensions of whole ones, and nothing in the layout cuts a question's.
    """
    if whole := info.get("encoder_dimension"):
        raise InputError(
            "an index of vectors cut to --dimensions cannot be exported: nothing in its layout cuts those of questions",
            value=f"{info['dimension']} of {whole} numbers",
            expected=f"vectors of {whole} numbers, as the encoder gives them",
            remedy="run embed without --dimensions, then index, and export that",
        )
    if prompt := info.get("prompt"):
        logger.warning(
            "export: the passages were encoded behind %r, and the layout does not say what stands before a question: "
            "the model must have it of its own, as those of ragbeam compose do",
            prompt,
        )


def _rows(corpus: Corpus, embedded: Manifest) -> Iterator[dict[str, Any]]:
    for left, right in zip(corpus.passages.shards, embedded.shards, strict=True):
        sections = ["section"] if reads_sections(corpus.index) else []
        table = read_parquet(store.join(corpus.passages_url, left.path), ["title", "text", *sections])
        vectors = read_matrix(store.join(corpus.embeddings_url, right.path), right.rows)
        if len(table) != len(vectors):
            raise InputError(
                "a shard of the passages has other rows than its vectors",
                value=left.path,
                expected=f"{len(vectors)}",
                remedy="ragbeam verify says more",
            )
        for row, vector in zip(table.to_pylist(), vectors, strict=True):
            title = heading(row["title"], row.get("section", ""))  # as it stands before the text for the generator
            yield {"title": title, "text": row["text"], "embeddings": vector.astype(np.float32)}


def _joined(corpus: Corpus, spec: str) -> Any:
    """The shards of an index as one FAISS index, with the search settings that its manifest has."""
    parts = _shards(corpus)
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
    faiss_index.set_search(whole, **corpus.index.info.get("search", {}))
    return whole


def _shards(corpus: Corpus) -> Iterator[Any]:
    for shard in corpus.index.shards:
        copy = store.local_copy(store.join(corpus.index_url, shard.path), shard.sha256, sha256=shard.sha256)
        part = faiss_index.read_index(copy, mapped=False)
        if reason := faiss_factory.why_unreadable(part):
            raise InputError(f"an index shard {reason}", value=shard.path, remedy="run index again")
        yield part
