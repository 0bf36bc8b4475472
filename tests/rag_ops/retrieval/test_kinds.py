"""Designing an index of any kind: the number of shards, and where they are cut."""

import dataclasses

import pytest

from rag_ops.errors import InputError
from rag_ops.retrieval import kinds


@pytest.mark.parametrize("rows", [[5, 5, 5, 5, 5], [100, 1, 1, 1], [0, 0, 7], [1, 1, 1, 100]])
def test_shards_are_consecutive_and_none_is_empty_of_files(rows):
    for count in range(1, len(rows) + 1):
        cuts = kinds.cut_shards(rows, count)
        assert [place for cut in cuts for place in cut] == list(range(len(rows)))
        assert all(len(cut) for cut in cuts)
        assert len(cuts) == count


def test_more_index_shards_than_embedding_shards_are_refused():
    with pytest.raises(InputError, match="1 to 2"):
        kinds.cut_shards([5, 5], 3)


def test_default_number_of_shards_keeps_a_shard_within_its_size():
    assert kinds.default_shards(21_000_000, 1536, 420) == 16
    assert kinds.default_shards(5_000, 768, 4) == 1
    assert kinds.default_shards(21_000_000, 1536, 10) == 10


def test_a_search_setting_that_is_given_overrules_what_was_found_even_0():
    @dataclasses.dataclass(frozen=True, kw_only=True)
    class Later(kinds.SearchSettings):
        later: int | None = None

    assert Later(nprobe=4).over({"nprobe": 8, "ef_search": 16}) == {"nprobe": 4, "ef_search": 16, "later": None}
    assert Later(later=0).over({"later": 2})["later"] == 0
    assert Later().config({}) == {"nprobe": None, "ef_search": None}  # the configuration of answers before it came
    assert Later(later=0).config({})["later"] == 0
