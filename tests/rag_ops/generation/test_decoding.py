"""Tests of rag_ops.generation.decoding: the mixture against its formula, the rules against transformers' processors."""

import numpy as np
import pytest
import torch
from transformers import LogitsProcessorList, MinLengthLogitsProcessor, NoBadWordsLogitsProcessor
from transformers import NoRepeatNGramLogitsProcessor as NoRepeat

from rag_ops.generation.decoding import Constraints, Mixture

QUESTIONS, DOCS, BEAMS, VOCABULARY = 2, 3, 4, 11


@pytest.fixture
def logits() -> torch.Tensor:
    return torch.randn((QUESTIONS * DOCS, BEAMS, VOCABULARY), generator=torch.Generator().manual_seed(0)) * 5


@pytest.fixture
def prior() -> torch.Tensor:
    return torch.tensor([[0.7, 0.2, 0.1], [0.4, 0.6, 0.0]])


def test_mixture_is_the_papers_formula(logits, prior):
    given = logits.double().softmax(-1).numpy().reshape(QUESTIONS, DOCS, BEAMS, VOCABULARY)
    expected = np.log((given * prior.double().numpy()[:, :, None, None]).sum(1))
    np.testing.assert_allclose(Mixture(logits, prior.log()).log_probs.numpy(), expected, atol=1e-5)


def test_posterior_is_bayes_rule(logits, prior):
    given = logits.double().softmax(-1).numpy().reshape(QUESTIONS, DOCS, BEAMS, VOCABULARY)
    beams, tokens = torch.tensor([[0, 3], [2, 2]]), torch.tensor([[5, 10], [0, 1]])
    found = Mixture(logits, prior.log()).posterior(beams, tokens).numpy()
    for question in range(QUESTIONS):
        for place in range(2):
            joint = (
                prior[question].double().numpy() * given[question, :, beams[question, place], tokens[question, place]]
            )
            np.testing.assert_allclose(found[question, place], joint / joint.sum(), atol=1e-6)
    assert found[1, :, 2].max() == 0, "a passage that only fills up has no share"


def test_a_token_that_no_passage_allows_stays_finite(prior):
    logits = torch.zeros((QUESTIONS * DOCS, 1, VOCABULARY))
    logits[:, :, 0] = 1000.0
    mixture = Mixture(logits, prior.log())
    assert torch.isfinite(mixture.log_probs).all()
    assert torch.isfinite(mixture.posterior(torch.zeros((2, 1), dtype=torch.long), torch.full((2, 1), 4))).all()


@pytest.mark.parametrize("place", range(6))
def test_rules_are_those_of_transformers(place):
    random = np.random.default_rng(place)
    tokens = torch.from_numpy(random.integers(4, 7, (QUESTIONS, BEAMS, 8)))
    tokens[:, :, 0] = 2
    log_probs = torch.from_numpy(random.normal(size=(QUESTIONS, BEAMS, VOCABULARY)))
    forbidden = ((9,), (4, 5), (5, 5, 6))
    rules = Constraints(start=2, ends=(3,), longest=7, shortest=4, no_repeat=2, forbidden=forbidden)
    found = rules.apply(log_probs, tokens, place)
    flat = tokens.flatten(0, 1)[:, : place + 1]
    processors = LogitsProcessorList(
        [
            MinLengthLogitsProcessor(4, 3),
            NoRepeat(2),
            NoBadWordsLogitsProcessor([list(sequence) for sequence in forbidden], eos_token_id=3),
        ]
    )
    expected = processors(flat, log_probs.flatten(0, 1)).view_as(log_probs)
    torch.testing.assert_close(found, expected)


def test_without_rules_nothing_is_copied():
    log_probs = torch.zeros((1, 1, 5))
    assert Constraints(2, (3,), 7).apply(log_probs, torch.zeros((1, 1, 8), dtype=torch.long), 3) is log_probs
