"""Keys and values of passages in files, for the next block and the next job of the same model."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence

import numpy as np
import torch
from safetensors import SafetensorError
from safetensors.torch import load, save

from rag_ops.storage import store

States = list[tuple[torch.Tensor, torch.Tensor]]  # of each layer keys and values, (heads, tokens, width)


class PassageFiles:
    """A directory with a file for each passage prefix of a model.

    Args:
        url: directory or fsspec URL.
        identity: what decides the numbers beside the token ids: digest of the model, dtype, device and threads.
        device: "cpu" or "cuda", where they are read to.
    """

    def __init__(self, url: str, identity: str, device: str):
        self._url, self._identity, self._device = url, identity, device

    def read(self, ids: Sequence[int], tokens: int) -> States | None:
        """The keys and values of the last so many of some token ids; None if there is no whole file of them."""
        url = store.join(self._url, self._name(ids))
        if not store.exists(url):
            return None
        try:
            with store.open_read(url) as file:
                tensors = load(file.read())
            states = [
                (tensors[f"{layer}.keys"].to(self._device), tensors[f"{layer}.values"].to(self._device))
                for layer in range(len(tensors) // 2)
            ]
        except (FileNotFoundError, SafetensorError, KeyError, ValueError):  # gone, or cut short: computed again
            return None
        parts = [part for pair in states for part in pair]
        fits = all(part.dim() == 3 and part.shape[1] == tokens and part.is_floating_point() for part in parts)
        return states if states and fits else None

    def write(self, ids: Sequence[int], states: States) -> None:
        """Writes a file, whole."""
        tensors = {f"{layer}.keys": pair[0].contiguous() for layer, pair in enumerate(states)}
        tensors |= {f"{layer}.values": pair[1].contiguous() for layer, pair in enumerate(states)}
        with store.atomic_write(self._url, self._name(ids)) as file:
            file.write(save({name: tensor.cpu() for name, tensor in tensors.items()}))

    def _name(self, ids: Sequence[int]) -> str:
        digest = hashlib.sha256(self._identity.encode() + b"\0" + np.array(ids, "<i8").tobytes())
        return f"passage-{digest.hexdigest()[:40]}.safetensors"
