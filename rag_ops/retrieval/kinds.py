"""The kinds of index, the settings of their searches, and how one is designed for some vectors."""

from __future__ import annotations

import dataclasses
import itertools
from collections.abc import Mapping, Sequence

import numpy as np

from rag_ops import defaults, settings
from rag_ops.errors import InputError
from rag_ops.retrieval.index_kind import IndexKind
from rag_ops.settings import setting
from rag_ops.sizes import parse_size

SHARD_BYTES = parse_size("--shard_memory", defaults.SHARD_MEMORY)
NUMBER_BYTES = {"float16": 2, "float32": 4}
AUTO, TOLD = "auto", "as told"
FIRST_SETTINGS = ("nprobe", "ef_search")
DEPTHS = (1, 5, 20, 100)  # k of recall@k
KEPT = max(DEPTHS) + 1  # hits to measure it from: one more, for a query's own vector


def all_kinds() -> list[type[IndexKind]]:
    """The kinds of index; the first that takes a spec has it, and Faiss takes all. Imported late for the flags."""
    from rag_ops.retrieval.faiss_kind import Faiss

    return [Faiss]


def kind_of(spec: str) -> type[IndexKind]:
    """The kind of index that a spec names."""
    return next(kind for kind in all_kinds() if kind.takes(spec))


@dataclasses.dataclass(frozen=True, kw_only=True)
class SearchSettings:
    """The settings of a search, of whichever kind of index; each kind takes its own."""

    nprobe: int | None = setting(
        None, "lists that a search visits; by default what index found", group="answers", at_least=1
    )
    ef_search: int | None = setting(
        None, "places of a graph that a search keeps; by default what index found", group="answers", at_least=1
    )

    def __post_init__(self) -> None:
        settings.check(self)

    def over(self, found: Mapping[str, int]) -> dict[str, int | None]:
        """The settings by name: as given, else what index found to be enough, else None."""
        given = dataclasses.asdict(self)
        return {name: found.get(name) if value is None else value for name, value in given.items()}

    def config(self, found: Mapping[str, int]) -> dict[str, int | None]:
        """What decides the hits: `over`, without later settings that are None, so that older answers stay reusable."""
        return {name: value for name, value in self.over(found).items() if value is not None or name in FIRST_SETTINGS}


@dataclasses.dataclass(frozen=True)
class IndexDesign:
    """The index to build: its kind with its spec, why that spec (in one line), and the number of shards."""

    kind: IndexKind
    reason: str
    num_shards: int


def design(
    spec: str,
    rows: int,
    dimension: int,
    dtype: str,
    *,
    normalize: bool,
    files: int,
    num_shards: int | None = None,
    shard_bytes: int = SHARD_BYTES,
    recall: float,
) -> IndexDesign:
    """Designs the index for some vectors, checked against them before any work.

    Args:
        spec: spec of any kind, or "auto".
        rows: number of vectors.
        dimension: numbers of a vector.
        dtype: dtype of the vectors as stored: "float16" or "float32".
        normalize: whether vectors have length 1.
        files: number of embedding shards.
        num_shards: number of index shards; None for as few as keep each within `shard_bytes`.
        shard_bytes: memory for an index shard.
        recall: recall that "auto" must reach.

    Raises:
        InputError: the spec does not go with the vectors, or no index fits the memory.
    """
    reason = TOLD
    if spec == AUTO:
        from rag_ops.retrieval.faiss_kind import choose

        spec, reason = choose(rows, dimension, NUMBER_BYTES[dtype], shard_bytes, num_shards or files, recall)
    kind = kind_of(spec)(spec, dimension, dtype, normalize)
    kind.check(rows)
    return IndexDesign(kind, reason, num_shards or default_shards(rows, kind.bytes_per_vector, files, shard_bytes))


def default_shards(rows: int, bytes_per_vector: int, embedding_shards: int, shard_bytes: int = SHARD_BYTES) -> int:
    """The number of index shards when none is given: as few as keep each within `shard_bytes`."""
    return max(1, min(embedding_shards, -(-rows * bytes_per_vector // shard_bytes)))


def cut_shards(shard_rows: Sequence[int], num_shards: int, of: str = "embedding") -> list[range]:
    """Which embedding or passage shards each index shard covers: consecutive, none empty, as even in rows as can be.

    Args:
        shard_rows: rows of each of these.
        num_shards: number of index shards.
        of: what they are, for errors.

    Raises:
        InputError: more index shards than there are of these.

    >>> cut_shards([10, 10, 10, 10], 2)
    [range(0, 2), range(2, 4)]
    """
    if num_shards > len(shard_rows):
        raise InputError(
            f"--num_shards is more than there are {of} shards",
            value=num_shards,
            expected=f"1 to {len(shard_rows)}",
            remedy="fewer index shards, or chunk with more --num_shards",
        )
    ends = np.cumsum(shard_rows)
    cuts = [0]
    for number in range(1, num_shards):
        nearest = int(np.searchsorted(ends, ends[-1] * number / num_shards, side="left")) + 1
        cuts.append(min(max(nearest, cuts[-1] + 1), len(shard_rows) - (num_shards - number)))
    cuts.append(len(shard_rows))
    return [range(start, end) for start, end in itertools.pairwise(cuts)]
