"""In how many passages of the whole corpus each term is: merged from the shards of a BM25 index, by ranges of terms."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np

from rag_ops.retrieval.bm25_postings import open_postings
from rag_ops.storage import store
from rag_ops.storage.arrays import ArraysWriter, open_arrays, read_array

ARRAYS = {"words": ("<i8",), "terms": ("<u8",), "passages": ("<i8",)}
MERGED_TERMS = 1 << 20  # of all shards together, about, that are merged at a time


@dataclasses.dataclass(frozen=True)
class ShardTerms:
    """What statistics need of a shard: its terms as in `Postings`, where their postings end, and its words in all."""

    terms: np.ndarray
    ends: np.ndarray
    words: int

    @classmethod
    def of(cls, url: str) -> ShardTerms:
        """Those of a shard's file: mapped on this machine; 16 bytes a term are read from elsewhere."""
        if store.is_local(url):
            postings = open_postings(store.local_copy(url, ""), url)
            return cls(postings.terms, postings.ends, int(postings.lengths.sum(dtype=np.int64)))
        words = int(read_array(url, "lengths").sum(dtype=np.int64))
        return cls(read_array(url, "terms"), read_array(url, "ends"), words)


def write_statistics(file: Any, shards: Sequence[ShardTerms]) -> int:
    """Writes how many passages of all shards have each term, terms ascending; returns the number of terms.

    Memory holds about MERGED_TERMS besides `shards`, however many there are.
    """
    terms = sum(len(merged) for merged, _ in _merged(shards))
    writer = ArraysWriter(file, {"words": ("<i8", 1), "terms": ("<u8", terms), "passages": ("<i8", terms)})
    writer.write("words", np.array([sum(shard.words for shard in shards)]))
    for merged, _ in _merged(shards):
        writer.write("terms", merged)
    for _, passages in _merged(shards):
        writer.write("passages", passages)
    return terms


def _merged(shards: Sequence[ShardTerms]) -> Iterator[tuple[np.ndarray, np.ndarray]]:
    """Terms, uint64 ascending, and their passages, int64; terms are digests, so equal ranges hold about as many."""
    total = sum(len(shard.terms) for shard in shards)
    slices = max(1, -(-total // MERGED_TERMS))
    lows = [number * (1 << 64) // slices for number in range(slices)]
    for low, high in zip(lows, [*lows[1:], None], strict=True):
        terms, counts = [], []
        for shard in shards:
            start = int(np.searchsorted(shard.terms, np.uint64(low)))
            end = len(shard.terms) if high is None else int(np.searchsorted(shard.terms, np.uint64(high)))
            terms.append(shard.terms[start:end])
            before = int(shard.ends[start - 1]) if start else 0
            counts.append(np.diff(shard.ends[start:end], prepend=before))
        merged, places = np.unique(np.concatenate(terms), return_inverse=True)
        passages = np.zeros(len(merged), np.int64)
        np.add.at(passages, places, np.concatenate(counts))
        yield merged, passages


class Statistics:
    """In how many passages terms are, of a local file that `write_statistics` wrote.

    Raises:
        InputError: it is missing, cut, or no file of statistics.
    """

    def __init__(self, path: str, url: str | None = None):
        arrays = open_arrays(path, ARRAYS, url)
        self._terms, self._passages = arrays["terms"], arrays["passages"]

    def passages(self, terms: np.ndarray) -> np.ndarray:
        """The number of passages that have each of some terms, uint64 (n,), as int64 (n,); 0 for an unknown term."""
        if not len(self._terms):
            return np.zeros(len(terms), np.int64)
        places = np.minimum(np.searchsorted(self._terms, terms), len(self._terms) - 1)
        return np.where(self._terms[places] == terms, self._passages[places], 0)
