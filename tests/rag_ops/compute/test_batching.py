"""Failures kept apart: results by an independent loop, every row once, whatever fails."""

import errno

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from rag_ops.compute import batching
from rag_ops.errors import JobError, NoMemoryError

LENGTHS = [3, 9, 2, 3, 7, 7, 1, 30, 4, 4]


class Model:
    """Gives each row its number and the batch that it was in; fails on some rows, and on batches over a size."""

    def __init__(self, bad: set[int] = frozenset(), most: int = 10**9, error: Exception | None = None):
        self.bad, self.most, self.error = bad, most, error or ValueError("bad row\nwith more lines")
        self.calls = 0

    def __call__(self, rows: np.ndarray) -> list[tuple[int, tuple[int, ...]]]:
        self.calls += 1
        if self.bad & set(rows.tolist()):
            raise self.error
        if len(rows) > self.most:
            raise torch.cuda.OutOfMemoryError("CUDA out of memory. Tried to allocate 2 GiB")
        return [(row, tuple(rows.tolist())) for row in rows.tolist()]


@settings(max_examples=200, deadline=None)
@given(st.lists(st.integers(1, 40), max_size=30), st.integers(1, 100), st.data())
def test_the_others_are_in_the_batches_of_a_unit_without_the_bad_rows(lengths, budget, data):
    bad = data.draw(st.sets(st.sampled_from(range(len(lengths))))) if lengths else set()
    alike = data.draw(st.none() | st.lists(st.integers(0, 3), min_size=len(lengths), max_size=len(lengths)))
    told = []
    found, failures = batching.in_batches(lengths, budget, Model(bad), told.append, alike)
    good = [row for row in range(len(lengths)) if row not in bad]
    expected = {}
    order = alike and [alike[row] for row in good]
    for batch in batching.token_batches([lengths[row] for row in good], budget, order):
        rows = tuple(good[place] for place in batch)
        expected |= {row: (row, rows) for row in rows}
    assert found == expected
    assert set(failures) == bad
    assert set(failures.values()) <= {"ValueError: bad row"}
    assert sum(told) == len(lengths)


@settings(max_examples=100, deadline=None)
@given(st.lists(st.tuples(st.integers(1, 40), st.integers(0, 3)), min_size=1, max_size=30), st.integers(1, 100))
def test_batches_hold_what_is_alike_and_as_much_as_the_budget_allows(rows, budget):
    lengths, alike = zip(*rows, strict=True)
    batches = [batch.tolist() for batch in batching.token_batches(lengths, budget, alike)]
    order = [row for batch in batches for row in batch]
    assert order == sorted(range(len(rows)), key=lambda row: (alike[row], lengths[row]))  # of equal ones the first
    for batch, after in zip(batches, [*batches[1:], []], strict=True):
        assert len(batch) == 1 or len(batch) * max(lengths[row] for row in batch) <= budget
        more = [*batch, *after[:1]]
        assert not after or len(more) * max(lengths[row] for row in more) > budget


@pytest.mark.parametrize("most", [1, 2, 3])
def test_memory_that_runs_out_halves_the_batch_and_loses_no_row(most):
    found, failures = batching.in_batches(LENGTHS, 1000, Model(most=most))
    assert not failures
    assert sorted(found) == list(range(len(LENGTHS)))
    assert max(len(batch) for _, batch in found.values()) <= most


@pytest.mark.parametrize(
    ("error", "message"),
    [
        (
            torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2 GiB"),
            "memory ran out: 'OutOfMemoryError: CUDA",
        ),
        (RuntimeError("could not create a primitive"), "memory ran out: 'RuntimeError: could not create a primitive'"),
        (MemoryError(), "memory ran out: 'MemoryError: no message'"),
        (
            OSError(errno.ENOSPC, "No space left on device", "/tmp/x"),
            "the disk failed: 'No space left on device: /tmp/x'",
        ),
        (RuntimeError("can't start new thread"), "the system failed"),
        (RuntimeError("CUDA error: an illegal memory access was encountered"), "the device failed"),
    ],
)
@pytest.mark.parametrize(
    "how", [lambda work: batching.in_batches(LENGTHS, 20, work), lambda work: batching.one_by_one(10, work)]
)
def test_what_the_machine_lacks_is_no_rows_failure(how, error, message):
    with pytest.raises(JobError) as raised:
        how(Model({7}, error=error))
    assert str(raised.value).startswith(message)
    assert isinstance(raised.value, NoMemoryError) == ("memory ran out" in message)


def test_one_bad_row_costs_some_more_batches_and_no_more():
    model = Model({500})
    found, _ = batching.in_batches([10] * 1000, 320, model)
    assert len(found) == 999
    assert model.calls < 1000 / 32 + 15


def test_one_by_one():
    found, failures = batching.one_by_one(5, Model({2, 3}))
    assert sorted(found) == [0, 1, 4]
    assert sorted(failures) == [2, 3]
    assert batching.one_by_one(0, Model()) == ({}, {})
