"""Recall of an index against exact search, on held-out queries, and the cheapest search parameters that reach a target.

recall@k of a query is the share of its k true best passages among the k that the index finds; a passage whose exact
score equals the k-th best counts as true. Queries are vectors of the corpus, each without itself, or the caller's own.
"""

from __future__ import annotations

import dataclasses
import io
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import numpy as np

from rag_ops.errors import InputError, JobError
from rag_ops.retrieval import exact
from rag_ops.retrieval.index_kind import IndexShard, SearchParams
from rag_ops.retrieval.kinds import DEPTHS, KEPT
from rag_ops.retrieval.topk import TopK
from rag_ops.storage import store
from rag_ops.storage.parquet import read_parquet

QUERIES = 512
QUERY_GROUPS = 32  # places of the corpus that queries are read from
GROUP_ROWS = 1000  # rows of a place: a row group
BARE_QUERIES = 128  # queries that FAISS's own search is asked too
BARE_MARGIN = 0.01  # how far our recall may be below FAISS's own
ENOUGH = 0.999  # recall within a shard at which nothing more costly is tried


@dataclasses.dataclass(frozen=True)
class Recall:
    """Recall@k as measured with some search parameters."""

    params: SearchParams
    queries: int
    at: Mapping[int, float]

    def line(self) -> str:
        """One line for the terminal.

        >>> Recall(SearchParams("nprobe", 8), 512, {1: 1.0, 5: 0.98765}).line()
        'recall@1 1.000, @5 0.988 at nprobe 8, on 512 queries'
        """
        figures = ", ".join(f"{'recall' if not n else ''}@{k} {v:.3f}" for n, (k, v) in enumerate(self.at.items()))
        return f"{figures}{f' at {self.params}' if self.params.name else ''}, on {self.queries} queries"


def query_rows(rows: int, count: int = QUERIES) -> np.ndarray:
    """Rows of the corpus to take as queries: from some places spread over it, some from each; int64, ascending."""
    if rows <= QUERY_GROUPS * GROUP_ROWS:
        return np.linspace(0, rows - 1, min(rows, count)).astype(np.int64)
    starts = np.linspace(0, max(0, rows - GROUP_ROWS), QUERY_GROUPS)
    inside = np.linspace(0, min(rows, GROUP_ROWS) - 1, max(1, count // QUERY_GROUPS))
    return np.unique((starts[:, None] + inside).astype(np.int64))


def read_queries(url: str, dimension: int) -> np.ndarray:
    """Reads the query vectors of a file: .npy of (queries, dimension), or Parquet with a column `vector`; float32.

    Raises:
        InputError: another kind of file, or vectors of another dimension.
    """
    expected = ".npy, or .parquet with a column vector"
    try:
        if url.endswith(".npy"):
            with store.open_read(url) as file:
                found = np.load(io.BytesIO(file.read()), allow_pickle=False).astype(np.float32)
        elif url.endswith(".parquet"):
            found = np.array(read_parquet(url, ["vector"])["vector"].to_pylist(), np.float32)
        else:
            raise InputError("--queries is of no known kind", value=url, expected=expected)
    except (FileNotFoundError, IsADirectoryError) as error:
        raise InputError("--queries: no such file", value=url, expected=expected) from error
    except (ValueError, TypeError, KeyError, EOFError) as error:
        raise InputError(f"--queries holds no vectors ({error})", value=url, expected=expected) from error
    if found.ndim != 2 or found.shape[1] != dimension or not len(found):
        raise InputError(
            "--queries does not go with the embeddings",
            value=f"an array of shape {found.shape}",
            expected=f"(queries, {dimension})",
        )
    return np.ascontiguousarray(found, np.float32)


def true_hits(queries: np.ndarray, matrices: Iterable[np.ndarray], first_row: int, threads: int) -> TopK:
    """The best passages of consecutive embedding shards by exact search.

    Args:
        queries: float32 (queries, dimension).
        matrices: vectors of each embedding shard.
        first_row: corpus row of the first vector.
        threads: number of threads of the search.
    """
    hits = TopK.empty(len(queries), KEPT)
    for vectors in matrices:
        found = exact.search(queries, vectors, KEPT, threads=threads)
        rows = np.where(found.rows < 0, -1, found.rows + first_row)
        hits = TopK.sorted(np.concatenate([hits.scores, found.scores], 1), np.concatenate([hits.rows, rows], 1), KEPT)
        first_row += len(vectors)
    return hits


def found_hits(
    shard: IndexShard, queries: np.ndarray, own_rows: np.ndarray | None, truth: TopK, tried: Sequence[SearchParams]
) -> dict[SearchParams, TopK]:
    """What an index shard finds with each parameter, from the cheapest on until its own recall is all but 1.

    Args:
        shard: open index shard.
        queries: float32 (queries, dimension).
        own_rows: the queries' own rows, or None.
        truth: what exact search finds in the same shard.
        tried: search parameters, cheapest first.
    """
    found: dict[SearchParams, TopK] = {}
    for params in tried:
        shard.set_search(params.settings())
        found[params] = shard.search(queries, KEPT)
        if min(measure(found[params], truth, own_rows).values()) >= ENOUGH:
            break
    return found


def check_beside_faiss(
    shard: IndexShard, queries: np.ndarray, own_rows: np.ndarray | None, truth: TopK, found: TopK
) -> None:
    """Compares the recall of our search of a shard with that of FAISS's own search of it, on some of the queries.

    Args:
        shard: open shard, set to the parameters that `found` was found with.
        queries: float32 (queries, dimension).
        own_rows: the queries' own rows, or None.
        truth: what exact search finds in the same shard.
        found: what our search finds.

    Raises:
        JobError: ours is lower by more than `BARE_MARGIN` at some k: the index is read or ranked wrongly.
    """
    some = slice(None, None, max(1, len(queries) // BARE_QUERIES))
    found_bare = shard.search_bare(queries[some], KEPT)
    if found_bare is None:
        return
    own = own_rows[some] if own_rows is not None else None
    true, mine = (TopK(hits.scores[some], hits.rows[some]) for hits in (truth, found))
    ours, bare = measure(mine, true, own), measure(found_bare, true, own)
    for k, value in ours.items():
        if value < bare[k] - BARE_MARGIN:
            raise JobError(
                f"recall@{k} of the index is below that of FAISS's own search of it, so its hits would be wrong",
                value=f"{value:.3f}",
                expected=f"at least {bare[k] - BARE_MARGIN:.3f}",
                remedy="use another --spec, such as Flat, SQ8 or IVF, and report this one",
            )


def measure(found: TopK, truth: TopK, own_rows: np.ndarray | None) -> dict[int, float]:
    """recall@k for each k of `DEPTHS` that the corpus is large enough for.

    Args:
        found: hits of the index, at least `KEPT` places where there are so many vectors.
        truth: hits of exact search.
        own_rows: the queries' own rows, which count as no hit, or None.
    """
    found_rows, (true_rows, true_scores) = found.rows, (truth.rows, truth.scores)
    if own_rows is not None:
        found_rows = _without(found_rows, own_rows)
        true_scores = np.take_along_axis(true_scores, _others(true_rows, own_rows), 1)
        true_rows = _without(true_rows, own_rows)
    available = int((true_rows >= 0).sum(1).min(initial=KEPT))
    recalls = {}
    for k in (depth for depth in DEPTHS if depth <= available):
        # All that is as good as the k-th best is true, as far as it was kept.
        true = [set(row[score >= score[k - 1]].tolist()) for row, score in zip(true_rows, true_scores, strict=True)]
        hits = [min(k, len(best.intersection(row[:k].tolist()))) for best, row in zip(true, found_rows, strict=True)]
        recalls[k] = float(np.mean(hits)) / k
    return recalls


def choose(recalls: Sequence[Recall], target: float | None) -> Recall:
    """The cheapest parameters whose recall is on target at every k; without a target, the only one that was tried.

    Raises:
        JobError: none reaches it.
    """
    for recall in recalls:
        if target is None or all(value >= target for value in recall.at.values()):
            return recall
    best = max(recalls, key=lambda recall: min(recall.at.values(), default=0.0))
    raise JobError(
        "the index does not reach --target_recall",
        value=best.line(),
        expected=f"at least {target:g} at every k",
        remedy="a spec that keeps more of the vectors (Flat, SQ8), more lists, or a lower target",
    )


def to_info(recall: Recall) -> dict[str, Any]:
    """The entries for the manifest: queries, recall by k, and the settings of the search."""
    at, settings = {str(k): value for k, value in recall.at.items()}, recall.params.settings()
    return {"recall": at, "recall_queries": recall.queries, "search": settings}


def _others(rows: np.ndarray, own: np.ndarray) -> np.ndarray:
    """Places of all hits but the query's own, in order; of the last one dropped where it is not among them."""
    return np.argsort(rows == own[:, None], axis=1, kind="stable")[:, :-1]


def _without(rows: np.ndarray, own: np.ndarray) -> np.ndarray:
    return np.take_along_axis(rows, _others(rows, own), 1)
