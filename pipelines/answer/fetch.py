"""Fetches the texts of the passages found: each passage shard is read once."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import Any

import apache_beam as beam
import numpy as np

from pipelines.answer.plan import Plan
from pipelines.runners.counters import StepCounters
from rag_ops.retrieval import passage_texts
from rag_ops.retrieval.topk import TopK
from rag_ops.storage import store
from rag_ops.storage.rows import needed_rows


class FetchTexts(beam.PTransform):
    """Turns (block, TopK) into (answer shard, (file, record batch)): each passage shard is read once."""

    def __init__(self, plan: Plan):
        super().__init__()
        self._plan = plan

    def expand(self, pcoll: Any) -> Any:
        """See the class."""
        starts = self._plan.corpus.passages.row_starts()
        shards = self._plan.shard_of_block

        def needs(element: tuple[int, TopK]) -> Iterator[tuple[int, tuple[int, bytes]]]:
            block, hits = element
            for passage_shard, rows in needed_rows(hits.rows, starts).items():
                yield passage_shard, (shards[block], rows.tobytes())

        return (
            pcoll
            | "Needs" >> beam.FlatMap(needs).with_output_types(tuple[int, tuple[int, bytes]])
            | "GroupByPassageShard" >> beam.GroupByKey()
            | "Read" >> beam.ParDo(ReadTexts(self._plan))
        )


class ReadTexts(beam.DoFn):
    """Reads the rows of one passage shard that any question needs."""

    def __init__(self, plan: Plan):
        self._corpus_url, self._passages, self._work = plan.corpus.passages_url, plan.corpus.passages, plan.work
        self._counters = StepCounters("ReadTexts")

    def process(self, element: tuple[int, Iterable[tuple[int, bytes]]]) -> Iterator[tuple[int, tuple[str, int]]]:
        """See the class."""
        number, needs = element
        rows: dict[int, list[np.ndarray]] = {}
        for answer_shard, data in needs:
            rows.setdefault(answer_shard, []).append(np.frombuffer(data, np.int64))
        wanted = {shard: np.unique(np.concatenate(parts)) for shard, parts in rows.items()}
        name = self._work.name("texts", number, "arrow")
        with self._counters.timed():
            batches = passage_texts.fetch(
                store.join(self._corpus_url, self._passages.shards[number].path),
                self._passages.row_starts()[number],
                wanted,
                self._work.url,
                name,
            )
        self._counters.add(rows_out=sum(map(len, wanted.values())))
        for answer_shard, batch in batches.items():
            yield answer_shard, (self._work.path(name), batch)
