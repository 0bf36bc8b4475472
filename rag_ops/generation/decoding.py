"""What both searches share: the batch that they decode, the mixture over passages, constraints and hypotheses.

p(y_t | x, y_<t) = sum over z of p(z|x) p(y_t | x, z, y_<t), where p(z|x) is the softmax of the passages' scores (Lewis
et al. 2020, section 2.1).
"""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence

import numpy as np
import torch

from rag_ops.generation import provenance
from rag_ops.generation.extractive import Source
from rag_ops.generation.generator import DecoderCache, Generator
from rag_ops.generation.stops import Stops

TINY = torch.finfo(torch.float32).tiny  # a token less likely than this counts as this likely, unless it is looked at
SURE = -69.0  # log-probabilities below this are computed anew, as sums of logarithms, once a search would use them


@dataclasses.dataclass(frozen=True)
class Hypothesis:
    """One answer that a search found.

    Attributes:
        tokens: token ids, without the start token.
        score: score to compare answers by; for a beam, its log-probability over its length to a power.
        log_probs: log-probability of each token under the mixture, float32 (T,), natural; their sum is log p(y|x).
        posterior: p(z | x, y_1..t) for each token, float32 (T, D); a row sums to 1.
        highest: upper bounds of `log_probs`, which are then lower ones, float32 (T,); None if those are exact.
        read: which passages were read, bool (D,), so that the posterior is among them; None if all were.
        without: for each passage the score of the same tokens without it, float32 (D,); None if it is not known, or
            there is but one passage.
        share: p(z | x, y) of the answer as a whole, float32 (D,); None if it is to be the mean of `posterior`.
    """

    tokens: list[int]
    score: float
    log_probs: np.ndarray
    posterior: np.ndarray
    highest: np.ndarray | None = None
    read: np.ndarray | None = None
    without: np.ndarray | None = None
    share: np.ndarray | None = None

    @classmethod
    def of(
        cls, tokens: list[int], score: float, log_probs: np.ndarray, joint: np.ndarray, log_prior: np.ndarray
    ) -> Hypothesis:
        """A hypothesis by what each passage says of its tokens; all of them were read.

        Args:
            tokens, score, log_probs: as above.
            joint: log p(z|x) p(y_t | x, z, y_<t), float32 (T, D); see `Mixture.joint`.
            log_prior: log p(z|x), float32 (D,); -inf for a passage that only fills up.
        """
        posterior = provenance.posterior_of(joint)
        return cls(tokens, score, log_probs, posterior, without=provenance.without(joint, log_prior))


@dataclasses.dataclass(frozen=True)
class Constraints:
    """The tokens and lengths that a search must respect.

    Attributes:
        start: id of the decoder's start token.
        ends: ids of the end tokens.
        longest: most new tokens.
        shortest: fewest tokens of a sequence, the start token counted, before an end token may come.
        no_repeat: n-grams of this many tokens come once; 0 for no rule.
        forbidden: sequences of token ids that may not come; an end token alone is not one of them.
        first: the token that every answer has to begin with; None if there is none.
        last: tokens of which one has to end an answer of `longest` tokens; may be empty.
        stops: texts that end an answer too; None if there are none.
    """

    start: int
    ends: tuple[int, ...]
    longest: int
    shortest: int = 0
    no_repeat: int = 0
    forbidden: tuple[tuple[int, ...], ...] = ()
    first: int | None = None
    last: tuple[int, ...] = ()
    stops: Stops | None = None

    def forced(self, place: int) -> tuple[int, ...]:
        """The tokens of which one has to come at a place, whatever the other constraints say; empty if none has to."""
        if self.last and place + 1 == self.longest:
            return self.last
        return (self.first,) if place == 0 and self.first is not None else ()

    def are_ends(self, tokens: torch.Tensor) -> torch.Tensor:
        """Which of some tokens end an answer; bool, of the same shape."""
        ended = tokens == self.ends[0]
        for end in self.ends[1:]:
            ended |= tokens == end
        return ended

    def ended(self, tokens: torch.Tensor, place: int) -> torch.Tensor:
        """Which sequences are finished with their newest token; bool (B, K).

        Args:
            tokens: sequences, the start token first, int64 (B, K, at least place + 2).
            place: number of tokens between the start token and the newest.
        """
        ended = self.are_ends(tokens[:, :, place + 1])
        if self.stops is not None:
            for row, beams in enumerate(tokens[:, :, 1 : place + 2].tolist()):
                for beam, sequence in enumerate(beams):
                    ended[row, beam] |= self.stops.finished(sequence)
        return ended

    def apply(
        self, log_probs: torch.Tensor, tokens: torch.Tensor, place: int, sources: Sequence[Source] | None = None
    ) -> torch.Tensor:
        """Returns the scores of next tokens, as transformers' processors give them.

        A score is the token's log-probability, -inf if a constraint forbids the token, and 0 for a forced token.

        Args:
            log_probs: (B, K, vocabulary); not changed.
            tokens: sequences so far, the start token first, int64 (B, K, at least place + 1).
            place: number of tokens after the start token.
            sources: texts that each question's answer must stand in; if no token is left, the end token comes.
        """
        if forced := self.forced(place):
            scores = torch.full_like(log_probs, -torch.inf)
            scores[:, :, list(forced)] = 0.0
            return scores
        allowed = self._ruled(log_probs, tokens, place)
        if sources is None:
            return allowed
        standing = torch.full_like(allowed, -torch.inf)
        begins = 1 if self.first is None else 2  # a forced first token is no part of the text
        for row, beams in enumerate(tokens[:, : allowed.shape[1], begins : place + 1].tolist()):
            for beam, sequence in enumerate(beams):
                following, may_end = sources[row].next_tokens(sequence)
                ids = [*following, *self.ends] if may_end else [*following]
                standing[row, beam, ids] = allowed[row, beam, ids]
        stuck = standing.amax(-1) == -torch.inf
        for end in self.ends:  # a mask and a number as one index: torch 2.8 takes the number for the second dimension
            standing[..., end] = torch.where(stuck, log_probs[..., end], standing[..., end])
        return standing

    def _ruled(self, log_probs: torch.Tensor, tokens: torch.Tensor, place: int) -> torch.Tensor:
        """Applies the constraints on lengths, repetitions and forbidden words."""
        early = place + 1 < self.shortest
        singles = [sequence[0] for sequence in self.forbidden if len(sequence) == 1 and sequence[0] not in self.ends]
        longer = [sequence for sequence in self.forbidden if len(sequence) > 1]
        repeats = self.no_repeat and place + 2 > self.no_repeat
        if not (early or singles or longer or repeats):
            return log_probs
        log_probs = log_probs.clone()
        log_probs[:, :, [*singles, *(self.ends if early else ())]] = -torch.inf
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


def going_on(going: torch.Tensor) -> torch.Tensor:
    """The rows that go on, int64, those among the first in their place, the others in the gaps: a cache moves few.

    Args:
        going: which do, bool.

    >>> going_on(torch.tensor([True, False, True, True])).tolist()
    [0, 3, 2]
    """
    rows = going.nonzero()[:, 0]
    kept = torch.arange(len(rows), device=rows.device)
    kept[~going[: len(rows)]] = rows[rows >= len(rows)]
    return kept


class Mixture:
    """Next tokens of B questions under the mixture of their D passages, for K beams each.

    Probabilities are summed, because that takes one exponential a token where a sum of logarithms takes two and a
    logarithm. Those below exp(`SURE`) may be nothing in float32: where a search comes to use one, `settle` computes it
    as transformers computes all of them.

    Args:
        logits: (B * D, K, vocabulary), a question's passages together.
        log_prior: log p(z|x), float32 (B, D); -inf for a passage that only fills up.

    Attributes:
        log_probs: log p(y_t | x, y_<t), float32 (B, K, vocabulary); below `SURE` no more than that until settled.
    """

    def __init__(self, logits: torch.Tensor, log_prior: torch.Tensor):
        questions, docs = log_prior.shape
        self._logits = logits.float().view(questions, docs, *logits.shape[1:])
        self._most = self._logits.amax(-1, keepdim=True)
        prior = log_prior.exp()
        given, totals = torch.empty_like(self._logits[:, 0]), []
        probs: torch.Tensor | None = None
        for doc in range(docs):
            # p(y_t | x, z, y_<t) but for a factor, in one buffer for all passages, which stays in the cache
            torch.sub(self._logits[:, doc], self._most[:, doc], out=given).exp_()
            totals.append(given.sum(-1, keepdim=True))
            weight = prior[:, doc, None, None] / totals[-1]
            probs = given * weight if probs is None else probs.addcmul_(given, weight)
        assert probs is not None
        # log p(z|x) less the logarithm of what makes the passage's probabilities sum to 1
        self._shift = log_prior[:, :, None, None] - self._most - torch.stack(totals, 1).log()
        self.log_probs = probs.clamp_min_(TINY).log_()

    def settle(self, used: torch.Tensor) -> bool:
        """Computes log-probabilities exactly for those questions where a search would use an unsure one.

        Args:
            used: log-probabilities that it would use, float32 (B, any number); what it would not, anything over `SURE`.

        Returns:
            Whether any has changed.
        """
        unsure = (used < SURE).any(1).nonzero()[:, 0]
        if not len(unsure):
            return False
        self.log_probs[unsure] = torch.logsumexp(self._logits[unsure] + self._shift[unsure], 1)
        return True

    def posterior(self, beams: torch.Tensor, tokens: torch.Tensor) -> torch.Tensor:
        """p(z | x, y_1..t) for chosen next tokens: int64 beams and tokens, (B, M), to float32 (B, M, D)."""
        shares = self.joint(beams, tokens).softmax(-1)
        return shares.nan_to_num_(0.0)  # for a token whose logits are -inf for all passages

    def joint(self, beams: torch.Tensor, tokens: torch.Tensor) -> torch.Tensor:
        """Logarithms of p(z|x) p(y_t | x, z, y_<t) for chosen next tokens; shapes as in `posterior`."""
        rows = torch.arange(len(beams), device=beams.device)[:, None]
        return self._logits.permute(0, 2, 3, 1)[rows, beams, tokens] + self._shift[..., 0].transpose(1, 2)[rows, beams]


@dataclasses.dataclass
class Batch:
    """B questions with D passages each, as a search sees them: those that are finished leave.

    Attributes:
        generator: generator that made the states.
        states: encoded contexts, (B * D, tokens, width), a question's passages together.
        mask: 1 for tokens, (B * D, tokens).
        log_prior: log p(z|x), float32 (B, D); -inf for a passage that only fills up.
        constraints: constraints on tokens and lengths.
        sources: texts that each question's answer must stand in; None for any answer.
    """

    generator: Generator
    states: torch.Tensor
    mask: torch.Tensor
    log_prior: torch.Tensor
    constraints: Constraints
    sources: Sequence[Source] | None = None

    def start(self, beams: int = 1) -> DecoderCache:
        """Returns the cache for the first step of a search with so many beams."""
        return self.generator.start(self.states, self.mask, self.constraints.longest, beams)

    def step(self, newest: torch.Tensor, cache: DecoderCache) -> Mixture:
        """The next tokens after the newest, int64 (B, K)."""
        return Mixture(self.generator.step(newest.repeat_interleave(self.log_prior.shape[1], 0), cache), self.log_prior)

    def allowed(self, mixture: Mixture, tokens: torch.Tensor, place: int) -> torch.Tensor:
        """The scores of next tokens; see `Constraints.apply`."""
        return self.constraints.apply(mixture.log_probs, tokens, place, self.sources)

    def keep(self, rows: torch.Tensor, cache: DecoderCache) -> None:
        """Keeps the given questions, int64; the others leave the batch and its cache."""
        self.log_prior = self.log_prior[rows]
        if self.sources is not None:
            self.sources = [self.sources[row] for row in rows.tolist()]
        docs = self.log_prior.shape[1]
        cache.keep((rows[:, None] * docs + torch.arange(docs, device=rows.device)).flatten())
