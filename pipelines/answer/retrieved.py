"""Questions whose passages were found elsewhere: instead of encoding and search, what the blocks already hold."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from functools import partial
from typing import Any

import apache_beam as beam
import numpy as np

from pipelines.answer.generate import answer_questions, read_hits
from pipelines.answer.plan import Plan
from pipelines.runners.counters import StepCounters
from pipelines.transforms.inference import AnswerUnit
from pipelines.transforms.passage_texts import fetch_texts, join_texts
from pipelines.transforms.stage_job import distribute
from pipelines.transforms.work import Work
from rag_ops.questions import blocks
from rag_ops.questions.found import Found
from rag_ops.retrieval.topk import TopK
from rag_ops.storage import store


def answer_retrieved(pipeline: beam.Pipeline, plan: Plan) -> Any:
    """Adds the transforms from blocks with their passages to answers; emits the numbers of finished blocks.

    Texts are in the blocks' own files, or they are fetched by row.
    """
    todo, hints = pipeline | distribute("Blocks", plan.todo), plan.options.workers.resources.hints()
    model = plan.options.model
    if plan.source.texts is None:
        units = partial(read_units, work=plan.work, model=model)
        return todo | "Answer" >> answer_questions(plan, units).with_resource_hints(**hints)
    hits = todo | "ReadHits" >> beam.Map(read_rows, plan.work).with_output_types(tuple[int, TopK])
    texts = hits | "FetchTexts" >> fetch_texts(plan.source.texts, plan.shard_of_block, plan.work)
    joined = (hits, texts) | "Join" >> join_texts(plan.shard_of_block)
    read = partial(read_hits, work=plan.work, encoded=partial(cut, model=model))
    return joined | "Answer" >> answer_questions(plan, read).with_resource_hints(**hints)


def read_rows(block: blocks.Block, work: Work) -> tuple[int, TopK]:
    """Reads which passages were found for the questions of a block."""
    found = _found(block, work)
    hits = TopK.empty(len(found), max(map(len, found), default=0))
    for number, passages in enumerate(found):
        hits.rows[number, : len(passages)] = [passage.row for passage in passages]
        hits.scores[number, : len(passages)] = [passage.score for passage in passages]
    return block.number, hits


def read_units(block: blocks.Block, work: Work, model: str) -> Iterator[AnswerUnit]:
    """Reads a block of questions with its passages' texts, unless the runner's earlier try has answered it."""
    if store.exists(work.path(blocks.result_name(block.number))):
        return
    asked, choices = blocks.read_questions_of(work.url, block.number)
    found = _found(block, work)
    StepCounters("ReadContexts").add(rows_out=len(asked))
    scores = np.full((len(found), max(map(len, found), default=0)), -np.inf, np.float32)
    for number, passages in enumerate(found):
        scores[number, : len(passages)] = [passage.score for passage in passages]
    texts: list[list[Any]] = [[passage.passage for passage in passages] for passages in found]
    truncated, _ = cut(work, block.number, asked, model)
    yield AnswerUnit(block.number, asked, texts, scores, truncated, choices=choices)


def cut(work: Work, block: int, asked: Sequence[str], model: str) -> tuple[np.ndarray, dict[int, str]]:
    """Which questions the model's question encoder would cut for a search, bool (questions,); and no errors."""
    from rag_ops.models import checkpoints, question_cuts  # with transformers

    return question_cuts.cut_questions(checkpoints.find_model(model), asked), {}


def _found(block: blocks.Block, work: Work) -> list[list[Found]]:
    return blocks.read_found(work.url, block.number) if block.questions else []
