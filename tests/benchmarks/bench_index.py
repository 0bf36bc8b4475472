"""The index: exact search next to matrix libraries and FAISS, building next to bare FAISS, memory by corpus size."""

from __future__ import annotations

import dataclasses
import gc
import itertools
import os
import time
from collections.abc import Callable
from pathlib import Path

import faiss
import numpy as np
import pyarrow.parquet as pq
import torch

from rag_ops.retrieval import exact
from rag_ops.retrieval.faiss_kind import Faiss
from rag_ops.storage import store
from rag_ops.storage.manifests import read_manifest
from rag_ops.storage.rows import read_corpus_rows
from tests.benchmarks.common import THREADS, Result, peak_bytes_of, peak_memory_bytes, ragbeam, side_by_side
from tests.pipelines.workspace import write_corpus

DIMENSION, QUESTIONS, K = 768, 512, 20
SHARD_ROWS = 100_000
CLUSTERS = 5_000
DIRECTIONS = 32  # in which the vectors of a cluster differ
RESCORED_SPEC, CANDIDATES, SEARCHED = "PQ64", 200, 1000


@dataclasses.dataclass(frozen=True)
class Sizes:
    """Numbers of vectors.

    Attributes:
        exact_rows: that are searched exactly.
        built_rows: of which an index is built, next to bare FAISS.
        built: its kinds, and the most that building may take, next to bare FAISS.
        memory_rows: the larger number of the memory test; the other is its half.
        shard_rows: in one shard of it.
    """

    exact_rows: int = 200_000
    built_rows: int = 200_000
    built: tuple[tuple[str, float], ...] = (("IVF1024,SQ8", 1.1), ("PQ64", 0.8))
    memory_rows: int = int(os.environ.get("RAGBEAM_BENCH_ROWS", 4 * SHARD_ROWS))
    shard_rows: int = SHARD_ROWS


TOY = Sizes(2000, 2000, (("IVF8,SQ8", 1.1),), 2000, 1000)


def run(directory: Path, sizes: Sizes = Sizes()) -> list[Result]:
    """Exact search, build time, then peak memory and recall of rescored candidates."""
    results = [*exact_search(sizes.exact_rows), *build_times(directory, sizes)]
    gc.collect()
    return [*results, *memory_and_rescoring(directory, sizes.memory_rows, sizes.shard_rows)]


def exact_search(count: int) -> list[Result]:
    """Ours from float16, the best matrix product alone from float32, and FAISS's IndexFlatIP."""
    vectors = draw(0, count)
    questions = np.random.default_rng(1).standard_normal((QUESTIONS, DIMENSION)).astype(np.float32)
    wide = vectors.astype(np.float32)
    torch.set_num_threads(THREADS)
    faiss.omp_set_num_threads(THREADS)
    index = faiss.IndexFlatIP(DIMENSION)
    index.add(wide)
    asked, others = torch.from_numpy(questions), torch.from_numpy(wide)
    products: dict[str, Callable[[], object]] = {
        "torch": lambda: asked @ others.T,
        "torch transposed": lambda: others @ asked.T,
        "numpy": lambda: questions @ wide.T,
        "numpy transposed": lambda: wide @ questions.T,
    }
    operations = 2 * QUESTIONS * count * DIMENSION
    rates = {name: operations / least_seconds(product) / 1e9 for name, product in products.items()}
    best = max(rates, key=lambda name: rates[name])
    found = exact.search(questions, vectors, K, threads=THREADS)
    same = bool((found.rows == index.search(questions, K)[1]).all())
    ours, theirs = side_by_side(
        lambda: exact.search(questions, vectors, K, threads=THREADS), lambda: index.search(questions, K), rounds=3
    )
    rate, faiss_rate = operations / ours / 1e9, operations / theirs / 1e9
    figures = f"{rate:.0f} GFLOP/s with top-k from float16; {best} {rates[best]:.0f} GFLOP/s without"
    share = Result(
        "exact search / best matrix product", rate / rates[best], ">= 0.85", rate >= 0.85 * rates[best], figures
    )
    figures = (
        f"{QUESTIONS / ours:.0f} questions/s, FAISS {QUESTIONS / theirs:.0f} ({faiss_rate:.0f} GFLOP/s, twice the "
    )
    figures += f"memory); {'same rows' if same else 'OTHER ROWS'}; {count:,} x {DIMENSION}, k {K}"
    return [
        share,
        Result("exact search / FAISS IndexFlatIP", theirs / ours, ">= 1.00", theirs >= ours and same, figures, same),
    ]


def build_times(directory: Path, sizes: Sizes) -> list[Result]:
    """`ragbeam index` next to reading the same Parquet files and calling FAISS."""
    rows = sizes.built_rows
    write_corpus(directory / "built", [lambda n=n: draw(n, rows // 4) for n in range(4)], normalize=False)
    return [build_time(directory, directory / "built" / "embeddings", rows, *kind) for kind in sizes.built]


def build_time(directory: Path, embeddings: Path, rows: int, spec: str, most: float) -> Result:
    """The same of one spec, of which FAISS's PQ trains polysemous codes, and ours does not."""
    rounds = iter(range(100))

    def ours() -> None:
        ragbeam(
            *("index", "--embeddings", embeddings, "--output", directory / f"ours-{spec}-{next(rounds)}"),
            *("--spec", spec, "--threads", THREADS, "--recall_queries", 0),
        )

    def theirs() -> None:
        faiss.omp_set_num_threads(THREADS)
        index = faiss.index_factory(DIMENSION, spec, faiss.METRIC_INNER_PRODUCT)
        parts = []
        for shard in read_manifest(str(embeddings), "embed").shards:
            column = pq.read_table(embeddings / shard.path, columns=["vector"])["vector"].combine_chunks()
            parts.append(column.flatten().to_numpy(zero_copy_only=False).reshape(-1, DIMENSION).astype(np.float32))
        vectors = np.concatenate(parts)
        index.train(vectors[Faiss(spec, DIMENSION).training_rows(len(vectors))])
        index.add(vectors)
        faiss.write_index(index, str(directory / "theirs.faiss"))

    seconds, bare = side_by_side(ours, theirs)
    figures = f"{seconds:.1f} s, bare FAISS {bare:.1f} s; {spec} over {rows:,} x {DIMENSION}"
    wanted = f"< {most:.2f}"
    return Result(f"index {spec} / bare FAISS, seconds", seconds / bare, wanted, seconds < most * bare, figures)


def memory_and_rescoring(directory: Path, most_rows: int, shard_rows: int) -> list[Result]:
    """Peak memory of index and search for twice the vectors in shards of one size; then recall of PQ, rescored."""
    peaks: dict[int, list[int]] = {}
    for rows in (most_rows // 2, most_rows):
        place, shards = directory / f"rows-{rows}", rows // shard_rows
        write_corpus(place, [lambda n=n: draw(n, shard_rows) for n in range(shards)], normalize=False)
        build = peak_memory_bytes(
            *("index", "--embeddings", place / "embeddings", "--output", place / "index"),
            *("--num_shards", shards, "--threads", THREADS),
        )
        peaks[rows] = [build, search_peak_bytes(place / "index")]
    results = []
    for number, stage in enumerate(("index", f"search of {SEARCHED:,} questions")):
        small, large = (peaks[rows][number] for rows in sorted(peaks))
        ok = large < 1.5 * small and large < 3e9
        figures = f"{small / 1e6:.0f} MB for {most_rows // 2:,} x {DIMENSION}, {large / 1e6:.0f} MB for twice as many"
        results.append(
            Result(f"peak memory of {stage}, twice the vectors", large / small, "< 1.5, < 3 GB", ok, figures)
        )
    ragbeam(
        *("index", "--embeddings", place / "embeddings", "--output", place / "pq", "--spec", RESCORED_SPEC),
        *("--num_shards", shards, "--threads", THREADS, "--recall_queries", 0),
    )
    recall, plain = rescored_recall(place)
    figures = f"{CANDIDATES} candidates of {RESCORED_SPEC}; {plain:.3f} without; {most_rows:,} x {DIMENSION}"
    return [*results, Result("recall@20 of rescored candidates", recall, ">= 0.95", recall >= 0.95, figures)]


def rescored_recall(place: Path) -> tuple[float, float]:
    """recall@20 against exact search, of candidates that are scored again and of the index alone."""
    questions = ask(SEARCHED)
    truth = search_all(place / "index", questions, 20)
    found = search_all(place / "pq", questions, CANDIDATES)
    rows = np.unique(found[found >= 0])
    url = str(place / "embeddings")
    vectors = read_corpus_rows(url, read_manifest(url, "embed"), rows)
    again = exact.rescore(questions, found, rows, vectors, 20).rows

    def recall(hits: np.ndarray) -> float:
        return float(np.mean([len(set(a) & set(b)) / 20 for a, b in zip(hits.tolist(), truth.tolist(), strict=True)]))

    return recall(again), recall(found[:, :20])


def search_all(index: Path, questions: np.ndarray, k: int) -> np.ndarray:
    """Rows of the best k over all shards, one open at a time."""
    from rag_ops.retrieval.faiss_shard import FaissShard
    from rag_ops.retrieval.topk import merge

    manifest = read_manifest(str(index), "index")
    hits = []
    for shard, start in zip(manifest.shards, manifest.row_starts(), strict=False):
        opened = FaissShard(store.join(str(index), shard.path), shard.sha256, start, shard.rows, threads=THREADS)
        hits = [merge([*hits, opened.search(questions, k)], k)]
        del opened
    return hits[0].rows


def search_peak_bytes(index: Path) -> int:
    """Peak memory of a process that searches all shards, one at a time."""
    code = (
        "from pathlib import Path; from tests.benchmarks import bench_index as b;"
        "b.search_all(Path(sys.argv[1]), b.ask(b.SEARCHED), b.K); code = 0"
    )
    return peak_bytes_of(code, index)


def draw(seed: int, rows: int) -> np.ndarray:
    """Clustered vectors of about the spread and length of DPR's, float16 (rows, 768).

    Those of a cluster differ in a few directions, its own: noise in all of them alike is what no real text has, and
    what no code of a few bytes can tell apart.
    """
    shapes = np.random.default_rng(7)
    centres = shapes.standard_normal((CLUSTERS, DIMENSION)).astype(np.float32)
    basis = shapes.standard_normal((DIMENSION, DIMENSION)).astype(np.float32) / DIMENSION**0.5
    firsts = shapes.integers(0, DIMENSION - DIRECTIONS, CLUSTERS)  # a cluster's directions: so many rows of the basis
    generator = np.random.default_rng([seed, rows])
    members = np.sort(generator.integers(0, CLUSTERS, rows))
    found = np.empty((rows, DIMENSION), np.float32)
    bounds = np.searchsorted(members, np.arange(CLUSTERS + 1))
    for cluster, (start, end) in enumerate(itertools.pairwise(bounds)):
        if start == end:
            continue
        weights = generator.standard_normal((end - start, DIRECTIONS), dtype=np.float32)
        spread = 0.6 * (DIMENSION / DIRECTIONS) ** 0.5  # as long as noise of 0.6 in every direction
        found[start:end] = centres[cluster] + spread * weights @ basis[firsts[cluster] :][:DIRECTIONS]
    return (found * 0.3).astype(np.float16)[generator.permutation(rows)]


def ask(count: int) -> np.ndarray:
    """Questions near clusters, float32 (count, 768)."""
    return draw(10_000, count).astype(np.float32)


def least_seconds(work: Callable[[], object], rounds: int = 3) -> float:
    """Of some rounds."""
    times = []
    for _ in range(rounds):
        start = time.perf_counter()
        work()
        times.append(time.perf_counter() - start)
    return min(times)
