"""RAG-Sequence answers: p(y|x) = sum over z of p(z|x) prod over t of p(y_t|x, z, y_<t) (Lewis et al. 2020, 2.1, 2.5).

Each passage alone gives hypotheses, by the search that RAG-Token's mixture goes through, here with one passage in it.
Thorough decoding then scores all hypotheses of a question under all of its passages, from the states that the search
has read; fast decoding counts a hypothesis as impossible under the passages that did not give it, and scores nothing.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from typing import Any

import numpy as np
import torch

from rag_ops.generation import provenance
from rag_ops.generation.beams import beam_search
from rag_ops.generation.decoding import Batch, Hypothesis
from rag_ops.generation.greedy import greedy
from rag_ops.generation.scoring import Tokens, scored
from rag_ops.generation.settings import GenerationSettings
from rag_ops.generation.special_tokens import SpecialTokens


@dataclasses.dataclass(frozen=True)
class Ranking:
    """How transformers' RagSequenceForGeneration.generate ranks hypotheses: by log p(y|x), but for four rules.

    A padding token counts nothing, wherever it stands. If all hypotheses of a question begin with the token that
    begins texts, that counts nothing either. It adds log p(z|x) to a hypothesis's second token, so that the prior
    counts nothing for a hypothesis of one token, or with padding in the second place. And where the padding token has
    the id 0, as a T5's, beam search fills shorter hypotheses up with end tokens, which then count.

    Attributes:
        begin: id of the token that begins texts; None if there is none.
        pad: id of the padding token; None if there is none.
        filler: id of the token that fills shorter hypotheses up to the question's longest.
    """

    begin: int | None
    pad: int | None
    filler: int

    @classmethod
    def of(cls, config: Any, tokens: SpecialTokens, num_beams: int) -> Ranking:
        """The rules for a model, by its RagConfig, its generator's special tokens, and the number of beams."""
        levels = (config, config.generator)
        begin, inner = (getattr(level, "bos_token_id", None) for level in levels)  # a T5 has no such attribute
        filler = tokens.pad if num_beams == 1 or tokens.pad != 0 else tokens.ends[0]
        return cls(begin or inner, getattr(config.generator, "pad_token_id", None), filler)

    def scores(self, hypotheses: Sequence[Tokens], said: Sequence[np.ndarray], log_prior: np.ndarray) -> np.ndarray:
        """The scores by which hypotheses of one question are ranked, float64 (hypotheses).

        Args:
            hypotheses: token ids of each, without the start token.
            said: for each log p(y_t|x, z, y_<t), also of what fills it up, (D, tokens of the longest).
            log_prior: log p(z|x), (D,).
        """
        begun = self.begin is not None and all(tokens[0] == self.begin for tokens in hypotheses)
        found = np.empty(len(hypotheses))
        for number, (tokens, own) in enumerate(zip(hypotheses, said, strict=True)):
            filled = np.array([*tokens, *[self.filler] * (own.shape[1] - len(tokens))])
            counted = filled != self.pad
            weighed = len(filled) > 1 and counted[1]
            counted[0] &= not begun
            joint = own[:, counted].sum(1) + (log_prior if weighed else np.where(np.isneginf(log_prior), -np.inf, 0.0))
            found[number] = _sum(joint)
        return found


def rag_sequence(batch: Batch, settings: GenerationSettings, fast: bool, ranking: Ranking) -> list[list[Hypothesis]]:
    """Decodes a batch of questions.

    Args:
        batch: the questions with their passages.
        settings: beams for each passage, length penalty and so on, and how many answers to return.
        fast: whether passages that did not give a hypothesis count as 0 for it.
        ranking: transformers' rules, for thorough decoding; fast decoding goes by its p(y|x) alone.

    Returns:
        For each question its best answers, best first. `posterior` is p(z | x, y_1..t), `share` p(z | x, y); log-
        probabilities are those of the mixture of sequences, log p(y_1..t | x) - log p(y_1..t-1 | x). Those of fast
        decoding are lower bounds, and `highest` takes the passages that did not give the answer for sure of it.
    """
    prior = batch.log_prior.double().cpu().numpy()
    searched = _searched(batch, settings)
    given = [_given(own) for own in searched]
    said = [[_spread(by_doc, len(prior[0])) for by_doc in own.values()] for own in given]
    if not fast:
        said = scored(batch, [list(own) for own in given], ranking.filler)
    answers = []
    for own, found, log_prior in zip(given, said, prior, strict=True):
        hypotheses = list(own)
        ranks = np.array([_log_p(one, log_prior)[-1] for one in found])
        if not fast:
            ranks = ranking.scores(hypotheses, found, log_prior)
        order = np.argsort(-ranks, kind="stable")[: settings.n_best]
        found = [one[:, : len(tokens)] for tokens, one in zip(hypotheses, found, strict=True)]
        answers.append([hypothesis_of(hypotheses[n], found[n], log_prior, float(ranks[n]), fast) for n in order])
    return answers


def _searched(batch: Batch, settings: GenerationSettings) -> list[list[list[Hypothesis]]]:
    """What each passage of each question gives alone, best first; nothing for one that only fills up."""
    real = (batch.log_prior != -torch.inf).cpu()
    questions, docs = real.shape
    rows = real.flatten().nonzero()[:, 0]
    sources = None if batch.sources is None else [batch.sources[row // docs] for row in rows.tolist()]
    rows = rows.to(batch.states.device)
    sure = batch.log_prior.new_zeros((len(rows), 1))
    alone = Batch(batch.generator, batch.states[rows], batch.mask[rows], sure, batch.constraints, sources)
    if settings.num_beams == 1:
        found = iter([[one] for one in greedy(alone)])
    else:
        found = iter(beam_search(alone, dataclasses.replace(settings, n_best=settings.num_beams)))
    return [[next(found) if real[question, doc] else [] for doc in range(docs)] for question in range(questions)]


def _given(searched: Sequence[Sequence[Hypothesis]]) -> dict[Tokens, dict[int, np.ndarray]]:
    """The different hypotheses of a question, with log p(y_t|x, z, y_<t) by the passages that gave them."""
    given: dict[Tokens, dict[int, np.ndarray]] = {}
    for doc, found in enumerate(searched):
        for one in found:
            given.setdefault(tuple(one.tokens), {})[doc] = one.log_probs
    return given


def _spread(by_doc: dict[int, np.ndarray], docs: int) -> np.ndarray:
    """Log-probabilities of a hypothesis's tokens under each passage, float64 (D, T); -inf under the others."""
    spread = np.full((docs, len(next(iter(by_doc.values())))), -np.inf)
    for doc, log_probs in by_doc.items():
        spread[doc] = log_probs
    return spread


def _log_p(said: np.ndarray, log_prior: np.ndarray) -> np.ndarray:
    """Log p(y_1..t | x) for t = 1 .. T, float64 (T,)."""
    return _sum(log_prior[:, None] + said.cumsum(1))


def _sum(joint: np.ndarray) -> np.ndarray:
    """The logarithm of the sum over the passages, which come first; NaN if one of them is NaN."""
    with np.errstate(invalid="ignore"):
        return np.logaddexp.reduce(joint, axis=0)


def hypothesis_of(
    tokens: Tokens, said: np.ndarray, log_prior: np.ndarray, score: float | None = None, fast: bool = False
) -> Hypothesis:
    """An answer with its probabilities under the mixture of sequences; see `rag_sequence`.

    Args:
        tokens: its token ids, without the start token.
        said: log p(y_t|x, z, y_<t), float64 (D, T); -inf under a passage that does not count.
        log_prior: log p(z|x), (D,); -inf for a passage that only fills up.
        score: score to compare by; None for log p(y|x).
        fast: whether passages with -inf are possible for all that.
    """
    joint, whole = log_prior[:, None] + said.cumsum(1), _log_p(said, log_prior)
    with np.errstate(invalid="ignore"):  # of a token that no passage allows
        posterior = np.nan_to_num(np.exp(joint - whole), nan=0.0).T.astype(np.float32)
    highest = without = None
    if fast:
        unknown = np.where(np.isneginf(said[:, 0]), log_prior, -np.inf)
        highest = _steps(np.minimum(np.logaddexp(whole, _sum(unknown)), 0.0))
    else:
        without = provenance.without(joint[:, -1][None], log_prior)
    rank, log_probs, share = float(whole[-1]) if score is None else score, _steps(whole), posterior[-1]
    return Hypothesis(list(tokens), rank, log_probs, posterior, highest, without=without, share=share)


def _steps(log_p: np.ndarray) -> np.ndarray:
    """What each token adds to log p(y_1..t | x), float32 (T,)."""
    with np.errstate(invalid="ignore"):
        steps = np.diff(log_p, prepend=0.0)
    return np.where(np.isneginf(log_p), -np.inf, steps).astype(np.float32)
