"""Keys and values of passages in files, for the next block and the next job of the same model.

A file is the SHA-256 of its name and of what follows, and that is the tensors as safetensors. So a file that is
damaged, cut short or under the name of another one counts as absent: what it should hold is computed again.

A directory holds no more than a limit, and goes down to `KEPT` of it at once: whole files go, first those unused for
longest (on an object store, which notes no uses, the oldest), and nothing that has another kind of name. Any number of
jobs may share a directory. A file appears by a rename, and is read at once; one that another job removes meanwhile is
read to its end or counts as absent. Each job looks at the directory again once it has written `LOOK` of the limit, so
n jobs at once exceed it by no more than n such shares.
"""

from __future__ import annotations

import contextlib
import hashlib
import logging
import os
import re
from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from safetensors import SafetensorError
from safetensors.torch import load, save

from rag_ops.errors import JobError
from rag_ops.redaction import public_url
from rag_ops.sizes import size
from rag_ops.storage import locks, store

States = list[tuple[torch.Tensor, torch.Tensor]]  # of each layer keys and values, (heads, tokens, width)
KEPT, LOOK = 7 / 8, 1 / 8  # shares of the limit
TIMES = ("LastModified", "last_modified", "updated", "mtime", "created")  # what stores call it in a listing
PREFIX = "passage-"
NAME = re.compile(rf"{PREFIX}[0-9a-f]{{40}}\.states")
logger = logging.getLogger("ragbeam")


class PassageFiles:
    """A directory with a file for each passage prefix of a model.

    Args:
        url: directory or fsspec URL.
        identity: what decides the numbers beside the token ids, such as the model's digest, dtype and threads.
        device: "cpu" or "cuda", where they are read to.
        most_bytes: bytes that the directory may hold.
    """

    def __init__(self, url: str, identity: str, device: str, most_bytes: int):
        self._url, self._identity, self._device, self._most_bytes = url, identity, device, most_bytes
        self._unseen: int | None = None  # bytes written since the directory was last looked at; None before that
        self._held = 0  # bytes that it held then
        self._is_full = False  # and nothing could be removed

    def read(self, ids: Sequence[int], tokens: int) -> States | None:
        """The keys and values of the last `tokens` of some token ids; None if there is no whole file of them.

        Raises:
            JobError: the directory cannot be listed.
        """
        if self._unseen is None:
            self._clear_up()
        name = self._name(ids)
        url = store.join(self._url, name)
        try:
            with store.open_read(url) as file:
                data = file.read()
        except OSError:  # it cannot be read, or another job has removed it
            return None
        if store.is_local(url):
            with contextlib.suppress(OSError):  # of somebody else's
                os.utime(store.filesystem(url)[1])  # used now
        if data[:32] != _digest(name, data[32:]):
            return None
        try:
            tensors = load(data[32:])
            states = [
                (tensors[f"{layer}.keys"].to(self._device), tensors[f"{layer}.values"].to(self._device))
                for layer in range(len(tensors) // 2)
            ]
        except (SafetensorError, KeyError, ValueError):  # of another version
            return None
        parts = [part for pair in states for part in pair]
        fits = all(part.dim() == 3 and part.shape[1] == tokens and part.is_floating_point() for part in parts)
        return states if states and fits else None

    def write(self, ids: Sequence[int], states: States) -> None:
        """Writes a file, whole, and removes others if the directory holds too much; a file over the limit is left out.

        Raises:
            JobError: the disk is full, or writing is not permitted.
        """
        tensors = {f"{layer}.keys": pair[0].contiguous() for layer, pair in enumerate(states)}
        tensors |= {f"{layer}.values": pair[1].contiguous() for layer, pair in enumerate(states)}
        name, data = self._name(ids), save({key: tensor.cpu() for key, tensor in tensors.items()})
        if self._unseen is None:
            self._clear_up()
        if self._is_full or len(data) + 32 > self._most_bytes * KEPT:
            return
        with store.atomic_write(self._url, name) as file:
            file.write(_digest(name, data))
            file.write(data)
        self._unseen = (self._unseen or 0) + file.bytes_written
        if self._unseen > self._most_bytes * LOOK or self._held + self._unseen > self._most_bytes:
            self._tidy()

    def _clear_up(self) -> None:
        """Looks at the directory for the first time; removes what killed jobs have left half written."""
        if store.is_local(self._url):
            locks.remove_stale(store.join(store.filesystem(self._url)[1], store.INCOMPLETE, PREFIX))
        self._tidy()

    def _tidy(self) -> None:
        """Removes files, those unused for longest first, if there is more than the limit.

        Raises:
            JobError: the directory cannot be listed.
        """
        found = self._listed()
        self._held, self._unseen = sum(length for _, _, length in found), 0
        if self._held <= self._most_bytes:
            return
        for _, name, length in sorted(found):
            if self._held <= self._most_bytes * KEPT:
                return
            try:
                store.remove(store.join(self._url, name))
            except OSError:  # another user's, or open on Windows
                continue
            self._held -= length
        if self._held > self._most_bytes:
            self._is_full = True
            held, url = size(self._held), public_url(self._url)
            logger.warning("--passage_cache %s holds %s that cannot be removed, and gets no more", url, held)

    def _listed(self) -> list[tuple[Any, str, int]]:
        """When each file was used last, or written, its name and its bytes; of any order."""
        found: list[tuple[Any, str, int]] = []
        fs, path = store.filesystem(self._url)
        try:
            if store.is_local(self._url):
                with os.scandir(path) as entries:
                    for entry in entries:
                        if NAME.fullmatch(entry.name) and entry.is_file(follow_symlinks=False):
                            with contextlib.suppress(FileNotFoundError):  # another job has removed it
                                state = entry.stat(follow_symlinks=False)
                                found.append((state.st_mtime_ns, entry.name, state.st_size))
                return found
            fs.invalidate_cache(path)
            for entry in fs.ls(path, detail=True):
                name = entry["name"].rstrip("/").rsplit("/", 1)[-1]
                if entry["type"] == "file" and NAME.fullmatch(name):
                    time = next((entry[key] for key in TIMES if key in entry), 0)
                    found.append((time, name, int(entry["size"] or 0)))
        except FileNotFoundError:
            return []
        except OSError as error:
            raise JobError(
                f"cannot list --passage_cache {self._url}: {error.strerror or error}", remedy="check its permissions"
            ) from error
        return found

    def _name(self, ids: Sequence[int]) -> str:
        digest = hashlib.sha256(self._identity.encode() + b"\0" + np.array(ids, "<i8").tobytes())
        return f"{PREFIX}{digest.hexdigest()[:40]}.states"


def _digest(name: str, data: bytes) -> bytes:
    """What a file of a name begins with, 32 bytes."""
    digest = hashlib.sha256(name.encode())
    digest.update(data)
    return digest.digest()
