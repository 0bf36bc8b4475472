"""The peak bytes of the tensors that some code makes, on any device: "meta" too, where a large model costs nothing."""

from __future__ import annotations

import weakref
from typing import Any

import torch
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves


class PeakBytes(TorchDispatchMode):
    """Counts the storages that operations inside the block return, until nothing holds them any more.

    Attributes:
        now: bytes of those that are alive; those that were there before the block don't count.
        peak: most bytes at once.
    """

    def __init__(self, *known: torch.Tensor) -> None:
        super().__init__()
        self.now = self.peak = 0
        self._seen = {self._key(tensor) for tensor in known}

    @staticmethod
    def _key(tensor: torch.Tensor) -> int:
        return tensor.untyped_storage()._cdata

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        found = func(*args, **(kwargs or {}))
        for tensor in tree_leaves(found):
            if isinstance(tensor, torch.Tensor) and self._key(tensor) not in self._seen:
                self._count(tensor)
        return found

    def _count(self, tensor: torch.Tensor) -> None:
        key, storage = self._key(tensor), tensor.untyped_storage()
        size = storage.nbytes()
        self._seen.add(key)
        self.now += size
        self.peak = max(self.peak, self.now)

        def gone() -> None:
            self._seen.discard(key)
            self.now -= size

        weakref.finalize(storage, gone)
