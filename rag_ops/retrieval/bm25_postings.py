"""Postings: which passages have a term and how often, counted from texts, put together and written as a shard of BM25.

A shard says nothing of other shards: how rare a term is in the whole corpus stands in a file of its own
(`bm25_statistics`). So a shard depends on its passages and the words' rules alone, and a later index takes it over.
"""

from __future__ import annotations

import dataclasses
import itertools
from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import Any

import numpy as np

from rag_ops.retrieval.bm25_words import KNOWN_WORDS, STOP, Words
from rag_ops.storage.arrays import ArraysWriter, open_arrays

SHARD_ROWS = 500_000  # passages of a shard if nothing else is said: 200 MB of postings
RUN_ROWS = 50_000  # passages counted at a time: 3 million postings, 100 MB while they are sorted
MERGED_POSTINGS = 2 << 20  # put together at a time, so that a shard is never twice in memory
TIMES = ("<u1", "<u2", "<u4")  # dtypes of how often a passage has a term: the narrowest that holds all of a shard
SHARD = {  # arrays of a shard's file, in their order
    "lengths": ("<i4",),
    "terms": ("<u8",),
    "ends": ("<i8",),
    "most": TIMES,
    "places": ("<i4",),
    "times": TIMES,
}
Texts = Iterable[Sequence[str]]  # batches of texts


@dataclasses.dataclass(frozen=True)
class Postings:
    """The terms of some passages, each with the passages that have it.

    Attributes:
        lengths: words of each passage without stop words, int32 (passages,).
        terms: terms that occur, uint64 (terms,) ascending.
        ends: where the postings of each term end, int64 (terms,); they begin where those of the term before end.
        most: how often one passage has the term at most, (terms,) in one of TIMES.
        places: passages that have the term, ascending for each, int32 (postings,): from 0.
        times: how often each has it, (postings,) in one of TIMES.
    """

    lengths: np.ndarray
    terms: np.ndarray
    ends: np.ndarray
    most: np.ndarray
    places: np.ndarray
    times: np.ndarray

    @property
    def counts(self) -> np.ndarray:
        """How many passages have each term, int64 (terms,)."""
        return np.diff(self.ends, prepend=0)

    def between(self, first: int, end: int) -> Postings:
        """The postings of the passages from `first` to before `end`, which count from 0 again."""
        if (first, end) == (0, len(self.lengths)):
            return self
        kept, parts = np.zeros(len(self.terms), np.int64), []
        for here in self._slices():
            start, stop = self._span(here)
            places = self.places[start:stop]
            chosen = np.flatnonzero((places >= first) & (places < end))
            bounds = np.searchsorted(chosen, np.append(0, self.ends[here] - start))
            kept[here] = np.diff(bounds)
            parts.append((places[chosen] - np.int32(first), self.times[start:stop][chosen]))
        has = kept > 0
        ends = np.cumsum(kept[has])
        places = np.concatenate([part[0] for part in parts]) if parts else np.empty(0, np.int32)
        times = _narrow(np.concatenate([part[1] for part in parts]) if parts else np.empty(0, np.uint8))
        return Postings(self.lengths[first:end], self.terms[has], ends, _most(times, ends), places, times)

    def _slices(self) -> Iterator[slice]:
        """Terms by some, so that their postings are about MERGED_POSTINGS."""
        cuts = np.searchsorted(self.ends, np.arange(0, len(self.places), MERGED_POSTINGS), side="right")
        bounds = np.unique(np.concatenate([[0], cuts, [len(self.terms)]]))
        for start, end in itertools.pairwise(bounds):
            yield slice(int(start), int(end))

    def _span(self, terms: slice) -> tuple[int, int]:
        """Where the postings of consecutive terms, at least one, begin and end."""
        return int(self.ends[terms.start - 1]) if terms.start else 0, int(self.ends[terms.stop - 1])


def open_postings(path: str, url: str | None = None) -> Postings:
    """The postings of a shard's local file, mapped.

    Raises:
        InputError: it is missing, cut, or no shard of BM25.
    """
    arrays = open_arrays(path, SHARD, url)
    return Postings(**{name: arrays[name] for name in SHARD})


def count(batches: Texts, words: Words) -> Iterator[Postings]:
    """Counts the terms of passages; yields the postings of RUN_ROWS of them at a time, in order.

    Args:
        batches: the passages' texts, in order.
        words: how texts are split.
    """
    run: list[tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]] = []
    rows = 0
    for texts in batches:
        run.append(_count_batch(texts, words, rows))
        rows += len(texts)
        if rows >= RUN_ROWS or words.known > KNOWN_WORDS:
            yield _sorted_run(run, words)
            run, rows = [], 0
            if words.known > KNOWN_WORDS:
                words.forget()
    if run:
        yield _sorted_run(run, words)


def _count_batch(
    texts: Sequence[str], words: Words, first: int
) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]:
    """Of a batch: ids of the words, places of the passages and how often they have them; the passages' lengths."""
    per_text = [words.ids(text) for text in texts]
    sizes = np.fromiter(map(len, per_text), np.int64, len(per_text))
    ids = np.fromiter(itertools.chain.from_iterable(per_text), np.int64, int(sizes.sum()))
    rows = np.repeat(np.arange(len(texts)), sizes)
    kept = ids != STOP
    lengths = np.bincount(rows[kept], minlength=len(texts)).astype(np.int32)
    keys, times = np.unique(ids[kept] * len(texts) + rows[kept], return_counts=True)
    ids, rows = np.divmod(keys, max(1, len(texts)))
    return ids.astype(np.int32), (rows + first).astype(np.int32), times.astype(np.uint32), lengths


def _sorted_run(run: Sequence[tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]], words: Words) -> Postings:
    """The postings of a run of batches, sorted by term and place."""
    ids, places, times, lengths = (np.concatenate(parts) for parts in zip(*run, strict=True))
    terms = words.terms()
    ranked = np.argsort(terms, kind="stable")
    ranks = np.empty(len(terms), np.int32)
    ranks[ranked] = np.arange(len(terms), dtype=np.int32)
    ranks = ranks[ids]
    order = np.argsort(ranks, kind="stable")  # in which the places of a term stay ascending
    counts = np.bincount(ranks, minlength=len(terms))
    has = counts > 0
    times, ends = _narrow(times[order]), np.cumsum(counts[has])
    return Postings(lengths, terms[ranked][has], ends, _most(times, ends), places[order], times)


def write_postings(file: Any, runs: Sequence[Postings]) -> int:
    """Writes the postings of consecutive runs of passages to an open file, as one shard; returns its passages.

    Memory holds `runs`, and of what is written about MERGED_POSTINGS.
    """
    starts = np.cumsum([0, *(len(run.lengths) for run in runs)])
    terms = np.unique(np.concatenate([run.terms for run in runs])) if runs else np.empty(0, np.uint64)
    counts, most = np.zeros(len(terms), np.int64), np.zeros(len(terms), np.uint32)
    for run in runs:
        where = np.searchsorted(terms, run.terms)
        counts[where] += run.counts
        most[where] = np.maximum(most[where], run.most)
    ends = np.cumsum(counts)
    postings = int(counts.sum())
    dtype = _narrow(most).dtype
    sizes = {
        "lengths": ("<i4", int(starts[-1])),
        "terms": ("<u8", len(terms)),
        "ends": ("<i8", len(terms)),
        "most": (dtype, len(terms)),
        "places": ("<i4", postings),
        "times": (dtype, postings),
    }
    writer = ArraysWriter(file, sizes)
    for run in runs:
        writer.write("lengths", run.lengths)
    writer.write("terms", terms)
    writer.write("ends", ends)
    writer.write("most", most)
    for places in _merged(runs, terms, ends, lambda number: runs[number].places, starts.astype(np.int32)):
        writer.write("places", places)
    for times in _merged(runs, terms, ends, lambda number: runs[number].times):
        writer.write("times", times)
    return int(starts[-1])


def _merged(
    runs: Sequence[Postings],
    terms: np.ndarray,
    ends: np.ndarray,
    values: Callable[[int], np.ndarray],
    offsets: np.ndarray | None = None,
) -> Iterator[np.ndarray]:
    """What `values` gives of each run's postings, by term and within it by run, about MERGED_POSTINGS at a time."""
    cuts = np.searchsorted(ends, np.arange(0, int(ends[-1]) if len(ends) else 0, MERGED_POSTINGS), side="right")
    bounds = np.unique(np.concatenate([[0], cuts, [len(terms)]]).astype(np.int64))
    for first, last in itertools.pairwise(bounds):
        start = int(ends[first - 1]) if first else 0
        merged, filled = None, ends[first:last] - start
        filled = np.concatenate([[0], filled[:-1]])  # where the next posting of each term goes
        for number, run in enumerate(runs):
            low = int(np.searchsorted(run.terms, terms[first]))
            high = int(np.searchsorted(run.terms, terms[last - 1], side="right"))
            if low == high:
                continue
            begin, stop = int(run.ends[low - 1]) if low else 0, int(run.ends[high - 1])
            counts = np.diff(run.ends[low:high], prepend=begin)
            where = np.searchsorted(terms[first:last], run.terms[low:high])
            found = values(number)[begin:stop]
            if offsets is not None:
                found = found + offsets[number]
            if merged is None:
                merged = np.empty(int(ends[last - 1]) - start, np.uint32 if offsets is None else np.int32)
            merged[np.repeat(filled[where] - (np.cumsum(counts) - counts), counts) + np.arange(stop - begin)] = found
            filled[where] += counts
        if merged is not None:
            yield merged


def _most(times: np.ndarray, ends: np.ndarray) -> np.ndarray:
    """The largest of the values that end at each of `ends`, none of which is empty."""
    if not len(ends):
        return times[:0]
    return np.maximum.reduceat(times, np.concatenate([[0], ends[:-1]]))


def _narrow(values: np.ndarray) -> np.ndarray:
    """Whole numbers, none negative, in the narrowest of TIMES that holds them."""
    largest = int(values.max()) if len(values) else 0
    return values.astype(next(dtype for dtype in TIMES if largest <= np.iinfo(dtype).max), copy=False)
