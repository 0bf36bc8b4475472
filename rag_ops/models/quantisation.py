"""An encoder's int8 model: which of its matrices are rounded to 8 bits, with what scales, and the file that keeps them.

The scales come from `calibration.tsv`, texts of the package, so that they depend on the encoder alone.
"""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Iterable, Mapping
from pathlib import Path

import safetensors.torch
import torch

from rag_ops.compute.int8_linear import Int8Linear, Int8Weights, round_weights
from rag_ops.errors import InputError
from rag_ops.models.bert_layers import PARTS, BfloatLinear, Linear, Place, encoder_of, matrices
from rag_ops.storage import store

CALIBRATION = Path(__file__).parent / "calibration.tsv"
MAX_EXAMPLES = 1024  # inputs of a matrix that its scales come from: bounds memory
FORMAT = "1"


class Trial:
    """A matrix product that keeps what it is given, and computes it in bfloat16 or, if `narrow` is set, by that.

    Args:
        weight: float32 (out, in).
        bias: float32 (out,).
    """

    def __init__(self, weight: torch.Tensor, bias: torch.Tensor):
        self.weight, self.bias = weight.detach(), bias.detach()
        self.narrow: Linear | None = None
        self._linear, self._kept, self._rows = BfloatLinear(weight, bias), list[torch.Tensor](), 0

    def __call__(self, x: torch.Tensor, activation: str = "none") -> torch.Tensor:
        """As `BfloatLinear`."""
        if self.narrow is not None:
            return self.narrow(x, activation)
        if self._rows < MAX_EXAMPLES:
            self._kept.append(x[: MAX_EXAMPLES - self._rows].clone())
            self._rows += len(self._kept[-1])
        return self._linear(x, activation)

    def rounded(self) -> Int8Weights:
        """The matrix in int8, with scales for what it was given; keeps no more of that."""
        inputs, self._kept, self._rows = torch.cat(self._kept), [], MAX_EXAMPLES
        return round_weights(self.weight, self.bias, inputs)


def calibration_texts() -> tuple[list[str], list[str]]:
    """Titles and texts that scales come from."""
    rows = [line.split("\t") for line in CALIBRATION.read_text(encoding="utf-8").splitlines()]
    return [title for title, _ in rows], [text for _, text in rows]


def trials(model: torch.nn.Module, directory: str) -> dict[Place, Trial]:
    """A trial for each matrix of a float32 model.

    Raises:
        InputError: its layers are none of those that can be in int8.
    """
    if (found := encoder_of(model)) is None:
        raise InputError(
            "this encoder cannot compute in int8",
            value=directory,
            expected="layers of BERT, RoBERTa, XLM-RoBERTa or CamemBERT",
            remedy="use --compute_dtype bfloat16",
        )
    layers = enumerate(found[1].layer)
    return {(n, part): Trial(*matrix) for n, layer in layers for part, matrix in matrices(layer).items()}


def to_bytes(layers: Mapping[Place, Int8Weights]) -> bytes:
    """A safetensors file of layers, by place."""
    tensors = {
        f"{number}.{part}.{field.name}": getattr(weights, field.name).contiguous()
        for (number, part), weights in layers.items()
        for field in dataclasses.fields(weights)
    }
    return safetensors.torch.save(tensors, {"ragbeam": FORMAT, "matrices": json.dumps(len(layers))})


def from_bytes(data: bytes, where: str) -> dict[Place, Linear]:
    """The inverse of `to_bytes`: the layers, ready to compute.

    Args:
        data: content of the file.
        where: its URL, for errors.

    Raises:
        InputError: it is no such file.
    """
    try:
        tensors = safetensors.torch.load(data)
        places = sorted({(int(number), part) for number, part, _ in (name.split(".") for name in tensors)})
        names = [field.name for field in dataclasses.fields(Int8Weights)]
        layers = {(n, part): Int8Weights(*(tensors[f"{n}.{part}.{name}"] for name in names)) for n, part in places}
        for weights in layers.values():
            _check(weights)
        if not {part for _, part in layers} <= set(PARTS):
            raise ValueError("unknown matrices")
        return {place: Int8Linear(weights) for place, weights in layers.items()}
    except (safetensors.SafetensorError, ValueError, KeyError, RuntimeError) as error:
        raise InputError(f"the int8 model cannot be read ({error})", value=where, remedy="embed anew") from error


def read(url: str) -> dict[Place, Linear]:
    """The layers in a file.

    Raises:
        InputError: it is no such file.
    """
    with store.open_read(url) as file:
        return from_bytes(file.read(), url)


def _check(weights: Int8Weights) -> None:
    out, width = weights.weight.shape
    shapes: Iterable[tuple[torch.Tensor, torch.dtype, tuple[int, ...]]] = (
        (weights.weight, torch.int8, (out, width)),
        (weights.weight_scales, torch.float32, (out,)),
        (weights.bias, torch.float32, (out,)),
        (weights.factors, torch.float32, (width,)),
        (weights.scale, torch.float32, ()),
        (weights.zero_point, torch.int32, ()),
    )
    if any(tensor.dtype != dtype or tuple(tensor.shape) != shape for tensor, dtype, shape in shapes):
        raise ValueError("tensors of other shapes")
