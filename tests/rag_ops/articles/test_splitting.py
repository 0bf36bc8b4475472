"""Passages: every word once, in order, in blocks of the asked length."""

import itertools

import pytest
from hypothesis import given
from hypothesis import strategies as st

from rag_ops.articles.splitting import check_lengths, shard_of, split_words
from rag_ops.errors import InputError


@given(st.text(alphabet="ab \n\t\u00a0", max_size=200), st.integers(1, 9))
def test_words_come_once_in_order(text, words):
    blocks = [block.split(" ") for block in split_words(text, words)]
    assert [word for block in blocks for word in block] == text.split()
    assert all(len(block) == words for block in blocks[:-1])
    assert all(1 <= len(block) <= words for block in blocks)


@given(st.integers(0, 60), st.integers(1, 9), st.data())
def test_overlap_repeats_the_end_of_the_block_before(count, words, data):
    overlap = data.draw(st.integers(0, words - 1))
    tokens = [str(n) for n in range(count)]
    blocks = [block.split() for block in split_words(" ".join(tokens), words, overlap)]
    rebuilt = blocks[0] if blocks else []
    for before, block in itertools.pairwise(blocks):
        assert block[:overlap] == before[len(before) - overlap :]
        assert len(block) > overlap
        rebuilt = rebuilt + block[overlap:]
    assert rebuilt == tokens


@pytest.mark.parametrize(("words", "overlap"), [(0, 0), (-1, 0), (10, 10), (10, -1)])
def test_impossible_lengths_are_refused(words, overlap):
    with pytest.raises(InputError, match="--passage_"):
        check_lengths(words, overlap)


def test_shards_are_about_even_and_depend_on_the_id_alone():
    counts = [0] * 8
    for number in range(8000):
        counts[shard_of(str(number), 8)] += 1
    assert min(counts) > 850
    assert shard_of("Ångström", 1000) == shard_of("Ångström", 1000)
