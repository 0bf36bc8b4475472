"""What both searches share: the mixture over passages, the rules for next tokens, and what is found.

p(y_t | x, y_<t) = sum over z of p(z|x) p(y_t | x, z, y_<t), where p(z|x) is the softmax of the passages' scores (Lewis
et al. 2020, section 2.1).
"""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence

import numpy as np
import torch

from rag_ops.extractive import Source

TINY = torch.finfo(torch.float32).tiny  # a token less likely than this counts as this likely: its logarithm is finite


@dataclasses.dataclass(frozen=True)
class Found:
    """One answer.

    Attributes:
        tokens: without the start token, the end token included where it came.
        score: what answers are compared by; of a beam its log-probability over its length to a power.
        log_probs: of each token under the mixture, float32 (T,), natural logarithm; their sum is log p(y|x).
        posterior: p(z | x, y_1..t) for each token, float32 (T, D); a row sums to 1.
    """

    tokens: list[int]
    score: float
    log_probs: np.ndarray
    posterior: np.ndarray


@dataclasses.dataclass(frozen=True)
class Rules:
    """What a search must know of tokens and lengths.

    Attributes:
        start, end: ids of the decoder's start token and of the end token.
        longest: most new tokens.
        shortest: fewest tokens of a sequence, the start token counted, before the end token may come.
        no_repeat: n-grams of this many tokens come once; 0 for no rule.
        forbidden: sequences of token ids that may not come.
    """

    start: int
    end: int
    longest: int
    shortest: int = 0
    no_repeat: int = 0
    forbidden: tuple[tuple[int, ...], ...] = ()

    def apply(
        self, log_probs: torch.Tensor, tokens: torch.Tensor, place: int, sources: Sequence[Source] | None = None
    ) -> torch.Tensor:
        """Log-probabilities of next tokens with -inf where a rule forbids the token; as transformers' processors do.

        Args:
            log_probs: (B, K, vocabulary); not changed.
            tokens: sequences so far, the start token first, int64 (B, K, at least place + 1).
            place: how many tokens after the start token there are.
            sources: of each question, what its answer is to stand in. Where the rules leave no token, the end token
                comes.
        """
        allowed = self._ruled(log_probs, tokens, place)
        if sources is None:
            return allowed
        standing = torch.full_like(allowed, -torch.inf)
        for row, beams in enumerate(tokens[:, : allowed.shape[1], 1 : place + 1].tolist()):
            for beam, sequence in enumerate(beams):
                following, may_end = sources[row].next_tokens(sequence)
                ids = [*following, self.end] if may_end else [*following]
                standing[row, beam, ids] = allowed[row, beam, ids]
        stuck = standing.amax(-1) == -torch.inf
        standing[stuck, self.end] = log_probs[stuck, self.end]
        return standing

    def _ruled(self, log_probs: torch.Tensor, tokens: torch.Tensor, place: int) -> torch.Tensor:
        """What `apply` says of lengths, repetitions and forbidden words."""
        early = place + 1 < self.shortest
        singles = [sequence[0] for sequence in self.forbidden if len(sequence) == 1]
        longer = [sequence for sequence in self.forbidden if len(sequence) > 1]
        repeats = self.no_repeat and place + 2 > self.no_repeat
        if not (early or singles or longer or repeats):
            return log_probs
        log_probs = log_probs.clone()
        log_probs[:, :, [*singles, *([self.end] if early else [])]] = -torch.inf
        if longer or repeats:
            for row, beams in enumerate(tokens[:, : log_probs.shape[1], : place + 1].tolist()):
                for beam, sequence in enumerate(beams):
                    banned = [words[-1] for words in longer if tuple(sequence[1 - len(words) :]) == words[:-1]]
                    if repeats:
                        banned += _repeating(sequence, self.no_repeat)
                    log_probs[row, beam, banned] = -torch.inf
        return log_probs


def _repeating(sequence: list[int], size: int) -> list[int]:
    """The tokens that would end an n-gram for the second time."""
    ending = sequence[len(sequence) - size + 1 :]
    starts = range(len(sequence) - size + 1)
    return [sequence[n + size - 1] for n in starts if sequence[n : n + size - 1] == ending]


class Mixture:
    """Next tokens of B questions under the mixture of their D passages, for K beams each.

    Args:
        logits: (B * D, K, vocabulary), a question's passages together; changed in place.
        prior: p(z|x), float32 (B, D).

    Attributes:
        log_probs: log p(y_t | x, y_<t), float32 (B, K, vocabulary).
    """

    def __init__(self, logits: torch.Tensor, prior: torch.Tensor):
        questions, docs = prior.shape
        given = logits.float().view(questions, docs, *logits.shape[1:])
        given = given.sub_(given.amax(-1, keepdim=True)).exp_()  # p(y_t | x, z, y_<t) but for a factor
        self._weights = prior[:, :, None] / given.sum(-1)
        self._given = given
        self._probs = given[:, 0] * self._weights[:, 0, :, None]
        for doc in range(1, docs):
            self._probs.addcmul_(given[:, doc], self._weights[:, doc, :, None])
        self.log_probs = self._probs.clamp_min_(TINY).log()

    def posterior(self, beams: torch.Tensor, tokens: torch.Tensor) -> torch.Tensor:
        """p(z | x, y_1..t) for chosen next tokens: int64 beams and tokens, (B, M), to float32 (B, M, D)."""
        rows = torch.arange(len(beams), device=beams.device)[:, None]
        joint = self._given.permute(0, 2, 3, 1)[rows, beams, tokens] * self._weights.transpose(1, 2)[rows, beams]
        return joint / joint.sum(-1, keepdim=True).clamp_min(TINY)
