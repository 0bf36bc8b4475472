"""Fetches the texts of the passages found: each passage shard is read once."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterable, Iterator, Mapping
from typing import Any

import apache_beam as beam
import numpy as np

from pipelines.runners.counters import StepCounters
from pipelines.transforms.work import Work
from rag_ops.retrieval import passage_texts
from rag_ops.retrieval.topk import TopK
from rag_ops.storage import store
from rag_ops.storage.rows import needed_rows
from schemas.manifest import Manifest


@dataclasses.dataclass(frozen=True)
class Texts:
    """Passages that texts are fetched from by row: their directory, its manifest, whether models read sections."""

    url: str
    passages: Manifest
    sections: bool


# Of a shard of the output: "", a block and its hits; or a file of texts, the number of a batch in it, and no hits.
Found = tuple[int, tuple[str, int, TopK]]


@beam.ptransform_fn
def fetch_texts(hits: Any, texts: Texts | None, shards: Mapping[int, int], work: Work) -> Any:
    """Turns (block, TopK) into (output shard, (file, record batch)): each passage shard is read once.

    Args:
        hits: rows of the passages for each block.
        texts: the passages.
        shards: the output shard that each block belongs to.
        work: where the texts go.
    """
    assert texts is not None
    starts = texts.passages.row_starts()

    def needs(element: tuple[int, TopK]) -> Iterator[tuple[int, tuple[int, bytes]]]:
        block, hits = element
        for passage_shard, rows in needed_rows(hits.rows, starts).items():
            yield passage_shard, (shards[block], rows.tobytes())

    return (
        hits
        | "Needs" >> beam.FlatMap(needs).with_output_types(tuple[int, tuple[int, bytes]])
        | "GroupByPassageShard" >> beam.GroupByKey()
        | "Read" >> beam.FlatMap(read_texts, texts.url, texts.passages, work, texts.sections)
    )


def read_texts(
    element: tuple[int, Iterable[tuple[int, bytes]]], passages_url: str, passages: Manifest, work: Work, sections: bool
) -> Iterator[tuple[int, tuple[str, int]]]:
    """Reads the rows of one passage shard that any question needs."""
    number, needs = element
    counters = StepCounters("ReadTexts")
    rows: dict[int, list[np.ndarray]] = {}
    for output_shard, data in needs:
        rows.setdefault(output_shard, []).append(np.frombuffer(data, np.int64))
    wanted = {shard: np.unique(np.concatenate(parts)) for shard, parts in rows.items()}
    url, name = store.join(passages_url, passages.shards[number].path), work.name("texts", number, "arrow")
    with counters.timed():
        batches = passage_texts.fetch(url, passages.row_starts()[number], wanted, work.url, name, sections)
    counters.add(rows_out=sum(map(len, wanted.values())))
    for output_shard, batch in batches.items():
        yield output_shard, (work.path(name), batch)


@beam.ptransform_fn
def join_texts(inputs: Any, shards: Mapping[int, int]) -> Any:
    """Groups hits and texts by output shard; a CoGroupByKey would add a step after its shuffle, without our hints."""
    hits, texts = inputs
    no_hits = TopK.empty(0, 0)
    of_blocks = hits | "Hits" >> beam.MapTuple(
        lambda block, hits: (shards[block], ("", block, hits))
    ).with_output_types(Found)
    of_files = texts | "Texts" >> beam.MapTuple(lambda shard, text: (shard, (*text, no_hits))).with_output_types(Found)
    return (of_blocks, of_files) | beam.Flatten() | "GroupByOutputShard" >> beam.GroupByKey()
