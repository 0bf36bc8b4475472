"""Thresholds on scores that keep a promise: of the rows answered above one, at most so many are wrong.

Learn then Test (Angelopoulos et al. 2021) with fixed-sequence testing. Some rows set the thresholds to try and take no
further part. On the others, thresholds are tested from strict to loose: "the error above this one is more than r" is
refuted if so few errors, or fewer, among so many rows would come with a probability of at most 1 - confidence if the
error were r. The last threshold before the first that is not refuted holds with the confidence asked for, whatever the
scores are worth, if the rows to be answered come from the same population as these.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Sequence

import numpy as np

MAX_ERRORS = (0.01, 0.02, 0.05, 0.1, 0.15, 0.2, 0.25, 0.3, 0.4, 0.5)
GRID_PARTS = 5  # one in so many rows sets the thresholds
MAX_THRESHOLDS = 100  # most thresholds to try: each is a chance to stop too early
BISECTIONS = 60  # halvings of 0 to 1 that leave less than rounding


@dataclasses.dataclass(frozen=True)
class Threshold:
    """What was learned for one admitted share of errors.

    Attributes:
        max_error: admitted share of errors among answered rows.
        score: rows with this score or more are answered; None if no threshold passed, and nothing is.
        answered: tested rows at or above it; 0 if there is none.
        rows: rows that it was tested on.
        wrong: wrong ones among these.
        bound: upper confidence bound of the share of errors (Clopper and Pearson 1934); None if there is none.
        tested: number of thresholds that were tested.
    """

    max_error: float
    score: float | None = None
    answered: int = 0
    rows: int = 0
    wrong: int = 0
    bound: float | None = None
    tested: int = 0


def learn(
    scores: np.ndarray,
    wrong: np.ndarray,
    confidence: float,
    *,
    seed: int = 0,
    max_errors: Sequence[float] = MAX_ERRORS,
) -> list[Threshold]:
    """Learns a threshold for each admitted share of errors; each of them holds with the confidence, not all together.

    Args:
        scores: scores of answered rows, which are independent of one another, float (N,).
        wrong: whether each answer is wrong, bool (N,).
        confidence: probability of the promise, 0 to 1.
        seed: seed of the choice of the rows that set the thresholds to try.
        max_errors: admitted shares of errors.

    Returns:
        One for each of `max_errors`, in their order.
    """
    order = np.random.default_rng(seed).permutation(len(scores))
    cut = len(scores) // GRID_PARTS
    trial, kept = np.sort(scores[order[:cut]])[::-1], order[cut:]
    by_score = np.argsort(-scores[kept], kind="stable")
    tested = scores[kept][by_score]
    errors = np.concatenate([[0], np.cumsum(wrong[kept][by_score])])
    found = []
    for max_error in max_errors:
        thresholds = _thresholds(trial, len(tested), max_error, confidence)
        counts = np.searchsorted(-tested, -thresholds, side="right")
        found.append(
            _last_passing(thresholds, counts, errors[counts], Threshold(max_error, rows=len(tested)), confidence)
        )
    return found


def _thresholds(trial: np.ndarray, rows: int, max_error: float, confidence: float) -> np.ndarray:
    """The thresholds to try, strict ones first, float (any number).

    Args:
        trial: scores of the rows that set them, highest first.
        rows: number of the other rows.
        max_error: admitted share of errors.
        confidence: probability of the promise.
    """
    least = 2 * math.log(1 - confidence) / math.log(1 - max_error)  # of no errors so many rows are more than enough
    first = math.ceil(least * len(trial) / rows) if rows else 0
    if not 0 < first <= len(trial):
        return trial[:0]
    places = np.linspace(first - 1, len(trial) - 1, min(MAX_THRESHOLDS, len(trial) - first + 1)).round().astype(int)
    return -np.unique(-trial[places])


def _last_passing(
    thresholds: np.ndarray, counts: np.ndarray, errors: np.ndarray, found: Threshold, confidence: float
) -> Threshold:
    """Tests thresholds in their order until the first that does not pass.

    Args:
        thresholds: thresholds, strict ones first, (M,).
        counts: rows at or above each, (M,).
        errors: wrong ones among these, (M,).
        found: that nothing has passed yet.
        confidence: probability of the promise.
    """
    for number, (threshold, count, wrong) in enumerate(zip(thresholds, counts.tolist(), errors.tolist(), strict=True)):
        found = dataclasses.replace(found, tested=number + 1)
        if not count or log_tail(wrong, count, found.max_error) > math.log1p(-confidence):
            break
        found = dataclasses.replace(found, score=float(threshold), answered=count, wrong=wrong)
    if found.score is None:
        return found
    return dataclasses.replace(found, bound=upper_bound(found.wrong, found.answered, confidence))


def log_tail(errors: int, rows: int, share: float) -> float:
    """The logarithm of the probability of at most so many errors among so many rows.

    Args:
        errors: number of errors, 0 to `rows`.
        rows: number of independent rows.
        share: probability of an error in each, 0 to 1.

    >>> round(math.exp(log_tail(1, 2, 0.5)), 12)
    0.75
    """
    if errors >= rows or share <= 0:
        return 0.0
    if share >= 1:
        return -math.inf
    # Terms grow by a ratio that is known exactly, so no factorial is needed
    numbers = np.arange(errors)
    ratios = np.log((rows - numbers) / (numbers + 1)) + (math.log(share) - math.log1p(-share))
    terms = rows * math.log1p(-share) + np.concatenate([[0.0], np.cumsum(ratios)])
    most = terms.max()
    return min(float(most + np.log(np.exp(terms - most).sum())), 0.0)


def upper_bound(errors: int, rows: int, confidence: float) -> float:
    """The exact upper confidence bound of a share (Clopper and Pearson 1934), one-sided; 1 if all rows are errors.

    >>> round(upper_bound(0, 59, 0.95), 3)
    0.05
    """
    if errors >= rows:
        return 1.0
    low, high = 0.0, 1.0
    for _ in range(BISECTIONS):
        middle = (low + high) / 2
        low, high = (middle, high) if log_tail(errors, rows, middle) > math.log1p(-confidence) else (low, middle)
    return high
