"""Other projects' passages and vectors: DPR's own files, and the Parquet files of the wiki_dpr dataset.

DPR (Karpukhin et al. 2020) leaves `NAME.index.dpr`, a FAISS index, and `NAME.index_meta.dpr`, a pickled list of passage
ids in its order, or a directory with `index.dpr` and `index_meta.dpr`; its passages are a TSV, or a pickled dict of id
to (text, title). An id may begin with the prefix that DPR's `conf/ctx_sources` gives a source, such as "wiki:". Its
graph index holds vectors with one more number, by L2 distance; see `faiss_factory.layout`.
"""

from __future__ import annotations

import contextlib
import itertools
import pickle
import shutil
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any

import faiss
import numpy as np
import pyarrow as pa

from rag_ops.articles.dropped import Dropped
from rag_ops.articles.options import InputOptions
from rag_ops.articles.reading import plan_splits, read_split
from rag_ops.errors import InputError
from rag_ops.retrieval import faiss_factory, faiss_index
from rag_ops.storage import store
from rag_ops.storage.manifests import find_manifest
from rag_ops.storage.parquet import open_parquet, write_parquet
from rag_ops.storage.rows import as_matrix
from rag_ops.storage.stages import StageOutput, write_shard
from schemas import embeddings, passages
from schemas.layout import STAGES
from schemas.manifest import Manifest, ShardRecord, digest_of
from schemas.passages import Passage

Rows = tuple[pa.Table, np.ndarray]  # id, title and text of passages; their vectors, (rows, dimension)
SHARD_ROWS = 50_000  # passages of an imported shard
VECTOR_ROWS = 1000  # rows of a row group
INDEX_NAME, META_NAME = "index.dpr", "index_meta.dpr"  # after "NAME.", or alone in a directory
SAMPLE_ROWS = 1000  # sample that shows how the vectors of a graph were made
ONE_LENGTH = 0.05  # of the mean, how far apart lengths may be of what 8 bits for each number make of one length


def import_dpr(
    index: str, passages_url: str, output: str, encoder: str, dtype: str = "float32", *, overwrite: bool = False
) -> Manifest:
    """DPR's files to passages, embeddings and index in directory `output`.

    The vectors are what the FAISS index reconstructs; the index is its file, as it is.

    Args:
        index: URL of `NAME.index.dpr`, or `NAME`, beside which `NAME.index_meta.dpr` lies; or a directory with
            `index.dpr` and `index_meta.dpr`, or either of these.
        passages_url: the pickled dict, or a `psgs_w100.tsv`.
        output: local or remote directory; gets `passages`, `embeddings` and `index`.
        encoder: name of the DPR context encoder that made the vectors, for the record.
        dtype: dtype of the vectors on disk.
        overwrite: whether to replace what another command or another import made there.

    Raises:
        InputError: a file is missing or is not what it should be, a pickle holds more than plain data, the index does
            not rank by inner product or cannot give its vectors back, or `output` holds something else.
    """
    _index_output(output).check(overwrite, anew=True)
    index_url, meta_url = _dpr_files(index)
    ids = [str(name) for name in read_pickle(meta_url, list)]
    state = store.state_of(_existing(index_url))
    opened = faiss_index.read_index(store.local_copy(index_url, digest_of([index_url, state])))
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
            columns = {
                "id": part,
                "title": [texts[name][1] for name in part],
                "text": [texts[name][0] for name in part],
            }
            yield pa.table(columns), vectors

    made = write_corpus(output, rows(), len(ids), encoder, dtype, overwrite=overwrite)
    graph = faiss_factory.graph_of(opened) is not None
    info = {"spec": "HNSW" if graph else "imported", "augmented": augmented, "stored_as": "imported"}
    return _write_index(output, made, index_url, info, overwrite)


def import_parquet(
    inputs: Sequence[str], output: str, encoder: str, dtype: str = "float16", *, overwrite: bool = False
) -> Manifest:
    """Parquet files with columns id, title, text and embeddings (the wiki_dpr dataset's) to passages and embeddings.

    Args:
        inputs: URLs, globs or directories of the files.
        output, encoder, dtype, overwrite: see `import_dpr`.

    Raises:
        InputError: a file or a column is missing, or `output` holds something else.
    """
    urls = [url for given in inputs for url in store.expand(given, "Parquet file")]
    columns = ["id", "title", "text", "embeddings"]
    count = 0
    for url in urls:
        with open_parquet(url) as parquet:
            if absent := [name for name in columns if name not in parquet.schema_arrow.names]:
                raise InputError(
                    f"the file has no column {absent[0]!r}", value=url, expected=f"columns {', '.join(columns)}"
                )
            count += parquet.metadata.num_rows

    def tables() -> Iterator[pa.Table]:
        for url in urls:
            with open_parquet(url) as parquet:
                for batch in parquet.iter_batches(VECTOR_ROWS, columns=columns):
                    vector = pa.list_(pa.float32(), len(batch["embeddings"][0]))
                    types = [*(pa.field(name, pa.string()) for name in columns[:3]), pa.field(columns[3], vector)]
                    yield pa.Table.from_batches([batch]).select(columns).cast(pa.schema(types))

    rows = ((table.select(columns[:3]), as_matrix(table[columns[3]])) for table in _regrouped(tables(), SHARD_ROWS))
    return write_corpus(output, rows, count, encoder, dtype, overwrite=overwrite)


def write_corpus(
    output: str, shards: Iterable[Rows], count: int, encoder: str, dtype: str, *, overwrite: bool
) -> Manifest:
    """Writes shards as the outputs of chunk and embed; returns the manifest of the embeddings.

    Args:
        output: directory, which gets `passages` and `embeddings`.
        shards: all but the last of SHARD_ROWS rows.
        count: rows of all.
        encoder: name of the DPR encoder, for the record.
        dtype: "float16" or "float32".
        overwrite: see `import_dpr`.
    """
    urls = [store.join(output, name) for name in ("passages", "embeddings")]
    made_with = {"encoder": encoder, "pooling": "pooler", "normalize": False}
    config = {"imported": made_with, "dtype": dtype}
    outputs = [StageOutput(url, stage, config, {}) for url, stage in zip(urls, ("chunk", "embed"), strict=True)]
    with _writing(outputs, overwrite):
        return _write_shards(outputs, shards, max(1, -(-count // SHARD_ROWS)), made_with, dtype)


@contextlib.contextmanager
def _writing(outputs: Sequence[StageOutput], overwrite: bool) -> Iterator[None]:
    """Opens all of the outputs for writing, or none; an import that fails leaves nothing unfinished."""
    for one in outputs:
        one.check(overwrite, anew=True)
    begun: list[StageOutput] = []
    with contextlib.ExitStack() as held:
        for one in outputs:
            held.enter_context(one.locked())
        try:
            for one in outputs:
                one.begin(overwrite)
                begun.append(one)
            yield
        except Exception:
            for one in begun:
                if find_manifest(one.url) is None:
                    one.forget()
                    one.abandon()
            raise


def _write_shards(
    outputs: Sequence[StageOutput], shards: Iterable[Rows], total: int, made_with: Mapping[str, Any], dtype: str
) -> Manifest:
    """Writes shards of passages and of vectors, and both manifests; returns that of the vectors."""
    records: tuple[list[ShardRecord], list[ShardRecord]] = ([], [])
    dimension = None
    for number, (rows, vectors) in enumerate(shards):
        dimension = vectors.shape[1]
        texts = zip(rows["title"].to_pylist(), rows["text"].to_pylist(), strict=True)
        hashes = pa.array([passages.content_hash(*text) for text in texts], pa.binary(passages.CONTENT_HASH_BYTES))
        columns = {
            **{name: rows[name] for name in rows.column_names},
            "article_id": rows["id"],
            "position": np.zeros(len(rows), np.int32),
            "content_hash": hashes,
            "section": [""] * len(rows),
            "kind": [passages.PROSE] * len(rows),
        }
        tables = pa.table(columns, schema=passages.SCHEMA), embeddings.table(hashes, vectors.astype(dtype), dtype)
        for stage, table, done in zip(outputs, tables, records, strict=True):
            name = STAGES[stage.stage].shard(number, total)
            done.append(write_shard(stage.url, name, "", _writer(table)))
    made = outputs[0].finish(records[0], {}, {})
    info = {
        **made_with,
        "dimension": dimension,
        "dtype": dtype,
        "encoder_digest": None,
        "passages_digest": made.digest,
    }
    return outputs[1].finish(records[1], {"passages": outputs[0].url}, info)


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
        read = (row for split in splits for row in read_split(split, reading, Dropped()))
        return {row.passage_id: (row.text, row.title) for row in read if isinstance(row, Passage)}
    found = read_pickle(url, dict)
    for value in itertools.islice(found.values(), 1):
        if not (isinstance(value, (list, tuple)) and len(value) == 2 and all(isinstance(part, str) for part in value)):
            raise InputError("a passage is not a text and a title", value=value, expected="(text, title)")
    return {str(name): (value[0], value[1]) for name, value in found.items()}


def _index_output(output: str, embeddings_digest: str = "") -> StageOutput:
    config = {"imported": True, "metric": "inner_product"}
    return StageOutput(store.join(output, "index"), "index", config, {"embeddings": embeddings_digest})


def _write_index(output: str, embedded: Manifest, index_url: str, info: Mapping[str, Any], overwrite: bool) -> Manifest:
    """Copies a FAISS file as the only shard of an index of the imported embeddings."""
    stage = _index_output(output, embedded.digest)

    def write(file: Any) -> int:
        with store.open_read(index_url) as source:
            shutil.copyfileobj(source, file)
        return embedded.rows

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
    inputs = {name: store.join(output, name) for name in ("embeddings", "passages")}
    with _writing([stage], overwrite):
        record = write_shard(stage.url, STAGES["index"].shard(0, 1), stage.fingerprint, write)
        return stage.finish([record], inputs, whole)


def _regrouped(parts: Iterable[pa.Table], size: int) -> Iterator[pa.Table]:
    """The same rows in tables of `size`; the last has what is left."""
    kept: list[pa.Table] = []
    for part in parts:
        kept.append(part)
        while sum(map(len, kept)) >= size:
            whole = pa.concat_tables(kept)
            yield whole.slice(0, size)
            kept = [whole.slice(size)]
    if any(map(len, kept)):
        yield pa.concat_tables(kept)


def _writer(table: pa.Table) -> Any:
    return lambda file: write_parquet(file, iter([table]), table.schema, VECTOR_ROWS)


def _dpr_files(index: str) -> tuple[str, str]:
    """The URLs of DPR's index and of its list of ids, whichever of their names was given."""
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
