"""Search of index shards for blocks of questions, and scoring of candidates from the stored vectors."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import Any

import apache_beam as beam
import numpy as np

from pipelines.answer.plan import Plan, Work
from pipelines.runners.counters import StepCounters
from pipelines.transforms.merge_topk import MergeTopK
from rag_ops.retrieval.kinds import kind_of
from rag_ops.retrieval.topk import TopK
from rag_ops.storage import store
from rag_ops.storage.parquet import read_parquet
from rag_ops.storage.rows import as_matrix, needed_rows, read_rows
from schemas.manifest import ShardRecord

SEARCHED_QUESTIONS = 4096  # questions at once: their vectors take 12 MB at 768 numbers


class Search(beam.PTransform):
    """Searches index shards, into (block, TopK): every block meets every shard; the hits of all shards are merged."""

    def __init__(self, plan: Plan, encoded: Any):
        super().__init__()
        self._plan, self._encoded = plan, encoded

    def expand(self, pcoll: Any) -> Any:
        """See the class."""
        return (
            pcoll
            | "SearchShards"
            >> beam.ParDo(SearchShards(self._plan), encoded=beam.pvalue.AsList(self._encoded)).with_output_types(
                tuple[int, TopK]
            )
            | "Merge" >> beam.CombinePerKey(MergeTopK(self._plan.candidates)).with_output_types(tuple[int, TopK])
        )


class SearchShards(beam.DoFn):
    """Opens one index shard and searches it for all blocks, many questions at once."""

    def __init__(self, plan: Plan):
        self._url, self._work, self._options = plan.corpus.index_url, plan.work, plan.options
        self._spec, self._params = plan.corpus.index.info["spec"], plan.search_params
        self._candidates = plan.candidates
        self._counters = StepCounters("SearchShards")

    def process(self, element: tuple[ShardRecord, int], encoded: list[int]) -> Iterator[tuple[int, TopK]]:
        """See the class."""
        shard, first_row = element
        url, options = store.join(self._url, shard.path), self._options
        opened = kind_of(self._spec).shard
        index = opened(url, shard.sha256, first_row, shard.rows, threads=options.workers.threads, **self._params)
        at_once = max(1, SEARCHED_QUESTIONS // options.block_questions)
        for start in range(0, len(encoded), at_once):
            numbers = sorted(encoded)[start : start + at_once]
            with self._counters.timed():
                questions = [question_vectors(self._work, number) for number in numbers]
                hits = index.search(np.concatenate(questions), self._candidates)
            self._counters.add(rows_in=len(hits.rows), rows_out=len(hits.rows))
            ends = np.cumsum([len(block) for block in questions])
            for number, block, end in zip(numbers, questions, ends, strict=True):
                here = slice(end - len(block), end)
                yield number, TopK(hits.scores[here], hits.rows[here])


class Rescore(beam.PTransform):
    """(block, TopK of many candidates) to (block, TopK), scored from the stored vectors: one read per shard of them."""

    def __init__(self, plan: Plan):
        super().__init__()
        self._plan = plan

    def expand(self, pcoll: Any) -> Any:
        """See the class."""
        starts = self._plan.corpus.embeddings.row_starts()

        def needs(element: tuple[int, TopK]) -> Iterator[tuple[int, tuple[int, bytes]]]:
            block, hits = element
            for shard in needed_rows(hits.rows, starts):
                here = (hits.rows >= starts[shard]) & (hits.rows < starts[shard + 1])
                yield shard, (block, np.where(here, hits.rows, -1).tobytes())

        return (
            pcoll
            | "Needs" >> beam.FlatMap(needs).with_output_types(tuple[int, tuple[int, bytes]])
            | "GroupByEmbeddingShard" >> beam.GroupByKey()
            | "Score" >> beam.ParDo(ScoreCandidates(self._plan)).with_output_types(tuple[int, TopK])
            | "Merge" >> beam.CombinePerKey(MergeTopK(self._plan.options.kept)).with_output_types(tuple[int, TopK])
        )


class ScoreCandidates(beam.DoFn):
    """Scores the candidates that lie in one embedding shard."""

    def __init__(self, plan: Plan):
        self._url, self._embeddings = plan.corpus.embeddings_url, plan.corpus.embeddings
        self._work, self._options = plan.work, plan.options
        self._counters = StepCounters("Rescore")

    def process(self, element: tuple[int, Iterable[tuple[int, bytes]]]) -> Iterator[tuple[int, TopK]]:
        """See the class."""
        from rag_ops.retrieval.exact import rescore  # with torch

        number, needs = element
        options, first_row = self._options, self._embeddings.row_starts()[number]
        wanted = {block: np.frombuffer(data, np.int64) for block, data in needs}
        with self._counters.timed():
            rows = np.unique(np.concatenate(list(wanted.values())))
            rows = rows[rows >= 0]
            url = store.join(self._url, self._embeddings.shards[number].path)
            vectors = read_rows(url, rows - first_row)
            for block in sorted(wanted):
                questions = question_vectors(self._work, block)
                candidates = wanted[block].reshape(len(questions), -1)
                yield block, rescore(questions, candidates, rows, vectors, options.kept)
        self._counters.add(rows_in=len(rows), rows_out=len(wanted))


def question_vectors(work: Work, block: int) -> np.ndarray:
    """The vectors of a block, float32 (questions, dimension)."""
    return as_matrix(read_parquet(work.path(work.name("vectors", block)), ["vector"])["vector"])
