"""Causal generators answer as the mixture of independent full prompts does."""

import pytest
import torch
import transformers as t

from rag_ops.errors import InputError
from tests.rag_ops.generation.causal_models import FAMILIES, LIMIT, NEAR, SIZES, asked, causal, compare, ours, tokenizer

COUNT, PASSAGES = 16, 12


@pytest.mark.parametrize("beams", [1, 4])
@pytest.mark.parametrize("family", FAMILIES)
def test_answers_are_those_of_independent_full_prompts(family, beams):
    differing, furthest, computed, distinct = compare(family, COUNT, PASSAGES, beams)
    assert all(one.gap < NEAR for one in differing), differing
    assert len(differing) < COUNT / 4
    assert furthest < 1e-4
    assert computed == (distinct, 0)
