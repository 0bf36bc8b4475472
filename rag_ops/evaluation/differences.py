"""Two runs over the same questions, row by row: which answers changed, and which passage made the difference.

Rows are joined by id and question (`joining`). Memory is some 200 bytes a row, and a row group of each run.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import numpy as np
import pyarrow as pa

from rag_ops.evaluation.figures import SLICE_ROWS, AnswerSet
from rag_ops.evaluation.joining import RowKeys
from rag_ops.evaluation.metrics import GoldTexts
from rag_ops.evaluation.scored import known
from rag_ops.storage import store
from rag_ops.storage.parquet import open_parquet
from rag_ops.storage.rows import needed_rows, pieces

SAME, CHANGED = "same", "changed"
ERROR_A, ERROR_B, ERRORS = "error in A", "error in B", "error in both"
ONLY_A, ONLY_B = "only in A", "only in B"
OUTCOMES = (SAME, CHANGED, ERROR_A, ERROR_B, ERRORS, ONLY_A, ONLY_B)
# What happened to a passage from A to B.
GAINED, LOST, REWRITTEN, MOVED, REWEIGHTED = "gained", "lost", "rewritten", "moved", "reweighted"
COLUMNS = ("question_id", "question", "answer", "score", "passages", "gold_answers", "abstained", "error")
KEY_COLUMNS = ("question_id", "question")
NEAR = 1e-6  # shares of an answer that differ by no more are equal: they are float32
SCHEMA = pa.schema(
    [
        pa.field("question_id", pa.string(), nullable=False),
        pa.field("question", pa.string(), nullable=False),
        pa.field("outcome", pa.string(), nullable=False),  # one of OUTCOMES
        pa.field("answer_a", pa.string()),
        pa.field("answer_b", pa.string()),
        pa.field("error_a", pa.string()),
        pa.field("error_b", pa.string()),
        pa.field("abstained_a", pa.string()),  # why the answer is not given; null if it is
        pa.field("abstained_b", pa.string()),
        pa.field("score_a", pa.float32()),
        pa.field("score_b", pa.float32()),
        pa.field("gold_answers", pa.list_(pa.string())),
        pa.field("right_a", pa.bool_()),  # null without gold answers
        pa.field("right_b", pa.bool_()),
        pa.field("change", pa.string()),  # of the passage that made the difference; null unless the answer changed
        pa.field("passage_id", pa.string()),
        pa.field("title", pa.string()),
        pa.field("text", pa.string()),
        pa.field("rank_a", pa.int32()),  # from 1; null if it is not among the passages
        pa.field("rank_b", pa.int32()),
        pa.field("share_a", pa.float32()),  # of the answer's tokens; null if it was not read
        pa.field("share_b", pa.float32()),
    ]
)


@dataclasses.dataclass(frozen=True)
class Decisive:
    """The passage that made the difference between two answers.

    Attributes:
        change: "gained" or "lost" if only one of the answers was made from it, "rewritten" if its text differs, else
            "moved" if its rank does, else "reweighted".
        passage: the passage as B has it, else as A does.
        rank_a, rank_b: its ranks, from 1; None if it is not among the passages kept.
        share_a, share_b: its posteriors; None if the answer was not made from it, or it was left unread.
    """

    change: str
    passage: Mapping[str, Any]
    rank_a: int | None
    rank_b: int | None
    share_a: float | None
    share_b: float | None


def decisive(a: Sequence[Mapping[str, Any]], b: Sequence[Mapping[str, Any]]) -> Decisive | None:
    """The passage whose share of the answer differs most between two answers to one question.

    A share is the `posterior`: 0 if the answer was not made from the passage. Of equal differences one that is gained
    or lost counts first, then the better rank, then the one in A.

    Args:
        a, b: the passages of each answer, best first (`schemas.answers.PASSAGE`).

    Returns:
        None if neither has passages with a share.
    """
    ranks_a, ranks_b = ({one["id"]: place for place, one in reversed([*enumerate(side, 1)])} for side in (a, b))
    best: tuple[tuple[float, bool, int, int], Decisive] | None = None
    for order, name in enumerate(dict.fromkeys(one["id"] for one in (*a, *b))):
        rank_a, rank_b = ranks_a.get(name), ranks_b.get(name)
        one, other = (a[rank_a - 1] if rank_a else None), (b[rank_b - 1] if rank_b else None)
        share_a, share_b = (side["posterior"] if side else None for side in (one, other))
        if share_a is None and share_b is None:
            continue
        exchanged = share_a is None or share_b is None
        apart = round(abs((share_a or 0.0) - (share_b or 0.0)) / NEAR)
        key = apart, exchanged, -min(rank for rank in (rank_a, rank_b) if rank), -order
        if best is None or key > best[0]:
            change = _change(one, other, rank_a, rank_b)
            best = key, Decisive(change, other or one or {}, rank_a, rank_b, share_a, share_b)
    return best[1] if best else None


def _change(one: Mapping[str, Any] | None, other: Mapping[str, Any] | None, rank_a: Any, rank_b: Any) -> str:
    if one is None or one["posterior"] is None:
        return GAINED
    if other is None or other["posterior"] is None:
        return LOST
    if (one["title"], one["text"]) != (other["title"], other["text"]):
        return REWRITTEN
    return MOVED if rank_a != rank_b else REWEIGHTED


def differences(a: AnswerSet, b: AnswerSet) -> Iterator[dict[str, Any]]:
    """Yields every row of two answers directories with its outcome, as `SCHEMA` has them.

    The rows of A come in order, then those that only B has, in its order.

    Raises:
        InputError: a shard is damaged.
    """
    place_of = {key: row for row, key in enumerate(_keys(b))}
    keys = _keys(a)
    starts, found = b.manifest.row_starts(), np.zeros(len(place_of), bool)
    for table in _slices(a):
        places = np.array([place_of.get(next(keys), -1) for _ in range(table.num_rows)], np.int64)
        found[places[places >= 0]] = True
        others = _rows_at(b, places, starts)
        for row, place in zip(table.to_pylist(), places.tolist(), strict=True):
            yield _compared(row, others.get(place))
    start = 0
    for table in _slices(b):
        for number in np.flatnonzero(~found[start : start + table.num_rows]).tolist():
            yield _compared(None, table.slice(number, 1).to_pylist()[0])
        start += table.num_rows


def _keys(one: AnswerSet) -> Iterator[bytes]:
    """Yields the key of each row; see `RowKeys`."""
    keys = RowKeys()
    for shard in one.manifest.shards:
        with open_parquet(store.join(one.url, shard.path), shard.rows) as parquet:
            for group in range(parquet.num_row_groups):
                columns = parquet.read_row_group(group, columns=list(KEY_COLUMNS)).to_pydict()
                for question_id, question in zip(*(columns[name] for name in KEY_COLUMNS), strict=True):
                    yield keys.next(question_id, question)


def _slices(one: AnswerSet) -> Iterator[pa.Table]:
    """Yields the rows of a directory, a few at a time."""
    for shard in one.manifest.shards:
        with open_parquet(store.join(one.url, shard.path), shard.rows) as parquet:
            for group in range(parquet.num_row_groups):
                table = parquet.read_row_group(group, columns=list(COLUMNS))
                for start in range(0, table.num_rows, SLICE_ROWS):
                    yield table.slice(start, SLICE_ROWS)


def _rows_at(one: AnswerSet, places: np.ndarray, starts: Sequence[int]) -> dict[int, dict[str, Any]]:
    """The rows of a directory at some places, by place; -1 for none."""
    rows: dict[int, dict[str, Any]] = {}
    for shard, wanted in needed_rows(places, starts).items():
        url = store.join(one.url, one.manifest.shards[shard].path)
        for at, table in pieces(url, COLUMNS, wanted - starts[shard]):
            rows |= zip(wanted[at].tolist(), table.to_pylist(), strict=True)
    return rows


def _compared(a: dict[str, Any] | None, b: dict[str, Any] | None) -> dict[str, Any]:
    """The row of two runs that has one question; None if a run lacks it."""
    either = a or b or {}
    row: dict[str, Any] = dict.fromkeys(SCHEMA.names)
    row |= {name: either[name] for name in KEY_COLUMNS}
    row["outcome"] = outcome = _outcome(a, b)
    answers = known((a or {}).get("gold_answers")) or known((b or {}).get("gold_answers"))
    gold = GoldTexts(answers) if answers else None
    row["gold_answers"] = answers or None
    for side, one in (("a", a), ("b", b)):
        if one is not None:
            row |= {f"{name}_{side}": one[name] for name in ("answer", "error", "abstained", "score")}
            row[f"right_{side}"] = bool(gold.exact(None if one["error"] else one["answer"])) if gold else None
    if outcome == CHANGED and a and b and (made := decisive(a["passages"] or (), b["passages"] or ())):
        row |= {name: made.passage[name] for name in ("title", "text")}
        row |= {"change": made.change, "passage_id": made.passage["id"], "rank_a": made.rank_a, "rank_b": made.rank_b}
        row |= {"share_a": made.share_a, "share_b": made.share_b}
    return row


def _outcome(a: Mapping[str, Any] | None, b: Mapping[str, Any] | None) -> str:
    if a is None or b is None:
        return ONLY_B if a is None else ONLY_A
    failed = a["error"] is not None, b["error"] is not None
    if any(failed):
        return {(True, False): ERROR_A, (False, True): ERROR_B, (True, True): ERRORS}[failed]
    return SAME if a["answer"] == b["answer"] else CHANGED
