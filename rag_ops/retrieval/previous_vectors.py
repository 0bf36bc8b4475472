"""Vectors of an earlier embeddings directory, found by the content hash of their passages.

Memory holds one shard: where each hash lies is kept in a file that is mapped, and vectors are read by row
group. 21 million passages take 0.5 GB on disk, and as much in the memory of the launcher while it sorts them.
"""

from __future__ import annotations

import dataclasses

import numpy as np

from rag_ops.errors import InputError, JobError
from rag_ops.storage import store
from rag_ops.storage.parquet import read_parquet
from rag_ops.storage.rows import as_matrix, hash_words, pieces
from schemas.manifest import Manifest

PLACE_BITS = 32  # low bits of a location: the row within its shard; the shard's number is above them


@dataclasses.dataclass(frozen=True)
class Previous:
    """An earlier embeddings directory with the file of its locations.

    Attributes:
        url: URL of the directory.
        manifest: manifest of the directory.
        locations_url: URL of the file that `write_locations` wrote.
    """

    url: str
    manifest: Manifest
    locations_url: str

    def find(self, hashes: np.ndarray) -> np.ndarray:
        """The location of each hash, int64 (rows,): shard << PLACE_BITS | row; -1 if there is none.

        Args:
            hashes: result of `hash_words`.
        """
        path = store.local_copy(self.locations_url, self.manifest.digest)
        high, low, locations = np.load(path, mmap_mode="r", allow_pickle=False)
        if not len(high):
            return np.full(len(hashes), -1, np.int64)
        place = np.minimum(np.searchsorted(high, hashes[:, 0]), len(high) - 1)
        same = (high[place] == hashes[:, 0]) & (low[place] == hashes[:, 1])
        return np.where(same, locations[place].astype(np.int64), -1)

    def read(self, locations: np.ndarray, hashes: np.ndarray, into: np.ndarray) -> None:
        """Copies the vectors at `locations` to the same rows of `into`; rows at -1 stay. A row group is read at a time.

        Args:
            locations: result of `find`, int64 (rows,).
            hashes: content hashes expected there, as `hash_words` gives them, (rows, 2).
            into: array to fill, (rows, dimension), in the stored dtype.

        Raises:
            JobError: the directory has changed since.
        """
        shards, places = locations >> PLACE_BITS, locations & ((1 << PLACE_BITS) - 1)
        for shard in np.unique(shards[locations >= 0]):
            wanted = np.flatnonzero((shards == shard) & (locations >= 0))
            url = store.join(self.url, self.manifest.shards[shard].path)
            for where, table in pieces(url, ["content_hash", "vector"], places[wanted]):
                here = wanted[where]
                if (hash_words(table["content_hash"]) != hashes[here]).any():
                    raise JobError("--previous has changed while it was read", value=url, remedy="run it again")
                into[here] = as_matrix(table["vector"])


def write_locations(url: str, manifest: Manifest, directory: str, name: str) -> str:
    """Writes where each content hash of an embeddings directory lies, sorted; returns the file's URL.

    The file is a .npy of uint64 (3, rows): the hash's halves and the location. Of equal hashes one is kept, and of two
    that agree in their first half, which no corpus has by chance, too.

    Args:
        url: directory of the embeddings.
        manifest: manifest of the embeddings.
        directory: directory to write to; a file that is there already is used as it is.
        name: name of the file.
    """
    target = store.join(directory, name)
    if store.exists(target):
        return target
    table = np.empty((3, manifest.rows), np.uint64)
    for number, (shard, start) in enumerate(zip(manifest.shards, manifest.row_starts(), strict=False)):
        hashes = hash_words(read_parquet(store.join(url, shard.path), ["content_hash"])["content_hash"])
        if len(hashes) != shard.rows:
            raise InputError("a shard has other rows than its manifest says", value=store.join(url, shard.path))
        here = slice(start, start + shard.rows)
        table[:2, here] = hashes.T
        table[2, here] = (number << PLACE_BITS) + np.arange(shard.rows)
    _, kept = np.unique(table[0], return_index=True)
    with store.atomic_write(directory, name) as file:
        np.lib.format.write_array_header_1_0(file, {"descr": "<u8", "fortran_order": False, "shape": (3, len(kept))})
        for row in table:
            file.write(row[kept])
    return target
