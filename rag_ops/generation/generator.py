"""The interface of a generator that decoding needs; `bart.Bart`, `seq2seq.Seq2Seq` and `causal.Causal` have it."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Protocol

import torch


class DecoderCache(Protocol):
    """What a decoding step reads, for N rows (questions x passages) with K beams each; K is 1 before the first step."""

    def reorder(self, parents: torch.Tensor) -> None:
        """Gives each beam the past of its parent, int64 (N, K); from then on there are K beams."""

    def keep(self, rows: torch.Tensor) -> None:
        """Keeps the given rows (int64): those of questions that are not finished."""


class Generator(Protocol):
    """A model in evaluation mode: an encoder and a decoder, or a causal one, whose "states" are token ids."""

    def encode(self, ids: torch.Tensor, mask: torch.Tensor) -> torch.Tensor:
        """States of passages, (N, tokens, width), from token ids and a mask that is 1 for tokens, int64 (N, tokens)."""

    def start(self, states: torch.Tensor, mask: torch.Tensor, longest: int, beams: int = 1) -> DecoderCache:
        """Returns the cache for the first step.

        Args:
            states: result of `encode`, (N, tokens, width).
            mask: 1 for tokens, 0 for padding, (N, tokens).
            longest: most tokens of an answer.
            beams: number of beams to come.
        """

    def step(self, tokens: torch.Tensor, cache: Any) -> torch.Tensor:
        """Logits of the next token, (N, K, vocabulary), after the newest, int64 (N, K); `cache` grows by one."""


class ScoringGenerator(Generator, Protocol):
    """A generator that scores given answers, all of them together."""

    def log_probs_of(self, tokens: torch.Tensor, states: torch.Tensor, mask: torch.Tensor) -> torch.Tensor:
        """Log p of each token after the first of K answers to each of N rows, float32 (N, K, T).

        Args:
            tokens: the answers, the start token first, int64 (N, K, T + 1); what stands behind an answer's end does not
                count for what stands before it.
            states: result of `encode`, (N, tokens, width).
            mask: 1 for tokens, 0 for padding, (N, tokens).
        """


class ReplayingCache(DecoderCache, Protocol):
    """A cache whose rows can be parted, for one beam."""

    def select(self, rows: torch.Tensor, length: int) -> Any:
        """A cache of its own for the given rows, int64, with the first `length` tokens of their answers."""


class ReplayingGenerator(Generator, Protocol):
    """A generator that can read another passage when an answer is begun: greedy decoding that reads lazily needs it."""

    def replay(self, tokens: torch.Tensor, cache: Any) -> torch.Tensor:
        """What `logits` takes, after each of the tokens that answers begin with, in one pass.

        Args:
            tokens: beginnings of answers, the start token first, int64 (N, places).
            cache: as `start` gives it; it is filled.

        Returns:
            (N, places, width). Places behind a row's own end are to be passed over.
        """

    def logits(self, outputs: torch.Tensor) -> torch.Tensor:
        """Logits of the next token, (..., vocabulary), from outputs of the decoder, (..., width)."""

    def join(self, caches: Sequence[Any]) -> Any:
        """One cache for the rows of several, which hold answers of the same length."""

    def probability_error(self, tokens: int) -> float:
        """The share by which two computations of a probability may differ, for passages of so many tokens at most.

        See `rounding`.
        """
