"""BART's decoder, one token at a time, written to be read beside the paper (Lewis et al. 2019; Vaswani et al. 2017).

    x = norm(token + position)
    for each layer:
        x = norm(x + self-attention over the tokens so far)
        x = norm(x + attention over the passage)
        x = norm(x + feed-forward)
    logits = x · token embeddings + bias

Weights are those of transformers' `BartForConditionalGeneration`, used in place. Keys and values of a passage are made
once, those of the tokens so far are kept, so that a step computes one position.
"""

from __future__ import annotations

import dataclasses
from typing import Any

import torch
from torch.nn import functional
from transformers.activations import ACT2FN

POSITION_OFFSET = 2  # the first two rows of BART's position table are never used


@dataclasses.dataclass
class Memory:
    """What a step looks back on, for N = questions x passages rows with K beams each.

    The beams of a question read the same passages, so keys and values of a passage stand there once.

    Attributes:
        passage: for each layer, keys and values of the passage: two tensors (N, heads, tokens, head size).
        mask: 0 for a passage's tokens and -inf for its padding, (N, 1, 1, tokens).
        past: for each layer, keys and values of the answer so far: two tensors (N, K, heads, longest, head size).
        length: how many tokens of `past` are filled.
    """

    passage: list[tuple[torch.Tensor, torch.Tensor]]
    mask: torch.Tensor
    past: list[tuple[torch.Tensor, torch.Tensor]]
    length: int = 0

    def reorder(self, parents: torch.Tensor) -> None:
        """Gives each beam the past of its parent, int64 (N, K)."""
        rows = torch.arange(len(parents), device=parents.device)[:, None]
        for keys, values in self.past:
            keys[:, :, :, : self.length] = keys[rows, parents, :, : self.length]
            values[:, :, :, : self.length] = values[rows, parents, :, : self.length]

    def keep(self, rows: torch.Tensor) -> None:
        """Keeps the given rows (int64): those of questions that are not finished."""
        self.passage = [(keys[rows], values[rows]) for keys, values in self.passage]
        self.past = [(keys[rows], values[rows]) for keys, values in self.past]
        self.mask = self.mask[rows]


class BartDecoder:
    """The decoder of a `BartForConditionalGeneration`.

    Args:
        model: in evaluation mode, on its device, in its dtype.
    """

    def __init__(self, model: Any):
        decoder, config = model.model.decoder, model.config
        self._layers = [_Layer(layer, config) for layer in decoder.layers]
        self._tokens = decoder.embed_tokens.weight
        self._scale = config.d_model**0.5 if config.scale_embedding else 1.0
        self._positions = decoder.embed_positions.weight
        self._norm = decoder.layernorm_embedding
        self._output, self._bias = model.lm_head.weight, model.final_logits_bias[0]

    @staticmethod
    def fits(model: Any) -> bool:
        """Whether `model` is a BART as this file writes it down."""
        return model.config.model_type == "bart" and hasattr(model, "lm_head")

    def start(self, states: torch.Tensor, mask: torch.Tensor, longest: int, beams: int = 1) -> Memory:
        """Reads the encoded passages once.

        Args:
            states: the encoder's output, (N, tokens, width).
            mask: 1 for tokens, 0 for padding, (N, tokens).
            longest: most tokens of an answer.
            beams: sequences that are followed for each question.
        """
        padding = torch.zeros(mask.shape, dtype=states.dtype, device=states.device).masked_fill(
            mask == 0, float("-inf")
        )
        passage = [layer.read(states) for layer in self._layers]
        shape = (len(states), beams, self._layers[0].heads, longest, self._layers[0].head_size)
        past = [(states.new_empty(shape), states.new_empty(shape)) for _ in self._layers]
        return Memory(passage, padding[:, None, None, :], past)

    def step(self, tokens: torch.Tensor, memory: Memory) -> torch.Tensor:
        """Logits of the next token, (N, K, vocabulary), after the newest, int64 (N, K); `memory` grows by one."""
        x = self._tokens[tokens] * self._scale + self._positions[memory.length + POSITION_OFFSET]
        x = self._norm(x)
        for layer, past, passage in zip(self._layers, memory.past, memory.passage, strict=True):
            x = layer.step(x, past, memory.length, passage, memory.mask)
        memory.length += 1
        return functional.linear(x, self._output) + self._bias


class _Layer:
    """One decoder layer; transformers scales queries by the head size, and so does `scaled_dot_product_attention`."""

    def __init__(self, layer: Any, config: Any):
        own = layer.self_attn
        self._qkv = torch.cat([own.q_proj.weight, own.k_proj.weight, own.v_proj.weight])
        self._qkv_bias = torch.cat([own.q_proj.bias, own.k_proj.bias, own.v_proj.bias])
        self._layer, self._activation = layer, ACT2FN[config.activation_function]
        self.heads, self.head_size = own.num_heads, own.head_dim

    def read(self, states: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """Keys and values of the passages."""
        attention = self._layer.encoder_attn
        return self._split(attention.k_proj(states)), self._split(attention.v_proj(states))

    def step(
        self,
        x: torch.Tensor,
        past: tuple[torch.Tensor, torch.Tensor],
        length: int,
        passage: tuple[torch.Tensor, torch.Tensor],
        mask: torch.Tensor,
    ) -> torch.Tensor:
        """One position through the layer, (N, K, width)."""
        layer = self._layer
        x = layer.self_attn_layer_norm(x + layer.self_attn.out_proj(self._look_back(x, past, length)))
        x = layer.encoder_attn_layer_norm(x + layer.encoder_attn.out_proj(self._look_up(x, passage, mask)))
        return layer.final_layer_norm(x + layer.fc2(self._activation(layer.fc1(x))))

    def _look_back(self, x: torch.Tensor, past: tuple[torch.Tensor, torch.Tensor], length: int) -> torch.Tensor:
        """Self-attention: each beam over its own tokens so far, the newest included."""
        query, key, value = (
            functional.linear(x, self._qkv, self._qkv_bias).view(*x.shape[:2], 3, self.heads, -1).unbind(2)
        )
        past[0][:, :, :, length], past[1][:, :, :, length] = key, value
        keys, values = (kept[:, :, :, : length + 1].flatten(0, 1) for kept in past)
        found = functional.scaled_dot_product_attention(query.flatten(0, 1)[:, :, None], keys, values)
        return found.view(x.shape)

    def _look_up(self, x: torch.Tensor, passage: tuple[torch.Tensor, torch.Tensor], mask: torch.Tensor) -> torch.Tensor:
        """Attention over the passage: the beams are so many queries, for there is no order among them to mask."""
        query = self._layer.encoder_attn.q_proj(x).view(*x.shape[:2], self.heads, -1).transpose(1, 2)
        found = functional.scaled_dot_product_attention(query, *passage, attn_mask=mask)
        return found.transpose(1, 2).reshape(x.shape)

    def _split(self, states: torch.Tensor) -> torch.Tensor:
        return states.view(*states.shape[:2], self.heads, -1).transpose(1, 2).contiguous()
