"""Any sequence-to-sequence generator through its own modules; and the choice between it and a fast path."""

from __future__ import annotations

import copy
import dataclasses
from typing import Any

import torch
from transformers.cache_utils import DynamicCache, EncoderDecoderCache

from rag_ops.compute.packed_linear import pack_linears
from rag_ops.errors import InputError
from rag_ops.generation.bart import Bart, of_targets
from rag_ops.generation.generator import Generator

SCORED_TOKENS = 1024  # of answers whose logits are there at once


def generator_of(model: Any, narrow: bool = False) -> Generator:
    """Returns the fastest of our generators that can run `model`, a transformers generator in evaluation mode.

    Args:
        model: generator, on its device, in its dtype.
        narrow: whether to compute a float32 model on a CPU in bfloat16, as far as that is worth it: logits, from which
            tokens are chosen, stay in float32.
    """
    return Bart(model, narrow) if Bart.fits(model) else Seq2Seq(model, narrow)


@dataclasses.dataclass
class Seq2SeqCache:
    """Transformers' own cache, one row for each beam of each passage.

    Attributes:
        states, mask: states and mask of the passages, (N * K, tokens, width) and (N * K, tokens).
        inner: keys and values of answer and passage.
        beams: number of beams, K.
    """

    states: torch.Tensor
    mask: torch.Tensor
    inner: EncoderDecoderCache
    beams: int = 1

    def reorder(self, parents: torch.Tensor) -> None:
        """See `DecoderCache`."""
        rows = torch.arange(len(parents), device=parents.device)[:, None] * self.beams
        self.beams = parents.shape[1]
        self._select((rows + parents).flatten())

    def keep(self, rows: torch.Tensor) -> None:
        """See `DecoderCache`."""
        beams = torch.arange(self.beams, device=rows.device)
        self._select((rows[:, None] * self.beams + beams).flatten())

    def _select(self, places: torch.Tensor) -> None:
        self.states, self.mask = self.states[places], self.mask[places]
        self.inner.batch_select_indices(places)


class Seq2Seq:
    """A generator without a fast path: T5 and others.

    Args:
        model: any `AutoModelForSeq2SeqLM` in evaluation mode; on a CPU its linear layers are packed in place.
        narrow: whether passages are encoded in bfloat16 by a copy of the encoder; the decoder stays in float32.

    Raises:
        InputError: its answer to a question would depend on chance, or on the questions beside it.
    """

    def __init__(self, model: Any, narrow: bool = False):
        _check_routing(model.config)
        self._model, self._encoder = model, model.get_encoder()
        if narrow:
            self._encoder = copy.deepcopy(self._encoder).to(torch.bfloat16)
            pack_linears(self._encoder)
        self._encoded: Any = None  # the class of the encoder's output: models look in it for more than the states
        pack_linears(model)

    def encode(self, ids: torch.Tensor, mask: torch.Tensor) -> torch.Tensor:
        """See `Generator`."""
        output = self._encoder(input_ids=ids, attention_mask=mask, return_dict=True)
        self._encoded = type(output)
        return output.last_hidden_state.to(self._model.dtype)

    def start(self, states: torch.Tensor, mask: torch.Tensor, longest: int, beams: int = 1) -> Seq2SeqCache:
        """See `Generator`; `longest` and `beams` are not needed, because the cache grows."""
        return Seq2SeqCache(states, mask, EncoderDecoderCache(DynamicCache(), DynamicCache()))

    def step(self, tokens: torch.Tensor, cache: Seq2SeqCache) -> torch.Tensor:
        """See `Generator`."""
        output = self._model(
            encoder_outputs=self._encoded(last_hidden_state=cache.states),
            attention_mask=cache.mask,
            decoder_input_ids=tokens.reshape(-1, 1),
            past_key_values=cache.inner,
            use_cache=True,
        )
        return output.logits[:, -1].view(*tokens.shape, -1)

    def log_probs_of(self, tokens: torch.Tensor, states: torch.Tensor, mask: torch.Tensor) -> torch.Tensor:
        """See `ScoringGenerator`."""
        rows, answers, length = tokens.shape
        flat, own = tokens.flatten(0, 1), torch.arange(rows, device=tokens.device).repeat_interleave(answers)
        step, found = max(1, SCORED_TOKENS // length), []
        for start in range(0, len(flat), step):
            part, of = flat[start : start + step], own[start : start + step]
            output = self._model(
                encoder_outputs=self._encoded(last_hidden_state=states[of]),
                attention_mask=mask[of],
                decoder_input_ids=part[:, :-1],
                use_cache=False,
            )
            found.append(of_targets(output.logits, part[:, 1:]))
        return torch.cat(found).view(rows, answers, length - 1)


def _check_routing(config: Any) -> None:
    """Refuses a mixture of experts whose tokens compete for places over a batch, or are routed by chance (NLLB-MoE)."""
    if (share := getattr(config, "moe_eval_capacity_token_fraction", 1.0)) < 1:
        raise InputError(
            "the generator's experts take a share of a batch's tokens, so answers would depend on one another",
            value=f"moe_eval_capacity_token_fraction {share}",
            expected="1.0",
        )
    if (policy := getattr(config, "second_expert_policy", "all")) != "all":
        raise InputError(
            "the generator chooses experts by chance", value=f"second_expert_policy {policy}", expected="all"
        )
