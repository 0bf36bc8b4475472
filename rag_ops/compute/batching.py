"""Bisects a failing batch: a bad row fails alone, and running out of memory only slows the job down."""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterator, Sequence
from typing import TypeVar

import numpy as np
import torch

from rag_ops import machine
from rag_ops.errors import NoMemoryError, RagbeamError

logger = logging.getLogger(__name__)
R = TypeVar("R")
Work = Callable[[np.ndarray], Sequence[R] | np.ndarray]  # row numbers to one result a row


def token_batches(
    lengths: Sequence[int], budget_tokens: int, alike: Sequence[int] | None = None
) -> Iterator[np.ndarray]:
    """Cuts rows, shortest first, into batches whose padded size stays within a budget.

    Args:
        lengths: number of tokens of each row.
        budget_tokens: most tokens of a batch: rows times its longest row. A single longer row is a batch of its own.
        alike: another number of each row, which counts for their order before their lengths.

    Yields:
        int64 arrays of row numbers. Rows of equal length keep their order, so batches depend on the rows alone.

    >>> [batch.tolist() for batch in token_batches([3, 9, 2, 3], budget_tokens=9)]
    [[2, 0, 3], [1]]
    >>> [batch.tolist() for batch in token_batches([3, 9, 2, 3], budget_tokens=9, alike=[1, 0, 1, 0])]
    [[3], [1], [2, 0]]
    """
    own = np.asarray(lengths)
    order = np.argsort(own, kind="stable") if alike is None else np.lexsort((own, np.asarray(alike)))
    start = longest = 0
    for end, row in enumerate(order):
        longest = max(longest, lengths[row])
        if end > start and (end + 1 - start) * longest > budget_tokens:
            yield order[start:end]
            start, longest = end, lengths[row]
    if len(order):
        yield order[start:]


def in_batches(
    lengths: Sequence[int],
    budget_tokens: int,
    work: Work[R],
    on_rows: Callable[[int], None] = lambda rows: None,
    alike: Sequence[int] | None = None,
) -> tuple[dict[int, R], dict[int, str]]:
    """Runs `work` over rows in the batches of `token_batches`; a row that fails alone does not affect the others.

    A row whose failure is its own is taken out and the batches are cut again, so the others' results are, byte for
    byte, those of a unit that never held it. A batch that does not fit in memory is halved: rows then come out of
    smaller batches, whose sums may differ in the last digit from those of a larger device.

    Args:
        lengths: number of tokens of each row.
        budget_tokens: most tokens of a batch.
        work: function from row numbers to their results, in the same order.
        on_rows: called with the number of rows finished since the last call.
        alike: another number of each row, which counts for their order before their lengths.

    Returns:
        Row to result, and row to why it failed; each row is in one of them.

    Raises:
        JobError: the machine failed, or has no memory for a row alone: nothing that depends on the row.
    """
    results: dict[int, R] = {}
    failures: dict[int, str] = {}
    finished: set[bytes] = set()
    reported = 0
    while True:
        left = np.array([row for row in range(len(lengths)) if row not in failures], np.int64)
        order = None if alike is None else [alike[row] for row in left]
        for places in token_batches([lengths[row] for row in left], budget_tokens, order):
            rows = left[places]
            if rows.tobytes() in finished:
                continue
            found, failed = _halved(rows, work)
            if failed:
                failures |= failed
                break
            finished.add(rows.tobytes())
            results |= found
            if len(results) + len(failures) > reported:
                on_rows(len(results) + len(failures) - reported)
                reported = len(results) + len(failures)
        else:
            break
    if len(lengths) > reported:
        on_rows(len(lengths) - reported)
    return {row: result for row, result in results.items() if row not in failures}, failures


def one_by_one(count: int, work: Work[R]) -> tuple[dict[int, R], dict[int, str]]:
    """Runs `work`, whose results depend on each row alone, on all rows at once, and on fewer if that fails.

    Returns:
        Row to result, and row to why it failed.

    Raises:
        JobError: as `in_batches`.
    """
    return _halved(np.arange(count), work) if count else ({}, {})


def _halved(rows: np.ndarray, work: Work[R], is_half: bool = False) -> tuple[dict[int, R], dict[int, str]]:
    """Results by row, and failures that are the row's own."""
    try:
        return dict(zip(rows.tolist(), work(rows), strict=True)), {}
    except RagbeamError:
        raise
    except Exception as error:  # whatever the model raises, it is one row's fault or the batch's size
        reason = f"{type(error).__name__}: {(str(error).strip() or 'no message').splitlines()[0]}"
        fault = machine.fault_of(error)
    # Outside of the handler, whose traceback holds the batch's tensors.
    if fault and (len(rows) == 1 or not isinstance(fault, NoMemoryError)):
        raise fault
    if torch.cuda.is_available():
        torch.cuda.empty_cache()
    if len(rows) == 1:
        logger.error("a row failed in the model: %s", reason)
        return {}, {int(rows[0]): reason}
    level = logging.DEBUG if is_half else logging.WARNING  # one line a batch, not one a half of a half
    logger.log(level, "a batch of %d rows failed and is halved: %s", len(rows), reason)
    half = len(rows) // 2
    first, second = _halved(rows[:half], work, is_half=True), _halved(rows[half:], work, is_half=True)
    return first[0] | second[0], first[1] | second[1]
