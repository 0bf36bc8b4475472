"""Makes the int8 model of an encoder from the texts of the package.

A matrix whose rounding hurts stays in bfloat16. What each costs is measured alone, by the vectors of these texts; those
that cost least for their work are rounded, as many as leave the vectors near enough to bfloat16's, on average: see
`cosine_for`.
"""

from __future__ import annotations

import itertools
from collections.abc import Iterable

import numpy as np
import torch

from rag_ops.compute import batching
from rag_ops.compute.int8_linear import Int8Linear
from rag_ops.defaults import MIN_FIDELITY
from rag_ops.errors import InputError
from rag_ops.models import quantisation
from rag_ops.models.bert_layers import Place
from rag_ops.models.encoder import Encoder
from rag_ops.models.loading import load_encoder


def cosine_for(recall: float) -> float:
    """The mean cosine to bfloat16's vectors at which int8's find so large a share of float32's 20 nearest, about.

    What is missing of the recall grows as the distance of the vectors does, and one minus the cosine as its square.
    Recall@20 among 1,038 passages of an encyclopedia in MiniLM's vectors was 0.991 at a cosine of 0.9999, 0.980 at
    0.9995 and 0.963 at 0.998. It is measured for the passages of each job: this only says where to begin.

    >>> round(cosine_for(0.99), 6), round(cosine_for(0.96), 6)
    (0.9999, 0.9984)
    """
    return 1 - (1 - recall) ** 2


def quantise(directory: str, max_tokens: int | None = None, recall: float = MIN_FIDELITY) -> bytes:
    """The int8 model of the passage encoder in a local directory, as a safetensors file.

    Args:
        directory: see `checkpoints.find_model`.
        max_tokens: cuts inputs shorter than the model's own limit does.
        recall: the lower, the more matrices are in int8: see `cosine_for`.

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
            near = distance(order[:middle]) <= 1 - cosine_for(recall)
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
