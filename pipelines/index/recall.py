"""Measures recall: queries against every index shard with every search parameter, next to exact search."""

from __future__ import annotations

import dataclasses
import io
import json
from collections.abc import Iterator, Sequence
from typing import Any

import apache_beam as beam
import numpy as np

from pipelines.console.progress import Progress
from pipelines.runners import launch
from pipelines.runners.counters import StepCounters
from pipelines.transforms.stage_job import distribute
from pipelines.transforms.topk import MergeTopK, register_coder
from rag_ops.retrieval.index_kind import IndexKind, SearchParams
from rag_ops.retrieval.kinds import KEPT
from rag_ops.retrieval.topk import TopK
from rag_ops.storage import store
from rag_ops.storage.rows import read_corpus_rows, read_matrix
from schemas.manifest import Manifest, ShardRecord

QUERIES_FILE, ROWS_FILE, RECALL_FILE = "queries.npy", "rows.npy", "recall.json"
TRUTH = "truth"


@dataclasses.dataclass(frozen=True)
class Measurement:
    """The measurement to make.

    Attributes:
        index_url: directory of the index shards.
        embeddings_url, embeddings: what they were made from.
        shards: record, first row and embedding shards' numbers of each index shard.
        kind: kind of the index.
        tune: whether to try more than the default search parameters.
        queries_url: file of the caller's queries, or None for the corpus' own.
        queries: number of the corpus' own queries.
        threads: number of threads of the search.
    """

    index_url: str
    embeddings_url: str
    embeddings: Manifest
    shards: Sequence[tuple[ShardRecord, int, tuple[int, ...]]]
    kind: IndexKind
    tune: bool
    queries_url: str | None
    queries: int
    threads: int

    @property
    def work(self) -> str:
        """Directory of its working files."""
        return store.join(self.index_url, store.INCOMPLETE, "recall")

    def build(self, pipeline: beam.Pipeline) -> None:
        """Adds the transforms to `pipeline`."""
        register_coder()
        queries = pipeline | "Queries" >> beam.Create([None]) | "ReadQueries" >> beam.Map(read_queries, self)
        hits = (
            pipeline
            | distribute("IndexShards", list(self.shards))
            | "WaitForQueries" >> beam.WaitOn(queries)
            | "Measure" >> beam.FlatMap(measure_shard, self).with_output_types(tuple[str, TopK])
            | "Merge" >> beam.CombinePerKey(MergeTopK(KEPT)).with_output_types(tuple[str, TopK])
        )
        _ = (
            pipeline
            | "Once" >> beam.Create([None])
            | "WriteRecall" >> beam.Map(write_recall, self, hits=beam.pvalue.AsDict(hits))
        )


def run(measurement: Measurement, beam_arguments: Sequence[str]) -> list[Any]:
    """Runs the pipeline; returns a `rag_ops.retrieval.recall.Recall` for each parameter, cheapest first."""
    from rag_ops.retrieval.recall import Recall

    with Progress("recall", None, lambda: 0, "queries"):
        launch.run(measurement.build, beam_arguments)
    rows = json.loads(store.read_text(store.join(measurement.work, RECALL_FILE)))
    store.remove(measurement.work)
    return [
        Recall(SearchParams(row["name"], row["value"]), row["queries"], {int(k): v for k, v in row["at"].items()})
        for row in rows
    ]


def read_queries(_: None, given: Measurement) -> None:
    """Writes the query vectors, and their rows if they are the corpus' own."""
    from rag_ops.retrieval import recall

    if given.queries_url is not None:
        dimension = int(given.embeddings.info["dimension"])
        save(given.work, QUERIES_FILE, recall.read_queries(given.queries_url, dimension))
        return
    rows = recall.query_rows(given.embeddings.rows, given.queries)
    save(given.work, QUERIES_FILE, read_corpus_rows(given.embeddings_url, given.embeddings, rows))
    save(given.work, ROWS_FILE, rows)


def measure_shard(element: tuple[ShardRecord, int, tuple[int, ...]], given: Measurement) -> Iterator[tuple[str, TopK]]:
    """Emits what exact search finds in an index shard, and what the shard finds with each parameter."""
    from rag_ops.retrieval import recall

    shard, first_row, places = element
    counters, (vectors, own_rows) = StepCounters("Measure"), queries_of(given)
    with counters.timed():
        records = [given.embeddings.shards[place] for place in places]
        urls = [(store.join(given.embeddings_url, record.path), record.rows) for record in records]
        matrices = (read_matrix(url, rows) for url, rows in urls)
        truth = recall.true_hits(vectors, matrices, first_row, given.threads)
        yield TRUTH, truth
        url = store.join(given.index_url, shard.path)
        index = given.kind.shard(url, shard.sha256, first_row, shard.rows, threads=given.threads)
        tried = given.kind.search_params(given.tune)
        found = recall.found_hits(index, vectors, own_rows, truth, tried)
        recall.check_beside_faiss(index, vectors, own_rows, truth, list(found.values())[-1])
        for params in tried:
            yield str(params), found.get(params, list(found.values())[-1])
    counters.add(rows_in=shard.rows, rows_out=len(vectors))


def write_recall(_: None, given: Measurement, hits: dict[str, TopK]) -> None:
    """Writes recall@k for each search parameter."""
    from rag_ops.retrieval import recall

    own_rows = queries_of(given)[1]
    rows = [
        {
            "name": params.name,
            "value": params.value,
            "queries": len(hits[TRUTH].rows),
            "at": recall.measure(hits[str(params)], hits[TRUTH], own_rows),
        }
        for params in given.kind.search_params(given.tune)
    ]
    store.write_bytes(given.work, RECALL_FILE, json.dumps(rows).encode())


def queries_of(given: Measurement) -> tuple[np.ndarray, np.ndarray | None]:
    """The query vectors, and their rows if they are the corpus' own."""
    return load(given.work, QUERIES_FILE), load(given.work, ROWS_FILE) if given.queries_url is None else None


def save(url: str, name: str, array: np.ndarray) -> None:
    """Writes an array as .npy."""
    buffer = io.BytesIO()
    np.save(buffer, array, allow_pickle=False)
    store.write_bytes(url, name, buffer.getvalue())


def load(url: str, name: str) -> np.ndarray:
    """Reads what `save` wrote."""
    with store.open_read(store.join(url, name)) as file:
        return np.load(io.BytesIO(file.read()), allow_pickle=False)
