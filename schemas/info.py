"""What the manifest of each stage says under `info`: for readers, deciding nothing. What is unknown is left out."""

from __future__ import annotations

import typing
from collections.abc import Mapping
from typing import Any, TypedDict


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


BY_STAGE: dict[str, type] = {"chunk": ChunkInfo, "embed": EmbedInfo, "index": IndexInfo, "answer": AnswerInfo}


def wrong_info(stage: str, info: Mapping[str, Any]) -> str | None:
    """What is wrong with the `info` of a stage's manifest, as a clause; None if its values are of the right types.

    >>> wrong_info("embed", {"dimension": "768"})
    "its info.dimension is '768', which is no int"
    >>> wrong_info("embed", {"dimension": 768, "someone_elses": 1}) is None
    True
    """
    for key, hint in typing.get_type_hints(BY_STAGE[stage]).items():
        kinds = tuple(typing.get_origin(part) or part for part in typing.get_args(hint)) if _is_union(hint) else None
        kinds = kinds or (typing.get_origin(hint) or hint,)
        if float in kinds:
            kinds += (int,)
        value = info.get(key)
        if key in info and (not isinstance(value, kinds) or (isinstance(value, bool) and bool not in kinds)):
            return f"its info.{key} is {value!r}, which is no {' or '.join(kind.__name__ for kind in kinds)}"
    return None


def _is_union(hint: Any) -> bool:
    return not isinstance(hint, type) and typing.get_origin(hint) not in (dict, list)
