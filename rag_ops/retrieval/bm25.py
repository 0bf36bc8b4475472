"""An index of words by BM25: opened with its passages, and its shards searched with statistics of the whole corpus.

The formula is Lucene's (Kamphuis et al. 2020, "Which BM25 do you mean?", table 1, "Lucene (accurate)"), which bm25s
calls "lucene": for each of the question's words that a passage has, as often as the question has it,

    ln(1 + (N - n + 0.5) / (n + 0.5)) * f / (f + k1 * (1 - b + b * length / average length))

where N is the number of passages, n how many have the word's stem, f how often this one has it.
"""

from __future__ import annotations

import dataclasses
import functools
from collections.abc import Sequence

import numpy as np

from rag_ops.errors import InputError
from rag_ops.retrieval.among import search_among
from rag_ops.retrieval.bm25_postings import open_postings
from rag_ops.retrieval.bm25_statistics import Statistics
from rag_ops.retrieval.bm25_words import Words, query_terms
from rag_ops.retrieval.topk import TopK
from rag_ops.storage import store, verify
from rag_ops.storage.manifests import check_passages, check_unchanged, read_manifest
from schemas.layout import BM25
from schemas.manifest import Manifest

SLACK = 1e-6  # by which bounds are widened: scores within it may be equal as float32


@dataclasses.dataclass(frozen=True)
class Scoring:
    """What scores depend on besides a shard: small, and the same for all shards of an index.

    Attributes:
        language: code of the language that stemmer and stop words are by.
        k1: how slowly a word's score grows with how often a passage has it.
        b: how much long passages lose, 0 to 1.
        passages: number of passages of the whole corpus.
        words: number of their words, without stop words.
        statistics_url: URL of the file of statistics.
        statistics_sha256: SHA-256 of that file.
    """

    language: str
    k1: float
    b: float
    passages: int
    words: int
    statistics_url: str
    statistics_sha256: str

    @property
    def average_length(self) -> float:
        """Words of a passage on average; 1 if there are none."""
        return self.words / self.passages if self.words else 1.0


@dataclasses.dataclass(frozen=True)
class Bm25ShardFile:
    """The file of a shard: its URL, its SHA-256, the row of its first passage in the corpus, and its passages."""

    url: str
    digest: str
    first_row: int
    rows: int


@dataclasses.dataclass(frozen=True)
class Bm25Corpus:
    """An index of words and the passages that it was made from, checked to go together.

    Attributes:
        index_url: URL of the index.
        index: manifest of the index.
        passages_url: URL of the passages.
        passages: manifest of the passages.
    """

    index_url: str
    index: Manifest
    passages_url: str
    passages: Manifest

    @property
    def scoring(self) -> Scoring:
        """What each shard is to be opened with."""
        info = self.index.info
        url = store.join(self.index_url, info["statistics"])
        digest, rows, words = info["statistics_sha256"], self.index.rows, info["words"]
        return Scoring(info["language"], float(info["k1"]), float(info["b"]), rows, words, url, digest)

    @property
    def shards(self) -> list[Bm25ShardFile]:
        """The files of the shards, in row order."""
        return [
            Bm25ShardFile(store.join(self.index_url, shard.path), shard.sha256, start, shard.rows)
            for shard, start in zip(self.index.shards, self.index.row_starts(), strict=False)
        ]

    def open_shard(self, number: int) -> Bm25Shard:
        """Shard `number`, open."""
        file = self.shards[number]
        return Bm25Shard(file.url, file.digest, file.first_row, file.rows, scoring=self.scoring)

    def check_digests(self) -> None:
        """Checks the SHA-256 of every file of index and passages.

        Raises:
            InputError: one differs.
        """
        verify.check_digests(self.index_url, self.index)
        verify.check_digests(self.passages_url, self.passages)
        if store.sha256_of(self.scoring.statistics_url) != self.scoring.statistics_sha256:
            raise InputError(
                "the index's statistics have another content than when they were written",
                value=self.scoring.statistics_url,
                remedy=f"run ragbeam {BM25.command} again",
            )

    def check_unchanged(self) -> None:
        """Checks, at the end of a job, that index and passages are what they were at its beginning.

        Raises:
            JobError: one was written anew or removed.
        """
        check_unchanged(self.index_url, self.index)
        check_unchanged(self.passages_url, self.passages)


def open_bm25(url: str, passages: str | None = None) -> Bm25Corpus:
    """Opens an index of words and its passages.

    Args:
        url: output directory of `ragbeam index --kind bm25`.
        passages: where its passages are; by default where its manifest says.

    Raises:
        InputError: one is missing or another stage's output, or the passages have changed since.
    """
    index = read_manifest(url, BM25.name)
    passages = passages or store.resolve_url(index.inputs["passages"], url)
    return Bm25Corpus(url, index, passages, check_passages(index, passages))


class Bm25Shard:
    """An open shard of an index of words. Its file is mapped; memory holds 16 bytes a passage.

    Args:
        url: URL of the file; a remote one is copied to the local cache.
        digest: SHA-256 of the file, its name in the cache.
        first_row: row of its first passage in the corpus.
        expected_rows: number of passages in the manifest.
        scoring: result of `Bm25Corpus.scoring`.

    Raises:
        InputError: a file is missing or cut, or holds another number of passages.
    """

    def __init__(self, url: str, digest: str, first_row: int, expected_rows: int, *, scoring: Scoring):
        self._url, self._first_row, self._scoring = url, first_row, scoring
        self._postings = open_postings(store.local_copy(url, digest, sha256=digest), url)
        if len(self._postings.lengths) != expected_rows:
            raise InputError(
                "an index shard does not hold what its manifest says",
                value=f"{url} ({len(self._postings.lengths)} passages)",
                expected=f"{expected_rows} passages",
                remedy="run index again",
            )
        path = store.local_copy(scoring.statistics_url, scoring.statistics_sha256, sha256=scoring.statistics_sha256)
        self._statistics = Statistics(path, scoring.statistics_url)
        relative = self._postings.lengths / scoring.average_length
        self._norms = scoring.k1 * ((1 - scoring.b) + scoring.b * relative)
        self._least_norm = float(self._norms.min()) if expected_rows else 0.0
        self._scores = np.zeros(expected_rows)

    def search(self, questions: Sequence[str], k: int) -> TopK:
        """The best k passages of this shard for each question; a passage without any of its words is no hit.

        Scores are sums in float64 in an order that the shard does not decide, rounded to float32, so they are the same
        whatever the number of shards; equal ones stand in order of row.

        Args:
            questions: texts, at least one word of which should be no stop word; others have no hits.
            k: number of hits, at least 1.
        """
        found, words = TopK.empty(len(questions), k), words_of(self._scoring.language)
        for number, question in enumerate(questions):
            terms, times = query_terms(words, question)
            try:
                places = self._best(terms, times, k)
            except IndexError as error:
                raise InputError(
                    "an index shard names passages that it does not hold", value=self._url, remedy="run index again"
                ) from error
            found.scores[number, : len(places)] = self._scores[places]
            found.rows[number, : len(places)] = places + self._first_row
            self._scores.fill(0)
        return found

    def search_among(self, questions: Sequence[str], k: int, allowed: np.ndarray) -> TopK:
        """The best k passages of this shard among some of them, whose places are given as int64 ascending."""
        return search_among(
            lambda numbers, depth: self.search([questions[number] for number in numbers], depth),
            *(len(questions), k, allowed, self._first_row, len(self._postings.lengths)),
        )[0]

    def _best(self, terms: np.ndarray, times: np.ndarray, k: int) -> np.ndarray:
        """Adds up the scores of the best k passages; returns their places, best first."""
        spans = self._spans(terms, times)
        # The best that the terms from each on can add to a passage.
        bounds = np.cumsum([bound for *_, bound in spans][::-1])[::-1] * (1 + SLACK)
        postings = np.cumsum([end - start for start, end, *_ in spans][::-1])[::-1]
        floor: float | np.floating = 0.0  # k passages have at least this
        candidates = None  # places, ascending, of those that may be among the best; None for all
        for number, (start, end, weight, _) in enumerate(spans):
            if candidates is None and bounds[number] < floor:
                candidates = np.flatnonzero(self._scores >= floor - bounds[number])
            if candidates is not None and len(candidates) * 16 < end - start:
                self._add_to(candidates, start, end, weight)
            else:
                places = self._add(start, end, weight)
                if number + 1 < len(spans) and len(places) >= k and postings[number + 1] > len(places):
                    reached = self._scores[places]
                    floor = max(floor, _kth_best(reached, k) * (1 - SLACK))
        if candidates is None:
            candidates = np.flatnonzero(self._scores >= floor if floor > 0 else self._scores)
        return candidates[_best_places(self._scores[candidates].astype(np.float32), k)]

    def _spans(self, terms: np.ndarray, times: np.ndarray) -> list[tuple[int, int, float, float]]:
        """Of each term that the shard has, rarest in the corpus first: where its postings are, its weight, its most."""
        postings, total = self._postings, self._scoring.passages
        passages = self._statistics.passages(terms)
        weights = np.log1p((total - passages + 0.5) / (passages + 0.5)) * times
        spans = []
        for place in np.lexsort((terms, -weights)):
            where = int(np.searchsorted(postings.terms, terms[place]))
            if where < len(postings.terms) and postings.terms[where] == terms[place]:
                start = int(postings.ends[where - 1]) if where else 0
                most, weight = float(postings.most[where]), float(weights[place])
                spans.append((start, int(postings.ends[where]), weight, weight * most / (most + self._least_norm)))
        return spans

    def _add(self, start: int, end: int, weight: float) -> np.ndarray:
        """Adds a term's scores to all passages that have it; returns their places."""
        places, times = self._postings.places[start:end], self._postings.times[start:end]
        self._scores[places] += weight * (times / (times + self._norms[places]))
        return places

    def _add_to(self, candidates: np.ndarray, start: int, end: int, weight: float) -> None:
        """Adds a term's scores to those of some passages that have it."""
        places = self._postings.places[start:end]
        where = np.minimum(np.searchsorted(places, candidates), len(places) - 1)
        has = places[where] == candidates
        places, times = candidates[has], self._postings.times[start:end][where[has]]
        self._scores[places] += weight * (times / (times + self._norms[places]))


def _best_places(scores: np.ndarray, k: int) -> np.ndarray:
    """Where the best k scores over 0 are, best first, equal ones in order; int64."""
    places = np.flatnonzero(scores > 0)
    if len(places) > k:
        last = _kth_best(scores, k)
        above = np.flatnonzero(scores > last)
        places = np.sort(np.concatenate([above, np.flatnonzero(scores == last)[: k - len(above)]]))
    return places[np.argsort(-scores[places], kind="stable")]


def _kth_best(scores: np.ndarray, k: int) -> np.floating:
    return np.partition(scores, len(scores) - k)[len(scores) - k]


@functools.lru_cache(4)
def words_of(language: str) -> Words:
    """The words of questions in one language, with a memory of those met."""
    return Words(language)
