"""The Dense modules of an encoder as torch modules, in float32: read from their folders, or kept in a RAG model.

In a RAG model they are part of the question encoder, under `HEAD`, so they are saved, trained and identified with it.
"""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from typing import Any

import safetensors.torch
import torch

from rag_ops.errors import InputError
from rag_ops.models.dense_layers import DenseLayer
from rag_ops.models.sentence_encoders import dense_folders

HEAD = "sentence_dense"  # the name of the modules in an encoder; torch's names of weights begin with it
WEIGHTS = ("model.safetensors", "pytorch_model.bin")


def made(layers: Sequence[DenseLayer]) -> torch.nn.Sequential:
    """The modules, with weights that are still to be filled: a linear layer and an activation for each."""
    parts: list[torch.nn.Module] = []
    for layer in layers:
        parts.append(torch.nn.Linear(layer.in_features, layer.out_features, bias=layer.bias))
        parts.append(getattr(torch.nn, layer.activation)())
    return torch.nn.Sequential(*parts)


def read(directory: str, layers: Sequence[DenseLayer]) -> torch.nn.Sequential:
    """The modules of a sentence-transformers directory.

    Raises:
        InputError: a module has no file of weights, or one that does not go with its settings.
    """
    tensors: dict[str, torch.Tensor] = {}
    for place, folder in enumerate(dense_folders(directory)):
        state = _weights(os.path.join(directory, folder))
        tensors |= {f"{2 * place}.{name.removeprefix('linear.')}": tensor for name, tensor in state.items()}
    return filled(layers, tensors, directory)


def filled(layers: Sequence[DenseLayer], tensors: Mapping[str, torch.Tensor], directory: str) -> torch.nn.Sequential:
    """The modules with weights, which take no more memory than `tensors` do.

    Args:
        layers: settings of the modules.
        tensors: their weights by torch's names in `made`.
        directory: where they are from, for the error line.

    Raises:
        InputError: a weight is missing, of another shape, or one too many.
    """
    with torch.device("meta"):
        head = made(layers)
    wanted = {name: tuple(tensor.shape) for name, tensor in head.state_dict().items()}
    found = {name: tuple(tensor.shape) for name, tensor in tensors.items()}
    if wanted != found:
        wrong = next(name for name in {**wanted, **found} if wanted.get(name) != found.get(name))
        raise InputError(
            "the encoder's Dense modules have other weights than their config.json asks for",
            value=f"{directory} ({wrong}: {found.get(wrong, 'missing')})",
            expected=str(wanted.get(wrong, "no such weight")),
            remedy="get the model again",
        )
    head.load_state_dict({name: tensor.float() for name, tensor in tensors.items()}, assign=True)
    parts: list[Any] = [*head.modules(), *head.parameters()]
    for one in parts:
        one._is_hf_initialized = True  # or transformers would draw them anew in a model that they become part of
    return head


def attach(encoder: torch.nn.Module, head: torch.nn.Module | None) -> None:
    """Makes the modules part of an encoder's model, which does not call them itself."""
    if head is not None:
        encoder.add_module(HEAD, head)


def of(encoder: torch.nn.Module) -> Any:
    """The modules that are part of an encoder's model, or None."""
    return getattr(encoder, HEAD, None)


def take(encoder: torch.nn.Module) -> Any:
    """Takes the modules out of an encoder's model, so that they stay in float32 whatever it is cast to."""
    head = of(encoder)
    if head is not None:
        delattr(encoder, HEAD)
    return head


def _weights(folder: str) -> dict[str, torch.Tensor]:
    path = next((path for name in WEIGHTS if os.path.isfile(path := os.path.join(folder, name))), None)
    if path is None:
        raise InputError("a Dense module has no weights", value=folder, expected=" or ".join(WEIGHTS))
    if path.endswith(".bin"):
        return torch.load(path, map_location="cpu", weights_only=True)
    return safetensors.torch.load_file(path)
