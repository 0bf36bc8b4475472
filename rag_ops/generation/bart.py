"""BART for inference, written to be read beside the paper (Lewis et al. 2019; Vaswani et al. 2017).

    encoder: x = norm(token + position)
             for each layer:  x = norm(x + attention over the passage);  x = norm(x + feed-forward)
    decoder: x = norm(token + position)
             for each layer:  x = norm(x + attention over the answer so far)
                              x = norm(x + attention over the passage);  x = norm(x + feed-forward)
             logits = x · token embeddings + bias

Weights are those of transformers' `BartForConditionalGeneration`. Keys and values of the answer so far are kept, so
that a step computes one position. Those of a passage are made only if they pay: by beam search, and by long answers.
Without them, a query q meets a token's state s as q·(Ws + b) = (Wᵀq)·s + q·b, and q·b is the same for all tokens, so
softmax drops it; likewise the weights' mean of Ws + b is W (mean of s) + b. So a look at the passage works on the
encoder's states themselves, which all layers and heads share.

In bfloat16 on a CPU (`narrow`) the products with weights and the attention are in bfloat16; embeddings, norms, what
layers add to, softmax and logits stay in float32. So a token's logits differ from float32's by what the layers' inputs
lose, not by their own eight bits.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator, Sequence
from typing import Any

import torch
from torch.nn import LayerNorm, Linear, functional
from torch.nn.functional import scaled_dot_product_attention
from transformers import BartForConditionalGeneration
from transformers.activations import ACT2FN
from transformers.models.bart import modeling_bart

from rag_ops.compute.attention import attend_by_row
from rag_ops.compute.packed_linear import PackedLinear, is_altered
from rag_ops.defaults import DIRECT_LOOKS
from rag_ops.generation import rounding

POSITION_OFFSET = 2  # the first two rows of BART's position tables are never used
ACTIVATIONS = ("gelu", "relu")
# The classes of a BART's modules; adapters, quantisers and variants put others in their places.
PARTS = {
    BartForConditionalGeneration,
    modeling_bart.BartModel,
    modeling_bart.BartEncoder,
    modeling_bart.BartDecoder,
    modeling_bart.BartEncoderLayer,
    modeling_bart.BartDecoderLayer,
    modeling_bart.BartAttention,
    modeling_bart.BartScaledWordEmbedding,
    modeling_bart.BartLearnedPositionalEmbedding,
    Linear,
    LayerNorm,
    torch.nn.ModuleList,
}
USUAL_TOKENS = 8  # tokens of a usual answer
FEW_QUERIES = 64  # for each passage, which plain products look up faster than torch's kernel for CPUs
LOGIT_ROWS = 256  # rows whose logits are there at once where answers are scored

Pair = tuple[torch.Tensor, torch.Tensor]  # keys and values


@dataclasses.dataclass
class BartCache:
    """States, keys and values that a step reads, for N = questions x passages rows with K beams each.

    K is 1 before the first step. The beams of a question read the same passages, so a passage is stored once.

    Attributes:
        states: encoder states of the passages, (N, tokens, width); padding is 0.
        mask: 0 for a passage's tokens and -inf for its padding, (N, 1, tokens).
        past: for each layer, keys and values of the answer so far: (N, K, heads, longest, head size).
        passage: for each layer, keys and values of the passage, (N, heads, tokens, head size); empty until they pay.
        queries: cross-attention queries so far; beyond DIRECT_LOOKS the keys are cached.
        length: number of tokens of `past` that are filled.
    """

    states: torch.Tensor
    mask: torch.Tensor
    past: list[Pair]
    passage: list[Pair] = dataclasses.field(default_factory=list)
    queries: int = 0
    length: int = 0

    def reorder(self, parents: torch.Tensor) -> None:
        """See `DecoderCache`."""
        rows = torch.arange(len(parents), device=parents.device)[:, None]
        if parents.shape[1] != self.past[0][0].shape[1]:
            self.past = [(keys[rows, parents], values[rows, parents]) for keys, values in self.past]
            return
        for pair in self.past:
            for kept in pair:
                kept[:, :, :, : self.length] = kept[rows, parents, :, : self.length]

    def keep(self, rows: torch.Tensor) -> None:
        """See `DecoderCache`."""
        self.states, self.mask = self.states[rows], self.mask[rows]
        self.past = [(keys[rows], values[rows]) for keys, values in self.past]
        self.passage = [(keys[rows], values[rows]) for keys, values in self.passage]

    def select(self, rows: torch.Tensor, length: int) -> BartCache:
        """See `ReplayCache`."""
        longest = int((self.mask[rows] == 0).sum(-1).max())
        room = self.past[0][0].shape[3]
        past = [
            (
                _begun(keys[:, :, :, :length][rows], room),
                _begun(values[:, :, :, :length][rows], room),
            )
            for keys, values in self.past
        ]
        passage = [(keys[rows, :, :longest], values[rows, :, :longest]) for keys, values in self.passage]
        states, mask = self.states[rows, :longest], self.mask[rows, :, :longest]
        return BartCache(states, mask, past, passage, self.queries, length)


class Bart:
    """Encoder and decoder of a `BartForConditionalGeneration`.

    Args:
        model: generator in evaluation mode, on its device, in its dtype; not needed afterwards.
        narrow: whether to compute a float32 model in bfloat16, on a CPU that has instructions for it.
    """

    def __init__(self, model: Any, narrow: bool = False):
        config, parts = model.config, (model.model.encoder, model.model.decoder)
        self._heads = (config.encoder_attention_heads, config.decoder_attention_heads)
        # Two tables, for tie_word_embeddings=False gives each side one of its own
        self._tokens = [part.embed_tokens.weight.detach() for part in parts]
        self._scales = [part.embed_tokens.embed_scale for part in parts]
        self._positions = [part.embed_positions.weight.detach()[POSITION_OFFSET:] for part in parts]
        self._norms = [part.layernorm_embedding for part in parts]
        form = _Form(config.activation_function, torch.bfloat16 if narrow else None)
        self._narrow = narrow
        self._encoder = [_EncoderLayer(layer, self._heads[0], form) for layer in parts[0].layers]
        self._decoder = [_DecoderLayer(layer, self._heads[1], form) for layer in parts[1].layers]
        norms = [self._norms[1], *(layer.final_layer_norm for layer in parts[1].layers)]
        state = norms[-1].weight.numel() ** 0.5 * float(norms[-1].weight.detach().abs().max())
        state += float(norms[-1].bias.detach().norm())
        self._largest_logit = state * float(model.lm_head.weight.detach().norm(dim=1).max())
        self._inner = [[layer.fc1.out_features for layer in part.layers] for part in parts]
        self._output = PackedLinear(model.lm_head.weight, model.final_logits_bias[0].to(model.lm_head.weight.dtype))

    @staticmethod
    def fits(model: Any) -> bool:
        """Whether this file computes `model`: it is a BART by its configuration and by every one of its modules."""
        if type(model) is not BartForConditionalGeneration or model.config.activation_function not in ACTIVATIONS:
            return False
        known = PARTS | {type(ACT2FN[model.config.activation_function])}
        for module in model.modules():
            if type(module) not in known or module.training or is_altered(module):
                return False
        weights = list(model.parameters())
        linears = [module for module in model.modules() if isinstance(module, Linear) and module is not model.lm_head]
        return (
            all(type(weight) is torch.nn.Parameter and weight.dtype == weights[0].dtype for weight in weights)
            and all(linear.bias is not None for linear in linears)
            and model.lm_head.bias is None
        )

    def encode(self, ids: torch.Tensor, mask: torch.Tensor) -> torch.Tensor:
        """See `Generator`."""
        x = self._norms[0](self._tokens[0][ids] * self._scales[0] + self._positions[0][: ids.shape[1]])
        if self._narrow:
            rows, lengths = x.flatten(0, 1), mask.sum(1).tolist()
            for layer in self._encoder:
                rows = layer.by_row(rows, lengths)
            return rows.view(x.shape).to(torch.bfloat16)
        hidden = _additive(mask, x.dtype) if not bool(mask.all()) else None
        for layer in self._encoder:
            x = layer(x, hidden)
        return x

    def start(self, states: torch.Tensor, mask: torch.Tensor, longest: int, beams: int = 1) -> BartCache:
        """See `Generator`."""
        shape = (len(states), 1, self._heads[1], longest, states.shape[-1] // self._heads[1])
        past = [(states.new_empty(shape), states.new_empty(shape)) for _ in self._decoder]
        expected = beams * min(longest, USUAL_TOKENS)
        return BartCache(
            states, _additive(mask, self._norms[1].weight.dtype)[:, 0], past, queries=expected if beams > 1 else 0
        )

    def step(self, tokens: torch.Tensor, cache: BartCache) -> torch.Tensor:
        """See `Generator`."""
        x = self._norms[1](self._tokens[1][tokens] * self._scales[1] + self._positions[1][cache.length])
        self._count(tokens.shape[1], cache)
        for number, layer in enumerate(self._decoder):
            x = layer(x, number, cache)
        cache.length += 1
        return self._output(x)

    def replay(self, tokens: torch.Tensor, cache: BartCache) -> torch.Tensor:
        """See `ReplayingGenerator`."""
        places = tokens.shape[1]
        x = self._norms[1](self._tokens[1][tokens] * self._scales[1] + self._positions[1][:places])
        self._count(places, cache)
        for number, layer in enumerate(self._decoder):
            x = layer.replay(x, number, cache)
        cache.length = places
        return x

    def log_probs_of(self, tokens: torch.Tensor, states: torch.Tensor, mask: torch.Tensor) -> torch.Tensor:
        """See `ScoringGenerator`."""
        given, targets = tokens[:, :, :-1], tokens[:, :, 1:]
        places = given.shape[2]
        x = self._norms[1](self._tokens[1][given] * self._scales[1] + self._positions[1][:places])
        cache = BartCache(states, _additive(mask, self._norms[1].weight.dtype)[:, 0], [])
        for layer in self._decoder:
            # One layer's keys and values at a time
            pays = x.shape[1] * places > DIRECT_LOOKS
            x = layer.follow(x, dataclasses.replace(cache, passage=[layer.read(states, cache.mask)] if pays else []))
        outputs, wanted = x.flatten(0, 2), targets.flatten()
        parts = [
            of_targets(self._output(outputs[start : start + LOGIT_ROWS]), wanted[start : start + LOGIT_ROWS])
            for start in range(0, len(outputs), LOGIT_ROWS)
        ]
        return torch.cat(parts).view(targets.shape)

    def logits(self, outputs: torch.Tensor) -> torch.Tensor:
        """See `ReplayingGenerator`."""
        return self._output(outputs)

    def join(self, caches: Sequence[BartCache]) -> BartCache:
        """See `ReplayingGenerator`."""
        if len(caches) == 1:
            return caches[0]
        queries = max(cache.queries for cache in caches)
        for cache in caches:
            cache.queries = queries
            self._count(0, cache)
        length, longest = caches[0].length, caches[0].past[0][0].shape[3]
        past = [
            (_begun(torch.cat(keys)[:, :, :, :length], longest), _begun(torch.cat(values)[:, :, :, :length], longest))
            for keys, values in _by_layer([cache.past for cache in caches])
        ]
        passage = [
            (_padded(keys, 2), _padded(values, 2)) for keys, values in _by_layer([cache.passage for cache in caches])
        ]
        states, mask = _padded([cache.states for cache in caches], 1), _padded([c.mask for c in caches], 2, -torch.inf)
        return BartCache(states, mask, past, passage, queries, length)

    def probability_error(self, tokens: int) -> float:
        """See `ReplayingGenerator`."""
        width = self._norms[0].weight.numel()
        looks = (
            3 * width + tokens
        )  # terms of queries, of keys and, with the weights' mean, of what is found; and places
        encoder = sum(looks + width + inner for inner in self._inner[0])
        decoder = sum(2 * looks + width + inner for inner in self._inner[1])
        logits = rounding.logit_error([encoder, decoder, width], self._largest_logit)
        return rounding.probability_error(logits, len(self._tokens[1]))

    def _count(self, queries: int, cache: BartCache) -> None:
        """Counts queries to the passages, and makes their keys and values once these pay."""
        cache.queries += queries
        if cache.queries > DIRECT_LOOKS and not cache.passage:
            cache.passage = [layer.read(cache.states, cache.mask) for layer in self._decoder]


@dataclasses.dataclass(frozen=True)
class _Form:
    """How layers compute: the activation between their two feed-forward products, and the dtype if it is another."""

    activation: str
    dtype: torch.dtype | None

    def joined(self, *layers: Any, activation: str = "none") -> PackedLinear:
        """Linear layers of one input as one."""
        weight = torch.cat([layer.weight for layer in layers]) if len(layers) > 1 else layers[0].weight
        bias = torch.cat([layer.bias for layer in layers]) if len(layers) > 1 else layers[0].bias
        return PackedLinear(
            weight.to(self.dtype or weight.dtype), bias.detach().to(self.dtype or bias.dtype), activation
        )

    def weight(self, layer: Any) -> torch.Tensor:
        """The weights of a linear layer, (out, in)."""
        return layer.weight.detach().to(self.dtype or layer.weight.dtype)

    def feed_forward(self, layer: Any) -> tuple[PackedLinear, PackedLinear]:
        """The two products, up and down."""
        return self.joined(layer.fc1, activation=self.activation), self.joined(layer.fc2)


class _EncoderLayer:
    def __init__(self, layer: Any, heads: int, form: _Form):
        self._heads, own = heads, layer.self_attn
        self._qkv, self._out = form.joined(own.q_proj, own.k_proj, own.v_proj), form.joined(own.out_proj)
        self._up, self._down = form.feed_forward(layer)
        self._norms = (layer.self_attn_layer_norm, layer.final_layer_norm)

    def __call__(self, x: torch.Tensor, mask: torch.Tensor | None) -> torch.Tensor:
        """(N, tokens, width)."""
        query, key, value = self._qkv(x).view(*x.shape[:2], 3, self._heads, -1).permute(2, 0, 3, 1, 4)
        found = scaled_dot_product_attention(query, key, value, attn_mask=mask)
        return self._read_on(x, found.transpose(1, 2).reshape(x.shape))

    def by_row(self, x: torch.Tensor, lengths: Sequence[int]) -> torch.Tensor:
        """The same of passages of some lengths, padded to the same: (N * tokens, width)."""
        scale = (x.shape[1] // self._heads) ** -0.5
        return self._read_on(x, attend_by_row(self._qkv(x), lengths, self._heads, scale))

    def _read_on(self, x: torch.Tensor, own: torch.Tensor) -> torch.Tensor:
        """The rest of the layer, from what self-attention found."""
        x = self._norms[0](x + self._out(own))
        return self._norms[1](x + self._down(self._up(x)))


class _DecoderLayer:
    def __init__(self, layer: Any, heads: int, form: _Form):
        self._heads, own, other = heads, layer.self_attn, layer.encoder_attn
        self._qkv, self._out = form.joined(own.q_proj, own.k_proj, own.v_proj), form.joined(own.out_proj)
        self._query, self._found = form.joined(other.q_proj), form.joined(other.out_proj)
        self._read = form.joined(other.k_proj, other.v_proj)
        self._key, self._value = form.weight(other.k_proj), form.weight(other.v_proj)
        self._value_bias = other.v_proj.bias
        self._up, self._down = form.feed_forward(layer)
        self._norms = (layer.self_attn_layer_norm, layer.encoder_attn_layer_norm, layer.final_layer_norm)

    def read(self, states: torch.Tensor, mask: torch.Tensor) -> Pair:
        """Keys and values of the passages, (N, heads, tokens, head size); 0 for padding, which is not computed."""
        rows, places = (mask[:, 0] == 0).nonzero(as_tuple=True)
        found = self._read(states[rows, places]).view(len(rows), 2, self._heads, -1)
        keys, values = states.new_zeros((2, len(states), self._heads, states.shape[1], found.shape[-1]))
        keys.transpose(1, 2)[rows, places], values.transpose(1, 2)[rows, places] = found.unbind(1)
        return keys, values

    def __call__(self, x: torch.Tensor, number: int, cache: BartCache) -> torch.Tensor:
        """One position, (N, K, width)."""
        return self._read_on(x, self._look_back(x, cache.past[number], cache.length), number, cache)

    def replay(self, x: torch.Tensor, number: int, cache: BartCache) -> torch.Tensor:
        """All positions from the first one on, (N, places, width): each is a query of its own to the passage."""
        query, key, value = self._qkv(x).view(*x.shape[:2], 3, self._heads, -1).permute(2, 0, 3, 1, 4)
        for kept, made in zip(cache.past[number], (key, value), strict=True):
            kept[:, 0, :, : x.shape[1]] = made
        found = scaled_dot_product_attention(query, key, value, is_causal=True)
        return self._read_on(x, found.transpose(1, 2).reshape(x.shape), number, cache)

    def follow(self, x: torch.Tensor, cache: BartCache) -> torch.Tensor:
        """All positions of whole answers, (N, K, places, width); `cache` has this layer's passages and no past."""
        query, key, value = self._qkv(x).view(*x.shape[:3], 3, self._heads, -1).permute(3, 0, 1, 4, 2, 5).flatten(1, 2)
        own = scaled_dot_product_attention(query, key, value, is_causal=True).transpose(1, 2)
        return self._read_on(x.flatten(1, 2), own.reshape(len(x), -1, x.shape[-1]), 0, cache).view(x.shape)

    def _read_on(self, x: torch.Tensor, own: torch.Tensor, number: int, cache: BartCache) -> torch.Tensor:
        """The rest of the layer, from what self-attention found."""
        x = self._norms[0](x + self._out(own))
        query = self._query(x)
        if cache.passage:
            found = self._look_up(query, cache.passage[number], cache.mask)
        else:
            found = self._look_directly(query, cache.states, cache.mask)
        x = self._norms[1](x + self._found(found))
        return self._norms[2](x + self._down(self._up(x)))

    def _look_back(self, x: torch.Tensor, past: Pair, length: int) -> torch.Tensor:
        """Self-attention: each beam over its own tokens so far, the newest included."""
        query, key, value = self._qkv(x).view(*x.shape[:2], 3, self._heads, -1).unbind(2)
        past[0][:, :, :, length], past[1][:, :, :, length] = key, value
        keys, values = (kept[:, :, :, : length + 1].flatten(0, 1) for kept in past)
        return scaled_dot_product_attention(query.flatten(0, 1)[:, :, None], keys, values).view(x.shape)

    def _look_up(self, query: torch.Tensor, passage: Pair, mask: torch.Tensor) -> torch.Tensor:
        """Attention over the passage: the beams are so many queries, for there is no order among them to mask."""
        queries = query.view(*query.shape[:2], self._heads, -1).transpose(1, 2)  # (N, heads, K, head size)
        keys, values = passage
        if query.is_cuda or queries.shape[2] > FEW_QUERIES:
            found = scaled_dot_product_attention(queries, keys, values, attn_mask=mask[:, None].to(queries.dtype))
        else:  # for so few queries torch's kernel for CPUs takes longer than the plain products
            weights = (queries * queries.shape[-1] ** -0.5) @ keys.transpose(2, 3) + mask[:, None]
            found = weights.softmax(-1).to(values.dtype) @ values
        return found.transpose(1, 2).reshape(query.shape)

    def _look_directly(self, query: torch.Tensor, states: torch.Tensor, mask: torch.Tensor) -> torch.Tensor:
        """The same without keys and values; see the top of this file."""
        rows, beams, width = query.shape
        heads = query.view(rows * beams, self._heads, -1).transpose(0, 1)  # (heads, N * K, head size)
        keys = self._key.view(self._heads, -1, width)
        asked = torch.bmm(heads, keys) * heads.shape[2] ** -0.5  # (heads, N * K, width)
        asked = asked.view(self._heads, rows, beams, width).transpose(0, 1).reshape(rows, -1, width)
        if states.dtype == mask.dtype:
            scores = torch.baddbmm(mask, asked, states.transpose(1, 2))
        else:
            scores = torch.bmm(asked, states.transpose(1, 2)) + mask
        weights = scores.softmax(-1).to(states.dtype)  # (N, heads * K, tokens)
        means = torch.bmm(weights, states).view(rows, self._heads, beams, width)
        values = self._value.view(self._heads, -1, width)
        found = torch.bmm(means.transpose(0, 1).reshape(self._heads, -1, width), values.transpose(1, 2))
        return found.transpose(0, 1).reshape(query.shape) + self._value_bias


def of_targets(logits: torch.Tensor, targets: torch.Tensor) -> torch.Tensor:
    """Log-probabilities of chosen tokens, float32, of the targets' shape (...), from logits (..., vocabulary)."""
    logits = logits.float()
    return logits.gather(-1, targets[..., None])[..., 0] - logits.logsumexp(-1)


def _begun(filled: torch.Tensor, longest: int) -> torch.Tensor:
    """Room for `longest` keys or values, of which the first are filled; of the shape of `BartCache.past`."""
    kept = filled.new_empty((*filled.shape[:3], longest, filled.shape[4]))
    kept[:, :, :, : filled.shape[3]] = filled
    return kept


def _by_layer(caches: Sequence[Sequence[Pair]]) -> Iterator[tuple[list[torch.Tensor], list[torch.Tensor]]]:
    """For each layer the keys of all caches, and the values."""
    for pairs in zip(*caches, strict=True):
        yield [keys for keys, _ in pairs], [values for _, values in pairs]


def _padded(parts: Sequence[torch.Tensor], dim: int, value: float = 0.0) -> torch.Tensor:
    """Tensors one after the other, which may differ in the length of one dimension: filled up there."""
    longest = max(part.shape[dim] for part in parts)
    ends = [[0, 0] * (part.dim() - 1 - dim) + [0, longest - part.shape[dim]] for part in parts]
    return torch.cat([functional.pad(part, end, value=value) for part, end in zip(parts, ends, strict=True)])


def _additive(mask: torch.Tensor, dtype: torch.dtype) -> torch.Tensor:
    """0 where the mask is 1, -inf where it is 0; (N, tokens) to (N, 1, 1, tokens)."""
    return torch.zeros(mask.shape, dtype=dtype, device=mask.device).masked_fill(mask == 0, -torch.inf)[:, None, None]
