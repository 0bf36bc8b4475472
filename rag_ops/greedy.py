"""Greedy RAG-Token decoding: at each step the likeliest token under the mixture of a question's passages."""

from __future__ import annotations

import dataclasses

import torch

from rag_ops.bart import BartDecoder


@dataclasses.dataclass(frozen=True)
class Decoded:
    """What decoding finds for B questions with D passages each.

    Attributes:
        tokens: for each question its tokens, the end token included where it came.
        scores: marginal log-probability of the tokens, float32 (B,).
        posterior: mean over the tokens of p(z | x, y_1..t), float32 (B, D).
    """

    tokens: list[list[int]]
    scores: torch.Tensor
    posterior: torch.Tensor


@dataclasses.dataclass(frozen=True)
class Limits:
    """What a decoder must know of tokens and lengths.

    Attributes:
        start, end: ids of the decoder's start token and of the end token.
        longest: most new tokens.
        shortest: fewest tokens of a sequence, the start token counted, before the end token may come.
        no_repeat: n-grams of this many tokens come once; 0 for no rule.
    """

    start: int
    end: int
    longest: int
    shortest: int
    no_repeat: int


def greedy(
    decoder: BartDecoder, states: torch.Tensor, mask: torch.Tensor, doc_scores: torch.Tensor, limits: Limits
) -> Decoded:
    """Decodes a batch of questions.

    p(y_t | x, y_<t) = sum over z of p(z|x) p(y_t | x, z, y_<t), and p(z|x) is the softmax of the passages' scores
    (Lewis et al. 2020, section 2.1). A question that is finished leaves the batch.

    Args:
        decoder: of the generator.
        states: encoded contexts, (B * D, tokens, width), a question's passages together.
        mask: 1 for tokens, (B * D, tokens).
        doc_scores: (B, D); -inf for a passage that only fills up.
        limits: tokens and lengths.
    """
    questions, docs = doc_scores.shape
    memory = decoder.start(states, mask, limits.longest)
    prior = doc_scores.float().log_softmax(-1)
    scores, posterior = torch.zeros_like(prior[:, 0]), torch.zeros_like(prior)
    found: list[list[int]] = [[] for _ in range(questions)]
    active = torch.arange(questions, device=states.device)
    newest = torch.full((questions,), limits.start, device=states.device)
    for place in range(limits.longest):
        logits = decoder.step(newest.repeat_interleave(docs)[:, None], memory).float().view(len(active), docs, -1)
        given = logits - logits.logsumexp(-1, keepdim=True) + prior[active, :, None]
        mixture = given.logsumexp(1)
        so_far = torch.tensor([[limits.start, *found[question]] for question in active.tolist()])
        allowed = forbid(mixture[:, None], so_far[:, None], place, limits)[:, 0]
        newest = allowed.argmax(-1)
        chosen = mixture.gather(1, newest[:, None])
        scores[active] += chosen[:, 0]
        posterior[active] += (given.gather(2, newest[:, None, None].expand(-1, docs, 1))[:, :, 0] - chosen).exp()
        for question, token in zip(active.tolist(), newest.tolist(), strict=True):
            found[question].append(token)
        going = (newest != limits.end).nonzero()[:, 0]
        if not len(going):
            break
        if len(going) < len(active):
            active, newest = active[going], newest[going]
            memory.keep((going[:, None] * docs + torch.arange(docs, device=going.device)).flatten())
    counts = torch.tensor([max(len(tokens), 1) for tokens in found], device=states.device)
    return Decoded(found, scores.cpu(), (posterior / counts[:, None]).cpu())


def forbid(scores: torch.Tensor, tokens: torch.Tensor, place: int, limits: Limits) -> torch.Tensor:
    """Scores of next tokens with -inf where a rule forbids the token.

    Args:
        scores: (B, K, vocabulary).
        tokens: sequences so far, the start token first, int64 (B, K, at least place + 1).
        place: how many tokens after the start token there are.
        limits: the end token may not come before `shortest` tokens; n-grams of `no_repeat` tokens come once.
    """
    if place + 1 < limits.shortest:
        scores = scores.clone()
        scores[:, :, limits.end] = float("-inf")
    size = limits.no_repeat
    if size and place + 2 > size:
        scores = scores.clone()
        for row, beams in enumerate(tokens[:, :, : place + 1].tolist()):
            for beam, sequence in enumerate(beams):
                ending = sequence[len(sequence) - size + 1 :]
                starts = range(len(sequence) - size + 1)
                banned = [sequence[n + size - 1] for n in starts if sequence[n : n + size - 1] == ending]
                scores[row, beam, banned] = float("-inf")
    return scores
