"""Hits and texts to files of results."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Iterable, Iterator, Sequence
from functools import partial
from typing import Any

import apache_beam as beam
import numpy as np
import pyarrow as pa
from apache_beam.ml.inference.base import RunInference

from pipelines.answer.plan import Plan
from pipelines.answer.promise import Floor
from pipelines.runners.counters import StepCounters
from pipelines.transforms.inference import AnswerUnit, GeneratorHandler
from pipelines.transforms.question_vectors import encoding_errors
from pipelines.transforms.work import Work
from rag_ops.questions import blocks
from rag_ops.retrieval import passage_texts
from rag_ops.retrieval.topk import TopK
from rag_ops.storage import store
from rag_ops.storage.parquet import write_parquet
from schemas import answers

RESULT_ROWS = 1000  # rows of a row group


@beam.ptransform_fn
def answer_questions(found: Any, plan: Plan, read: Callable[[Any], Iterator[AnswerUnit]] | None = None) -> Any:
    """Answers questions from their passages, into files of results; emits the numbers of finished blocks.

    Args:
        found: what `join_texts` made of hits and texts; or what `read` is given.
        plan: plan of the job.
        read: function that makes units of an element; by default `read_hits` does.
    """
    handler = GeneratorHandler(
        "Generate", plan.settings, plan.options.generation, plan.options.n_docs, uniform=plan.source.prior == "uniform"
    )
    return (
        found
        | "Texts" >> beam.FlatMap(read or partial(read_hits, work=plan.work))
        | "Generate" >> RunInference(handler)
        | "Write" >> beam.Map(write_results, plan.work, plan.floor)
    )


def read_encoded(work: Work, block: int, asked: Sequence[str]) -> tuple[np.ndarray, dict[int, str]]:
    """Which questions of a block the encoder has cut, bool (questions,), and which it could not encode, and why."""
    return encoding_errors(work, block)


def read_hits(
    element: tuple[int, Iterable[tuple[str, int, TopK]]],
    work: Work,
    encoded: Callable[[Work, int, Sequence[str]], tuple[np.ndarray, dict[int, str]]] = read_encoded,
) -> Iterator[AnswerUnit]:
    """Reads the texts that an answer shard needs, and emits its blocks one by one with their passages.

    Blocks that the runner's earlier try has answered are left out.
    """
    joined = sorted(element[1], key=lambda found: found[:2])
    hits_of = {block: hits for file, block, hits in joined if not file}
    todo = [block for block in hits_of if not store.exists(work.path(blocks.result_name(block)))]
    passages = passage_texts.load([(file, batch) for file, batch, _ in joined if file]) if todo else {}
    for block in todo:
        hits = hits_of[block]
        asked, choices = blocks.read_questions_of(work.url, block)
        truncated, errors = encoded(work, block, asked)
        StepCounters("ReadContexts").add(rows_out=len(asked))
        found = [
            [passages[row] for row in rows if row >= 0 and number not in errors]
            for number, rows in enumerate(hits.rows.tolist())
        ]
        yield AnswerUnit(block, asked, found, hits.scores, truncated, errors, choices)


def write_results(element: tuple[AnswerUnit, list[Any]], work: Work, floor: Floor | None = None) -> int:
    """Writes the results of a block, but for answers below a least score; returns its number."""
    unit, found = element
    rows = []
    for number, answer in enumerate(found):
        passages = [
            {
                "id": passage.passage_id,
                "title": passage.title,
                "section": passage.section,
                "text": passage.text,
                "score": float(unit.scores[number, place]),
                "posterior": answer.posterior[place] if place < len(answer.posterior) else None,
            }
            for place, passage in enumerate(unit.passages[number])
        ]
        row = {"answer": answer.text, "score": answer.score, "passages": passages, "error": answer.error}
        row["score_high"] = answer.score_high
        row["truncated"] = bool(answer.truncated or unit.truncated[number])
        if answer.error is None:
            row["abstained"] = floor.reason(answer.score) if floor else None
            row["answer"] = answer.text if row["abstained"] is None else None
            row["tokens"] = [dataclasses.asdict(token) for token in answer.tokens]
            row["alternatives"] = [{"answer": text, "score": score} for text, score in answer.others]
            if answer.without is not None:
                row["without"] = [*answer.without, *[None] * (len(passages) - len(answer.without))]
            if answer.choices:
                names = ("choice", "score", "probability")
                row["choices"] = [dict(zip(names, one, strict=True)) for one in answer.choices]
        rows.append(row)
    table = pa.Table.from_pylist(rows, schema=answers.RESULTS)
    with store.atomic_write(work.url, blocks.result_name(unit.block)) as file:
        write_parquet(file, iter([table]), answers.RESULTS, RESULT_ROWS)
    StepCounters("WriteResults").add(rows_in=len(found), rows_out=table.num_rows, bytes=file.bytes_written)
    return unit.block
