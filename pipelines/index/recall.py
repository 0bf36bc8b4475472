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
from pipelines.index.options import IndexOptions
from pipelines.runners import launch
from pipelines.runners.counters import StepCounters
from pipelines.transforms.stage_job import distribute
from pipelines.transforms.topk import MergeTopK, register_coder
from rag_ops.retrieval.index_kind import IndexKind
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
        options: options of the index job.
        embeddings: manifest of the embeddings.
        kind: kind of the index.
        shards: record, first row, and embedding shards (URL and rows) of each index shard.
        tune: whether to try more than the default search parameters.
    """

    options: IndexOptions
    embeddings: Manifest
    kind: IndexKind
    shards: Sequence[tuple[ShardRecord, int, Sequence[tuple[str, int]]]]
    tune: bool

    @property
    def work(self) -> str:
        """Directory of its working files; they go with the stage's, because another job may read them without locks."""
        return store.join(self.options.output, store.INCOMPLETE, "recall")

    @property
    def own_rows(self) -> np.ndarray | None:
        """The queries' own rows in the corpus; None if they are the caller's."""
        return load(self.work, ROWS_FILE) if self.options.queries is None else None

    def run(self, beam_arguments: Sequence[str]) -> tuple[list[Any], dict[str, dict[str, float]]]:
        """Runs the pipeline.

        Returns:
            A `rag_ops.retrieval.recall.Recall` for each parameter, cheapest first; the counters of the steps.
        """
        from rag_ops.retrieval.recall import Recall

        with Progress("recall", None, lambda: 0, "queries"):
            metrics = launch.run(self.build, beam_arguments)
        rows = json.loads(store.read_text(store.join(self.work, RECALL_FILE)))
        recalls = [
            Recall(params, row["queries"], {int(k): v for k, v in row["at"].items()})
            for params, row in zip(self.kind.search_params(self.tune), rows, strict=True)
        ]
        return recalls, metrics

    def build(self, pipeline: beam.Pipeline) -> None:
        """Adds the transforms to `pipeline`."""
        register_coder()
        queries = pipeline | "Queries" >> beam.Create([None]) | "ReadQueries" >> beam.Map(self.write_queries)
        shards = pipeline | distribute("IndexShards", list(self.shards)) | "WaitForQueries" >> beam.WaitOn(queries)
        hits = (
            shards
            | "Measure" >> beam.FlatMap(self.search).with_output_types(tuple[str, TopK])
            | "Merge" >> beam.CombinePerKey(MergeTopK(KEPT))
        )
        once = pipeline | "Once" >> beam.Create([None])
        _ = once | "WriteRecall" >> beam.Map(self.write_recall, hits=beam.pvalue.AsDict(hits))

    def write_queries(self, _: None) -> None:
        """Writes the query vectors, and their rows if they are the corpus' own."""
        from rag_ops.retrieval import recall

        options, embeddings = self.options, self.embeddings
        if options.queries is not None:
            save(self.work, QUERIES_FILE, recall.read_queries(options.queries, int(embeddings.info["dimension"])))
            return
        rows = recall.query_rows(embeddings.rows, options.recall_queries)
        save(self.work, QUERIES_FILE, read_corpus_rows(options.embeddings, embeddings, rows))
        save(self.work, ROWS_FILE, rows)

    def search(self, element: tuple[ShardRecord, int, Sequence[tuple[str, int]]]) -> Iterator[tuple[str, TopK]]:
        """Yields what exact search finds in an index shard, and what the shard finds with each parameter."""
        from rag_ops.retrieval import recall

        (shard, first_row, embeddings), threads, counters = element, self.options.cpu_threads, StepCounters("Measure")
        vectors, own_rows = load(self.work, QUERIES_FILE), self.own_rows
        with counters.timed():
            matrices = (read_matrix(url, rows) for url, rows in embeddings)
            truth = recall.true_hits(vectors, matrices, first_row, threads)
            yield TRUTH, truth
            url = store.join(self.options.output, shard.path)
            index = self.kind.shard(url, shard.sha256, first_row, shard.rows, threads=threads)
            tried = self.kind.search_params(self.tune)
            found = recall.found_hits(index, vectors, own_rows, truth, tried)
            last = list(found.values())[-1]
            recall.check_beside_faiss(index, vectors, own_rows, truth, last)
            for params in tried:
                yield str(params), found.get(params, last)
        counters.add(rows_in=shard.rows, rows_out=len(vectors))

    def write_recall(self, _: None, hits: dict[str, TopK]) -> None:
        """Writes the number of queries and recall@k for each search parameter."""
        from rag_ops.retrieval import recall

        truth, own_rows = hits[TRUTH], self.own_rows
        measured = (recall.measure(hits[str(params)], truth, own_rows) for params in self.kind.search_params(self.tune))
        rows = [{"queries": len(truth.rows), "at": at} for at in measured]
        store.write_bytes(self.work, RECALL_FILE, json.dumps(rows).encode())


def save(url: str, name: str, array: np.ndarray) -> None:
    """Writes an array as .npy."""
    buffer = io.BytesIO()
    np.save(buffer, array, allow_pickle=False)
    store.write_bytes(url, name, buffer.getvalue())


def load(url: str, name: str) -> np.ndarray:
    """Reads what `save` wrote."""
    with store.open_read(store.join(url, name)) as file:
        return np.load(io.BytesIO(file.read()), allow_pickle=False)
