"""Beam search for RAG-Token: the mixture over a question's passages scores the beams, which share its passages.

The rules are those of transformers' vectorised beam search (5.x): twice as many candidates as beams (more for several
end tokens), finished sequences compared by score over length to the power of the length penalty, and its heuristic for
when to stop.
"""

from __future__ import annotations

import dataclasses

import torch

from rag_ops.generation.decoding import Batch, Constraints, Hypothesis, Mixture, going_on
from rag_ops.generation.settings import GenerationSettings

NEVER = -1.0e9  # the score of what is not to be chosen; finite, as transformers has it, so that ties resolve alike


@dataclasses.dataclass
class _Sequences:
    """Sequences of B questions, K or more each, best first.

    Attributes:
        tokens: int64 (B, K, longest + 1), the start token first.
        scores: scores to compare by, float32 (B, K).
        log_probs: log-probability of each token, float32 (B, K, longest).
        joints: what each passage says of each token, as `Mixture.joint` gives it, float32 (B, K, longest, D).
        lengths: tokens without the start token, int64 (B, K).
        done: whether the sequence is finished, bool (B, K).
    """

    tokens: torch.Tensor
    scores: torch.Tensor
    log_probs: torch.Tensor
    joints: torch.Tensor
    lengths: torch.Tensor
    done: torch.Tensor

    @classmethod
    def started(cls, log_prior: torch.Tensor, beams: int, constraints: Constraints) -> _Sequences:
        """Sequences of the start token alone, with the score 0."""
        (questions, docs), device = log_prior.shape, log_prior.device
        tokens = torch.full((questions, beams, constraints.longest + 1), constraints.ends[0], device=device)
        tokens[:, :, 0] = constraints.start
        zeros = torch.zeros((questions, beams), device=device)
        log_probs = zeros.new_zeros((questions, beams, constraints.longest))
        joints = zeros.new_zeros((questions, beams, constraints.longest, docs))
        return cls(tokens, zeros, log_probs, joints, zeros.long(), zeros.bool())

    def best(self, scores: torch.Tensor, count: int) -> tuple[_Sequences, torch.Tensor]:
        """The `count` best by `scores`, with these scores, and where they stood, int64 (B, count)."""
        found, places = scores.topk(count)
        return dataclasses.replace(self.pick(places), scores=found), places

    def pick(self, places: torch.Tensor) -> _Sequences:
        """Sequences by place, int64 (B, any number)."""
        rows = torch.arange(len(places), device=places.device)[:, None]
        return _Sequences(*(getattr(self, field.name)[rows, places] for field in dataclasses.fields(self)))

    def rows(self, kept: torch.Tensor) -> _Sequences:
        """The sequences of some questions."""
        return _Sequences(*(getattr(self, field.name)[kept] for field in dataclasses.fields(self)))

    def beside(self, others: _Sequences) -> _Sequences:
        """These sequences and others of the same questions, joined."""
        pairs = ((getattr(self, field.name), getattr(others, field.name)) for field in dataclasses.fields(self))
        return _Sequences(*(torch.cat(pair, 1) for pair in pairs))

    def found(self, row: int, count: int, length_penalty: float, log_prior: torch.Tensor) -> list[Hypothesis]:
        """The `count` best of one question; fewer if the constraints left fewer: the rest are twins of these."""
        answers = []
        for beam in range(count):
            length = int(self.lengths[row, beam])
            if beam and (not self.done[row, beam] or self.scores[row, beam] * length**length_penalty <= NEVER / 2):
                break
            log_probs, joint = self.log_probs[row, beam, :length], self.joints[row, beam, :length]
            tokens, score = self.tokens[row, beam, 1 : length + 1].tolist(), float(self.scores[row, beam])
            found = (log_probs.cpu().numpy(), joint.cpu().numpy(), log_prior.cpu().numpy())
            answers.append(Hypothesis.of(tokens, score, *found))
        return answers


def beam_search(batch: Batch, settings: GenerationSettings) -> list[list[Hypothesis]]:
    """Decodes a batch of B questions with K beams each; a question that cannot improve any more leaves the batch.

    Args:
        batch: the questions.
        settings: beams (K), length penalty, whether a question is finished as soon as K of its sequences are, and how
            many sequences to return.

    Returns:
        For each question its best sequences, best first.
    """
    questions, docs = batch.log_prior.shape
    constraints, beams, length_penalty = batch.constraints, settings.num_beams, settings.length_penalty
    cache = batch.start(beams)
    running = _Sequences.started(batch.log_prior, beams, constraints)
    running.scores[:, 1:] = NEVER  # all beams begin alike: only the first is continued, and only it is computed
    finished = _Sequences.started(batch.log_prior, beams, constraints)
    finished.scores[:] = NEVER
    active = torch.arange(questions, device=batch.states.device)
    results: list[list[Hypothesis]] = [[] for _ in range(questions)]
    for place in range(constraints.longest):
        mixture = batch.step(running.tokens[:, : beams if place else 1, place], cache)
        candidates, parents = _continue(batch, running, mixture, place)
        ends = constraints.ended(candidates.tokens, place) | (place + 1 == constraints.longest)
        running, chosen = candidates.best(candidates.scores + ends * NEVER, beams)
        finished = _finish(finished, candidates, ends, place + 1, settings)
        hopeful = running.scores[:, 0] / (place + 1) ** length_penalty
        worst = torch.where(finished.done.all(1), finished.scores.amin(1), NEVER)
        going = (hopeful > worst) & ~(settings.early_stopping & finished.done.all(1))
        going &= torch.tensor(place + 1 < constraints.longest, device=going.device)
        for row in (~going).nonzero()[:, 0].tolist():
            results[int(active[row])] = finished.found(row, settings.n_best, length_penalty, batch.log_prior[row])
        kept = going_on(going)
        if not len(kept):
            break
        cache.reorder(parents.gather(1, chosen).repeat_interleave(docs, 0))
        if len(kept) < len(active):
            active, running, finished = active[kept], running.rows(kept), finished.rows(kept)
            batch.keep(kept, cache)
    return results


def _continue(batch: Batch, running: _Sequences, mixture: Mixture, place: int) -> tuple[_Sequences, torch.Tensor]:
    """The best continuations of the running beams, and the computed beam that each continues, int64 (B, candidates).

    There are K for each end token and K more, so that K go on whichever of them end.
    """
    beams, vocabulary = running.scores.shape[1], mixture.log_probs.shape[2]
    count = (1 + len(batch.constraints.ends)) * beams

    def best() -> tuple[torch.Tensor, torch.Tensor, torch.Tensor, torch.Tensor]:
        allowed = batch.allowed(mixture, running.tokens, place)
        scores, places = (allowed + running.scores[:, :, None]).flatten(1).topk(count)
        parents = places // vocabulary if allowed.shape[1] > 1 else torch.zeros_like(places)
        own = mixture.log_probs.flatten(1).gather(1, parents * vocabulary + places % vocabulary)
        return scores, places, parents, own

    scores, places, parents, own = best()
    if mixture.settle(own.masked_fill(scores == -torch.inf, 0.0)):
        scores, places, parents, own = best()
    tokens = places % vocabulary
    candidates = dataclasses.replace(running.pick(places // vocabulary), scores=scores)
    candidates.tokens[:, :, place + 1] = tokens
    candidates.lengths += 1
    candidates.log_probs[:, :, place] = own
    candidates.joints[:, :, place] = mixture.joint(parents, tokens)
    return candidates, parents


def _finish(
    finished: _Sequences, candidates: _Sequences, ends: torch.Tensor, length: int, settings: GenerationSettings
) -> _Sequences:
    """The K best finished sequences, those that just ended among them; only the K best candidates may end."""
    beams = finished.scores.shape[1]
    ended = ends.clone()
    ended[:, beams:] = False
    full = finished.done.all(1, keepdim=True) & settings.early_stopping
    scores = candidates.scores / length**settings.length_penalty + full * NEVER + ~ended * NEVER
    merged = finished.beside(dataclasses.replace(candidates, scores=scores, done=ended))
    return merged.best(merged.scores, beams)[0]
