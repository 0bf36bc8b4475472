"""The layers of BERT and its likes for CPUs with instructions for bfloat16 or int8: few kernels, weights laid out once.

transformers' layers make some thirty calls each, and torch's attention for CPUs spends in bfloat16 what the matrix
products save. Here a layer is four matrix products with bias and GELU computed on the way out, and attention goes row
by row, so that a row's scores stay in the core's cache. Embeddings, norms and what layers add to stay in float32, which
costs no time and halves the distance of the vectors from float32's.

A row's result depends on its own tokens and the shape of its batch alone: matrix products have the batch's shape,
attention the row's own, and padding is cut off rather than masked.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Protocol

import torch
from torch.nn import functional
from transformers.modeling_outputs import BaseModelOutputWithPastAndCrossAttentions
from transformers.models.bert.modeling_bert import BertLayer
from transformers.models.camembert.modeling_camembert import CamembertLayer
from transformers.models.roberta.modeling_roberta import RobertaLayer
from transformers.models.xlm_roberta.modeling_xlm_roberta import XLMRobertaLayer

from rag_ops.compute.attention import attend_by_row
from rag_ops.compute.packed_linear import is_altered, pack

LAYERS = (BertLayer, RobertaLayer, XLMRobertaLayer, CamembertLayer)
Place = tuple[int, str]  # of a matrix: number of its layer, and name in PARTS
PARTS = ("attention_in", "attention_out", "feed_forward_in", "feed_forward_out")  # the matrices of a layer


class Linear(Protocol):
    """A matrix product of a layer."""

    def __call__(self, x: torch.Tensor, activation: str = "none") -> torch.Tensor:
        """Float32 or bfloat16 (rows, in) to bfloat16 (rows, out); `activation` is "none" or "gelu"."""


class BfloatLinear:
    """x Wᵀ + b in bfloat16, summed in float32, with weights laid out for oneDNN.

    Args:
        weight: (out, in).
        bias: (out,).
    """

    def __init__(self, weight: torch.Tensor, bias: torch.Tensor):
        self._weight, self._bias = pack(weight.detach().to(torch.bfloat16)), bias.detach().to(torch.bfloat16)

    def __call__(self, x: torch.Tensor, activation: str = "none") -> torch.Tensor:
        """(rows, in) to (rows, out)."""
        narrow = x.to(torch.bfloat16)
        return torch.ops.mkldnn._linear_pointwise(narrow, self._weight, self._bias, activation, [], "none")


def matrices(layer: Any) -> dict[str, tuple[torch.Tensor, torch.Tensor]]:
    """Weight (out, in) and bias (out,) of each of `PARTS` of a layer; the first gives queries, keys and values.

    Queries are scaled here, so that attention need not.
    """
    own = layer.attention.self
    scale = own.attention_head_size**-0.5
    weights, biases = ([getattr(part, name) for part in (own.query, own.key, own.value)] for name in ("weight", "bias"))
    weights[0], biases[0] = weights[0].float() * scale, biases[0].float() * scale
    found = [(torch.cat([one.float() for one in weights]), torch.cat([one.float() for one in biases]))]
    for part in (layer.attention.output.dense, layer.intermediate.dense, layer.output.dense):
        found.append((part.weight, part.bias))
    return dict(zip(PARTS, found, strict=True))


class PackedLayer:
    """One layer.

    Args:
        layer: transformers' layer, one of `LAYERS`.
        linears: what computes some of `PARTS`; by default each is a `BfloatLinear`.
    """

    def __init__(self, layer: Any, linears: Mapping[str, Linear]):
        own = layer.attention.self
        self._heads = own.num_attention_heads
        given = {part: linears.get(part) or BfloatLinear(*matrix) for part, matrix in matrices(layer).items()}
        self._attention_in, self._attention_out, self._in, self._out = (given[part] for part in PARTS)
        self._norms = [
            (norm.normalized_shape, norm.weight.detach().float(), norm.bias.detach().float(), norm.eps)
            for norm in (layer.attention.output.LayerNorm, layer.output.LayerNorm)
        ]
        self._activation = layer.intermediate.intermediate_act_fn
        self._gelu = _is_gelu(self._activation)

    def __call__(self, x: torch.Tensor, lengths: list[int]) -> torch.Tensor:
        """float32 (texts * tokens, width) to the same; `lengths` are the texts' numbers of tokens."""
        attended = attend_by_row(self._attention_in(x), lengths, self._heads)
        x = functional.layer_norm(x + self._attention_out(attended), *self._norms[0])
        inner = self._in(x, "gelu") if self._gelu else self._activation(self._in(x))
        return functional.layer_norm(x + self._out(inner), *self._norms[1])


class PackedLayers(torch.nn.Module):
    """Takes the place of a transformers encoder, for inference in bfloat16 on a CPU over texts padded on the right."""

    def __init__(self, layers: list[PackedLayer]):
        super().__init__()
        self._layers = layers

    def forward(self, hidden_states: torch.Tensor, attention_mask: torch.Tensor | None = None, **_: Any) -> Any:
        """(texts, tokens, width) to a model output with its last states.

        Args:
            hidden_states: embeddings of the tokens.
            attention_mask: as transformers makes it for SDPA: (texts, 1, tokens or 1, tokens), bool or added to scores;
                None if all tokens count.
        """
        texts, tokens, _width = hidden_states.shape
        lengths = [tokens] * texts
        if attention_mask is not None:
            first = attention_mask[:, 0, 0]
            lengths = (first if first.dtype == torch.bool else first == 0).sum(1).tolist()
        x = hidden_states.reshape(texts * tokens, -1).float()
        for layer in self._layers:
            x = layer(x, lengths)
        return BaseModelOutputWithPastAndCrossAttentions(last_hidden_state=x.view(hidden_states.shape))


def encoder_of(model: torch.nn.Module) -> tuple[torch.nn.Module, Any] | None:
    """The module that has the layers as its `encoder`, and that encoder; None if they are not all of `LAYERS`.

    Layers that somebody has hooked on to, and those of a decoder, don't count either.
    """
    for module in model.modules():
        encoder = getattr(module, "encoder", None)
        layers = getattr(encoder, "layer", None)
        if isinstance(layers, torch.nn.ModuleList) and len(layers) and all(map(_is_known, layers)):
            return module, encoder
    return None


def pack_layers(model: torch.nn.Module, linears: Mapping[Place, Linear]) -> bool:
    """Puts `PackedLayers` in the place of a model's encoder.

    Args:
        model: model in float32, on a CPU that has instructions for bfloat16.
        linears: what computes a matrix, by number of the layer and name in `PARTS`; the others are in bfloat16.

    Returns:
        Whether it could: else the model is as it was.
    """
    if (found := encoder_of(model)) is None:
        return False
    parent, encoder = found
    given = [{part: linears[n, part] for part in PARTS if (n, part) in linears} for n in range(len(encoder.layer))]
    with torch.inference_mode():
        layers = [PackedLayer(layer, own) for layer, own in zip(encoder.layer, given, strict=True)]
    parent.encoder = PackedLayers(layers)
    return True


def _is_known(layer: torch.nn.Module) -> bool:
    plain = type(layer) in LAYERS and not layer.is_decoder and not layer.add_cross_attention
    return plain and not any(map(is_altered, layer.modules()))


def _is_gelu(activation: Any) -> bool:
    """Whether an activation is the exact GELU, by erf."""
    kind = type(activation).__name__
    return (kind == "GELUActivation" and activation.act is functional.gelu) or (
        kind == "GELU" and activation.approximate == "none"
    )
