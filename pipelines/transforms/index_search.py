"""Search of index shards for blocks of questions, and scoring of candidates from the stored vectors."""

from __future__ import annotations

import dataclasses
import hashlib
from collections.abc import Iterable, Iterator
from functools import partial
from typing import Any

import apache_beam as beam
import numpy as np

from pipelines.runners.counters import StepCounters
from pipelines.transforms.allowed import Allowed
from pipelines.transforms.model_workers import WorkerOptions
from pipelines.transforms.question_vectors import question_vectors
from pipelines.transforms.saved_hits import search_once
from pipelines.transforms.topk import MergeTopK
from pipelines.transforms.work import Work
from rag_ops import heap
from rag_ops.retrieval.corpus import Corpus
from rag_ops.retrieval.kinds import SearchSettings, kind_of
from rag_ops.retrieval.topk import TopK
from rag_ops.storage import store
from rag_ops.storage.rows import needed_rows, read_rows
from schemas.manifest import Manifest, ShardRecord


@dataclasses.dataclass(frozen=True)
class IndexSearch:
    """How a job's questions are searched for in an index.

    Attributes:
        corpus: index and passages.
        work: where the questions' vectors lie.
        workers: device and threads.
        settings: settings of the search, as they were given.
        kept: number of passages that a question keeps.
        candidates: number that it takes from the index: more, if they are scored again.
        asked: about how many questions the whole job asks: the same in a run that takes it up again.
        block_questions: most questions of a block.
        allowed: the passages that may be found; None for all.
    """

    corpus: Corpus
    work: Work
    workers: WorkerOptions
    settings: SearchSettings
    kept: int
    candidates: int
    asked: int
    block_questions: int
    allowed: Allowed | None = None

    def shards(self) -> list[tuple[ShardRecord, int]]:
        """The shards of the index, each with its first row."""
        return list(zip(self.corpus.index.shards, self.corpus.index.row_starts(), strict=False))

    @property
    def params(self) -> dict[str, int | None]:
        """The settings of the search: as given, else what index found to be enough, else None."""
        return self.settings.over(self.corpus.index.info.get("search", {}))


@beam.ptransform_fn
def search(shards: Any, how: IndexSearch, encoded: Any) -> Any:
    """Searches index shards, into (block, TopK): every block meets every shard; the hits of all shards are merged."""
    blocks = beam.pvalue.AsList(encoded)
    return (
        shards
        | "SearchShards" >> beam.FlatMap(search_shard, how, encoded=blocks).with_output_types(tuple[int, TopK])
        | "Merge" >> beam.CombinePerKey(MergeTopK(how.candidates))
    )


def search_shard(element: tuple[ShardRecord, int], how: IndexSearch, encoded: list[int]) -> Iterator[tuple[int, TopK]]:
    """Searches one index shard for all blocks; those for which it has been searched before are not searched again."""
    shard, first_row = element
    counters = StepCounters("SearchShards")

    def content(block: int) -> bytes:
        return _digest(question_vectors(how.work, block))

    search = partial(_search_blocks, shard, first_row, how, counters)
    name = how.work.name("hits", first_row, "arrow")
    yield from search_once(how.work, name, encoded, content, search, counters)
    heap.trim()  # models of this worker have malloc keep what is freed


def _search_blocks(
    shard: ShardRecord, first_row: int, how: IndexSearch, counters: StepCounters, blocks: list[int]
) -> Iterator[tuple[int, bytes, TopK]]:
    """Opens an index shard and searches it for some blocks, many questions at once; with digests of their vectors."""
    opened, url = kind_of(how.corpus.index.info["spec"]).shard, store.join(how.corpus.index_url, shard.path)
    workers = how.workers
    # Of Dataflow a GPU is asked for the models alone, and hits are the same on any device.
    place: dict[str, Any] = {"device": "auto" if workers.accelerator else workers.device, "asked": how.asked}
    place |= how.params
    index = opened(url, shard.sha256, first_row, shard.rows, threads=workers.cpu_threads, **place)
    among = None if how.allowed is None else how.allowed.places(first_row, shard.rows)
    at_once = max(1, index.questions_at_once // how.block_questions)
    for start in range(0, len(blocks), at_once):
        numbers = blocks[start : start + at_once]
        with counters.timed():
            questions = [question_vectors(how.work, number) for number in numbers]
            vectors = np.concatenate(questions)
            if among is None:
                hits = index.search(vectors, how.candidates)
            else:
                hits = index.search_among(vectors, how.candidates, among)
        counters.add(rows_in=len(hits.rows), rows_out=len(hits.rows))
        ends = np.cumsum([len(block) for block in questions])
        for number, block, end in zip(numbers, questions, ends, strict=True):
            here = slice(end - len(block), end)
            yield number, _digest(block), TopK(hits.scores[here], hits.rows[here])


def _digest(vectors: np.ndarray) -> bytes:
    return hashlib.sha256(vectors.tobytes()).digest()


@beam.ptransform_fn
def rescore(hits: Any, how: IndexSearch) -> Any:
    """(block, TopK of many candidates) to (block, TopK), scored from the stored vectors: one read per shard of them."""
    embeddings = how.corpus.embeddings
    starts = embeddings.row_starts()

    def needs(element: tuple[int, TopK]) -> Iterator[tuple[int, tuple[int, TopK]]]:
        block, hits = element
        for shard in needed_rows(hits.rows, starts):
            yield shard, (block, hits.within(starts[shard], starts[shard + 1]))

    score = beam.FlatMap(score_candidates, how.corpus.embeddings_url, embeddings, how.work, how.kept)
    return (
        hits
        | "Needs" >> beam.FlatMap(needs).with_output_types(tuple[int, tuple[int, TopK]])
        | "GroupByEmbeddingShard" >> beam.GroupByKey()
        | "Score" >> score.with_output_types(tuple[int, TopK])
        | "Merge" >> beam.CombinePerKey(MergeTopK(how.kept))
    )


def score_candidates(
    element: tuple[int, Iterable[tuple[int, TopK]]], embeddings_url: str, embeddings: Manifest, work: Work, kept: int
) -> Iterator[tuple[int, TopK]]:
    """Scores the candidates that lie in one embedding shard, and keeps the best `kept` of each question."""
    from rag_ops.retrieval import exact  # with torch

    number, needs = element
    counters, url = StepCounters("Rescore"), store.join(embeddings_url, embeddings.shards[number].path)
    wanted = {block: hits.rows for block, hits in needs}
    with counters.timed():
        rows = np.unique(np.concatenate([candidates.ravel() for candidates in wanted.values()]))
        rows = rows[rows >= 0]
        vectors = read_rows(url, rows - embeddings.row_starts()[number])
        for block in sorted(wanted):
            yield block, exact.rescore(question_vectors(work, block), wanted[block], rows, vectors, kept)
    counters.add(rows_in=len(rows), rows_out=len(wanted))
