"""Exact search as it is, next to the same by products of float32 alone, and to FAISS's exact indexes.

Vectors of real passages, and sets that are hard in different ways. Rows and scores of every set are compared with
float64 brute force.
"""

from __future__ import annotations

import dataclasses
import itertools
import statistics
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any
from unittest import mock

import faiss
import numpy as np
import torch

from rag_ops.models.encoder import Encoder
from rag_ops.retrieval import exact
from rag_ops.retrieval.topk import TopK
from rag_ops.retrieval.vector_blocks import Lengths
from rag_ops.storage.manifests import read_manifest
from rag_ops.storage.parquet import read_parquet
from tests.benchmarks.common import THREADS, Result, encoder, excerpt, ragbeam

K, CHECKED, DIRECTIONS, CLUSTER_ROWS = 20, 32, 32, 40
PAYS = {"MiniLM": 1.8, "clustered": 1.8}  # of the speed by float32, for many questions; otherwise:
NEVER_UNDER = 0.97
OF_FLAT = 1.0
SLOW_SECS = 10.0
LEVELS = "FlatIPPanorama8"


@dataclasses.dataclass(frozen=True)
class Sizes:
    """Rows and numbers of the synthetic sets, passages that are encoded, numbers of questions, rounds, their length."""

    rows: int = 200_000
    dimension: int = 768
    passages: int | None = None
    questions: tuple[int, ...] = (1, 32, 512)
    rounds: int = 5
    round_secs: float = 0.3


TOY = Sizes(3000, 64, 24, (1, 8), 1, 0)


def run(directory: Path, sizes: Sizes = Sizes()) -> list[Result]:
    """Ratios of seconds for each set and number of questions, and whether all is as brute force has it."""
    torch.set_num_threads(THREADS)
    faiss.omp_set_num_threads(THREADS)
    results = []
    for name, (vectors, questions) in {"MiniLM": real(directory, sizes), **synthetic(sizes)}.items():
        results += measured(name, vectors, questions, sizes)
    return results


def real(directory: Path, sizes: Sizes) -> tuple[np.ndarray, np.ndarray]:
    """Vectors of the excerpt's passages by the demo's encoder, float16, and every so many of them as questions."""
    ragbeam("chunk", "--input", excerpt(), "--output", directory / "passages", "--num_shards", 1)
    shard = read_manifest(str(directory / "passages"), "chunk").shards[0]
    rows = read_parquet(str(directory / "passages" / shard.path)).slice(0, sizes.passages)
    reader = Encoder.load(encoder(), role="context", device="cpu", threads=THREADS)
    vectors, _ = reader.encode(rows["title"].to_pylist(), rows["text"].to_pylist())
    count = max(sizes.questions)
    sentences = [text.split(". ")[0] for text in rows["text"].to_pylist()]
    asked = list(itertools.islice(itertools.cycle(sentences[:: max(1, len(sentences) // count)]), count))
    questions, _ = Encoder.load(encoder(), role="question", device="cpu", threads=THREADS).encode(asked)
    return vectors.astype(np.float16), questions.astype(np.float32)


def synthetic(sizes: Sizes) -> dict[str, tuple[np.ndarray, np.ndarray]]:
    """Vectors, float16, and questions of some shapes."""
    draw = np.random.default_rng(7)
    rows, dimension, count = sizes.rows, sizes.dimension, max(sizes.questions)

    def normal(*shape: int) -> np.ndarray:
        return draw.standard_normal(shape, np.float32)

    def unit(vectors: np.ndarray) -> np.ndarray:
        return vectors / np.linalg.norm(vectors, axis=1, keepdims=True)

    centres, spread = normal(-(-rows // CLUSTER_ROWS), dimension), normal(DIRECTIONS, dimension)
    clustered = unit(np.repeat(centres, CLUSTER_ROWS, 0)[:rows] + 0.5 * normal(rows, DIRECTIONS) @ spread / 6)
    near = clustered[draw.integers(0, rows, count)] + 0.1 * unit(normal(count, dimension))
    sphere = unit(normal(rows, dimension))
    few = np.repeat(unit(normal(-(-rows // 50), dimension)), 50, 0)[:rows]
    heavy = normal(rows, dimension) * draw.pareto(1.5, (rows, 1)).astype(np.float32)
    sets = {"clustered": clustered, "equal norm": sphere, "duplicates": few, "heavy tails": np.clip(heavy, -6e4, 6e4)}
    asked = unit(normal(count, dimension))
    return {
        name: (vectors.astype(np.float16), near if name == "clustered" else asked) for name, vectors in sets.items()
    }


def panorama(dimension: int) -> list[Any]:
    """FAISS's index in levels, if its version has it."""
    try:
        return [faiss.index_factory(dimension, LEVELS, faiss.METRIC_INNER_PRODUCT)]
    except RuntimeError:
        return []


def measured(name: str, vectors: np.ndarray, questions: np.ndarray, sizes: Sizes) -> list[Result]:
    """One set: medians of rounds that take turns."""
    wide = vectors.astype(np.float32)
    indexes = [faiss.IndexFlatIP(wide.shape[1]), *panorama(wide.shape[1])]
    for index in indexes:
        index.add(wide)
    right = as_brute_force(exact.search(questions[:CHECKED], vectors, K, threads=THREADS), questions[:CHECKED], wide)
    results, lengths = [], Lengths()
    for count in sizes.questions:
        asked = np.ascontiguousarray(questions[:count])
        calls: list[Callable[[], object]] = [  # FAISS has seen the vectors when they were added: so has an open shard
            lambda asked=asked: exact.search(asked, vectors, K, threads=THREADS, lengths=lengths),
            lambda asked=asked: exact.search(asked, vectors, K, threads=THREADS),
            lambda asked=asked: by_float32(asked, vectors),
            *(lambda asked=asked, index=index: index.search(asked, K) for index in indexes),
        ]
        start = time.perf_counter()
        by_float32(asked, vectors)
        repeats = max(1, int(sizes.round_secs / (time.perf_counter() - start)))
        seconds: list[list[float]] = [[] for _ in calls]
        for _ in range(sizes.rounds):
            for place, call in enumerate(calls):
                if seconds[place] and seconds[place][0] * repeats > SLOW_SECS:
                    continue  # a peer so slow is timed once
                start = time.perf_counter()
                for _ in range(repeats):
                    call()
                seconds[place].append((time.perf_counter() - start) / repeats)
        ours, first, by_wide, flat, *levels = map(statistics.median, seconds)
        speed_of_levels = f"{count / levels[0]:.0f}" if levels else "not in this FAISS"
        text = (
            f"{len(vectors):,} x {vectors.shape[1]}, {count} questions, k {K}: {count / ours:.0f} questions/s, in a "
            f"first search {count / first:.0f}, by float32 {count / by_wide:.0f}, IndexFlatIP {count / flat:.0f}, "
            f"{LEVELS} {speed_of_levels}; " + ("as brute force" if right else "OTHER THAN BRUTE FORCE")
        )
        of_wide = PAYS.get(name, NEVER_UNDER) if count == max(sizes.questions) else NEVER_UNDER
        peers = [("by float32", by_wide / ours, of_wide), ("IndexFlatIP", flat / ours, OF_FLAT)]
        for peer, ratio, wanted in peers if len(vectors) >= sizes.rows else peers[:1]:  # of few, calls' own time counts
            label = f"exact search / {peer}, {name}, {count}"
            results.append(Result(label, ratio, f">= {wanted:.2f}", ratio >= wanted and right, text, right))
    return results


def by_float32(questions: np.ndarray, vectors: np.ndarray) -> TopK:
    """Our search whose candidates come from float32 products."""
    with mock.patch.object(exact, "can_pack", return_value=False), mock.patch.object(exact, "FEW_QUESTIONS", 0):
        return exact.search(questions, vectors, K, threads=THREADS)


def as_brute_force(found: TopK, questions: np.ndarray, vectors: np.ndarray) -> bool:
    """Whether rows and scores are those of float64 products; sums in another order may change rows that tie."""
    wanted = questions.astype(np.float64) @ vectors.astype(np.float64).T
    for own, rows, scores in zip(wanted, found.rows, found.scores, strict=True):
        order = np.lexsort((np.arange(len(own)), -own))[: len(rows)]
        tied = np.isclose(own[order], own[rows], rtol=0, atol=1e-12 * float(np.abs(own).max()))
        if not (tied.all() and np.allclose(scores, own[rows], rtol=2.0**-23, atol=1e-12)):
            return False
    return True
