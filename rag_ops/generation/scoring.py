"""Given answers under each of their passages: log p(y_t|x, z, y_<t), from states that are read already."""

from __future__ import annotations

from collections.abc import Sequence
from typing import cast

import numpy as np
import torch

from rag_ops.generation.decoding import Batch
from rag_ops.generation.generator import ScoringGenerator

SCORED_TOKENS = {"cpu": 8192, "cuda": 65_536}  # tokens of answers, under each passage, that are scored together

Tokens = tuple[int, ...]


def scored(batch: Batch, answers: Sequence[Sequence[Tokens]], filler: int) -> list[list[np.ndarray]]:
    """Scores given answers under each passage of their question.

    Args:
        batch: B questions with D passages each.
        answers: some answers to each question, at least one; token ids without the start token.
        filler: token that stands behind the end of an answer, up to the question's longest.

    Returns:
        For each question and answer log p(y_t|x, z, y_<t), natural, float64 (D, tokens of the question's longest); -inf
        for a passage that only fills up.
    """
    generator, device = cast(ScoringGenerator, batch.generator), batch.states.device
    real, docs = (batch.log_prior != -torch.inf).cpu(), batch.log_prior.shape[1]
    counts, budget = real.sum(1).tolist(), SCORED_TOKENS[device.type]
    found: list[list[np.ndarray]] = [[] for _ in answers]
    for group in _groups(answers, counts, budget):
        most, longest = _size(answers, group)
        tokens = torch.full((len(group), most, longest + 1), filler)
        tokens[:, :, 0] = batch.constraints.start
        for row, question in enumerate(group):
            for place, own in enumerate(answers[question]):
                tokens[row, place, 1 : len(own) + 1] = torch.tensor(own)
        places = [(row, question, doc) for row, question in enumerate(group) for doc in range(docs)]
        places = [(row, question, doc) for row, question, doc in places if real[question, doc]]
        rows = torch.tensor([question * docs + doc for _, question, doc in places], device=device)
        mask = batch.mask[rows]
        width = int((mask > 0).sum(1).max())
        states, mask = batch.states[rows, :width], mask[:, :width]
        asked = tokens[[row for row, _, _ in places]].to(device)
        step = max(1, budget // (len(rows) * longest))
        parts = [generator.log_probs_of(asked[:, n : n + step], states, mask) for n in range(0, most, step)]
        said = torch.cat(parts, 1).double().cpu().numpy()
        for question in group:
            own_longest = max(map(len, answers[question]))
            found[question] = [np.full((docs, own_longest), -np.inf) for _ in answers[question]]
        for log_probs, (_, question, doc) in zip(said, places, strict=True):
            for number, by_doc in enumerate(found[question]):
                by_doc[doc] = log_probs[number, : by_doc.shape[1]]
    return found


def _groups(answers: Sequence[Sequence[Tokens]], counts: Sequence[int], budget: int) -> list[list[int]]:
    """Questions that are scored together: with answers of like number and length, and within the budget of tokens.

    Args:
        answers: those of each question.
        counts: number of passages of each question.
        budget: most tokens of a group, padding included; a question may exceed it alone.
    """
    groups: list[list[int]] = []
    for question in sorted(range(len(answers)), key=lambda question: _size(answers, [question])):
        joined = [*groups[-1], question] if groups else []
        most, longest = _size(answers, joined or [question])
        if joined and sum(counts[one] for one in joined) * most * longest <= budget:
            groups[-1] = joined
        else:
            groups.append([question])
    return groups


def _size(answers: Sequence[Sequence[Tokens]], questions: Sequence[int]) -> tuple[int, int]:
    """Most answers of one of some questions, and tokens of the longest."""
    most = max(len(answers[question]) for question in questions)
    return most, max(len(tokens) for question in questions for tokens in answers[question])
