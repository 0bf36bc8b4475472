"""Attention without copies for each head gives what transformers' own does, and is used by the models it is for."""

import copy

import pytest
import torch
import transformers as t
from transformers.integrations.sdpa_attention import sdpa_attention_forward

from rag_ops.generation import grouped_attention
from tests.rag_ops.generation.causal_models import GPT2, SIZES, causal


class Layer(torch.nn.Module):
    """What attention is told of a layer."""

    num_key_value_groups = 2


@pytest.mark.parametrize("tokens", [1, 3])
@pytest.mark.parametrize("kind", ["bool", "numbers", "none"])
def test_it_gives_what_transformers_gives(tokens, kind):
    torch.manual_seed(1)
    query, key, value = torch.randn(2, 4, tokens, 8), torch.randn(2, 2, 5, 8), torch.randn(2, 2, 5, 8)
    mask = torch.ones(2, 1, tokens, 5, dtype=torch.bool)
    mask[0, :, :, :2] = False
    given = {"bool": mask, "numbers": torch.zeros(mask.shape).masked_fill(~mask, -torch.inf), "none": None}[kind]
    expected, _ = sdpa_attention_forward(Layer(), query, key, value, given, scaling=0.3)
    found, _ = grouped_attention.attend(Layer(), query, key, value, given, scaling=0.3)
    assert found.shape == expected.shape == (2, tokens, 4, 8)
    assert torch.allclose(found, expected, atol=1e-6)


def test_what_the_kernel_does_not_know_stays_with_transformers(monkeypatch):
    query, key = torch.randn(1, 4, 3, 8), torch.randn(1, 2, 3, 8)
    mask = torch.ones(1, 1, 3, 3, dtype=torch.bool)
    monkeypatch.setattr(grouped_attention, "sdpa_attention_forward", lambda *given, **how: (given, how))
    given, how = grouped_attention.attend(Layer(), query, key, key, mask, softcap=30.0)
    assert given[4] is mask
    assert how == {"dropout": 0.0, "scaling": None, "softcap": 30.0}


def test_models_with_shared_heads_compute_by_it_and_others_as_before():
    ids, mask = torch.arange(3, 13).reshape(2, 5), torch.tensor([[0, 0, 1, 1, 1], [1, 1, 1, 1, 1]])
    shared, own, other = (
        causal(t.LlamaConfig, t.LlamaForCausalLM, SIZES, 40),
        causal(t.LlamaConfig, t.LlamaForCausalLM, SIZES | {"num_key_value_heads": 4}, 40),
        causal(t.GPT2Config, t.GPT2LMHeadModel, GPT2, 40),
    )
    for model, name in ((shared, grouped_attention.NAME), (own, "sdpa"), (other, "sdpa")):
        before = copy.deepcopy(model)
        grouped_attention.share_heads(model)
        assert (model.config._attn_implementation, before.config._attn_implementation) == (name, "sdpa")
        with torch.inference_mode():
            found, expected = (one(input_ids=ids, attention_mask=mask).logits for one in (model, before))
        assert torch.allclose(found[mask > 0], expected[mask > 0], atol=1e-4)
