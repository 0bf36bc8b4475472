"""What each passage has to do with an answer."""

import copy

import numpy as np
import pytest
import torch

from rag_ops.generation import provenance
from tests.rag_ops.generation.families import asked, generator, our_generator, rag


def forced(batch, tokens: list[int]) -> float:
    """The score of given tokens from the passages of a batch of one question, a decoding step for each token."""
    cache, newest, score = batch.start(), batch.constraints.start, 0.0
    with torch.inference_mode():
        for token in tokens:
            mixture = batch.step(torch.tensor([[newest]]), cache)
            score += float(mixture.log_probs[0, 0, token])
            newest = token
    return score


@pytest.mark.parametrize(
    ("family", "rules"),
    [
        ("bart", {}),
        ("bart", {"num_beams": 3, "n_best": 2}),
        ("t5", {}),
        ("t5", {"num_beams": 2}),
        ("bart", {"lazy": True}),
    ],
    ids=str,
)
def test_the_score_without_a_passage_is_that_of_the_same_tokens_from_the_others(tokenizer, family, rules):
    model = rag(generator(family, len(tokenizer)))
    questions, passages, scores = (part[:6] for part in asked())
    ours = our_generator(copy.deepcopy(model), tokenizer, **rules)
    found = ours.answer(questions, passages, scores)
    assert any(answer.without is not None for answer in found)
    other = our_generator(copy.deepcopy(model), tokenizer)
    for number, answer in enumerate(found):
        if answer.read < 3:
            assert answer.without is None
            continue
        for left_out in range(3):
            kept = [doc for doc in range(3) if doc != left_out]
            contexts = other._contexts(questions, [[found[doc] for doc in kept] for found in passages], [number])
            batch = other._batch(contexts, [scores[number, kept]], None, other._read(contexts))
            expected = forced(batch, list(answer.token_ids))
            assert answer.without[left_out] == pytest.approx(expected, abs=1e-4)


def test_a_passage_with_almost_all_of_the_weight_leaves_the_others_exact():
    joint = np.log(np.array([[1 - 1e-12, 1e-20, 3e-20], [1.0, 1e-15, 1e-15]]))
    prior = np.log(np.array([1 - 1e-9, 6e-10, 4e-10]))
    found = provenance.without(joint, prior)
    assert found[0] == pytest.approx(np.log(4e-20 / 1e-9) + np.log(2e-15 / 1e-9), rel=1e-6)
    shares = np.exp(joint)
    for place in (1, 2):
        others = [doc for doc in range(3) if doc != place]
        assert found[place] == pytest.approx(
            np.log(shares[:, others].sum(1) / np.exp(prior)[others].sum()).sum(), abs=1e-6
        )


def test_a_passage_that_fills_up_counts_for_nothing_and_one_alone_has_no_others():
    joint, prior = np.log(np.array([[0.2, 0.1], [0.3, 0.3]])), np.log(np.array([0.6, 0.4]))
    filled = np.full((2, 1), -np.inf)
    more = provenance.without(np.concatenate([joint, filled], 1), np.array([*prior, -np.inf]))
    np.testing.assert_allclose(more[:2], provenance.without(joint, prior), rtol=1e-6)
    assert provenance.without(joint[:, :1], np.zeros(1)) is None
    assert provenance.without(np.concatenate([joint[:, :1], filled], 1), np.array([0.0, -np.inf])) is None


def test_a_posterior_is_a_softmax_and_nothing_if_no_passage_allows_the_token():
    found = provenance.posterior_of(np.array([[-1.0, -2.0], [-np.inf, -3.0], [-np.inf, -np.inf]], np.float32))
    np.testing.assert_allclose(found[0], np.exp([-1, -2]) / np.exp([-1, -2]).sum(), rtol=1e-6)
    assert found[1:].tolist() == [[0.0, 1.0], [0.0, 0.0]]
