"""Tests of rag_ops.compute.packed_linear."""

import pytest
import torch
from torch.nn import functional

from rag_ops.compute.packed_linear import PackedLinear, can_pack, pack_linears


@pytest.mark.parametrize("activation", ["none", "relu", "gelu"])
@pytest.mark.parametrize("bias", [True, False])
@pytest.mark.parametrize("shape", [(1, 12), (3, 5, 12), (70, 12)])
def test_results_are_those_of_a_plain_layer(activation, bias, shape):
    layer, x = torch.nn.Linear(12, 7, bias=bias), torch.randn(shape)
    with torch.inference_mode():
        expected = layer(x) if activation == "none" else getattr(functional, activation)(layer(x))
        torch.testing.assert_close(PackedLinear(layer.weight, layer.bias, activation)(x), expected)


def test_weights_that_cannot_be_packed_are_used_as_they_are():
    layer, x = torch.nn.Linear(12, 7, dtype=torch.float64), torch.randn(4, 12, dtype=torch.float64)
    assert not can_pack(layer.weight)
    with torch.inference_mode():
        found = PackedLinear(layer.weight, layer.bias, "gelu")(x)
        torch.testing.assert_close(found, functional.gelu(layer(x)))


def test_a_model_with_packed_layers_computes_the_same(tiny_bart):
    from transformers import AutoModelForSeq2SeqLM

    model, packed = (AutoModelForSeq2SeqLM.from_pretrained(tiny_bart).eval() for _ in range(2))
    pack_linears(packed)
    inputs = {"input_ids": torch.tensor([[2, 9, 8, 3]]), "decoder_input_ids": torch.tensor([[2, 7]])}
    with torch.inference_mode():
        torch.testing.assert_close(packed(**inputs).logits, model(**inputs).logits, atol=1e-4, rtol=1e-4)
    assert sum(isinstance(module, PackedLinear) for module in packed.modules()) > 20
