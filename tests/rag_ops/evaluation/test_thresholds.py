"""Thresholds keep what they promise, on populations whose error above any score is known."""

import dataclasses
import math

import numpy as np
import pytest

from rag_ops.evaluation.thresholds import GRID_PARTS, learn, log_tail, upper_bound

SAMPLES, ROWS, CONFIDENCE = 1000, 2000, 0.95


def directly(errors: int, rows: int, share: float) -> float:
    return math.fsum(math.comb(rows, k) * share**k * (1 - share) ** (rows - k) for k in range(errors + 1))


@pytest.mark.parametrize("rows", [1, 2, 17, 300])
def test_the_tail_of_the_binomial_is_its_sum(rows):
    for share in (0.001, 0.05, 0.5, 0.93):
        for errors in {0, 1, rows // 3, rows - 1, rows}:
            assert math.exp(log_tail(errors, rows, share)) == pytest.approx(directly(errors, rows, share), rel=1e-9)
    assert log_tail(0, rows, 0.0) == 0
    assert log_tail(rows - 1, rows, 1.0) == -math.inf
    assert log_tail(0, 10**6, 0.5) == pytest.approx(10**6 * math.log(0.5))


def test_an_upper_bound_is_where_so_few_errors_become_unlikely():
    for errors, rows in ((0, 1), (0, 59), (3, 59), (250, 1000), (58, 59)):
        bound = upper_bound(errors, rows, 0.9)
        assert directly(errors, rows, bound) == pytest.approx(0.1, rel=1e-6)
        assert bound > errors / rows
    assert upper_bound(7, 7, 0.9) == 1


def learned_literally(scores, wrong, confidence, max_error, seed):
    """The rule, step by step, with direct sums; for fewer rows than there are thresholds to try at most."""
    order = np.random.default_rng(seed).permutation(len(scores))
    trial, kept = order[: len(scores) // GRID_PARTS], order[len(scores) // GRID_PARTS :]
    least, found = 2 * math.log(1 - confidence) / math.log(1 - max_error), None
    for threshold in sorted(set(scores[trial].tolist()), reverse=True):
        if (scores[trial] >= threshold).mean() * len(kept) < least:
            continue
        above = kept[scores[kept] >= threshold]
        if directly(int(wrong[above].sum()), len(above), max_error) > 1 - confidence:
            break
        found = threshold
    return found


def test_thresholds_are_those_of_the_rule_step_by_step():
    random, passed = np.random.default_rng(3), 0
    for seed in range(40):
        scores = random.random(300).round(int(random.integers(1, 4)))  # with ties
        wrong = random.random(300) < 0.5 * (1 - scores) ** 2
        for one in learn(scores, wrong, 0.9, seed=seed, max_errors=(0.1, 0.2, 0.3)):
            assert one.score == learned_literally(scores, wrong, 0.9, one.max_error, seed)
            passed += one.score is not None
            if one.score is not None:
                assert one.bound <= one.max_error
                assert one.bound == pytest.approx(upper_bound(one.wrong, one.answered, 0.9))
    assert 20 < passed < 120


def true_error(score: np.ndarray) -> np.ndarray:
    """Of rows with this score or more, where scores are uniform and the error at a score s is (1 - s)^2."""
    return (1 - score) ** 2 / 3


def test_of_a_thousand_samples_no_more_than_are_admitted_break_the_promise_and_most_answer():
    random, max_error = np.random.default_rng(1), 0.1
    best = math.sqrt(3 * max_error)  # coverage of the true threshold
    broken, coverage = 0, []
    for seed in range(SAMPLES):
        scores = random.random(ROWS)
        wrong = random.random(ROWS) < (1 - scores) ** 2
        (found,) = learn(scores, wrong, CONFIDENCE, seed=seed, max_errors=[max_error])
        coverage.append(0.0 if found.score is None else 1 - found.score)
        broken += found.score is not None and true_error(np.array(found.score)) > max_error
    sampling = math.sqrt((1 - CONFIDENCE) * CONFIDENCE / SAMPLES)
    assert broken / SAMPLES <= 1 - CONFIDENCE + 2 * sampling
    assert np.mean(np.array(coverage) > 0) >= 0.9
    assert np.mean(coverage) >= best / 2


def test_scores_that_say_nothing_are_answered_by_chance_as_often_as_is_admitted():
    random = np.random.default_rng(2)  # the error is just over what is admitted, wherever the threshold is
    found = [
        learn(random.random(ROWS), random.random(ROWS) < 0.1001, CONFIDENCE, seed=seed, max_errors=[0.1])[0]
        for seed in range(SAMPLES)
    ]
    answered = np.mean([one.score is not None for one in found])
    assert answered <= 1 - CONFIDENCE + 2 * math.sqrt((1 - CONFIDENCE) * CONFIDENCE / SAMPLES)
    assert all(one.tested for one in found)


def test_the_rows_that_set_thresholds_take_no_further_part_and_too_few_answer_nothing():
    random = np.random.default_rng(4)
    scores = random.random(1000)
    wrong = random.random(1000) < (1 - scores) ** 2
    other = wrong.copy()
    trial = np.random.default_rng(0).permutation(1000)[: 1000 // GRID_PARTS]
    other[trial] = ~other[trial]
    assert learn(scores, wrong, 0.95) == learn(scores, other, 0.95)
    for rows in (0, 1, 4, 30):
        found = learn(scores[:rows], np.zeros(rows, bool), 0.95, max_errors=[0.01, 0.1])
        assert [dataclasses.replace(one, rows=0, tested=0) for one in found] == [
            type(found[0])(0.01),
            type(found[0])(0.1),
        ]
