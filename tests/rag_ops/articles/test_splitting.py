"""Passages: every word once, in order, in blocks of the asked length."""

import itertools

import pytest
from hypothesis import given
from hypothesis import strategies as st

from rag_ops.articles.article import Article
from rag_ops.articles.splitting import Cutting, check_lengths, cut_article, join_lines, shard_of, split_words
from rag_ops.errors import InputError
from rag_ops.markup.parts import Part


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


def test_prose_runs_on_over_sections_and_a_passage_has_that_of_its_first_word():
    parts = (
        Part("prose", "", "a b c"),
        Part("prose", "X", "d\ne f"),
        Part("prose", "X > Y", "g"),
        Part("prose", "Z", "h i"),
    )
    article = Article("1", "t", "a b c\nd\ne f\ng\nh i", parts=parts)
    found = list(cut_article(article, Cutting(2)))
    assert found == [
        Part("prose", "", "a b"),
        Part("prose", "", "c d"),
        Part("prose", "X", "e f"),
        Part("prose", "X > Y", "g h"),
        Part("prose", "Z", "i"),
    ]
    assert [part.text for part in found] == list(split_words(article.text, 2))


@given(
    st.lists(st.text(alphabet="ab柏 ", min_size=1, max_size=30).filter(str.strip), min_size=1, max_size=6),
    st.integers(1, 5),
)
def test_sections_hold_for_scripts_without_spaces_too(texts, words):
    parts = tuple(Part("prose", str(number), text) for number, text in enumerate(texts))
    article = Article("1", "t", "\n".join(texts), parts=parts)
    left = [(number, character) for number, text in enumerate(texts) for character in "".join(text.split())]
    for part in cut_article(article, Cutting(words)):
        assert part.section == str(left[0][0])
        assert "".join(part.text.split()) == "".join(c for _, c in left[: len("".join(part.text.split()))])
        left = left[len("".join(part.text.split())) :]
    assert not left


def test_an_article_in_one_section_has_it_in_each_passage():
    assert {part.section for part in cut_article(Article("1", "t", "a b c", section="S"), Cutting(1))} == {"S"}


def test_rows_are_never_cut_nor_mixed_with_prose_or_other_tables():
    rows = [f"Rank: {n}; City: C{n}; Population: {n},000" for n in range(30)]
    parts = (
        Part("table", "T", "\n".join(rows)),
        Part("prose", "", "some words of prose"),
        Part("table", "U", rows[0]),
        Part("infobox", "", "Capital: A\nArea: 1"),
    )
    found = list(cut_article(Article("1", "t", "some words of prose", parts=parts), Cutting(20)))
    assert [part.kind for part in found] == ["prose", "infobox"] + ["table"] * 16
    assert [line for part in found if part.section == "T" for line in part.text.split("\n")] == rows
    assert [part.text for part in found if part.section == "U"] == rows[:1]


def test_a_row_that_is_too_long_is_cut_between_its_words():
    row = "Name: " + " ".join(f"w{n}" for n in range(50))
    [first, *cut, last] = join_lines(["a: b", row, "c: d"], 20)
    assert (first, last) == ("a: b", "c: d")
    assert " ".join(cut) == row
    assert [len(part.split()) for part in cut] == [20, 20, 11]
    assert "".join(join_lines(["名: " + "柏林" * 100], 20)).replace(" ", "") == "名:" + "柏林" * 100
