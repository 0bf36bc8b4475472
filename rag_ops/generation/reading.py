"""Contexts as the decoder reads them: token ids of passages to the encoder's states."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from typing import Any

import torch
from torch.nn.utils.rnn import pad_sequence

from rag_ops.compute.batching import token_batches
from rag_ops.generation.generator import Generator
from rag_ops.generation.prompts import Prompt

SHARED = 2  # in a mask: a token that counts, and stands before the question of a causal prompt
ENCODER_TOKENS = {"cpu": 1024, "cuda": 65_536}  # tokens of one encoder batch: on a CPU, what its caches hold


@dataclasses.dataclass(frozen=True)
class States:
    """The encoder's states of B questions' passages, D of each; a question with fewer is filled up.

    Attributes:
        states: (B, D, tokens, width); padding is 0.
        mask: 1 for tokens, or `SHARED`, int64 (B, D, tokens).
    """

    states: torch.Tensor
    mask: torch.Tensor

    def first(self, docs: int) -> States:
        """The states of the first passages of each question, no longer than the longest of these."""
        longest = int((self.mask[:, :docs] > 0).sum(-1).max())
        return States(self.states[:, :docs, :longest], self.mask[:, :docs, :longest])


def pad_rows(rows: Sequence[Sequence[int]], pad_id: int, device: str) -> tuple[torch.Tensor, torch.Tensor]:
    """Token ids of contexts and their mask, int64 (N, tokens): 1 for tokens, or `SHARED` for those of a `Prompt`."""
    tensors = [torch.tensor(row) for row in rows]
    ids = pad_sequence(tensors, True, pad_id)
    mask = pad_sequence([torch.ones_like(row) for row in tensors], True)
    for number, row in enumerate(rows):
        if isinstance(row, Prompt):
            mask[number, : row.shared] = SHARED
    return ids.to(device), mask.to(device)


def encode(generator: Generator, ids: torch.Tensor, mask: torch.Tensor) -> torch.Tensor:
    """The encoder's states of padded contexts, (N, tokens) to (N, tokens, width), each computed at its own length.

    Contexts go through the encoder shortest first, in batches that are padded to their longest; the rest of a row is 0,
    which the mask hides.
    """
    lengths = (mask > 0).sum(1)
    states: Any = None
    for batch in token_batches(lengths.tolist(), ENCODER_TOKENS[ids.device.type]):
        rows = torch.from_numpy(batch).to(ids.device)
        longest = int(lengths[rows].max())
        part = generator.encode(ids[rows, :longest], mask[rows, :longest])
        if states is None:
            states = part.new_zeros((*ids.shape, part.shape[-1]))
        states[rows, :longest] = part
    return states
