"""Hits as tables: those of a block of questions, and the rows of a shard, one for each passage of each question."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from rag_ops.questions import blocks
from rag_ops.questions.failures import NO_HIT
from rag_ops.retrieval.topk import TopK
from rag_ops.storage import store
from rag_ops.storage.parquet import read_parquet
from schemas import hits
from schemas.passages import Passage

SOURCES = ("dense_score", "bm25_score", "rerank_score")


def result_table(
    found: TopK,
    sources: Mapping[str, np.ndarray],
    passages: Mapping[int, Passage],
    truncated: Sequence[bool],
    errors: Mapping[int, str],
) -> pa.Table:
    """The results of a block, a row a question (schemas.hits.RESULTS).

    Args:
        found: the passages of each question, best first.
        sources: scores by the names in `SOURCES`, float32 in the places of `found`; NaN for none.
        passages: row to passage.
        truncated: whether each question was cut.
        errors: why some questions have no passages, by their number; whoever else has none was not found any.
    """
    real = found.rows >= 0
    real[sorted(errors)] = False
    counts = real.sum(1)
    rows = found.rows[real]
    texts = [passages[row] for row in rows.tolist()]
    ranks = np.concatenate([np.arange(1, count + 1) for count in counts]) if len(counts) else counts
    columns = {
        "rank": ranks,
        "row": rows,
        "passage_id": [one.passage_id for one in texts],
        "title": [one.title for one in texts],
        "section": [one.section for one in texts],
        "text": [one.text for one in texts],
        "score": found.scores[real],
    }
    arrays = [
        pa.array(columns[field.name], field.type)
        if field.name in columns
        else _scores(sources.get(field.name), real, len(rows))
        for field in hits.HIT_FIELDS
    ]
    whys = [errors.get(number, None if count else NO_HIT) for number, count in enumerate(counts.tolist())]
    missing = pa.array([why is not None for why in whys], pa.bool_())
    structs = pa.StructArray.from_arrays(arrays, fields=hits.HIT_FIELDS)
    offsets = pa.array(np.concatenate([[0], np.cumsum(counts)]), pa.int32())
    lists = pa.ListArray.from_arrays(offsets, structs, type=hits.RESULTS.field("hits").type, mask=missing)
    cut = pa.array([bool(one) for one in truncated], pa.bool_())
    return pa.table([lists, cut, pa.array(whys, pa.string())], schema=hits.RESULTS)


def _scores(scores: np.ndarray | None, real: np.ndarray, count: int) -> pa.Array:
    return pa.nulls(count, pa.float32()) if scores is None else pa.array(scores[real], pa.float32(), from_pandas=True)


def hit_rows(directory: str, numbers: Sequence[int]) -> Iterator[pa.Table]:
    """Yields the final rows of a shard, one table for each of its blocks, in the order of the question files.

    Each row of the question files has a row for each of its passages, best first, or one with its error.

    Args:
        directory: directory that `blocks.prepare` wrote to, with `blocks.result_name(n)` for each block n.
        numbers: numbers of the blocks.
    """
    for number in numbers:
        asked = read_parquet(store.join(directory, blocks.rows_name(number)))
        found = blocks.gather(directory, asked, hits.RESULTS)
        lists = found["hits"].combine_chunks()
        counts = np.asarray(pc.fill_null(pc.list_value_length(lists), 0))
        rows = np.repeat(np.arange(len(asked)), np.maximum(counts, 1))
        places = np.arange(counts.sum())
        here = np.zeros(len(rows), bool)  # rows that hold a passage
        here[np.repeat(counts > 0, np.maximum(counts, 1))] = True
        taken = np.full(len(rows), -1)
        taken[here] = places
        flat = pc.list_flatten(lists).take(pa.array(np.where(here, taken, 0), mask=~here))
        own, result = asked["error"].to_pylist(), found["error"].to_pylist()
        errors = pa.array([one or other for one, other in zip(own, result, strict=True)], pa.string())
        of_question = {
            "question_id": asked["question_id"],
            "question": asked["question"],
            "gold_answers": asked["answers"],
            "truncated": found["truncated"],
            "error": errors,
        }
        columns = {name: column.take(pa.array(rows)) for name, column in of_question.items()}
        columns |= {field.name: flat.field(place) for place, field in enumerate(hits.HIT_FIELDS)}
        yield pa.table([columns[name] for name in hits.SCHEMA.names], schema=hits.SCHEMA)
