"""Every kind of index: built by `ragbeam index`, its own recall next to recall that NumPy alone measures anew.

Two corpora: the demo's passages under its encoder, and clustered vectors of 768 (50,000, or RAGBEAM_BENCH_ROWS).
"""

from __future__ import annotations

import dataclasses
import os
import time
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from rag_ops.retrieval.faiss_shard import FaissShard
from rag_ops.retrieval.topk import merge
from rag_ops.storage import store
from rag_ops.storage.manifests import read_manifest
from rag_ops.storage.rows import read_corpus_rows, read_matrix
from tests.benchmarks.bench_index import SHARD_ROWS, ask, draw
from tests.benchmarks.common import THREADS, Result, encoder, ragbeam, some_passages
from tests.pipelines.workspace import write_corpus

SPECS = "Flat SQ8 SQfp16 IVF{n},Flat IVF{n}_HNSW32,SQ8 PCAR128,SQ8 PQ64 OPQ8,PQ8 IVF64,PQ8 HNSW32".split()
TUNED = ("auto", "IVF{n},SQ8")  # with --target_recall
TARGET, K = 0.95, 20
QUESTIONS = 500
AGREES = 0.03  # of two measurements of one recall, on other questions


@dataclasses.dataclass(frozen=True)
class Sizes:
    """How much is indexed how.

    Attributes:
        rows: vectors that are drawn at random.
        specs: the kinds of index.
        lists: inverted lists of the demo's corpus and of the drawn one.
        parts: of the demo's excerpt, of which one is indexed.
    """

    rows: int = int(os.environ.get("RAGBEAM_BENCH_ROWS", 50_000))
    specs: tuple[str, ...] = (*SPECS, *TUNED)
    lists: tuple[int, int] = (64, 1024)
    parts: int = 2


TOY = Sizes(4000, ("Flat", "HNSW32", "IVF{n},SQ8"), (4, 16), parts=1)


def run(directory: Path, sizes: Sizes = Sizes()) -> list[Result]:
    """A line for each spec and corpus."""
    results = []
    demo, drawn = demo_corpus(directory / "demo", sizes.parts), synthetic_corpus(directory / "large", sizes.rows)
    for place, questions, name, lists in (
        (demo, None, "demo", sizes.lists[0]),
        (drawn, ask(QUESTIONS), "", sizes.lists[1]),
    ):
        embeddings = str(place / "embeddings")
        manifest = read_manifest(embeddings, "embed")
        if questions is None:  # passages as questions, each without itself
            own = np.linspace(0, manifest.rows - 1, QUESTIONS).astype(np.int64)
            questions = read_corpus_rows(embeddings, manifest, own)
        else:
            own = np.full(len(questions), -1)
        truth = brute_force(embeddings, questions, own)
        label = name or f"{manifest.rows:,} x {questions.shape[1]}"
        for kind in sizes.specs:
            results.append(measured(place, kind.format(n=lists), kind in TUNED, questions, own, truth, label))
            print(f"  {results[-1].name}: {results[-1].ratio:.3f}; {results[-1].figures}", flush=True)
    return results


def measured(
    place: Path, spec: str, tuned: bool, questions: np.ndarray, own: np.ndarray, truth: np.ndarray, label: str
) -> Result:
    """Builds one index and measures recall@20 of its own settings, by sets of rows."""
    index = place / "index"
    more = ["--target_recall", TARGET] if tuned else []
    started = time.perf_counter()
    ragbeam(
        *("index", "--embeddings", place / "embeddings", "--output", index, "--spec", spec, "--overwrite"),
        *("--threads", THREADS, *more),
    )
    seconds = time.perf_counter() - started
    manifest = read_manifest(str(index), "index")
    recall = overlap(search(index, questions, own), truth)
    told = manifest.info["recall"][str(K)] if manifest.info["recall_queries"] else 1.0
    agrees = abs(recall - told) <= AGREES
    settings = " ".join(f"{name} {value}" for name, value in manifest.info["search"].items())
    figures = f"{told:.3f} by ragbeam{f' at {settings}' if settings else ''}; {manifest.info['spec']}, {seconds:.0f} s"
    if tuned:
        return Result(
            f"recall@{K} of {spec}, {label}", recall, f">= {TARGET}", agrees and recall >= TARGET - 0.01, figures
        )
    return Result(f"recall@{K} of {spec}, {label}", recall, f"ragbeam's within {AGREES}", agrees, figures)


def search(index: Path, questions: np.ndarray, own: np.ndarray) -> np.ndarray:
    """Rows that the index finds with the settings of its manifest, a shard at a time, without the questions' own."""
    manifest = read_manifest(str(index), "index")
    kept = K + 1
    hits = []
    for shard, start in zip(manifest.shards, manifest.row_starts(), strict=False):
        url = store.join(str(index), shard.path)
        opened = FaissShard(url, shard.sha256, start, shard.rows, threads=THREADS, **manifest.info["search"])
        hits = [merge([*hits, opened.search(questions, kept)], kept)]
        del opened
    return np.array([[row for row in line if row != mine][:K] for line, mine in zip(hits[0].rows, own, strict=True)])


def brute_force(embeddings: str, questions: np.ndarray, own: np.ndarray) -> np.ndarray:
    """Rows of the 20 best by NumPy in float32, a shard at a time, without the questions' own."""
    manifest = read_manifest(embeddings, "embed")
    scores, rows = np.empty((len(questions), 0), np.float32), np.empty((len(questions), 0), np.int64)
    for shard, start in zip(manifest.shards, manifest.row_starts(), strict=False):
        here = questions @ read_matrix(store.join(embeddings, shard.path), shard.rows).astype(np.float32).T
        numbers = np.broadcast_to(np.arange(start, start + shard.rows), here.shape)
        here = np.where(numbers == own[:, None], -np.inf, here)
        scores, rows = np.concatenate([scores, here], 1), np.concatenate([rows, numbers], 1)
        best = np.argpartition(-scores, min(K, scores.shape[1] - 1), axis=1)[:, :K]
        scores, rows = np.take_along_axis(scores, best, 1), np.take_along_axis(rows, best, 1)
    return rows


def overlap(found: Sequence[Sequence[int]], truth: np.ndarray) -> float:
    """The mean share of the true rows among those found."""
    return float(
        np.mean([len(set(a) & set(b)) / K for a, b in zip(np.asarray(found).tolist(), truth.tolist(), strict=True)])
    )


def demo_corpus(place: Path, parts: int) -> Path:
    """The passages of one of so many parts of the demo's excerpt, and their vectors."""
    place.mkdir()
    some_passages(place, parts, num_shards=4)
    ragbeam("embed", "--passages", place / "passages", "--encoder", encoder(), "--output", place / "embeddings")
    return place


def synthetic_corpus(place: Path, rows: int) -> Path:
    """Clustered vectors, in shards of 100,000 or, where they are fewer, in four."""
    shard_rows = min(SHARD_ROWS, rows // 4)
    write_corpus(place, [lambda n=n: draw(n, shard_rows) for n in range(rows // shard_rows)], normalize=False)
    return place
