"""The four stages: what each is called, its folder in a workspace, the names of its shards. Written here once."""

from __future__ import annotations

import dataclasses
import re


@dataclasses.dataclass(frozen=True)
class Stage:
    """One stage on disk.

    Attributes:
        name: name of its command, also in its manifest.
        folder: its directory in a workspace, and what the names of its shards begin with.
        suffix: suffix of its shards.
    """

    name: str
    folder: str
    suffix: str

    def shard(self, number: int, count: int) -> str:
        """The file name of shard `number` of `count`.

        >>> CHUNK.shard(3, 64)
        'passages-00003-of-00064.parquet'
        """
        return f"{self.folder}-{number:05d}-of-{count:05d}.{self.suffix}"


CHUNK = Stage("chunk", "passages", "parquet")
EMBED = Stage("embed", "embeddings", "parquet")
INDEX = Stage("index", "index", "faiss")
ANSWER = Stage("answer", "answers", "parquet")
STAGES = {stage.name: stage for stage in (CHUNK, EMBED, INDEX, ANSWER)}  # in the order in which they run
TRAINED = "trained.faiss"  # of an index: trained and empty; no shard, but kept with a record

_ANY_SHARD = "|".join(rf"{stage.folder}-\d{{5,}}-of-\d{{5,}}\.{stage.suffix}" for stage in STAGES.values())
_WRITTEN = re.compile(rf"{_ANY_SHARD}|{re.escape(TRAINED)}")


def is_written_name(name: str) -> bool:
    """Whether a stage may have written a file of this name.

    >>> is_written_name("index-00000-of-00008.faiss"), is_written_name("notes.parquet")
    (True, False)
    """
    return _WRITTEN.fullmatch(name) is not None
