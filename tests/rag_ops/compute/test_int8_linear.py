"""8-bit products against integers by hand."""

import dataclasses

import pytest
import torch

from rag_ops.compute import processor
from rag_ops.compute.int8_linear import Int8Linear, round_weights

pytestmark = pytest.mark.skipif(not processor.computes("int8"), reason="the processor has no instructions for int8")


@pytest.fixture
def given():
    torch.manual_seed(1)
    weight, bias = torch.randn(24, 40), torch.randn(24)
    inputs = torch.randn(200, 40) * torch.linspace(0.1, 8, 40) + 0.5
    return weight, bias, inputs


def test_a_product_is_that_of_the_integers(given):
    weight, bias, inputs = given
    rounded = round_weights(weight, bias, inputs)
    x = inputs[:50].bfloat16()
    levels = (x.float() * rounded.factors + rounded.zero_point).round().clamp(0, 255)
    exact = (levels - rounded.zero_point).double() @ rounded.weight.double().T
    expected = exact * float(rounded.scale) * rounded.weight_scales.double() + bias.double()
    found = Int8Linear(rounded)(x)
    assert found.dtype == torch.bfloat16
    torch.testing.assert_close(found.double(), expected, atol=0.02, rtol=0.008)
    torch.testing.assert_close(
        Int8Linear(rounded)(x, "gelu").double(), torch.nn.functional.gelu(expected), atol=0.02, rtol=0.008
    )


def test_it_is_near_the_layer_also_where_channels_differ(given):
    weight, bias, inputs = given
    exact = inputs @ weight.T + bias
    found = Int8Linear(round_weights(weight, bias, inputs))(inputs.bfloat16()).float()
    assert (found - exact).norm() / exact.norm() < 0.015


def test_inputs_beyond_the_examples_are_cut_to_the_range(given):
    weight, bias, inputs = given
    layer = Int8Linear(round_weights(weight, bias, inputs))
    assert layer(1000 * inputs[:5].bfloat16()).isfinite().all()


def test_all_that_is_saved_is_a_tensor(given):
    rounded = round_weights(*given)
    assert all(isinstance(getattr(rounded, field.name), torch.Tensor) for field in dataclasses.fields(rounded))
    assert rounded.weight.dtype == torch.int8
