"""Checks that a model's weight files hold what its configuration asks for.

transformers draws weights that a file lacks at random, says so in a log alone, and goes on; and it makes whatever a
configuration asks for before it looks into the files. Here both end with one line.
"""

from __future__ import annotations

import dataclasses
import os
import re
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import torch

from rag_ops.errors import InputError
from rag_ops.models.checkpoints import WHOLE
from rag_ops.sizes import size

# Given to `from_pretrained`, which then also returns what it did not find.
REPORTED: dict[str, Any] = {"output_loading_info": True, "ignore_mismatched_sizes": True}
# Weights that checkpoints leave out and we never use, or that a model computes itself: DPR's pooled vector is no pooler
# of these names, and a generator without `final_logits_bias` has zeros.
POOLER = re.compile(r"(^|\.)pooler\.")
COMPUTED = re.compile(r"(^|\.)(position_ids|final_logits_bias)$")
NUMBER = re.compile(r"(?<=\.)\d+(?=\.)")
# No file has less than half a byte for a number; and what a few megabytes lack is found when they are loaded.
MAX_PER_BYTE, SMALL = 2, 1 << 20


def check_whole(what: str, directory: str, model: torch.nn.Module, report: Mapping[str, Any]) -> None:
    """Checks that a model's files had each of its weights, in its shape, and no further layers.

    What transformers ties or leaves out on purpose is not missed. A missing pooler, which nothing here uses, becomes
    zeros: what is saved of the model is then the same bytes each time. Other tensors than layers may be in the files:
    heads of a training, say.

    Args:
        what: the part that is loaded, such as "the encoder".
        directory: directory that it is loaded from.
        model: the model, with what its files have.
        report: `missing_keys`, `unexpected_keys` and `mismatched_keys` of `from_pretrained`.

    Raises:
        InputError: its files lack a weight, have one of another shape, or more layers.
    """
    state = model.state_dict(keep_vars=True)
    missing = {*report["missing_keys"]}
    if lacking := [name for name in _random(model, state, missing) if not POOLER.search(name)]:
        raise InputError(
            f"{what} lacks weights",
            value=_some(lacking, directory),
            expected="all that its config.json asks for",
            remedy=WHOLE,
        )
    shapes = {name: (tuple(found), tuple(wanted)) for name, found, wanted in report["mismatched_keys"]}
    if wrong := sorted(shapes):
        found, wanted = shapes[wrong[0]]
        raise InputError(
            f"{what} has weights of another shape {found}",
            value=_some(wrong, directory),
            expected=f"{wanted}, as its config.json asks for",
            remedy=WHOLE,
        )
    prefix = getattr(model, "base_model_prefix", "") + "."
    known = {NUMBER.sub("#", name.removeprefix(prefix)) for name in state}
    unknown = sorted(report["unexpected_keys"])
    if more := [name for name in unknown if NUMBER.sub("#", name.removeprefix(prefix)) in known]:
        raise InputError(
            f"{what} has more layers than its config.json asks for", value=_some(more, directory), remedy=WHOLE
        )
    with torch.no_grad():
        for name in missing & {*state}:
            if POOLER.search(name):
                state[name].zero_()


@dataclasses.dataclass(frozen=True)
class Numbers:
    """How many numbers a model has: in its parameters, and in its buffers."""

    of_parameters: int
    of_buffers: int

    @classmethod
    def of(cls, model: torch.nn.Module) -> Numbers:
        """Those of a model as its configuration asks for it, on torch's device "meta" say, where it takes no memory."""
        return cls(*(sum(tensor.numel() for tensor in found) for found in (model.parameters(), model.buffers())))


def check_size(what: str, directory: str, numbers: Numbers, dtype: torch.dtype) -> None:
    """Checks that a model is no larger than its weight files can fill, nor than the machine's memory.

    Args:
        what: see `check_whole`.
        directory: directory of the weight files.
        numbers: how many its configuration asks for.
        dtype: dtype that it is to be loaded in.

    Raises:
        InputError: it is.
    """
    held = _held_bytes(directory)
    needed = dtype.itemsize * (numbers.of_parameters + numbers.of_buffers)
    if held and numbers.of_parameters > MAX_PER_BYTE * held + SMALL:
        raise InputError(
            f"{what} lacks weights: its config.json asks for {size(needed)}",
            value=directory,
            expected=f"what its weight files of {size(held)} hold",
            remedy=WHOLE,
        )
    memory = memory_bytes()
    if memory and needed > memory:
        raise InputError(
            f"{what} asks for more memory than there is: {size(needed)}",
            value=directory,
            expected=f"at most {size(memory)}, this machine's",
            remedy="use a larger machine, or a smaller model",
        )


def memory_bytes() -> int | None:
    """Memory of this machine, or of the container; None if unknown."""
    found = []
    try:
        found.append(os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE"))
        limit = Path("/sys/fs/cgroup/memory.max").read_text().strip()
        found += [int(limit)] if limit.isdigit() else []
    except (OSError, ValueError):
        pass
    return min(found) if found else None


def _random(model: torch.nn.Module, state: Mapping[str, torch.Tensor], missing: set[str]) -> Iterator[str]:
    """The names of missing weights, in the model's order, but those that are tied to one that is there or computed."""
    filled = {id(tensor) for name, tensor in state.items() if name not in missing}
    ignored = [
        re.compile(pattern)
        for module in model.modules()
        for pattern in getattr(module, "_keys_to_ignore_on_load_missing", None) or ()
    ]
    for name, tensor in state.items():
        computed = COMPUTED.search(name) or any(pattern.search(name) for pattern in ignored)
        if name in missing and id(tensor) not in filled and not computed:
            yield name


def _some(names: list[str], directory: str) -> str:
    """The first of some names, how many there are, and where."""
    return f"{names[0]} ({len(names)} in all, in {directory})"


def _held_bytes(directory: str) -> int:
    """Bytes of the weight files of a local directory, as transformers chooses them."""
    names = os.listdir(directory)
    for wanted in (re.compile(r"model.*\.safetensors$"), re.compile(r"pytorch_model.*\.bin$")):
        if found := [name for name in names if wanted.match(name)]:
            return sum(os.path.getsize(os.path.join(directory, name)) for name in found)
    return 0
