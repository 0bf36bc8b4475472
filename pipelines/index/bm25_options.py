"""The options of index --kind bm25."""

from __future__ import annotations

import dataclasses

from pipelines.console.options import StageOptions, num_shards_setting
from rag_ops.articles.options import LANGUAGE_CODE
from rag_ops.errors import InputError
from rag_ops.settings import setting


@dataclasses.dataclass(frozen=True, kw_only=True)
class Bm25Options(StageOptions):
    """index --kind bm25: `passages` to an index of their words in `output`."""

    passages: str = setting(..., "output of ragbeam chunk; of --kind bm25", metavar="DIR")
    language: str | None = setting(
        None,
        "language of the passages, as a code such as de; by default as chunk says, else en",
        group="index of words",
        metavar="CODE",
    )
    k1: float = setting(
        0.9, "BM25's k1: how slowly a word's score grows with its number", group="index of words", within=(0, 100)
    )
    b: float = setting(0.4, "BM25's b: how much long passages lose", group="index of words", within=(0, 1))
    num_shards: int | None = num_shards_setting()
    previous: str | None = setting(
        None,
        "earlier output of ragbeam index --kind bm25: take the counts of unchanged passage shards",
        group="index of words",
        metavar="DIR",
    )

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.language is not None and not LANGUAGE_CODE.fullmatch(self.language):
            raise InputError("--language is no code of a language", value=self.language, expected="de or zh-yue, say")
