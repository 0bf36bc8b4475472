"""How near vectors that are computed in a narrow dtype come to float32's."""

from __future__ import annotations

import dataclasses

import numpy as np

from schemas.layout import Fidelity

NEIGHBOURS = 20
# Passages to search for, and among: so many, or of a small corpus this share of it, but never fewer than LEAST.
MOST, SHARES, LEAST = (2_000, 20_000), (1_000, 100), (50, 500)


@dataclasses.dataclass(frozen=True)
class Sample:
    """How many passages fidelity is measured on.

    Attributes:
        queries: passages whose neighbours are compared.
        among: passages that they are looked for in, the queries too.
    """

    queries: int
    among: int

    @classmethod
    def of(cls, rows: int) -> Sample:
        """The sample of a corpus of so many passages.

        >>> Sample.of(21_000_000), Sample.of(300_000), Sample.of(70)
        (Sample(queries=2000, among=20000), Sample(queries=300, among=3000), Sample(queries=50, among=70))
        """
        sizes = zip(MOST, SHARES, LEAST, strict=True)
        queries, among = (min(most, max(least, rows // share), rows) for most, share, least in sizes)
        return cls(queries, among)


def fidelity(exact: np.ndarray, narrow: np.ndarray, queries: int) -> Fidelity:
    """Compares vectors of the same texts.

    Args:
        exact: float32 (texts, dimension), computed in float32.
        narrow: the same, computed in another dtype.
        queries: the first so many texts are searched for among all others.

    Returns:
        The mean cosine of the two; and recall of the 20 nearest neighbours by inner product, or of all if there are
        fewer. A text as near as the last of them counts as one of them.
    """
    norms = np.linalg.norm(exact, axis=1) * np.linalg.norm(narrow, axis=1)
    cosine = float(((exact * narrow).sum(1) / np.maximum(norms, 1e-12)).mean())
    k = min(NEIGHBOURS, len(exact) - 1)
    if k < 1:
        return Fidelity(cosine=cosine, recall_at_20=1.0, queries=queries, among=len(exact))
    hits = 0
    for start in range(0, queries, 256):
        own = np.arange(start, min(start + 256, queries))
        scores, guesses = (some[own] @ some.T for some in (exact, narrow))
        for table in (scores, guesses):
            table[np.arange(len(own)), own] = -np.inf
        last = np.partition(scores, -k, axis=1)[:, -k]
        found = np.argpartition(guesses, -k, axis=1)[:, -k:]
        hits += int((np.take_along_axis(scores, found, axis=1) >= last[:, None]).sum())
    recall = round(hits / (queries * k), 4)
    return Fidelity(cosine=round(cosine, 6), recall_at_20=recall, queries=queries, among=len(exact))
