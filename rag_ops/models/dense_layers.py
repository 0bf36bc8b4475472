"""Reads the Dense modules of a sentence-transformers directory: linear layers that a pooled vector goes through."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence
from typing import Any

from rag_ops.errors import InputError

ACTIVATIONS = ("Tanh", "Identity", "ReLU", "GELU", "Sigmoid", "SiLU")  # torch's modules without settings
MAX_LAYERS = 8
MAX_WEIGHTS = 1 << 26  # numbers of one layer's matrix: 8,192 x 8,192
_SENTENCE = "sentence_embedding"
_EXPECTED = "a Dense module as sentence-transformers writes it"


@dataclasses.dataclass(frozen=True)
class DenseLayer:
    """One Dense module.

    Attributes:
        in_features, out_features: numbers of a vector before and after it.
        bias: whether it adds a bias.
        activation: one of `ACTIVATIONS`, applied to the sums.
    """

    in_features: int
    out_features: int
    bias: bool = True
    activation: str = "Tanh"

    def __post_init__(self) -> None:
        sizes = self.in_features, self.out_features
        whole = all(isinstance(size, int) and not isinstance(size, bool) and size > 0 for size in sizes)
        if not whole or sizes[0] * sizes[1] > MAX_WEIGHTS:
            raise InputError(
                "a Dense module has no sizes that can be used",
                value=f"in_features {sizes[0]}, out_features {sizes[1]}",
                expected=f"two positive numbers whose product is at most {MAX_WEIGHTS:,}",
            )
        if not isinstance(self.bias, bool) or self.activation not in ACTIVATIONS:
            raise InputError(
                "a Dense module has a setting that ragbeam does not know",
                value=f"bias {self.bias}, activation_function {self.activation}",
                expected="one of " + ", ".join(ACTIVATIONS),
            )

    @classmethod
    def of(cls, config: Mapping[str, Any], folder: str) -> DenseLayer:
        """The module that a folder's config.json describes; an activation that it does not name is Tanh, as there.

        Raises:
            InputError: a setting is missing, or is one that ragbeam does not have.

        >>> DenseLayer.of({"in_features": 4, "out_features": 2, "activation_function": "torch.nn.Identity"}, "2_Dense")
        DenseLayer(in_features=4, out_features=2, bias=True, activation='Identity')
        """
        given = {name: config.get(name) for name in ("module_input_name", "module_output_name", "use_residual")}
        usual = (None, _SENTENCE), (None, _SENTENCE), (None, False)
        for (name, value), allowed in zip(given.items(), usual, strict=True):
            if value not in allowed:
                raise InputError(
                    f"the encoder has a setting that ragbeam does not know: {name}",
                    value=f"{folder} ({value})",
                    expected=str(allowed[1]),
                )
        package, _, activation = str(config.get("activation_function") or "torch.nn.Tanh").rpartition(".")
        if package.partition(".")[0] != "torch":
            activation = f"{package}.{activation}".strip(".")
        try:
            return cls(config["in_features"], config["out_features"], config.get("bias", True), activation)
        except KeyError as error:
            raise InputError(f"a Dense module lacks {error}", value=folder, expected=_EXPECTED) from error
        except InputError as error:
            raise InputError(f"{error}; in {folder}") from error


def dimension_after(layers: Sequence[DenseLayer], width: int) -> int:
    """The numbers of a vector behind some modules.

    Args:
        layers: the modules in their order.
        width: numbers of the pooled vector.

    Raises:
        InputError: a module takes vectors of another size, or there are too many of them.
    """
    if len(layers) > MAX_LAYERS:
        raise InputError("the encoder has too many Dense modules", value=len(layers), expected=f"at most {MAX_LAYERS}")
    for layer in layers:
        if layer.in_features != width:
            raise InputError(
                "a Dense module takes vectors of another size than come before it",
                value=f"in_features {layer.in_features}",
                expected=f"{width}",
            )
        width = layer.out_features
    return width
