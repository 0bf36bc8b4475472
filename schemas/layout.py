"""The four stages, each written here once: its name, its folder and shards, what its manifest says, what it reads."""

from __future__ import annotations

import dataclasses
import re
import types
import typing
from collections.abc import Mapping
from typing import Any, TypedDict

UNIONS = (types.UnionType, typing.Union)
# What the manifest of each stage says under `info`: for readers, deciding nothing. What is unknown is left out.


class Encoded(TypedDict, total=False):
    """What made the vectors, and what they are; the same in the manifests of embed and index."""

    encoder: str  # as --encoder named it
    encoder_digest: str | None  # None if the vectors were imported
    pooling: str
    normalize: bool  # whether vectors have length 1
    dtype: str  # "float16" or "float32"
    dimension: int  # numbers of a vector
    passages_digest: str  # of the manifest of the passages


class ChunkInfo(TypedDict, total=False):
    """Of chunk."""

    articles: int
    dropped: dict[str, int]  # pages that are no articles, by reason
    dropped_titles: dict[str, list[str]]  # the first of those that would have been, by reason


class EmbedInfo(Encoded, total=False):
    """Of embed."""

    prompt: str  # that stands before each passage
    lower_case: bool
    execution: dict[str, Any]  # device, threads, batch_tokens


class IndexInfo(Encoded, total=False):
    """Of index."""

    spec: str  # FAISS factory string
    stored_as: str
    reason: str  # for the spec, in one line
    augmented: bool  # whether vectors have one more number, for a graph
    trained: str | None  # file of the trained, empty index
    trained_sha256: str
    embeddings_digest: str
    measured_for: dict[str, Any]  # what recall was measured for
    recall: dict[str, float]  # by k
    recall_queries: int
    search: dict[str, Any]  # nprobe or ef_search that reaches the target


class AnswerInfo(TypedDict, total=False):
    """Of answer."""

    model: str  # as --model named it
    model_digest: str
    index_digest: str
    questions: int  # rows of the question files
    distinct_questions: int
    unreadable_questions: int
    errors: dict[str, int]  # rows by reason
    unreadable_gold_answers: int
    first_unreadable_gold_answers: str | None
    execution: dict[str, Any]


@dataclasses.dataclass(frozen=True)
class Stage:
    """One stage on disk.

    Attributes:
        name: name of its command and of its folder in `pipelines/`; also in its manifest.
        folder: its directory in a workspace, and what the names of its shards begin with.
        suffix: suffix of its shards.
        unit: what a row of it is, plural.
        info: what its manifest says under `info`.
        source: the stage that it is made from, if any; `info` has the digest of its manifest as "<folder>_digest".
        aligned: what `verify` compares with the source: "shards" (the same content hashes, shard by shard), "rows"
            (the number of rows), or None.
    """

    name: str
    folder: str
    suffix: str
    unit: str
    info: type
    source: Stage | None = None
    aligned: str | None = None

    def shard(self, number: int, count: int) -> str:
        """The file name of shard `number` of `count`.

        >>> CHUNK.shard(3, 64)
        'passages-00003-of-00064.parquet'
        """
        return f"{self.folder}-{number:05d}-of-{count:05d}.{self.suffix}"

    def wrong_info(self, info: Mapping[str, Any]) -> str | None:
        """What is wrong with the `info` of a manifest, as a clause; None if its values are of the right types.

        >>> EMBED.wrong_info({"dimension": "768"})
        "its info.dimension is '768', which is no int"
        >>> EMBED.wrong_info({"dimension": 768, "someone_elses": 1}) is None
        True
        """
        for key, hint in typing.get_type_hints(self.info).items():
            parts = typing.get_args(hint) if typing.get_origin(hint) in UNIONS else (hint,)
            kinds = tuple(typing.get_origin(part) or part for part in parts)
            if float in kinds:
                kinds += (int,)
            value = info.get(key)
            if key in info and (not isinstance(value, kinds) or (isinstance(value, bool) and bool not in kinds)):
                return f"its info.{key} is {value!r}, which is no {' or '.join(kind.__name__ for kind in kinds)}"
        return None


CHUNK = Stage("chunk", "passages", "parquet", "passages", ChunkInfo)
EMBED = Stage("embed", "embeddings", "parquet", "passages", EmbedInfo, CHUNK, "shards")
INDEX = Stage("index", "index", "faiss", "vectors", IndexInfo, EMBED, "rows")
ANSWER = Stage("answer", "answers", "parquet", "questions", AnswerInfo, INDEX)
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
