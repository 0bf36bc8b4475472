"""Search of index shards for blocks of questions, and scoring of candidates from the stored vectors."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import Any

import apache_beam as beam
import numpy as np

from pipelines.answer.plan import Plan, Work
from pipelines.runners.counters import StepCounters
from pipelines.transforms.topk import MergeTopK
from rag_ops.retrieval.kinds import kind_of
from rag_ops.retrieval.topk import TopK
from rag_ops.storage import store
from rag_ops.storage.parquet import read_parquet
from rag_ops.storage.rows import as_matrix, needed_rows, read_rows
from schemas.manifest import Manifest, ShardRecord


@beam.ptransform_fn
def search(shards: Any, plan: Plan, encoded: Any) -> Any:
    """Searches index shards, into (block, TopK): every block meets every shard; the hits of all shards are merged."""
    blocks = beam.pvalue.AsList(encoded)
    return (
        shards
        | "SearchShards" >> beam.FlatMap(search_shard, plan, encoded=blocks).with_output_types(tuple[int, TopK])
        | "Merge" >> beam.CombinePerKey(MergeTopK(plan.candidates))
    )


def search_shard(element: tuple[ShardRecord, int], plan: Plan, encoded: list[int]) -> Iterator[tuple[int, TopK]]:
    """Opens one index shard and searches it for all blocks, many questions at once."""
    shard, first_row = element
    opened, url = kind_of(plan.corpus.index.info["spec"]).shard, store.join(plan.corpus.index_url, shard.path)
    workers = plan.options.workers
    # Of Dataflow a GPU is asked for the models alone, and hits are the same on any device.
    how: dict[str, Any] = {"device": "auto" if workers.accelerator else workers.device, "asked": plan.asked}
    how |= plan.search_params
    index = opened(url, shard.sha256, first_row, shard.rows, threads=workers.cpu_threads, **how)
    counters, at_once = StepCounters("SearchShards"), max(1, index.questions_at_once // plan.options.block_questions)
    for start in range(0, len(encoded), at_once):
        numbers = sorted(encoded)[start : start + at_once]
        with counters.timed():
            questions = [question_vectors(plan.work, number) for number in numbers]
            hits = index.search(np.concatenate(questions), plan.candidates)
        counters.add(rows_in=len(hits.rows), rows_out=len(hits.rows))
        ends = np.cumsum([len(block) for block in questions])
        for number, block, end in zip(numbers, questions, ends, strict=True):
            here = slice(end - len(block), end)
            yield number, TopK(hits.scores[here], hits.rows[here])


@beam.ptransform_fn
def rescore(hits: Any, plan: Plan) -> Any:
    """(block, TopK of many candidates) to (block, TopK), scored from the stored vectors: one read per shard of them."""
    embeddings, kept = plan.corpus.embeddings, plan.options.kept
    starts = embeddings.row_starts()

    def needs(element: tuple[int, TopK]) -> Iterator[tuple[int, tuple[int, TopK]]]:
        block, hits = element
        for shard in needed_rows(hits.rows, starts):
            yield shard, (block, hits.within(starts[shard], starts[shard + 1]))

    score = beam.FlatMap(score_candidates, plan.corpus.embeddings_url, embeddings, plan.work, kept)
    return (
        hits
        | "Needs" >> beam.FlatMap(needs).with_output_types(tuple[int, tuple[int, TopK]])
        | "GroupByEmbeddingShard" >> beam.GroupByKey()
        | "Score" >> score.with_output_types(tuple[int, TopK])
        | "Merge" >> beam.CombinePerKey(MergeTopK(kept))
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


def question_vectors(work: Work, block: int) -> np.ndarray:
    """The vectors of a block, float32 (questions, dimension)."""
    return as_matrix(read_parquet(work.path(work.name("vectors", block)), ["vector"])["vector"])
