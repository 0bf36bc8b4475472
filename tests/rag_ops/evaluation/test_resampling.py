"""Intervals next to scipy's and to exact figures; the randomisation test next to all flips of signs, one by one."""

import itertools
import math
import tracemalloc

import numpy as np
import pytest
import scipy.stats

from rag_ops.evaluation import resampling
from rag_ops.evaluation.resampling import (
    bootstrap_interval,
    interval_of_counts,
    paired_bootstrap,
    randomisation_p,
)


def of_scipy(values, resamples, seed=0, confidence=0.95):
    found = scipy.stats.bootstrap(
        (values,),
        np.mean,
        n_resamples=resamples,
        vectorized=True,
        confidence_level=confidence,
        method="percentile",
        random_state=np.random.default_rng(seed),
    )
    return found.confidence_interval


@pytest.mark.parametrize(("count", "confidence"), [(2, 0.95), (37, 0.8), (900, 0.95)])
def test_distinct_values_give_scipys_interval_of_the_same_seed(count, confidence, monkeypatch):
    monkeypatch.setattr(resampling, "BLOCK_NUMBERS", 10_000)  # drawn in several blocks
    values = np.random.default_rng(count).normal(size=count)
    expected = of_scipy(np.sort(values), 500, 3, confidence)
    assert bootstrap_interval(values, 3, 500, confidence) == pytest.approx(tuple(expected), rel=1e-12)
    counts = dict.fromkeys(values.tolist(), 1)
    assert interval_of_counts(counts, 3, 500, confidence) == bootstrap_interval(values, 3, 500, confidence)


def test_few_values_give_the_interval_of_their_own_distribution():
    """The mean of 0 and 1 is binomial, which is known; scipy's interval of three values is drawn anew."""
    values = np.repeat([0.0, 1.0], [130, 70])
    low, high = bootstrap_interval(values, 1, 100_000)
    exact = scipy.stats.binom(200, 0.35).ppf([0.025, 0.975]) / 200
    assert (low, high) == pytest.approx(tuple(exact), abs=0.0051)  # a step of the distribution is 0.005
    values = np.repeat([0.0, 0.4, 1.0], [40, 25, 35])
    expected = of_scipy(values, 40_000)
    assert bootstrap_interval(values, 2, 40_000) == pytest.approx(tuple(expected), abs=0.003)
    assert interval_of_counts({1.0: 35, 0.0: 40, 0.4: 25}, 2, 40_000) == bootstrap_interval(values, 2, 40_000)


def test_an_interval_depends_on_seed_and_values_alone_and_needs_both_numbers():
    values = np.random.default_rng(0).random(50)
    assert bootstrap_interval(values, 5) == bootstrap_interval(values, 5) != bootstrap_interval(values, 6)
    assert bootstrap_interval([]) is None is bootstrap_interval(values, resamples=0)
    assert interval_of_counts({}) is None is interval_of_counts({1.0: 99}, resamples=0)
    assert bootstrap_interval([0.25]) == (0.25, 0.25) == bootstrap_interval([0.25] * 100)
    for wrong in ([1.0, math.nan], [math.inf], [[1.0, 2.0]]):
        with pytest.raises(ValueError, match="finite numbers"):
            bootstrap_interval(wrong)


def test_a_paired_interval_is_that_of_the_differences():
    rng = np.random.default_rng(0)
    one = rng.random(40)
    other = one - 0.1 + rng.normal(scale=0.02, size=40)
    low, high = paired_bootstrap(one, other, 7, 2000)
    assert (low, high) == pytest.approx(tuple(of_scipy(np.sort(one - other), 2000, 7)), rel=1e-12)
    alone = bootstrap_interval(one, 7, 2000)
    assert high - low < (alone[1] - alone[0]) / 5  # a difference is known far better than either mean
    with pytest.raises(ValueError, match="40 values are to be paired with 39"):
        paired_bootstrap(one, other[1:])


@pytest.mark.parametrize("kind", ["numbers", "right or wrong", "with ties"])
def test_the_randomisation_test_of_ten_questions_counts_every_flip(kind):
    rng = np.random.default_rng(4)
    one, other = rng.random(10) + 0.3, rng.random(10)
    if kind == "right or wrong":
        one, other = (one > 0.5).astype(float), (other > 0.5).astype(float)
    elif kind == "with ties":
        other[:4] = one[:4]
    differences = [float(a) - float(b) for a, b in zip(one, other, strict=True)]
    found = abs(math.fsum(differences))
    flips = [
        abs(math.fsum(sign * each for sign, each in zip(signs, differences, strict=True)))
        for signs in itertools.product((1, -1), repeat=10)
    ]
    exact = sum(flip >= found - 1e-9 for flip in flips) / len(flips)
    assert randomisation_p(one, other) == pytest.approx(exact, abs=1e-12)
    assert randomisation_p(one, other) == randomisation_p(other, one)
    drawn = randomisation_p(one, other, seed=1, resamples=1023 if kind == "numbers" else 60)
    assert drawn == pytest.approx(exact, abs=5 * math.sqrt(exact * (1 - exact) / 60) + 1 / 60)


def test_more_questions_are_drawn_and_p_agrees_with_scipys():
    rng = np.random.default_rng(0)
    one, other = rng.random(60), rng.random(60)
    one += 0.08 + (other - one).mean()
    expected = scipy.stats.permutation_test(
        (one, other),
        lambda x, y, axis: (x - y).mean(axis=axis),
        permutation_type="samples",
        vectorized=True,
        n_resamples=8000,
        random_state=np.random.default_rng(1),
    ).pvalue
    assert 0.01 < expected < 0.5
    assert randomisation_p(one, other, 2, 8000) == pytest.approx(expected, abs=0.02)
    assert randomisation_p(one + 9, other, 2, 500) == 1 / 501  # none of those drawn is as far
    assert randomisation_p(one, one) == 1
    assert randomisation_p([], []) is None


def test_the_order_of_the_questions_does_not_matter():
    rng = np.random.default_rng(3)
    one, other = rng.random((2, 50))
    order = rng.permutation(50)
    assert bootstrap_interval(one[order], 1) == bootstrap_interval(one, 1)
    assert paired_bootstrap(one[order], other[order], 1) == paired_bootstrap(one, other, 1)
    assert randomisation_p(one[order], other[order], 1) == randomisation_p(one, other, 1)


def test_memory_is_bounded_for_many_questions():
    values = np.random.default_rng(0).random(30_000)
    tracemalloc.start()
    assert bootstrap_interval(values, resamples=200)
    assert randomisation_p(values, values[::-1], resamples=200)
    assert (
        tracemalloc.get_traced_memory()[1] < 60 << 20
    )  # 200 resamples at once would be 48 MB twice, and their indices
    tracemalloc.stop()
