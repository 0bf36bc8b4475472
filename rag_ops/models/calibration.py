"""Makes the int8 model of an encoder from the texts of the package.

A matrix whose rounding hurts stays in bfloat16. What each costs is measured alone, by the vectors of these texts; those
that cost least for their work are rounded, as many as leave the vectors within `MIN_COSINE` of bfloat16's, on average.
"""

from __future__ import annotations

import itertools
from collections.abc import Iterable

import numpy as np
import torch

from rag_ops.compute import batching
from rag_ops.compute.int8_linear import Int8Linear
from rag_ops.errors import InputError
from rag_ops.models import quantisation
from rag_ops.models.bert_layers import Place
from rag_ops.models.encoder import Encoder
from rag_ops.models.loading import load_encoder

# Recall@20 among 400 passages of an encyclopedia in MiniLM's vectors was 0.991 at 0.9999 and 0.985 at 0.9995.
MIN_COSINE = 0.9999


def quantise(directory: str, max_tokens: int | None = None, min_cosine: float | None = None) -> bytes:
    """The int8 model of the passage encoder in a local directory, as a safetensors file.

    Args:
        directory: see `checkpoints.find_model`.
        max_tokens: cuts inputs shorter than the model's own limit does.
        min_cosine: another number for `MIN_COSINE`.

    Raises:
        InputError: no encoder, or one whose layers can't be in int8.
        JobError: this machine's processor can't compute in int8.
    """
    with torch.inference_mode():
        trials = quantisation.trials(load_encoder(directory, "context").eval(), directory)
        encoder = Encoder.load(
            directory, role="context", device="cpu", threads=1, max_tokens=max_tokens, dtype="int8", linears=trials
        )
        pairs = _encodable(encoder, list(zip(*quantisation.calibration_texts(), strict=True)), directory)
        exact = _vectors(encoder, pairs)
        layers = {place: trial.rounded() for place, trial in trials.items()}
        narrow = {place: Int8Linear(weights) for place, weights in layers.items()}

        def distance(places: Iterable[Place], step: int = 1) -> float:
            """One minus the mean cosine of the texts' vectors, each `step`th, with these matrices in int8."""
            chosen = set(places)
            for place, trial in trials.items():
                trial.narrow = narrow[place] if place in chosen else None
            return 1 - float((_vectors(encoder, pairs[::step]) * exact[::step]).sum(1).mean())

        costs = {place: distance([place], step=2) / trial.weight.numel() for place, trial in trials.items()}
        order = sorted(costs, key=lambda place: (costs[place], place))
        low, high = 0, len(order)  # the most that are near enough, by bisection
        while low < high:
            middle = (low + high + 1) // 2
            near = distance(order[:middle]) <= 1 - (min_cosine or MIN_COSINE)
            low, high = (middle, high) if near else (low, middle - 1)
    return quantisation.to_bytes({place: layers[place] for place in itertools.islice(order, low)})


def _encodable(encoder: Encoder, pairs: list[tuple[str, str]], directory: str) -> list[tuple[str, str]]:
    """The texts that an encoder can encode: a vocabulary may have numbers that its model has no vectors for.

    Raises:
        InputError: it can encode none.
    """

    def encode(places: np.ndarray) -> list[np.ndarray]:
        return [encoder.encode_alone(*pairs[place]) for place in places]

    found, failed = batching.one_by_one(len(pairs), encode)
    if not found:
        raise InputError(f"the encoder can encode none of the texts for int8 ({failed[0]})", value=directory)
    return [pairs[place] for place in sorted(found)]


def _vectors(encoder: Encoder, pairs: Iterable[tuple[str, str]]) -> np.ndarray:
    """Vectors of titles and texts, scaled to length 1, float64 (texts, dimension)."""
    vectors = np.stack([encoder.encode_alone(*pair) for pair in pairs]).astype(np.float64)
    return vectors / np.maximum(np.linalg.norm(vectors, axis=1, keepdims=True), 1e-12)
