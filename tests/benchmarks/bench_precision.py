"""The encoder in bfloat16 and int8 next to its own float32, from texts to vectors; rounds in turn."""

from __future__ import annotations

import dataclasses
import statistics
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

import numpy as np

from rag_ops.compute import processor
from rag_ops.defaults import MIN_FIDELITY
from rag_ops.models import calibration, quantisation
from rag_ops.models.encoder import Encoder
from rag_ops.models.fidelity import Sample, fidelity
from tests.benchmarks.common import THREADS, NotHereError, Result, encoder, small_encoder, some_passages


@dataclasses.dataclass(frozen=True)
class Sizes:
    """Sizes of a run.

    Attributes:
        parts: of so many parts of the excerpt one is encoded.
        rounds: of each.
        small: whether a random encoder of one layer takes the place of the demo's.
        recalls: recall that each mixture of int8 and bfloat16 is made for; the first is the default of embed.
    """

    parts: int = 5
    rounds: int = 5
    small: bool = False
    recalls: tuple[float, ...] = (MIN_FIDELITY, 0.985, 0.98, 0.96)


TOY = Sizes(parts=2, rounds=1, small=True, recalls=(MIN_FIDELITY,))


@dataclasses.dataclass(frozen=True)
class Way:
    """One way to encode.

    Attributes:
        encode: function that encodes all passages and returns the seconds it took.
        vectors: function that returns the vectors of the last round.
    """

    encode: Callable[[], float]
    vectors: Callable[[], np.ndarray]


def run(directory: Path, sizes: Sizes = Sizes()) -> list[Result]:
    """Passages per second of each, as ratios, and recall of float32's neighbours.

    Raises:
        NotHereError: the processor has no instructions for bfloat16 or int8.
    """
    pairs, model = inputs(directory, sizes)
    rates, recall, curve = measured(pairs, own_ways(model, pairs, sizes.recalls), sizes.rounds)
    int8 = int8_name(sizes.recalls[0])
    wide, narrow = rates["bfloat16"] / rates["float32"], rates[int8] / rates["bfloat16"]
    ok = narrow >= 1.2 and recall[int8] >= 0.99
    return [
        Result("bfloat16 / float32, passages per second", wide, ">= 2.0", wide >= 2, curve),
        Result("int8 / bfloat16, passages per second", narrow, ">= 1.2, recall >= 0.99", ok, curve),
    ]


def inputs(directory: Path, sizes: Sizes) -> tuple[list[tuple[str, str]], str]:
    """Titles and texts of the passages, and the directory of the model."""
    pairs = some_passages(directory, sizes.parts, num_shards=1)
    return pairs, small_encoder(directory) if sizes.small else encoder()


def own_ways(model: str, pairs: list[tuple[str, str]], recalls: Sequence[float]) -> dict[str, Way]:
    """Ragbeam's encoder in float32, bfloat16 and int8.

    Raises:
        NotHereError: the processor has no instructions for them.
    """
    for dtype in processor.INSTRUCTIONS:
        if not processor.computes(dtype):
            raise NotHereError(f"the processor has no instructions for {dtype}")
    ways = {dtype: ours(model, dtype, pairs) for dtype in ("float32", "bfloat16")}
    for recall in recalls:
        ways[int8_name(recall)] = ours(model, "int8", pairs, calibration.quantise(model, recall=recall))
    return ways


def int8_name(recall: float) -> str:
    """The name of a mixture of int8 and bfloat16."""
    return f"int8 for {recall}"


def measured(
    pairs: list[tuple[str, str]], ways: Mapping[str, Way], rounds: int
) -> tuple[dict[str, float], dict[str, float], str]:
    """Passages per second of each way, the median of rounds in turn; its recall@20 of float32's; and both as text."""
    seconds: dict[str, list[float]] = {name: [] for name in ways}
    for _ in range(rounds):
        for name, way in ways.items():
            seconds[name].append(way.encode())
    rates = {name: len(pairs) / statistics.median(times) for name, times in seconds.items()}
    exact, queries = ways["float32"].vectors(), max(Sample.of(len(pairs)).queries, len(pairs) // 2)
    recall = {name: fidelity(exact, way.vectors(), queries)["recall_at_20"] for name, way in ways.items()}
    curve = ", ".join(f"{name} {rate:.1f} ({recall[name]:.3f})" for name, rate in rates.items())
    return rates, recall, f"passages/s (recall@20 of float32's) of {len(pairs)} passages: {curve}"


def ours(directory: str, dtype: str, pairs: list[tuple[str, str]], quantised: bytes | None = None) -> Way:
    """Ragbeam's encoder."""
    linears = None if quantised is None else quantisation.from_bytes(quantised, "int8")
    model = Encoder.load(directory, role="context", device="cpu", threads=THREADS, dtype=dtype, linears=linears)
    titles, texts = (list(column) for column in zip(*pairs, strict=True))
    last: list[np.ndarray] = []

    def encode() -> float:
        started = time.perf_counter()
        last[:] = [model.encode(titles, texts)[0]]
        return time.perf_counter() - started

    return Way(encode, lambda: last[0])
