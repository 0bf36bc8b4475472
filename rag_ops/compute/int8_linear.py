"""Matrix products of 8-bit integers on CPUs with instructions for them (VNNI, AMX).

Weights are rounded to int8 with a scale for each output, inputs to uint8 with one scale and zero point for all. Inputs
differ much from channel to channel, so each channel is divided by a factor first, with which its weights are
multiplied: most of the spread goes to the weights, as in SmoothQuant (Xiao et al. 2022, section 4). Scales are fixed
when the layer is made, so that a text's numbers do not depend on the texts beside it; sums are exact integers.
"""

from __future__ import annotations

import dataclasses

import torch

LEVELS, HALF = 255, 128
SHARE = 0.7  # of the spread of inputs that goes to the weights; 0.5 made a third more error in MiniLM's
SMALLEST = 1e-5
WHOLE = 1.5 * 2.0**23  # float32 numbers near it are whole, and their low bits count from 0


@dataclasses.dataclass(frozen=True)
class Int8Weights:
    """A layer as it is saved.

    Attributes:
        weight: int8 (out, in).
        weight_scales: float32 (out,).
        bias: float32 (out,).
        factors: float32 (in,), that inputs are multiplied with to give levels.
        scale: of a level, float32 ().
        zero_point: level of 0, int32 ().
    """

    weight: torch.Tensor
    weight_scales: torch.Tensor
    bias: torch.Tensor
    factors: torch.Tensor
    scale: torch.Tensor
    zero_point: torch.Tensor


def round_weights(weight: torch.Tensor, bias: torch.Tensor, inputs: torch.Tensor) -> Int8Weights:
    """Rounds a layer.

    Args:
        weight: float32 (out, in).
        bias: float32 (out,).
        inputs: examples of what it is given, float32 (examples, in): the widest of them set the scales.
    """
    weight, inputs = weight.detach().float(), inputs.float()
    spread = inputs.abs().amax(0).clamp(min=SMALLEST) ** SHARE
    channels = spread / weight.abs().amax(0).clamp(min=SMALLEST) ** (1 - SHARE)
    low = min(0.0, float((inputs.amin(0) / channels).min()))
    high = max(SMALLEST, float((inputs.amax(0) / channels).max()))
    scale = (high - low) / LEVELS
    scaled = weight * channels
    weight_scales = scaled.abs().amax(1).clamp(min=SMALLEST**2) / (HALF - 1)
    rounded = (scaled / weight_scales[:, None]).round().to(torch.int8)
    return Int8Weights(
        rounded,
        weight_scales,
        bias.detach().float(),
        1 / (channels * scale),
        torch.tensor(scale, dtype=torch.float32),
        torch.tensor(round(-low / scale), dtype=torch.int32),
    )


class Int8Linear:
    """x Wᵀ + b with weights of `round_weights`; takes float32 or bfloat16 and gives bfloat16.

    Args:
        weights: the rounded layer.
    """

    def __init__(self, weights: Int8Weights):
        self._weight = torch.ops.onednn.qlinear_prepack(weights.weight, None)
        self._weight_scales, self._bias = weights.weight_scales, weights.bias
        self._weight_zeros = torch.zeros(len(weights.bias), dtype=torch.int64)
        self._factors, self._scale, self._zero = weights.factors, float(weights.scale), int(weights.zero_point)
        self._added = torch.tensor(WHOLE + self._zero)

    def __call__(self, x: torch.Tensor, activation: str = "none") -> torch.Tensor:
        """(rows, in) to (rows, out); `activation` is "none" or "gelu"."""
        return torch.ops.onednn.qlinear_pointwise(
            *(self._levels(x), self._scale, self._zero, self._weight, self._weight_scales, self._weight_zeros),
            *(self._bias, 1.0, 0, torch.bfloat16, activation, [], "none"),
        )

    def _levels(self, x: torch.Tensor) -> torch.Tensor:
        """The levels of inputs, uint8: the low bits of a sum so large that float32 keeps its whole part alone."""
        levels = torch.addcmul(self._added, x, self._factors).clamp_(WHOLE, WHOLE + LEVELS)
        return levels.view(torch.int32).to(torch.int8).view(torch.uint8)
