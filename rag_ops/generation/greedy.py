"""Greedy RAG-Token decoding: at each step the likeliest token under the mixture of a question's passages."""

from __future__ import annotations

import torch

from rag_ops.generation.decoding import Batch, Hypothesis, Mixture, going_on


def greedy(batch: Batch) -> list[Hypothesis]:
    """Decodes a batch of questions; one that is finished leaves it."""
    (questions, docs), longest = batch.log_prior.shape, batch.constraints.longest
    cache = batch.start()
    tokens = torch.full((questions, 1, longest + 1), batch.constraints.ends[0], device=batch.states.device)
    tokens[:, :, 0] = batch.constraints.start
    log_probs = batch.log_prior.new_zeros((questions, longest))
    joints, log_prior = batch.log_prior.new_zeros((questions, longest, docs)), batch.log_prior.cpu().numpy()
    counts = [longest] * questions
    active = torch.arange(questions, device=tokens.device)
    for place in range(longest):
        mixture = batch.step(tokens[active, :, place], cache)
        chosen, own = _likeliest(batch, mixture, tokens[active], place)
        tokens[active, :, place + 1] = chosen
        log_probs[active, place] = own[:, 0]
        joints[active, place] = mixture.joint(torch.zeros_like(chosen), chosen)[:, 0]
        ended = batch.constraints.ended(tokens[active], place)[:, 0]
        going = going_on(~ended)
        if len(going) < len(active):
            for question in active[ended].tolist():
                counts[question] = place + 1
            if not len(going):
                break
            active = active[going]
            batch.keep(going, cache)
    found = (log_probs.cpu().numpy(), joints.cpu().numpy(), log_prior)
    rows = zip(tokens[:, 0, 1:].tolist(), *found, counts, strict=True)
    return [
        Hypothesis.of(ids[:count], float(own[:count].sum()), own[:count], joint[:count], prior)
        for ids, own, joint, prior, count in rows
    ]


def _likeliest(batch: Batch, mixture: Mixture, tokens: torch.Tensor, place: int) -> tuple[torch.Tensor, torch.Tensor]:
    """The likeliest token of each question that the constraints allow, int64 (B, 1), and its log-probability."""

    def likeliest() -> tuple[torch.Tensor, torch.Tensor]:
        chosen = batch.allowed(mixture, tokens, place).argmax(-1)
        return chosen, mixture.log_probs.gather(2, chosen[:, :, None])[:, :, 0]

    chosen, own = likeliest()
    return likeliest() if mixture.settle(own) else (chosen, own)
