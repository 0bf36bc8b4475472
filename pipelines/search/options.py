"""The options of search."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence

from pipelines.console.options import (
    StageOptions,
    block_questions_setting,
    embeddings_setting,
    keep_going_setting,
    num_shards_setting,
    query_prefix_setting,
    rescore_setting,
)
from pipelines.transforms.model_workers import WorkerOptions
from rag_ops import defaults
from rag_ops.errors import InputError
from rag_ops.questions.columns import QuestionOptions
from rag_ops.retrieval.fusion import FusionSettings
from rag_ops.retrieval.kinds import SearchSettings
from rag_ops.settings import setting

SEARCH_DTYPES = ("auto", "float32", "bfloat16")
FUSED = 100  # candidates of each search, at least, that a fusion chooses from
OF_INDEX = ("question_encoder", "model", "embeddings", "rescore", "query_prefix")  # settings that go with --index alone


@dataclasses.dataclass(frozen=True, kw_only=True)
class SearchOptions(StageOptions):
    """search: `questions` to ranked passages in `output`, by an index of vectors, one of words, or both."""

    questions: Sequence[str] = setting(..., "question files or globs", group="questions", metavar="URL")
    reading: QuestionOptions = dataclasses.field(default_factory=QuestionOptions)
    query_prefix: str | None = query_prefix_setting()
    index: str | None = setting(None, "output of ragbeam index", metavar="DIR")
    question_encoder: str | None = setting(
        None, "encoder of questions that belongs to --index: directory, URL or hub id", metavar="MODEL"
    )
    model: str | None = setting(None, "or a RAG model, for its question encoder", metavar="MODEL")
    bm25: str | None = setting(None, "output of ragbeam index --kind bm25, alone or with --index", metavar="DIR")
    passages: str | None = setting(
        None, "the passages, if the place in a manifest cannot be read: moved, or secured", metavar="DIR"
    )
    embeddings: str | None = embeddings_setting()
    n_docs: int = setting(
        defaults.SEARCH_DOCS,
        "passages for a question",
        group="hits",
        at_least=1,
        at_most=defaults.MAX_DOCS,
        memory=True,
    )
    fusing: FusionSettings = dataclasses.field(default_factory=FusionSettings)
    candidates: int | None = setting(
        None,
        f"passages of each search that --fusion chooses from; by default as many as are kept, at least {FUSED}",
        group="hits",
        metavar="N",
        at_least=1,
        at_most=defaults.MAX_DOCS,
        memory=True,
    )
    filter: str | None = setting(
        None,
        "find only passages of which this holds: COLUMN OP VALUE [and ...], of = != < <= > >= in, texts in quotes",
        group="hits",
        metavar="EXPRESSION",
    )
    rerank: str | None = setting(
        None,
        "cross-encoder that scores the first passages anew: directory, URL or hub id",
        group="hits",
        metavar="MODEL",
    )
    rerank_top: int | None = setting(
        None,
        "how many passages of a question --rerank scores; by default --n_docs",
        group="hits",
        metavar="N",
        at_least=1,
        at_most=defaults.MAX_DOCS,
    )
    compute_dtype: str = setting(
        "auto",
        "arithmetic of the models: auto, float32 or bfloat16; auto is bfloat16 on a CPU that has instructions for it, "
        "else float32, and float32 for --rerank; on a GPU questions' vectors are in float32",
        group="workers",
        choices=SEARCH_DTYPES,
    )
    block_questions: int = block_questions_setting(group="hits")
    search: SearchSettings = dataclasses.field(default_factory=SearchSettings)
    rescore: int | None = rescore_setting(group="hits")
    trec: str | None = setting(
        None,
        "also write a TREC run: question, Q0, passage, rank, score, tag",
        group="hits",
        metavar="FILE",
        writes=True,
    )
    keep_going: bool = keep_going_setting(group="hits")
    num_shards: int | None = num_shards_setting()
    workers: WorkerOptions = dataclasses.field(default_factory=WorkerOptions)

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.index is None and self.bm25 is None:
            raise InputError(
                "there is nothing to search in", value="neither", expected="--index DIR, --bm25 DIR or both"
            )
        for name in OF_INDEX:
            if self.index is None and getattr(self, name) is not None:
                raise InputError(f"--{name} goes with --index", value=getattr(self, name), expected="--index DIR")
        if self.index is not None and (self.question_encoder is None) == (self.model is None):
            raise InputError(
                "an index of vectors is searched with one encoder of questions",
                value="neither" if self.model is None else "both --question_encoder and --model",
                expected="--question_encoder MODEL or --model DIR",
            )
        if self.rerank is None and self.rerank_top is not None:
            raise InputError("--rerank_top goes with --rerank", value=self.rerank_top, expected="--rerank MODEL")
        self._check_numbers()

    def _check_numbers(self) -> None:
        if not self.fuses:
            self.fusing.check_unused()
        if self.candidates is not None and not self.fuses:
            raise InputError(
                "--candidates is for two searches", value=self.candidates, expected="both --index and --bm25"
            )
        if self.candidates is not None and self.candidates < self.depth:
            raise InputError(
                f"--candidates is less than --{'n_docs' if self.depth == self.n_docs else 'rerank_top'}",
                value=self.candidates,
                expected=f"at least {self.depth}",
            )
        if self.rescore is not None and self.rescore < self.searched:
            raise InputError(
                "--rescore is less than the passages that are wanted of --index",
                value=self.rescore,
                expected=f"at least {self.searched} candidates",
            )

    @property
    def fuses(self) -> bool:
        """Whether the passages of two searches become one list."""
        return self.index is not None and self.bm25 is not None

    @property
    def depth(self) -> int:
        """How many passages of a question are ranked, of which --n_docs are kept."""
        return max(self.n_docs, self.reranked)

    @property
    def searched(self) -> int:
        """How many passages of a question each search gives."""
        return (self.candidates or max(self.depth, FUSED)) if self.fuses else self.depth

    @property
    def reranked(self) -> int:
        """How many passages of a question are scored by --rerank; 0 without it."""
        return 0 if self.rerank is None else self.rerank_top or self.n_docs

    @property
    def encoder(self) -> str | None:
        """The model that encodes questions, if any."""
        return self.question_encoder or self.model

    @property
    def models(self) -> list[str]:
        """The models that workers load."""
        return [name for name in (self.encoder, self.rerank) if name is not None]
