"""How sure a mean over questions is: bootstrap intervals, and the paired randomisation test between two runs.

Questions are drawn, or signs of their differences, by NumPy's generator of a seed; memory is bounded whatever the
number of questions and of resamples. Equal values are drawn together, so that a figure of few distinct values, such as
exact match, costs no more for a million questions than for a hundred. No result depends on the order of the questions.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping

import numpy as np
from numpy.typing import ArrayLike

RESAMPLES = 1000  # of a bootstrap
RANDOMISATIONS = 10_000  # of a test: p is known to 0.005 where it matters, near 0.05
CONFIDENCE = 0.95
FEW = 8  # values are drawn together if there are so many of each on average
BLOCK_NUMBERS = 1 << 20  # drawn at a time: 8 MB

Interval = tuple[float, float]


def bootstrap_interval(
    values: ArrayLike, seed: int = 0, resamples: int = RESAMPLES, confidence: float = CONFIDENCE
) -> Interval | None:
    """The percentile bootstrap interval of a mean (Efron 1979): where the means of resampled questions lie.

    Args:
        values: a figure of each question, (questions,).
        seed: seed of the draws; the same seed and values give the same interval.
        resamples: how often as many questions are drawn, with replacement.
        confidence: share of the resampled means that lie in the interval, half of the others on either side.

    Returns:
        Low and high end, or None if there are no values or no resamples.

    Raises:
        ValueError: a value is not finite, or values are no vector.
    """
    numbers = _checked(values)
    distinct, counts = np.unique(numbers, return_counts=True)
    if len(distinct) * FEW <= len(numbers):
        return _interval_of(distinct, counts, seed, resamples, confidence)
    if not resamples:
        return None
    return _percentiles(_drawn_means(np.sort(numbers), np.random.default_rng(seed), resamples), confidence)


def interval_of_counts(
    counts: Mapping[float, int], seed: int = 0, resamples: int = RESAMPLES, confidence: float = CONFIDENCE
) -> Interval | None:
    """As `bootstrap_interval`, of values of which only the number of each is known.

    Args:
        counts: how many questions have a value, by value.
        seed, resamples, confidence: see `bootstrap_interval`.
    """
    distinct = np.array(sorted(counts), np.float64)
    numbers = np.array([counts[value] for value in sorted(counts)], np.int64)
    if len(distinct) * FEW <= numbers.sum():
        return _interval_of(distinct, numbers, seed, resamples, confidence)
    return bootstrap_interval(np.repeat(distinct, numbers), seed, resamples, confidence)


def interval_of_statistic(
    counts: np.ndarray,
    statistic: Callable[[np.ndarray], np.ndarray],
    seed: int = 0,
    resamples: int = RESAMPLES,
    confidence: float = CONFIDENCE,
) -> Interval | None:
    """The percentile bootstrap interval of any figure of questions that fall into kinds.

    Args:
        counts: how many questions are of each kind, int64 (kinds,). Of as many drawn ones, the counts are multinomial.
        statistic: takes counts that were drawn, int64 (some, kinds), and gives the figure of each, (some,).
        seed, resamples, confidence: see `bootstrap_interval`.
    """
    total = int(counts.sum())
    if not total or not resamples:
        return None
    rng = np.random.default_rng(seed)
    blocks = _blocks(resamples, len(counts))
    found = [statistic(rng.multinomial(total, counts / total, size=block)) for block in blocks]
    return _percentiles(np.concatenate(found), confidence)


def paired_bootstrap(
    first: ArrayLike, second: ArrayLike, seed: int = 0, resamples: int = RESAMPLES, confidence: float = CONFIDENCE
) -> Interval | None:
    """The bootstrap interval of the difference of two means, first less second, over the same questions.

    Args:
        first, second: a figure of each question, (questions,), in the same order.
        seed, resamples, confidence: see `bootstrap_interval`.

    Raises:
        ValueError: they are not of the same length, or a value is not finite.
    """
    return bootstrap_interval(_differences(first, second), seed, resamples, confidence)


def randomisation_p(
    first: ArrayLike, second: ArrayLike, seed: int = 0, resamples: int = RANDOMISATIONS
) -> float | None:
    """The two-sided p value of Fisher's paired randomisation test: were the two runs exchangeable question by question?

    The share of assignments of signs to the questions' differences that give a mean as far from 0 as the one found
    (Smucker, Allan and Carterette 2007). All of them are counted if they are no more than `resamples`; else so many are
    drawn, and the one found counts as another, so p is never 0 (Phipson and Smyth 2010).

    Args:
        first, second: a figure of each question, (questions,), in the same order.
        seed: seed of the draws.
        resamples: how many assignments of signs are drawn, at least 1.

    Returns:
        p, 0 to 1; None if there are no questions.

    Raises:
        ValueError: they are not of the same length, or a value is not finite.
    """
    differences = _differences(first, second)
    if not len(differences):
        return None
    differences = np.sort(differences[differences != 0])  # a difference of 0 has no sign
    sizes = np.sort(np.abs(differences))
    found = abs(differences.sum()) - 1e-9 * sizes.sum()  # sums in another order differ by rounding
    if len(sizes) < 63 and 1 << len(sizes) <= resamples:
        every = np.arange(1 << len(sizes))[:, None] >> np.arange(len(sizes)) & 1
        return float((_absolute_sums(every, sizes) >= found).mean())
    rng, far = np.random.default_rng(seed), 0
    for block in _blocks(resamples, len(sizes)):
        drawn = rng.integers(0, 256, (block, -(-len(sizes) // 8)), np.uint8)
        signs = np.unpackbits(drawn, axis=1, count=len(sizes))
        far += int((_absolute_sums(signs, sizes) >= found).sum())
    return (1 + far) / (1 + resamples)


def _absolute_sums(signs: np.ndarray, sizes: np.ndarray) -> np.ndarray:
    """Of each row of signs, 0 for plus and 1 for minus, how far the signed sizes' sum is from 0."""
    return np.abs(sizes.sum() - 2 * (signs.astype(np.float64) @ sizes))


def _interval_of(
    distinct: np.ndarray, counts: np.ndarray, seed: int, resamples: int, confidence: float
) -> Interval | None:
    total = int(counts.sum())
    return interval_of_statistic(counts, lambda drawn: drawn @ distinct / total, seed, resamples, confidence)


def _drawn_means(numbers: np.ndarray, rng: np.random.Generator, resamples: int) -> np.ndarray:
    means = [
        numbers[rng.integers(0, len(numbers), (block, len(numbers)))].mean(axis=1)
        for block in _blocks(resamples, len(numbers))
    ]
    return np.concatenate(means)


def _percentiles(means: np.ndarray, confidence: float) -> Interval:
    outside = 50 * (1 - confidence)
    low, high = np.percentile(means, [outside, 100 - outside])
    return float(low), float(high)


def _blocks(resamples: int, width: int) -> Iterator[int]:
    """Yields how many resamples of so many numbers are drawn at a time."""
    most = max(1, BLOCK_NUMBERS // max(width, 1))
    for start in range(0, resamples, most):
        yield min(most, resamples - start)


def _differences(first: ArrayLike, second: ArrayLike) -> np.ndarray:
    one, other = _checked(first), _checked(second)
    if len(one) != len(other):
        raise ValueError(f"{len(one)} values are to be paired with {len(other)}")
    return one - other


def _checked(values: ArrayLike) -> np.ndarray:
    numbers = np.asarray(values, np.float64)
    if numbers.ndim != 1 or not np.isfinite(numbers).all():
        raise ValueError(f"values must be a vector of finite numbers, not {numbers.shape} with NaN or infinity")
    return numbers
