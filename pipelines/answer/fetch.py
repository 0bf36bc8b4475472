"""Fetches the texts of the passages found: each passage shard is read once."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import Any

import apache_beam as beam
import numpy as np

from pipelines.answer.plan import Plan, Work
from pipelines.runners.counters import StepCounters
from rag_ops.retrieval import passage_texts
from rag_ops.retrieval.topk import TopK
from rag_ops.storage import store
from rag_ops.storage.rows import needed_rows
from schemas.manifest import Manifest


@beam.ptransform_fn
def fetch_texts(hits: Any, plan: Plan) -> Any:
    """Turns (block, TopK) into (answer shard, (file, record batch)): each passage shard is read once."""
    texts, shards = plan.source.texts, plan.shard_of_block
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
        | "Read" >> beam.FlatMap(read_texts, texts.url, texts.passages, plan.work, texts.sections)
    )


def read_texts(
    element: tuple[int, Iterable[tuple[int, bytes]]], passages_url: str, passages: Manifest, work: Work, sections: bool
) -> Iterator[tuple[int, tuple[str, int]]]:
    """Reads the rows of one passage shard that any question needs."""
    number, needs = element
    counters = StepCounters("ReadTexts")
    rows: dict[int, list[np.ndarray]] = {}
    for answer_shard, data in needs:
        rows.setdefault(answer_shard, []).append(np.frombuffer(data, np.int64))
    wanted = {shard: np.unique(np.concatenate(parts)) for shard, parts in rows.items()}
    url, name = store.join(passages_url, passages.shards[number].path), work.name("texts", number, "arrow")
    with counters.timed():
        batches = passage_texts.fetch(url, passages.row_starts()[number], wanted, work.url, name, sections)
    counters.add(rows_out=sum(map(len, wanted.values())))
    for answer_shard, batch in batches.items():
        yield answer_shard, (work.path(name), batch)
