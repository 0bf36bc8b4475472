"""Inverted lists searched for many questions, next to FAISS's own search and to its contributed big_batch_search.

The questions are many (100,000); FAISS's own search, whose time grows with them, may be timed on a part of them.
"""

from __future__ import annotations

import contextlib
import dataclasses
import io
import time
from collections.abc import Callable
from pathlib import Path

import faiss
import numpy as np
from faiss.contrib.big_batch_search import big_batch_search

from rag_ops.heap import trim
from rag_ops.retrieval import inverted_lists
from rag_ops.retrieval.inverted_lists import InvertedLists
from rag_ops.retrieval.topk import TopK
from tests.benchmarks.bench_index import ask, draw
from tests.benchmarks.common import THREADS, Result

K = 20


@dataclasses.dataclass(frozen=True)
class Sizes:
    """How much is searched.

    Attributes:
        rows: vectors, of 768 numbers.
        lists, nprobe: of the index, and that a question probes.
        questions: of ours and big_batch_search.
        asked: of them that FAISS's own search is timed on.
        specs: how lists hold their vectors.
    """

    rows: int = 2_000_000
    lists: int = 1024
    nprobe: int = 32
    questions: int = 100_000
    asked: int = 10_000
    specs: tuple[str, ...] = ("SQ8", "Flat")


TOY = Sizes(4000, 16, 4, 400, 400)


def run(directory: Path, sizes: Sizes = Sizes()) -> list[Result]:
    """Two results for each kind of list."""
    questions = ask(sizes.questions)
    return [result for spec in sizes.specs for result in compare(spec, sizes, questions)]


def compare(spec: str, sizes: Sizes, questions: np.ndarray) -> list[Result]:
    """Seconds of each, whether their hits agree, and the memory that ours takes."""
    index = build(spec, sizes)
    ivf = faiss.downcast_index(index)
    faiss.omp_set_num_threads(THREADS)
    found, ours, taken = measured(lambda: inverted_lists.search(InvertedLists(ivf), questions, K, THREADS))
    trim()
    hits, theirs, _ = measured(lambda: TopK.sorted(*index.search(questions[: sizes.asked], K), K))
    theirs *= len(questions) / sizes.asked
    same, off = agreement(found, hits)
    figures = f"{len(questions) / ours:.0f} questions/s, FAISS {len(questions) / theirs:.0f} (of {sizes.asked:,}); "
    figures += f"{same:.4%} of rows the same, scores to {off:.0e}; {taken / 1e9:.2f} GB beside the index; "
    figures += (
        f"{len(questions):,} questions, {sizes.rows:,} x {index.d}, IVF{sizes.lists}, nprobe {sizes.nprobe}, k {K}"
    )
    agrees = same >= 0.999 and off <= 1e-5
    name = f"search of IVF,{spec}"
    first = Result(f"{name} / FAISS", theirs / ours, ">= 5.0", theirs >= 5 * ours and agrees, figures, agrees)
    hits, other, taken = measured(lambda: big_batch(ivf, questions))
    same, _ = agreement(found, hits)
    figures = (
        f"{len(questions) / ours:.0f} questions/s, big_batch_search {len(questions) / other:.0f}; {same:.2%} of rows "
    )
    figures += f"the same; {taken / 1e9:.2f} GB beside the index"
    return [first, Result(f"{name} / big_batch_search", other / ours, ">= 1.0", other >= ours, figures)]


def big_batch(ivf: faiss.IndexIVF, questions: np.ndarray) -> TopK:
    """The hits of FAISS's contributed search, which goes from list to list too, and decodes one while it computes."""
    with contextlib.redirect_stdout(io.StringIO()):  # it prints a line for each list
        return TopK.sorted(*big_batch_search(ivf, questions, K, threaded=1), K)


def build(spec: str, sizes: Sizes) -> faiss.Index:
    """An index of drawn vectors, filled part by part, so that they are not in memory twice."""
    index = faiss.index_factory(768, f"IVF{sizes.lists},{spec}", faiss.METRIC_INNER_PRODUCT)
    parts = max(1, sizes.rows // 100_000)
    rows = sizes.rows // parts
    index.train(draw(0, min(rows, 64 * sizes.lists)).astype(np.float32))
    for part in range(parts):
        index.add(draw(part, rows).astype(np.float32))
    index.nprobe = sizes.nprobe
    return index


def agreement(found: TopK, expected: TopK) -> tuple[float, float]:
    """The share of rows that are the same, and the largest difference of scores relative to the largest score."""
    here = TopK(found.scores[: len(expected.rows)], found.rows[: len(expected.rows)])
    real = (here.rows >= 0) & (expected.rows >= 0)
    off = np.abs(here.scores[real] - expected.scores[real]).max() / np.abs(expected.scores[real]).max()
    return float((here.rows == expected.rows).mean()), float(off)


def measured(work: Callable[[], TopK]) -> tuple[TopK, float, int]:
    """What a call returns, its wall-clock seconds, and how far it raised the memory in use at most, in bytes."""
    Path("/proc/self/clear_refs").write_text("5", encoding="ascii")  # the peak begins anew
    before, start = _status("VmRSS"), time.perf_counter()
    hits = work()
    return hits, time.perf_counter() - start, _status("VmHWM") - before


def _status(name: str) -> int:
    lines = Path("/proc/self/status").read_text(encoding="ascii").splitlines()
    return int(next(line for line in lines if line.startswith(name + ":")).split()[1]) * 1024
