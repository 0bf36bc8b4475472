"""The answer out of a closed set: the exact marginal of each choice, its end token included, by teacher forcing.

All choices of a question go through the decoder together, as beams do, so its passages are encoded once and read once.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from typing import Any

import numpy as np
import torch

from rag_ops.generation.decoding import Batch, Constraints, Hypothesis
from rag_ops.generation.provenance import log_probs_of
from rag_ops.generation.rag_sequence import hypothesis_of
from rag_ops.questions.gold_answers import UnreadableError

LOGIT_ROWS = 512  # choices under passages whose logits are there at once

Targets = Sequence[Sequence[int]]  # the tokens of each choice of one question, without the start token


@dataclasses.dataclass(frozen=True)
class Chosen:
    """What is found for one question: the choice that is likeliest, and log p(y|x) of each, float64 (choices,)."""

    best: int
    hypothesis: Hypothesis
    scores: np.ndarray

    @property
    def probabilities(self) -> np.ndarray:
        """p(y|x) of each choice over that of all of them together, float64 (choices,)."""
        shares = np.exp(self.scores - self.scores.max())
        return shares / shares.sum()


def targets_of(tokenizer: Any, choices: Sequence[str], constraints: Constraints, before: str = "") -> list[list[int]]:
    """The tokens of choices as decoding would write them: a forced first token, those of the text, and an end token.

    Args:
        tokenizer: tokenizer of the generator.
        choices: texts.
        constraints: constraints of decoding.
        before: what stands before an answer's text.

    Raises:
        UnreadableError: a choice is no text to the tokenizer, longer than an answer may be, or the same as another.
    """
    targets: list[list[int]] = []
    first = [] if constraints.first is None else [constraints.first]
    encoded = tokenizer([before + choice for choice in choices], add_special_tokens=False)["input_ids"]
    for choice, ids in zip(choices, encoded, strict=True):
        length = len(first) + len(ids) + 1
        if not ids:
            raise UnreadableError(f"the tokenizer leaves nothing of {choice}")
        if length > constraints.longest:
            raise UnreadableError(
                f"{choice[:60]} has {length} tokens, more than --max_new_tokens {constraints.longest}"
            )
        forced = constraints.forced(length - 1)
        end = constraints.ends[0] if not forced or constraints.ends[0] in forced else forced[0]
        targets.append([*first, *ids, end])
        if targets[-1] in targets[:-1]:
            raise UnreadableError(f"{choice[:60]} has the tokens of another one")
    return targets


def choose(batch: Batch, targets: Sequence[Targets], by_sequences: bool = False) -> list[Chosen]:
    """The likeliest choice of each question of a batch; of two alike the first.

    Args:
        batch: the questions.
        targets: choices of each, by their tokens.
        by_sequences: whether p(y|x) is RAG-Sequence's, the mixture of what passages say of a choice as a whole.
    """
    found = []
    priors = batch.log_prior.cpu().numpy()
    for own, joints, log_prior in zip(targets, log_marginals(batch, targets), priors, strict=True):
        if by_sequences:
            sure = np.where(np.isneginf(log_prior), 0.0, log_prior)
            given = [
                (tuple(one), joint.T.astype(np.float64) - sure[:, None]) for one, joint in zip(own, joints, strict=True)
            ]
            hypotheses = [hypothesis_of(tokens, said, log_prior) for tokens, said in given]
            scores = np.array([one.score for one in hypotheses])
            best = int(scores.argmax())
            found.append(Chosen(best, hypotheses[best], scores))
            continue
        of_tokens = [log_probs_of(joint) for joint in joints]
        scores = np.array([one.sum(dtype=np.float64) for one in of_tokens])
        best = int(scores.argmax())
        hypothesis = Hypothesis.of(list(own[best]), float(scores[best]), of_tokens[best], joints[best], log_prior)
        found.append(Chosen(best, hypothesis, scores))
    return found


def log_marginals(batch: Batch, targets: Sequence[Targets]) -> list[list[np.ndarray]]:
    """Logarithms of p(z|x) p(y_t | x, z, y_<t) of given tokens: for each question and target, float32 (T, D).

    A target's last token counts for all end tokens if it is one of them, for each of them ends the same answer.

    Args:
        batch: B questions with D passages each.
        targets: for each question, token ids of some answers without the start token.
    """
    questions, docs = batch.log_prior.shape
    at_once = max(1, LOGIT_ROWS // (questions * docs))
    found: list[list[np.ndarray]] = [[] for _ in targets]
    for start in range(0, max(map(len, targets)), at_once):
        rows = [row for row, own in enumerate(targets) if len(own) > start]
        parts = [targets[row][start : start + at_once] for row in rows]
        for row, joints in zip(rows, _forced(_part(batch, rows), parts), strict=True):
            found[row] += joints
    return found


def _part(batch: Batch, rows: Sequence[int]) -> Batch:
    """Some of the questions of a batch, which stays as it is."""
    if len(rows) == len(batch.log_prior):
        return batch
    docs = batch.log_prior.shape[1]
    places = torch.tensor([row * docs + doc for row in rows for doc in range(docs)], device=batch.states.device)
    prior = batch.log_prior[list(rows)]
    return dataclasses.replace(batch, states=batch.states[places], mask=batch.mask[places], log_prior=prior)


def _forced(batch: Batch, targets: Sequence[Targets]) -> list[list[np.ndarray]]:
    """`log_marginals` for targets that are decoded together, each as a beam of its question."""
    (questions, docs), device = batch.log_prior.shape, batch.states.device
    most, longest = max(map(len, targets)), max(len(one) for own in targets for one in own)
    tokens = torch.full((questions, most, longest + 1), batch.constraints.ends[0])
    tokens[:, :, 0] = batch.constraints.start
    is_end = torch.zeros((questions, most, longest), dtype=torch.bool)
    for row, own in enumerate(targets):
        for place, one in enumerate(own):
            tokens[row, place, 1 : len(one) + 1] = torch.tensor(one)
            is_end[row, place, len(one) - 1] = one[-1] in batch.constraints.ends
    tokens, is_end = tokens.to(device), is_end.to(device)
    ends = list(batch.constraints.ends)
    cache = batch.generator.start(batch.states, batch.mask, longest, most)
    joint = batch.log_prior.new_empty((questions, most, longest, docs))
    for place in range(longest):
        newest = tokens[:, : most if place else 1, place].repeat_interleave(docs, 0)
        logits = batch.generator.step(newest, cache).float()  # (questions * docs, most, vocabulary)
        if not place:  # all begin alike, so one beam is computed
            logits = logits.expand(-1, most, -1)
            cache.reorder(torch.zeros((questions * docs, most), dtype=torch.long, device=device))
        wanted = tokens[:, :, place + 1].repeat_interleave(docs, 0)
        of_token = torch.where(
            is_end[:, :, place].repeat_interleave(docs, 0),
            logits[:, :, ends].logsumexp(-1),
            logits.gather(2, wanted[:, :, None])[:, :, 0],
        )
        said = (of_token - logits.logsumexp(-1)).view(questions, docs, most).transpose(1, 2)
        joint[:, :, place] = said + batch.log_prior[:, None]
    found = joint.cpu().numpy()
    return [[found[row, place, : len(one)] for place, one in enumerate(own)] for row, own in enumerate(targets)]
