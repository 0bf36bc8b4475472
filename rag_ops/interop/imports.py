"""Other projects' indexes: DPR's own files, the wiki_dpr dataset's Parquet, and what transformers' RagRetriever opens.

DPR (Karpukhin et al. 2020) leaves `NAME.index.dpr`, a FAISS index, and `NAME.index_meta.dpr`, a pickled list of passage
ids in its order, or a directory with `index.dpr` and `index_meta.dpr`; its passages are a TSV, or a pickled dict of id
to (text, title). An id may begin with the prefix that DPR's `conf/ctx_sources` gives a source, such as "wiki:". Its
graph index holds vectors with one more number, by L2 distance; see `faiss_factory.layout`.
"""

from __future__ import annotations

import dataclasses
import itertools
import os
import pickle
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any

import faiss
import numpy as np
import pyarrow as pa

from rag_ops.articles.formats import InputOptions
from rag_ops.articles.reading import plan_splits, read_split
from rag_ops.errors import InputError
from rag_ops.retrieval import faiss_factory, faiss_index, faiss_specs
from rag_ops.storage import store
from rag_ops.storage.manifests import read_manifest
from rag_ops.storage.parquet import open_parquet, read_parquet, write_parquet
from rag_ops.storage.rows import read_matrix
from rag_ops.storage.stages import StageOutput, write_shard
from schemas import embeddings, passages
from schemas.layout import STAGES
from schemas.manifest import Manifest, ShardRecord, digest_of
from schemas.passages import Passage

SHARD_ROWS = 50_000  # passages of an imported shard
VECTOR_ROWS = 1000  # rows of a row group
INDEX_NAME, META_NAME = "index.dpr", "index_meta.dpr"  # after "NAME.", or alone in a directory
SAMPLE_ROWS = 1000  # sample that shows how the vectors of a graph were made
ONE_LENGTH = 0.05  # of the mean, how far apart lengths may be of what 8 bits for each number make of one length


@dataclasses.dataclass(frozen=True)
class Rows:
    """Consecutive passages with their vectors, (rows, dimension)."""

    ids: Sequence[str]
    titles: Sequence[str]
    texts: Sequence[str]
    vectors: np.ndarray


@dataclasses.dataclass(frozen=True)
class MadeWith:
    """What made imported vectors, for the check against a model: name, pooling, whether they have length 1."""

    encoder: str
    pooling: str = "pooler"
    normalize: bool = False


def import_dpr(index: str, passages_url: str, output: str, made_with: MadeWith, dtype: str = "float32") -> Manifest:
    """DPR's files to passages, embeddings and index in directory `output`.

    The vectors are what the FAISS index reconstructs; the index is its file, as it is.

    Args:
        index: URL of `NAME.index.dpr`, or `NAME`, beside which `NAME.index_meta.dpr` lies; or a directory with
            `index.dpr` and `index_meta.dpr`, or either of these.
        passages_url: the pickled dict, or a `psgs_w100.tsv`.
        output: local or remote directory; gets `passages`, `embeddings` and `index`.
        made_with: for the manifest.
        dtype: dtype of the vectors on disk.

    Raises:
        InputError: a file is missing or is not what it should be, a pickle holds more than plain data, or the index
            does not rank by inner product or cannot give its vectors back.
    """
    index_url, meta_url = _dpr_files(index)
    ids = [str(name) for name in read_pickle(meta_url, list)]
    opened = faiss_index.read_index(store.local_copy(_existing(index_url), digest_of(index_url)))
    if opened.ntotal != len(ids):
        raise InputError(
            "the index and its list of ids do not go together",
            value=f"{opened.ntotal} vectors",
            expected=f"{len(ids)}, as {meta_url} has",
        )
    augmented = _is_augmented(opened, index_url)
    dimension = opened.d - augmented
    texts = _dpr_passages(passages_url)
    ids = _without_prefix(ids, texts)

    def rows() -> Iterator[Rows]:
        for start in range(0, len(ids), SHARD_ROWS):
            part = ids[start : start + SHARD_ROWS]
            vectors = opened.reconstruct_n(start, len(part))[:, :dimension]
            yield Rows(part, [texts[name][1] for name in part], [texts[name][0] for name in part], vectors)

    made = write_corpus(output, rows(), len(ids), dimension, made_with, dtype)
    graph = faiss_factory.graph_of(opened) is not None
    info = {"spec": "HNSW" if graph else "imported", "augmented": augmented, "stored_as": "imported"}
    with store.open_read(index_url) as source:
        data = source.read()

    def write(file: Any) -> int:
        file.write(data)
        return len(ids)

    return _finish_index(output, made, [("index-00000-of-00001.faiss", write)], info)


def import_parquet(inputs: Sequence[str], output: str, made_with: MadeWith, dtype: str = "float16") -> Manifest:
    """Parquet files with columns id, title, text and embeddings (the wiki_dpr dataset's) to passages and embeddings.

    Raises:
        InputError: a file or a column is missing.
    """
    urls = [url for given in inputs for url in store.expand(given, "Parquet file")]
    columns = ("id", "title", "text", "embeddings")
    count = 0
    for url in urls:
        with open_parquet(url) as parquet:
            if absent := [name for name in columns if name not in parquet.schema_arrow.names]:
                raise InputError(
                    f"the file has no column {absent[0]!r}", value=url, expected=f"columns {', '.join(columns)}"
                )
            count += parquet.metadata.num_rows

    def rows() -> Iterator[Rows]:
        for url in urls:
            with open_parquet(url) as parquet:
                for batch in parquet.iter_batches(VECTOR_ROWS, columns=list(columns)):
                    vectors = np.array(batch["embeddings"].to_pylist(), np.float32)
                    ids = [str(value) for value in batch["id"].to_pylist()]
                    yield Rows(ids, batch["title"].to_pylist(), batch["text"].to_pylist(), vectors)

    return write_corpus(output, _regrouped(rows(), SHARD_ROWS), count, None, made_with, dtype)


def write_corpus(
    output: str, shards: Iterable[Rows], count: int, dimension: int | None, made_with: MadeWith, dtype: str
) -> Manifest:
    """Writes shards as the outputs of chunk and embed; gives the embeddings' manifest.

    Args:
        output: directory, which gets `passages` and `embeddings`.
        shards: all but the last of SHARD_ROWS rows.
        count: rows of all.
        dimension: dimension of the vectors; by default that of the first.
        made_with: for the manifest.
        dtype: "float16" or "float32".
    """
    urls = [store.join(output, name) for name in ("passages", "embeddings")]
    config = {"imported": dataclasses.asdict(made_with), "dtype": dtype}
    outputs = [StageOutput(url, stage, config, {}) for url, stage in zip(urls, ("chunk", "embed"), strict=True)]
    for stage in outputs:
        stage.begin(True)
    records: tuple[list[ShardRecord], list[ShardRecord]] = ([], [])
    total = max(1, -(-count // SHARD_ROWS))
    for number, rows in enumerate(shards):
        dimension = dimension or rows.vectors.shape[1]
        hashes = [passages.content_hash(title, text) for title, text in zip(rows.titles, rows.texts, strict=True)]
        columns = {
            "id": rows.ids,
            "title": rows.titles,
            "text": rows.texts,
            "article_id": rows.ids,
            "position": np.zeros(len(rows.ids), np.int32),
            "content_hash": pa.array(hashes, pa.binary(passages.CONTENT_HASH_BYTES)),
        }
        texts = pa.table({name: columns[name] for name in passages.SCHEMA.names}, schema=passages.SCHEMA)
        vectors = embeddings.table(columns["content_hash"], rows.vectors.astype(dtype), dtype)
        for stage, table, done in zip(outputs, (texts, vectors), records, strict=True):
            name = STAGES[stage.stage].shard(number, total)
            done.append(write_shard(stage.url, name, "", _writer(table)))
    made = outputs[0].finish(records[0], {}, {})
    info = {
        "dimension": dimension,
        "dtype": dtype,
        "encoder": made_with.encoder,
        "encoder_digest": None,
        "pooling": made_with.pooling,
        "normalize": made_with.normalize,
        "passages_digest": made.digest,
    }
    return outputs[1].finish(records[1], {"passages": urls[0]}, info)


def export_custom(index_url: str, output: str) -> str:
    """An index to what transformers' RagRetriever opens with index_name "custom".

    Args:
        index_url: output of `ragbeam index`.
        output: local directory; gets `dataset` (a `datasets` directory with title, text and embeddings) and
            `index.faiss`.

    Returns:
        The vectors' dimension and the two paths, as a line of Python that loads them.

    Raises:
        InputError: the index is a graph, whose shards cannot be joined or whose vectors are augmented.
    """
    from datasets import Dataset, Features, Sequence, Value

    from rag_ops.retrieval.passage_index import PassageIndex

    opened = PassageIndex(index_url)
    manifest, dimension = opened.manifest, opened.dimension
    if manifest.info.get("augmented") or (
        "HNSW" in manifest.info["spec"] and not faiss_specs.lists(manifest.info["spec"])
    ):
        raise InputError(
            "a graph index cannot be exported",
            value=manifest.info["spec"],
            expected="an index that transformers can search",
            remedy="run index with --spec Flat, SQ8 or IVF, and export that",
        )

    def checked(shard: ShardRecord) -> Any:
        part = faiss_index.read_index(store.local_copy(store.join(index_url, shard.path), shard.sha256), mapped=False)
        if reason := faiss_factory.why_unreadable(part):
            raise InputError(f"an index shard {reason}", value=shard.path, remedy="run index again")
        return part

    def rows() -> Iterator[dict[str, Any]]:
        embedded = read_manifest(opened.embeddings_url, "embed")
        texts = read_manifest(opened.passages_url, "chunk")
        for left, right in zip(texts.shards, embedded.shards, strict=True):
            table = read_parquet(store.join(opened.passages_url, left.path), ["title", "text"])
            vectors = read_matrix(store.join(opened.embeddings_url, right.path), right.rows)
            for place, row in enumerate(table.to_pylist()):
                yield {**row, "embeddings": vectors[place].astype(np.float32)}

    features = Features({"title": Value("string"), "text": Value("string"), "embeddings": Sequence(Value("float32"))})
    dataset_path, index_path = os.path.join(output, "dataset"), os.path.join(output, "index.faiss")
    os.makedirs(output, exist_ok=True)
    Dataset.from_generator(rows, features=features, cache_dir=os.path.join(output, ".cache")).save_to_disk(dataset_path)
    whole: Any = None
    for shard in manifest.shards:
        part = checked(shard)
        if whole is None:
            whole = part
        else:
            _append(whole, part, manifest.info["spec"])
    faiss_index.set_search(whole, **{"nprobe": None, "ef_search": None, **manifest.info.get("search", {})})
    faiss.write_index(whole, index_path)
    return (
        f'RagRetriever.from_pretrained(MODEL, index_name="custom", retrieval_vector_size={dimension}, '
        f"passages_path={dataset_path!r}, index_path={index_path!r})"
    )


class _PlainUnpickler(pickle.Unpickler):
    """Reads lists, tuples, dicts, strings and numbers, and nothing that runs code."""

    def find_class(self, module: str, name: str) -> Any:
        raise pickle.UnpicklingError(f"it names {module}.{name}")

    def persistent_load(self, pid: Any) -> Any:
        raise pickle.UnpicklingError("it refers to something outside")


def read_pickle(url: str, kind: type) -> Any:
    """The list or dict of plain data in a pickle; nothing in it is run.

    Raises:
        InputError: it is missing, cut, holds more than plain data, or something else.
    """
    with store.open_read(_existing(url)) as file:
        try:
            found = _PlainUnpickler(file).load()
        except Exception as error:  # a broken pickle raises nearly anything
            reason = str(error) or type(error).__name__
            raise InputError(
                f"the pickle is refused ({reason})",
                value=url,
                expected="lists, dicts, strings and numbers only",
            ) from error
    if not isinstance(found, kind):
        raise InputError("the pickle holds something else", value=f"{url} ({type(found).__name__})", expected=str(kind))
    return found


def _dpr_passages(url: str) -> dict[str, tuple[str, str]]:
    """Id to (text, title)."""
    if url.endswith((".tsv", ".tsv.gz")):
        reading = InputOptions(format="psgs")
        splits = plan_splits([url], reading)
        read = (row for split in splits for row in read_split(split, reading, Counter()))
        return {row.passage_id: (row.text, row.title) for row in read if isinstance(row, Passage)}
    found = read_pickle(url, dict)
    for value in itertools.islice(found.values(), 1):
        if not (isinstance(value, (list, tuple)) and len(value) == 2 and all(isinstance(part, str) for part in value)):
            raise InputError("a passage is not a text and a title", value=value, expected="(text, title)")
    return {str(name): (value[0], value[1]) for name, value in found.items()}


def _finish_index(output: str, embedded: Manifest, shards: Sequence[tuple[str, Any]], info: dict[str, Any]) -> Manifest:
    url, embeddings_url = store.join(output, "index"), store.join(output, "embeddings")
    stage = StageOutput(url, "index", {"imported": True, "metric": "inner_product"}, {"embeddings": embedded.digest})
    stage.begin(True)
    records = [write_shard(url, name, stage.fingerprint, write) for name, write in shards]
    kept = ("encoder", "encoder_digest", "pooling", "normalize", "dtype", "dimension", "passages_digest")
    whole = {
        **info,
        **{name: embedded.info[name] for name in kept},
        "embeddings_digest": embedded.digest,
        "trained": None,
        "reason": "imported",
        "recall": {},
        "recall_queries": 0,
        "search": {},
    }
    inputs = {"embeddings": embeddings_url, "passages": store.join(output, "passages")}
    return stage.finish(records, inputs, whole)


def _regrouped(parts: Iterable[Rows], size: int) -> Iterator[Rows]:
    """The same rows in groups of `size`."""
    kept: list[Rows] = []
    for part in parts:
        kept.append(part)
        while sum(len(rows.ids) for rows in kept) >= size:
            whole = _joined(kept)
            yield _cut(whole, 0, size)
            kept = [_cut(whole, size, len(whole.ids))]
    whole = _joined(kept)
    if len(whole.ids):
        yield whole


def _joined(parts: Sequence[Rows]) -> Rows:
    def column(name: str) -> list[str]:
        return [value for part in parts for value in getattr(part, name)]

    vectors = np.concatenate([part.vectors for part in parts]) if parts else np.empty((0, 0), np.float32)
    return Rows(column("ids"), column("titles"), column("texts"), vectors)


def _cut(rows: Rows, start: int, end: int) -> Rows:
    return Rows(rows.ids[start:end], rows.titles[start:end], rows.texts[start:end], rows.vectors[start:end])


def _writer(table: pa.Table) -> Any:
    return lambda file: write_parquet(file, iter([table]), table.schema, VECTOR_ROWS)


def _append(whole: Any, part: Any, spec: str) -> None:
    """Moves the vectors of an index shard behind those of another, in order.

    Raises:
        InputError: FAISS cannot join two of this kind.
    """
    try:
        whole.merge_from(part, whole.ntotal if faiss_specs.lists(spec) else 0)
    except RuntimeError as error:
        raise InputError(
            "FAISS cannot join the shards of such an index",
            value=spec,
            remedy="run index with --num_shards 1, or with --spec Flat, SQ8 or IVF, and export that",
        ) from error


def _dpr_files(index: str) -> tuple[str, str]:
    """The URLs of DPR's index and of its list of ids, from what a person gives for them."""
    stem = index
    for name in (INDEX_NAME, META_NAME):
        if index == name or index.endswith(("/" + name, "." + name)):
            stem = index[: -len(name)]
    if stem == index:  # a directory or a NAME
        inside = store.join(index, INDEX_NAME)
        stem = inside[: -len(INDEX_NAME)] if store.exists(inside) else index + "."
    return stem + INDEX_NAME, stem + META_NAME


def _is_augmented(index: Any, url: str) -> bool:
    """Whether vectors of a FAISS file have one more number, the last and never negative, which makes them equally long.

    Raises:
        InputError: it does not rank by inner product, or cannot give its vectors back.
    """
    remedy = "add its vectors to a faiss.IndexFlatIP, or embed the passages with ragbeam embed"
    if reason := faiss_factory.why_unreadable(index):
        raise InputError(f"the index {reason}", value=url, expected="DPR's flat, HNSW or SQ8 index", remedy=remedy)
    if not index.ntotal:
        raise InputError("the index holds no vectors", value=url)
    try:  # of one at first: in a loop of FAISS's own threads an error ends the process
        index.reconstruct(0)
    except RuntimeError as error:
        if (lists := faiss.try_extract_index_ivf(index)) is None:
            kind = faiss_factory.kind_of(faiss.downcast_index(index))
            raise InputError(f"the index cannot give its vectors back ({kind})", value=url, remedy=remedy) from error
        lists.make_direct_map()
    if index.metric_type == faiss_factory.METRIC:
        return False
    sample = np.stack([index.reconstruct(int(row)) for row in np.linspace(0, index.ntotal - 1, SAMPLE_ROWS)])
    lengths = np.linalg.norm(sample, axis=1)
    if np.ptp(lengths) > ONE_LENGTH * lengths.mean() and not faiss_factory.is_coded(index):
        raise InputError(
            "the index ranks by L2 distance vectors of different lengths, which is not the order of inner products",
            value=url,
            expected="vectors of length 1, or with DPR's one more number",
            remedy=remedy,
        )
    return bool((sample[:, -1] >= -ONE_LENGTH * lengths.mean()).all())


def _without_prefix(ids: list[str], texts: Mapping[str, Any]) -> list[str]:
    """Ids as the passages have them: all, or none, without what stands before the first colon.

    Raises:
        InputError: a passage is not there.
    """
    prefix = ids[0][: ids[0].find(":") + 1] if ids else ""
    bare = [name.removeprefix(prefix) for name in ids]
    chosen = bare if prefix and ids[0] not in texts and bare[0] in texts else ids
    if missing := [name for name in chosen if name not in texts]:
        raise InputError(
            "a passage of the index is not among the passages",
            value=missing[0],
            expected=f"an id such as {next(iter(texts), 'none')!r}, or that after DPR's prefix and a colon",
            remedy="give the passages that the index was made from",
        )
    return chosen


def _existing(url: str) -> str:
    if not store.exists(url):
        raise InputError("no such file", value=url, expected="DPR's NAME.index.dpr, NAME.index_meta.dpr and passages")
    return url
