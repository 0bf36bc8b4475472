"""Beam search for RAG-Token: the mixture over a question's passages scores the beams, which share its passages.

The rules are those of transformers' vectorised beam search (5.x): twice as many candidates as beams, finished sequences
compared by log-probability over length to the power of the length penalty, and its heuristic for when to stop.
"""

from __future__ import annotations

import dataclasses

import torch

from rag_ops.bart import BartDecoder
from rag_ops.greedy import Decoded, Limits, forbid

NEVER = -1.0e9  # the score of what is not to be chosen; finite, as transformers has it, so that ties resolve alike


@dataclasses.dataclass
class _Sequences:
    """Sequences of B questions, K or more each, best first.

    Attributes:
        tokens: int64 (B, K, longest + 1), the start token first.
        scores: what they are compared by, float32 (B, K).
        marginals: marginal log-probability, float32 (B, K).
        posteriors: sum over the tokens of the posterior over passages, float32 (B, K, D).
        lengths: tokens without the start token, int64 (B, K).
        done: whether the sequence is finished, bool (B, K).
    """

    tokens: torch.Tensor
    scores: torch.Tensor
    marginals: torch.Tensor
    posteriors: torch.Tensor
    lengths: torch.Tensor
    done: torch.Tensor

    def best(self, scores: torch.Tensor, count: int) -> tuple[_Sequences, torch.Tensor]:
        """The `count` best by `scores`, with these scores, and where they stood, int64 (B, count)."""
        found, places = scores.topk(count)
        return dataclasses.replace(self.pick(places), scores=found), places

    def pick(self, places: torch.Tensor) -> _Sequences:
        """Sequences by place, int64 (B, any number)."""
        rows = torch.arange(len(places), device=places.device)[:, None]
        return _Sequences(*(getattr(self, field.name)[rows, places] for field in dataclasses.fields(self)))

    def rows(self, kept: torch.Tensor) -> _Sequences:
        """Those of some questions."""
        return _Sequences(*(getattr(self, field.name)[kept] for field in dataclasses.fields(self)))

    def beside(self, others: _Sequences) -> _Sequences:
        """These and others of the same questions."""
        pairs = ((getattr(self, field.name), getattr(others, field.name)) for field in dataclasses.fields(self))
        return _Sequences(*(torch.cat(pair, 1) for pair in pairs))


def beam_search(
    decoder: BartDecoder,
    states: torch.Tensor,
    mask: torch.Tensor,
    doc_scores: torch.Tensor,
    limits: Limits,
    *,
    beams: int,
    length_penalty: float = 1.0,
    early_stopping: bool = False,
) -> Decoded:
    """Decodes a batch of questions with K beams each; a question that cannot improve any more leaves the batch.

    Args:
        decoder: of the generator.
        states: encoded contexts, (B * D, tokens, width), a question's passages together.
        mask: 1 for tokens, (B * D, tokens).
        doc_scores: (B, D); -inf for a passage that only fills up.
        limits: tokens and lengths.
        beams: K.
        length_penalty: power of the length by which a finished sequence's score is divided.
        early_stopping: whether a question is finished as soon as K of its sequences are.

    Returns:
        The best sequence of each question.
    """
    questions, docs = doc_scores.shape
    memory = decoder.start(states, mask, limits.longest, beams)
    prior = doc_scores.float().log_softmax(-1)
    running = _start(questions, docs, beams, limits, states.device)
    running.scores[:, 1:] = NEVER  # all beams begin alike: only the first may be continued
    finished = _start(questions, docs, beams, limits, states.device)
    finished.scores[:] = NEVER
    active = torch.arange(questions, device=states.device)
    results: list[tuple[list[int], float, torch.Tensor] | None] = [None] * questions
    for place in range(limits.longest):
        newest = running.tokens[:, :, place].repeat_interleave(docs, 0)
        logits = decoder.step(newest, memory).float().view(len(active), docs, beams, -1)
        given = logits - logits.logsumexp(-1, keepdim=True) + prior[active][:, :, None, None]
        mixture = given.logsumexp(1)
        candidates, parents = _continue(running, given, mixture, forbid(mixture, running.tokens, place, limits), place)
        ends = (candidates.tokens[:, :, place + 1] == limits.end) | (place + 1 == limits.longest)
        running, chosen = candidates.best(candidates.scores + ends * NEVER, beams)
        finished = _finish(finished, candidates, ends, place + 1, length_penalty, early_stopping)
        hopeful = running.scores[:, 0] / (place + 1) ** length_penalty
        worst = torch.where(finished.done.all(1), finished.scores.amin(1), NEVER)
        going = (hopeful > worst) & ~(early_stopping & finished.done.all(1))
        # Transformers asks each of the finished ones, done or not: one that is not done can always be improved on.
        going &= torch.tensor(place + 1 < limits.longest, device=going.device)
        for row in (~going).nonzero()[:, 0].tolist():
            count = int(finished.lengths[row, 0])
            tokens = finished.tokens[row, 0, 1 : count + 1].tolist()
            results[int(active[row])] = (
                tokens,
                float(finished.marginals[row, 0]),
                finished.posteriors[row, 0] / max(count, 1),
            )
        kept = going.nonzero()[:, 0]
        if not len(kept):
            break
        memory.reorder(parents.gather(1, chosen).repeat_interleave(docs, 0))
        if len(kept) < len(active):
            active, running, finished = active[kept], running.rows(kept), finished.rows(kept)
            memory.keep((kept[:, None] * docs + torch.arange(docs, device=kept.device)).flatten())
    whole = [result for result in results if result is not None]
    scores = torch.tensor([score for _, score, _ in whole])
    return Decoded([tokens for tokens, _, _ in whole], scores, torch.stack([part for *_, part in whole]).cpu())


def _start(questions: int, docs: int, beams: int, limits: Limits, device: torch.device) -> _Sequences:
    tokens = torch.full((questions, beams, limits.longest + 1), limits.end, device=device)
    tokens[:, :, 0] = limits.start
    zeros = torch.zeros((questions, beams), device=device)
    posteriors = torch.zeros((questions, beams, docs), device=device)
    return _Sequences(tokens, zeros.clone(), zeros.clone(), posteriors, zeros.long(), zeros.bool())


def _continue(
    running: _Sequences, given: torch.Tensor, mixture: torch.Tensor, allowed: torch.Tensor, place: int
) -> tuple[_Sequences, torch.Tensor]:
    """The 2K best continuations of the running beams, and the beam that each continues, int64 (B, 2K)."""
    beams, vocabulary = mixture.shape[1:]
    scores, places = (allowed + running.scores[:, :, None]).flatten(1).topk(2 * beams)
    parents, tokens = places // vocabulary, places % vocabulary
    candidates = dataclasses.replace(running.pick(parents), scores=scores)
    candidates.tokens[:, :, place + 1] = tokens
    candidates.lengths += 1
    rows = torch.arange(len(parents), device=parents.device)[:, None]
    chosen = mixture[rows, parents, tokens]
    candidates.marginals += chosen
    joint = given.permute(0, 2, 3, 1)[rows, parents, tokens]  # (B, 2K, D)
    candidates.posteriors += (joint - chosen[:, :, None]).exp()
    return candidates, parents


def _finish(
    finished: _Sequences, candidates: _Sequences, ends: torch.Tensor, length: int, penalty: float, early_stopping: bool
) -> _Sequences:
    """The K best finished sequences, those that just ended among them; only the K best candidates may end."""
    beams = finished.scores.shape[1]
    ended = ends.clone()
    ended[:, beams:] = False
    full = finished.done.all(1, keepdim=True) & early_stopping
    scores = candidates.scores / length**penalty + full * NEVER + ~ended * NEVER
    merged = finished.beside(dataclasses.replace(candidates, scores=scores, done=ended))
    return merged.best(merged.scores, beams)[0]
