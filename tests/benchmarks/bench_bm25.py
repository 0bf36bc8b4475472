"""The index of words next to bm25s, over the same passages and questions; peak memory, of RAGBEAM_BENCH_ROWS passages.

Passages are the rehearsal's: synthetic, of 100 words as frequent as Zipf has it.
"""

from __future__ import annotations

import dataclasses
import itertools
import os
import shutil
from pathlib import Path

import bm25s
import numpy as np
import Stemmer

from rag_ops.retrieval.bm25 import open_bm25
from rag_ops.retrieval.topk import TopK, merge
from rag_ops.storage import store
from rag_ops.storage.manifests import read_manifest
from rag_ops.storage.parquet import read_parquet
from tests.benchmarks.common import Result, peak_memory_bytes, ragbeam, side_by_side
from tests.rehearsal import corpus

K = 100
ASKED = 8  # words of a question
LIMIT_BYTES = 1.5e9


@dataclasses.dataclass(frozen=True)
class Sizes:
    """Passages that both index, questions that both search with, and passages of which memory is measured."""

    rows: int = 50_000
    questions: int = 300
    memory_rows: int = int(os.environ.get("RAGBEAM_BENCH_ROWS", "200000"))


TOY = Sizes(400, 20, 500)


class Library:
    """bm25s, with the same words and the same formula."""

    def __init__(self) -> None:
        self._index = bm25s.BM25(method="lucene", k1=0.9, b=0.4)

    def _words(self, texts: list[str]) -> list[list[str]]:
        stemmer = Stemmer.Stemmer("english")
        return bm25s.tokenize(texts, stopwords="en", stemmer=stemmer, return_ids=False, show_progress=False)

    def build(self, passages: Path) -> None:
        """Indexes passages as chunk wrote them."""
        self._index.index(self._words(texts_of(passages)), show_progress=False)

    def search(self, questions: list[str]) -> np.ndarray:
        """The scores of the best K passages of each question, float32 (questions, K), best first."""
        k = min(K, self._index.scores["num_docs"])
        return self._index.retrieve(self._words(questions), k=k, show_progress=False).scores


def texts_of(passages: Path) -> list[str]:
    """Title and text of each passage."""
    shards = read_manifest(str(passages), "chunk").shards
    tables = [read_parquet(store.join(str(passages), shard.path), ["title", "text"]).to_pydict() for shard in shards]
    pairs = itertools.chain.from_iterable(zip(table["title"], table["text"], strict=True) for table in tables)
    return [f"{title}\n{text}" for title, text in pairs]


def run(directory: Path, sizes: Sizes = Sizes()) -> list[Result]:
    """Seconds of building and of search, the largest difference of scores, and the peak memory of building."""
    passages, index = directory / "passages", directory / "index"
    corpus.write_passages(passages, sizes.rows)
    draw = np.random.default_rng(3)
    words = [texts.split() for texts in draw.choice(np.array(texts_of(passages), object), sizes.questions)]
    questions = [" ".join(draw.choice(some, ASKED)) for some in words]
    library = Library()

    def build() -> None:
        shutil.rmtree(index, ignore_errors=True)
        ragbeam("index", "--kind", "bm25", "--passages", passages, "--output", index, "--direct_num_workers", 1)

    ours, theirs = side_by_side(build, lambda: library.build(passages))
    opened = open_bm25(str(index))
    shards = [opened.open_shard(number) for number in range(len(opened.shards))]
    found: dict[str, TopK | np.ndarray] = {}

    def search() -> None:
        found["ours"] = merge([shard.search(questions, K) for shard in shards], K)

    def search_theirs() -> None:
        found["theirs"] = library.search(questions)

    asked, theirs_asked = side_by_side(search, search_theirs)
    expected = np.asarray(found["theirs"])
    scores = np.where(np.isfinite(found["ours"].scores), found["ours"].scores, 0)[:, : expected.shape[1]]  # type: ignore[union-attr]
    apart = float(np.max(np.abs(scores - expected) / np.maximum(expected, 1e-9)))
    size = f"{sizes.rows:,} passages"
    return [
        Result(
            *("index of words / bm25s, seconds", ours / theirs, "< 1", ours < theirs),
            f"{ours:.1f} s, bm25s {theirs:.1f} s; {size}",
        ),
        Result(
            *("search of words / bm25s, seconds", asked / theirs_asked, "< 1", asked < theirs_asked),
            f"{asked:.2f} s, bm25s {theirs_asked:.2f} s; {sizes.questions} questions of {ASKED} words, {size}",
        ),
        Result(
            *("scores of words, largest relative difference to bm25s in float32", apart, "< 1e-5", apart < 1e-5),
            *(f"{K} passages of each question", apart < 1e-5),
        ),
        memory(directory, sizes.memory_rows),
    ]


def memory(directory: Path, rows: int) -> Result:
    """The peak memory of one process that indexes so many passages."""
    passages = directory / "more"
    corpus.write_passages(passages, rows)
    command = ["index", "--kind", "bm25", "--passages", passages, "--output", directory / "more-index"]
    peak = peak_memory_bytes(*command, "--direct_num_workers", 1)
    manifest = read_manifest(str(directory / "more-index"), "bm25")
    size, most = sum(shard.bytes for shard in manifest.shards), max(shard.rows for shard in manifest.shards)
    return Result(
        *("index of words, peak memory / 1.5 GB", peak / LIMIT_BYTES, "< 1", peak < LIMIT_BYTES),
        f"{peak / 1e6:.0f} MB for {rows:,} passages, {size / 1e6:.0f} MB in shards of at most {most:,}",
    )
