"""Hits that an earlier run of a job found are not searched for again, unless the questions' vectors are others."""

import pytest

from pipelines.runners.counters import StepCounters
from pipelines.transforms.saved_hits import search_once
from pipelines.transforms.work import Work
from tests.pipelines.transforms.test_topk import random_hits

HITS = {number: random_hits(number) for number in range(5)}


@pytest.fixture
def search(tmp_path):
    """Searches for some blocks, of a given content, and gives what came out and for which blocks a search was made."""

    def run(blocks, contents, until=None):
        asked = []

        def found(left):
            for block in left:
                asked.append(block)
                if block == until:
                    raise MemoryError
                yield block, contents[block], HITS[block]

        step = StepCounters("SearchShards")
        got = dict(search_once(Work(str(tmp_path)), "hits.arrow", blocks, contents.__getitem__, found, step))
        assert {n: (h.rows.tolist(), h.scores.tolist()) for n, h in got.items()} == {
            n: (HITS[n].rows.tolist(), HITS[n].scores.tolist()) for n in blocks
        }
        return asked

    return run


def test_what_has_been_found_is_not_searched_for_again(search):
    contents = {number: bytes([number]) for number in HITS}
    assert search([3, 1], contents) == [1, 3]
    assert search([1, 3], contents) == []
    assert search([0, 1, 2, 3], contents) == [0, 2]
    assert search([2, 3], contents) == []
    assert search([2, 3], contents | {2: b"other vectors"}) == [2]


def test_a_search_that_fails_leaves_what_was_there(search, tmp_path):
    contents = {number: bytes([number]) for number in HITS}
    with pytest.raises(MemoryError):
        search([0, 1], contents, until=1)
    assert not (tmp_path / "hits.arrow").exists()
    search([0, 1], contents)
    with pytest.raises(MemoryError):
        search([0, 1, 2], contents, until=2)
    assert search([0, 1], contents) == []
