"""Hits and texts to files of results."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterable, Iterator
from typing import Any

import apache_beam as beam
import pyarrow as pa
from apache_beam.ml.inference.base import RunInference

from pipelines.answer.plan import Plan, Work
from pipelines.runners.counters import StepCounters
from pipelines.transforms.inference import (
    AnswerUnit,
    GeneratorHandler,
)
from rag_ops.questions import blocks
from rag_ops.retrieval import passage_texts
from rag_ops.retrieval.topk import TopK
from rag_ops.storage import store
from rag_ops.storage.parquet import read_parquet, write_parquet
from schemas import answers

RESULT_ROWS = 1000  # rows of a row group


class AnswerQuestions(beam.PTransform):
    """Answers questions from hits and texts, into files of results; emits the numbers of finished blocks."""

    def __init__(self, plan: Plan):
        super().__init__()
        self._plan = plan

    def expand(self, pcolls: Any) -> Any:
        """See the class."""
        hits, found = pcolls
        options, shards = self._plan.options, self._plan.shard_of_block
        by_shard = hits | "KeyByShard" >> beam.Map(lambda hit: (shards[hit[0]], hit)).with_output_types(
            tuple[int, tuple[int, TopK]]
        )
        return (
            {"hits": by_shard, "texts": found}
            | "Join" >> beam.CoGroupByKey()
            | "Contexts" >> beam.ParDo(ReadContexts(self._plan.work))
            | "Generate"
            >> RunInference(GeneratorHandler("Generate", self._plan.settings, options.generation, options.n_docs))
            | "Write" >> beam.ParDo(WriteResults(self._plan.work))
        )


class ReadContexts(beam.DoFn):
    """Reads the texts that an answer shard needs, and emits its blocks one by one with their passages.

    Blocks that the runner's earlier try has answered are left out.
    """

    def __init__(self, work: Work):
        self._work = work
        self._counters = StepCounters("ReadContexts")

    def process(self, element: tuple[int, dict[str, Iterable[Any]]]) -> Iterator[AnswerUnit]:
        """See the class."""
        _, joined = element
        hits_of = sorted(joined["hits"], key=lambda hit: hit[0])
        todo = [hit for hit in hits_of if not store.exists(self._work.path(blocks.result_name(hit[0])))]
        passages = passage_texts.load(sorted(joined["texts"])) if todo else {}
        for block, hits in todo:
            asked = read_parquet(self._work.path(blocks.block_name(block)))["question"].to_pylist()
            encoded = read_parquet(self._work.path(self._work.name("vectors", block)), ["truncated", "error"])
            errors = {row: error for row, error in enumerate(encoded["error"].to_pylist()) if error is not None}
            self._counters.add(rows_out=len(asked))
            yield AnswerUnit(
                block,
                asked,
                [
                    [passages[row] for row in rows if row >= 0 and number not in errors]
                    for number, rows in enumerate(hits.rows.tolist())
                ],
                hits.scores,
                encoded["truncated"].to_numpy(),
                errors,
            )


class WriteResults(beam.DoFn):
    """Writes the results of a block."""

    def __init__(self, work: Work):
        self._work = work

    def process(self, element: tuple[AnswerUnit, list[Any]]) -> Iterator[int]:
        """See the class."""
        unit, found = element
        rows = [
            {
                "answer": answer.text,
                "score": answer.score,
                "passages": [
                    {
                        "id": passage.passage_id,
                        "title": passage.title,
                        "text": passage.text,
                        "score": float(unit.scores[number, place]),
                        "posterior": answer.posterior[place] if place < len(answer.posterior) else None,
                    }
                    for place, passage in enumerate(unit.passages[number])
                ],
                "tokens": [dataclasses.asdict(token) for token in answer.tokens] if answer.error is None else None,
                "alternatives": (
                    [{"answer": text, "score": score} for text, score in answer.others]
                    if answer.error is None
                    else None
                ),
                "truncated": bool(answer.truncated or unit.truncated[number]),
                "error": answer.error,
            }
            for number, answer in enumerate(found)
        ]
        table = pa.Table.from_pylist(rows, schema=answers.RESULTS)
        with store.atomic_write(self._work.url, blocks.result_name(unit.block)) as file:
            write_parquet(file, iter([table]), answers.RESULTS, RESULT_ROWS)
        StepCounters("WriteResults").add(rows_in=len(found), rows_out=table.num_rows, bytes=file.bytes_written)
        yield unit.block
