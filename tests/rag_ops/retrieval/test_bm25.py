"""BM25: the same scores as bm25s over the whole corpus at once, whatever the shards."""

from __future__ import annotations

import itertools

import bm25s
import numpy as np
import pytest
import Stemmer
from bm25s.tokenization import tokenize

from rag_ops.errors import InputError
from rag_ops.retrieval import bm25_postings
from rag_ops.retrieval.bm25 import Bm25Shard, Scoring
from rag_ops.retrieval.bm25_postings import count, open_postings, write_postings
from rag_ops.retrieval.bm25_statistics import ShardTerms, write_statistics
from rag_ops.retrieval.bm25_words import Words
from rag_ops.retrieval.topk import TopK, merge

WORDS = "the of and river rivers king kings queen battle battles London Paris Zürich 1066 café flows flowing".split()


def texts_of(rows: int, seed: int = 7) -> list[str]:
    """Texts of a few words that are frequent, of many that are rare, and of none; each tenth twice."""
    rng = np.random.default_rng(seed)
    texts = []
    for row in range(rows):
        rare = [f"name{number}" for number in rng.zipf(1.3, 12) if number < 10**6]
        words = [*rng.choice(WORDS, rng.integers(0, 20)), *rare]
        texts.append(texts[-1] if row % 10 == 9 else " ".join(rng.permutation(words)) * (row % 23 > 0))
    return texts


def build(directory, texts: list[str], num_shards: int, *, k1=0.9, b=0.4, language="en") -> list[Bm25Shard]:
    """Shards of an index of the texts, open."""
    cuts = np.linspace(0, len(texts), num_shards + 1).astype(int)
    paths = [directory / f"{number}.safetensors" for number in range(num_shards)]
    for path, (first, end) in zip(paths, itertools.pairwise(cuts), strict=True):
        batches = (texts[start : min(start + 64, end)] for start in range(first, end, 64))
        with open(path, "wb") as file:
            assert write_postings(file, list(count(batches, Words(language)))) == end - first
    statistics = directory / "statistics"
    shards = [ShardTerms.of(str(path)) for path in paths]
    with open(statistics, "wb") as file:
        write_statistics(file, shards)
    words = sum(shard.words for shard in shards)
    scoring = Scoring(language, k1, b, len(texts), words, str(statistics), "")
    sizes = zip(paths, cuts, np.diff(cuts), strict=False)
    return [Bm25Shard(str(path), "", int(first), int(rows), scoring=scoring) for path, first, rows in sizes]


def search(shards: list[Bm25Shard], questions: list[str], k: int) -> TopK:
    """The best k of all shards."""
    return merge([shard.search(questions, k) for shard in shards], k)


def scores_of_bm25s(texts: list[str], questions: list[str], k1: float, b: float, language: str) -> np.ndarray:
    """The library's scores of all texts for each question, float64 (questions, texts)."""
    options = {"stopwords": language, "stemmer": Stemmer.Stemmer(language), "return_ids": False}
    library = bm25s.BM25(method="lucene", k1=k1, b=b, dtype="float64")
    library.index(tokenize(texts, show_progress=False, **options), show_progress=False)
    asked = tokenize(questions, show_progress=False, **options)
    known = [[word for word in words if word in library.vocab_dict] for words in asked]
    return np.stack([library.get_scores(words) if words else np.zeros(len(texts)) for words in known])


@pytest.fixture(scope="module")
def texts() -> list[str]:
    """A corpus."""
    return texts_of(3000)


@pytest.fixture(scope="module")
def questions() -> list[str]:
    """Questions of frequent words, rare ones, both, the same twice, unknown ones and none."""
    told = ["which king flows", "the name3 of Paris", "name1 name1 name2 river", "of the", "", "nobody nowhere name77"]
    return told + texts_of(40, seed=9)


@pytest.mark.parametrize(("k1", "b"), [(0.9, 0.4), (1.5, 0.75)])
@pytest.mark.parametrize("num_shards", [1, 3, 7])
def test_scores_are_those_of_bm25s_over_the_whole_corpus(
    tmp_path, monkeypatch, texts, questions, num_shards, k1, b
) -> None:
    """To a relative 1e-6, ties by row; from runs and merges of a few postings too."""
    monkeypatch.setattr(bm25_postings, "RUN_ROWS", 200)
    monkeypatch.setattr(bm25_postings, "MERGED_POSTINGS", 1000)
    expected = scores_of_bm25s(texts, questions, k1, b, "english")
    found = search(build(tmp_path, texts, num_shards, k1=k1, b=b), questions, 50)
    for scores, hits, rows in zip(expected, found.scores, found.rows, strict=True):
        real = rows >= 0
        assert real.sum() == min(50, (scores > 0).sum())
        np.testing.assert_allclose(hits[real], scores[rows[real]], rtol=1e-6)
        left = np.setdiff1d(np.flatnonzero(scores > 0), rows[real])
        assert not len(left) or scores[left].max() <= hits[real].min() * (1 + 1e-6)
        order = np.lexsort((rows[real], -hits[real]))
        assert (order == np.arange(len(order))).all()
        tied = left[np.isclose(scores[left], hits[real].min(), rtol=1e-12, atol=0)] if real.any() else left
        assert not len(tied) or tied.min() > rows[real][hits[real] == hits[real].min()].max()


def test_hits_do_not_depend_on_the_number_of_shards(tmp_path, texts, questions) -> None:
    """Rows and every bit of the scores."""
    found = []
    for num_shards in (1, 3, 7):
        (directory := tmp_path / str(num_shards)).mkdir()
        found.append(search(build(directory, texts, num_shards), questions, 10))
    for other in found[1:]:
        assert (other.rows == found[0].rows).all()
        assert other.scores.tobytes() == found[0].scores.tobytes()


def test_a_short_list_is_the_beginning_of_a_long_one(tmp_path, texts, questions) -> None:
    """Passages that are left out early were none of the best."""
    shards = build(tmp_path, texts, 2)
    for k in (1, 3, 20):
        short, whole = search(shards, questions, k), search(shards, questions, len(texts))
        assert (short.rows == whole.rows[:, :k]).all()
        assert short.scores.tobytes() == whole.scores[:, :k].tobytes()


def test_postings_between_rows_are_those_of_these_passages_alone(tmp_path, monkeypatch, texts) -> None:
    """As counted from their texts."""
    monkeypatch.setattr(bm25_postings, "MERGED_POSTINGS", 500)
    with open(tmp_path / "all", "wb") as file:
        write_postings(file, list(count([texts], Words("en"))))
    everything = open_postings(str(tmp_path / "all"))
    for first, end in ((0, 100), (700, 1400), (1400, 1400), (2900, 3000)):
        for name, postings in (
            ("cut", [everything.between(first, end)]),
            ("counted", list(count([texts[first:end]], Words("en")))),
        ):
            with open(tmp_path / name, "wb") as file:
                assert write_postings(file, postings) == end - first
        assert (tmp_path / "cut").read_bytes() == (tmp_path / "counted").read_bytes()


def test_a_shard_of_no_passages_or_no_words_has_no_hits(tmp_path) -> None:
    """And is no error."""
    for texts in ([], ["", "of the"]):
        assert (search(build(tmp_path, texts, 1), ["river", ""], 3).rows == -1).all()


def test_a_word_that_a_passage_has_often_counts_as_often(tmp_path) -> None:
    """Beyond what one byte holds."""
    texts = ["river " * times + "king" for times in (70_000, 300, 1)]
    found = search(build(tmp_path, texts, 1, b=1e-9), ["rivers"], 3)
    assert found.rows.tolist() == [[0, 1, 2]]
    expected = scores_of_bm25s(texts, ["rivers"], 0.9, 1e-9, "english")
    np.testing.assert_allclose(found.scores, expected, rtol=1e-6)


@pytest.mark.parametrize("damage", [lambda data: data[:100], lambda data: data[:-8], lambda data: b"\xff" * 100])
def test_a_damaged_shard_is_an_error(tmp_path, texts, damage) -> None:
    """In one line, that names the file."""
    build(tmp_path, texts[:50], 1)
    path = tmp_path / "0.safetensors"
    path.write_bytes(damage(path.read_bytes()))
    with pytest.raises(InputError, match=f"{path.name}.*run its stage again"):
        open_postings(str(path))


def test_a_shard_that_names_passages_beyond_its_own_is_an_error(tmp_path, texts) -> None:
    """Not a crash."""
    (shard,) = build(tmp_path, texts[:50], 1)
    shard._scores = shard._scores[:5]
    with pytest.raises(InputError, match="passages that it does not hold"):
        shard.search([" ".join(texts[:20])], 3)
