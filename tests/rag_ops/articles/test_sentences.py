"""Sentences by a plain rule, and passages that are windows of them."""

import itertools

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from rag_ops.articles.article import Article
from rag_ops.articles.sentences import sentences
from rag_ops.articles.splitting import Cutting, cut_article, cut_text
from rag_ops.errors import InputError


@pytest.mark.parametrize(
    "whole",
    [
        ["Dr. Bell met Mr. J. Smith.", "They spoke."],
        ["It is 3.5 km, i.e. far.", "Is it?", "Yes!"],
        ['He said "Stop."', "She left."],
        ["The U.S. Army came in Jan. 1944.", "It left the U.S.", "He stayed."],
        ["Er wohnt z. B. in Ulm bzw. Bonn.", "Dort ist es schön."],
        ["См. рис. 5 на стр. 7.", "Это город."],
        ["柏林是德国首都。", "它很大！", "「是吗？」", "是。"],
        ["यह एक शहर है।", "वह बड़ा है।"],
        ["هذه مدينة؟", "نعم."],
        ["To be continued...", "Then it ended."],
        ["One line without a stop"],
    ],
)
def test_sentences_end_where_they_do(whole):
    spaces = "" if "柏" in whole[0] else " "
    assert list(sentences(spaces.join(whole))) == whole


def test_a_line_ends_a_sentence():
    assert list(sentences("A list item\nAnother. And more\n\n")) == ["A list item", "Another.", "And more"]


@settings(deadline=None)
@given(st.text(alphabet="Ab1 .!?。\n\"')ก", max_size=200))
def test_sentences_are_the_text(text):
    assert "".join("".join(sentences(text)).split()) == "".join(text.split())


WINDOWS = Cutting(passage_unit="sentences", window_sentences=3, window_stride=2)


@pytest.mark.parametrize("count", range(1, 12))
def test_windows_overlap_by_the_stride_and_each_has_something_new(count):
    parts = [f"S{n} is here." for n in range(count)]
    text = " ".join(parts)
    windows = [window for _, window in cut_text(text, WINDOWS)]
    assert windows[0] == " ".join(parts[:3])
    for before, after in itertools.pairwise(windows):
        assert after.startswith(before[before.rindex("S") :])
        assert after[after.rindex("S") :] != before[before.rindex("S") :]
    assert windows[-1].endswith(parts[-1])
    assert all(text[start:].startswith(window) for start, window in cut_text(text, WINDOWS))


def test_a_sentence_without_end_is_cut_at_the_words_of_a_passage():
    passages = [
        window
        for _, window in cut_text(
            "word " * 1000, Cutting(passage_unit="sentences", window_sentences=1, window_stride=1)
        )
    ]
    assert [len(passage.split()) for passage in passages] == [100] * 10


def test_windows_of_an_article_without_spaces():
    article = Article("1", "t", "柏林是德国首都。" * 7)
    texts = [block.text for block in cut_article(article, WINDOWS)]
    assert texts == [" ".join(["柏林是德国首都。"] * 3)] * 3


@pytest.mark.parametrize(
    "wrong",
    [
        {"passage_unit": "lines"},
        {"window_sentences": 2, "window_stride": 3},
        {"window_stride": 0},
        {"passage_unit": "sentences", "passage_overlap": 5},
    ],
)
def test_windows_that_make_no_sense_are_refused(wrong):
    with pytest.raises(InputError, match="--"):
        Cutting(**wrong)
