"""Greedy RAG-Token decoding: at each step the likeliest token under the mixture of a question's passages."""

from __future__ import annotations

from collections.abc import Sequence

import torch

from rag_ops.generation.decoding import Constraints, Hypothesis, Mixture
from rag_ops.generation.extractive import Source, select
from rag_ops.generation.seq2seq import Generator


def greedy(
    generator: Generator,
    states: torch.Tensor,
    mask: torch.Tensor,
    log_prior: torch.Tensor,
    constraints: Constraints,
    sources: Sequence[Source] | None = None,
) -> list[Hypothesis]:
    """Decodes a batch of B questions with D passages each; a question that is finished leaves the batch.

    Args:
        generator: generator that made the states.
        states: encoded contexts, (B * D, tokens, width), a question's passages together.
        mask: 1 for tokens, (B * D, tokens).
        log_prior: log p(z|x), float32 (B, D); -inf for a passage that only fills up.
        constraints: constraints on tokens and lengths.
        sources: texts that each question's answer must stand in; None for any answer.
    """
    questions, docs = log_prior.shape
    cache = generator.start(states, mask, constraints.longest)
    tokens = torch.full((questions, 1, constraints.longest + 1), constraints.ends[0], device=states.device)
    tokens[:, :, 0] = constraints.start
    log_probs = log_prior.new_zeros((questions, constraints.longest))
    posteriors = log_prior.new_zeros((questions, constraints.longest, docs))
    counts = [constraints.longest] * questions
    active = torch.arange(questions, device=states.device)
    for place in range(constraints.longest):
        newest = tokens[active, :, place].repeat_interleave(docs, 0)
        mixture = Mixture(generator.step(newest, cache), log_prior[active])
        chosen, own = _likeliest(mixture, constraints, tokens[active], place, select(sources, active))
        tokens[active, :, place + 1] = chosen
        log_probs[active, place] = own[:, 0]
        posteriors[active, place] = mixture.posterior(torch.zeros_like(chosen), chosen)[:, 0]
        ended = constraints.are_ends(chosen[:, 0])
        going = (~ended).nonzero()[:, 0]
        if len(going) < len(active):
            for question in active[ended].tolist():
                counts[question] = place + 1
            if not len(going):
                break
            active = active[going]
            cache.keep((going[:, None] * docs + torch.arange(docs, device=going.device)).flatten())
    rows = zip(tokens[:, 0, 1:].tolist(), log_probs.cpu().numpy(), posteriors.cpu().numpy(), counts, strict=True)
    return [
        Hypothesis(ids[:count], float(own[:count].sum()), own[:count], posterior[:count])
        for ids, own, posterior, count in rows
    ]


def _likeliest(
    mixture: Mixture, constraints: Constraints, tokens: torch.Tensor, place: int, sources: Sequence[Source] | None
) -> tuple[torch.Tensor, torch.Tensor]:
    """The likeliest token of each question that the constraints allow, int64 (B, 1), and its log-probability."""
    chosen = constraints.apply(mixture.log_probs, tokens, place, sources).argmax(-1)
    own = mixture.log_probs.gather(2, chosen[:, :, None])[:, :, 0]
    if mixture.settle(own):
        chosen = constraints.apply(mixture.log_probs, tokens, place, sources).argmax(-1)
        own = mixture.log_probs.gather(2, chosen[:, :, None])[:, :, 0]
    return chosen, own
