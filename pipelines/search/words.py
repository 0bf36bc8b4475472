"""Search of the shards of an index of words, for blocks of questions."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator, Sequence
from functools import partial
from typing import Any

import apache_beam as beam

from pipelines.runners.counters import StepCounters
from pipelines.transforms.allowed import Allowed
from pipelines.transforms.saved_hits import search_once
from pipelines.transforms.topk import MergeTopK
from pipelines.transforms.work import Work
from rag_ops.questions import blocks
from rag_ops.retrieval.bm25 import Bm25Corpus
from rag_ops.retrieval.topk import TopK
from rag_ops.storage.parquet import read_parquet

AS_ASKED = b""  # the content of a block: its words, which the job's fingerprint has


@dataclasses.dataclass(frozen=True)
class WordSearch:
    """How a job's questions are searched for in an index of words.

    Attributes:
        corpus: index and passages.
        work: where the questions' blocks lie.
        todo: numbers of the blocks to search for.
        candidates: number of passages that a question gets.
        allowed: the passages that may be found; None for all.
    """

    corpus: Bm25Corpus
    work: Work
    todo: Sequence[int]
    candidates: int
    allowed: Allowed | None = None


@beam.ptransform_fn
def search_words(numbers: Any, how: WordSearch) -> Any:
    """Searches shards by their numbers, into (block, TopK): every block meets every shard; hits of all are merged."""
    return (
        numbers
        | "SearchShards" >> beam.FlatMap(search_shard, how).with_output_types(tuple[int, TopK])
        | "Merge" >> beam.CombinePerKey(MergeTopK(how.candidates))
    )


def search_shard(number: int, how: WordSearch) -> Iterator[tuple[int, TopK]]:
    """Searches one shard for all blocks; those for which it has been searched before are not searched again."""
    counters = StepCounters("SearchWords")
    search = partial(_search_blocks, number, how, counters)
    name = how.work.name("word-hits", number, "arrow")
    yield from search_once(how.work, name, how.todo, lambda block: AS_ASKED, search, counters)


def _search_blocks(
    number: int, how: WordSearch, counters: StepCounters, numbers: list[int]
) -> Iterator[tuple[int, bytes, TopK]]:
    """Opens a shard and searches it for some blocks."""
    shard, file = how.corpus.open_shard(number), how.corpus.shards[number]
    among = None if how.allowed is None else how.allowed.places(file.first_row, file.rows)
    for block in numbers:
        with counters.timed():
            asked = read_parquet(how.work.path(blocks.block_name(block)))["question"].to_pylist()
            if among is None:
                hits = shard.search(asked, how.candidates)
            else:
                hits = shard.search_among(asked, how.candidates, among)
        counters.add(rows_in=len(asked), rows_out=len(asked))
        yield block, AS_ASKED, hits
