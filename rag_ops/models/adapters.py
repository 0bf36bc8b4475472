"""Low-rank adapters of a causal generator, in PEFT's own layout: written, checked, and merged without PEFT.

A matrix W of the generator becomes W + alpha / rank * B A (Hu et al. 2021, "LoRA", section 4.1).
"""

from __future__ import annotations

import dataclasses
import json
import os
import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file, save_file
from transformers.pytorch_utils import Conv1D

from rag_ops.errors import InputError
from rag_ops.models.checkpoints import ADAPTER_FILES
from rag_ops.models.loading import loading

PREFIX = "base_model.model."  # of PEFT, before the names that modules have in the generator
SIDES = ("lora_A", "lora_B")
# Keys of adapter_config.json that change nothing where plain matrices are merged. Others are kinds of adapters.
NO_MATTER = (
    *("auto_mapping", "base_model_name_or_path", "fan_in_fan_out", "inference_mode", "lora_dropout", "megatron_core"),
    *("peft_version", "qalora_group_size", "revision", "task_type"),
)
KNOWN = ("peft_type", "r", "lora_alpha", "target_modules", "bias", "init_lora_weights")
FOREIGN = "an adapter that ragbeam finetune wrote beside this very generator"


def write(config: Mapping[str, Any], weights: Mapping[str, torch.Tensor], directory: str) -> None:
    """Writes an adapter; the same one has the same bytes.

    Args:
        config: PEFT's LoraConfig as a dictionary.
        weights: its weights, by the names that PEFT gives them in files.
        directory: local directory, which is made.
    """
    modules = sorted({name.removeprefix(PREFIX).rsplit(".lora_", 1)[0] for name in weights})
    # PEFT keeps the modules as a set, and where the base came from, which is a path of this machine
    config = {**config, "target_modules": modules, "base_model_name_or_path": None, "inference_mode": True}
    os.makedirs(directory, exist_ok=True)
    Path(directory, ADAPTER_FILES[0]).write_text(json.dumps(config, indent=2, sort_keys=True) + "\n")
    held = {name: tensor.detach().cpu().contiguous() for name, tensor in sorted(weights.items())}
    save_file(held, os.path.join(directory, ADAPTER_FILES[1]), {"format": "pt"})


def copy(adapter: str, directory: str) -> None:
    """Copies the files of an adapter from one local directory to another, which is made."""
    os.makedirs(directory, exist_ok=True)
    for name in ADAPTER_FILES:
        shutil.copyfile(os.path.join(adapter, name), os.path.join(directory, name))


@dataclasses.dataclass(frozen=True)
class Adapter:
    """An adapter of a generator.

    Attributes:
        rank: rank of its matrices.
        alpha: what they are multiplied by, times the rank.
        matrices: A, (rank, columns), and B, (rows, rank), of each of the generator's modules that it changes.
    """

    rank: int
    alpha: float
    matrices: Mapping[str, tuple[torch.Tensor, torch.Tensor]]

    @property
    def weights(self) -> dict[str, torch.Tensor]:
        """The matrices by the names that PEFT gives them in files."""
        pairs = {name: zip(SIDES, pair, strict=True) for name, pair in self.matrices.items()}
        return {f"{PREFIX}{name}.{side}.weight": one for name, pair in pairs.items() for side, one in pair}


def read(directory: str, generator: torch.nn.Module) -> Adapter:
    """The adapter in a local directory, checked against the generator that it is for.

    Raises:
        InputError: a file cannot be read, or the adapter is of another kind or does not fit the generator.
    """
    with loading("the adapter", directory):
        config = json.loads(Path(directory, ADAPTER_FILES[0]).read_text(encoding="utf-8"))
        weights = load_file(os.path.join(directory, ADAPTER_FILES[1]))
        _check_kind(config, directory)
        rank, modules = config["r"], _modules(generator, config["target_modules"])
        wanted = {f"{PREFIX}{name}.{side}.weight" for name in modules for side in SIDES}
        if not modules:
            raise InputError("the adapter names no matrix of the generator", value=directory, expected=FOREIGN)
        if odd := sorted(wanted ^ weights.keys()):
            what = "lacks a weight" if odd[0] in wanted else "has a weight of no matrix that it names"
            raise InputError(f"the adapter {what}: {odd[0]}", value=directory, expected=FOREIGN)
        matrices = {}
        for name, module in modules.items():
            low, high = (weights[f"{PREFIX}{name}.{side}.weight"].float() for side in SIDES)
            rows, columns = module.weight.shape[::-1] if isinstance(module, Conv1D) else module.weight.shape
            if low.shape != (rank, columns) or high.shape != (rows, rank):
                raise InputError(
                    f"the adapter does not fit the generator: {name}",
                    value=f"{[*high.shape]} by {[*low.shape]}, in {directory}",
                    expected=f"{[rows, rank]} by {[rank, columns]}",
                    remedy="put the adapter beside the generator that it was trained with",
                )
            matrices[name] = low, high
        return Adapter(rank, float(config["lora_alpha"]), matrices)


def merge(generator: torch.nn.Module, adapter: Adapter) -> None:
    """Adds an adapter to the weights of a generator, in place, in float32 whatever their dtype is."""
    modules = dict(generator.named_modules())
    for name, (low, high) in adapter.matrices.items():
        module: Any = modules[name]
        change = adapter.alpha / adapter.rank * (high @ low)
        weight: torch.Tensor = module.weight.data
        change = (change.T if isinstance(module, Conv1D) else change).to(weight.device)
        weight.copy_((weight.float() + change).to(weight.dtype))


def _check_kind(config: Any, directory: str) -> None:
    """Refuses adapters that are more than products of two matrices.

    Raises:
        InputError: it is one.
    """
    others = [key for key, value in config.items() if value and key not in (*KNOWN, *NO_MATTER)]
    plain = {
        "peft_type": config.get("peft_type") == "LORA",
        "bias": config.get("bias", "none") == "none",
        "init_lora_weights": config.get("init_lora_weights", True) in (True, False, "gaussian"),
        "target_modules": isinstance(config.get("target_modules"), list),
        "r": isinstance(config.get("r"), int) and config["r"] > 0,
    }
    if others or not all(plain.values()):
        key = others[0] if others else next(key for key, is_plain in plain.items() if not is_plain)
        raise InputError(
            f"the adapter is of a kind that is not known here: {key} {config.get(key)!r}"[:200],
            value=directory,
            expected=FOREIGN,
            remedy="merge it with PEFT's merge_and_unload, and compose a model of the result",
        )


def _modules(generator: torch.nn.Module, targets: list[str]) -> dict[str, Any]:
    """The modules of a generator that some names mean, as PEFT takes them: whole, or from a dot on."""
    whole = set(targets)

    def meant(name: str) -> bool:
        parts = name.split(".")
        return any(".".join(parts[start:]) in whole for start in range(len(parts)))

    matrices = (torch.nn.Linear, Conv1D)
    return {name: module for name, module in generator.named_modules() if isinstance(module, matrices) and meant(name)}
