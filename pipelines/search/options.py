"""The options of search."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence

from pipelines.console.options import StageOptions, num_shards_setting, query_prefix_setting
from pipelines.transforms.model_workers import WorkerOptions
from rag_ops import defaults
from rag_ops.errors import InputError
from rag_ops.questions.columns import QuestionOptions
from rag_ops.retrieval.kinds import SearchSettings
from rag_ops.settings import setting
from rag_ops.storage import places

SEARCH_DTYPES = ("auto", "float32", "bfloat16")


@dataclasses.dataclass(frozen=True, kw_only=True)
class SearchOptions(StageOptions):
    """search: `questions` to ranked passages in `output`, by `index` and an encoder of questions."""

    questions: Sequence[str] = setting(..., "question files or globs", group="questions", metavar="URL")
    reading: QuestionOptions = dataclasses.field(default_factory=QuestionOptions)
    query_prefix: str | None = query_prefix_setting()
    index: str | None = setting(None, "output of ragbeam index", metavar="DIR")
    question_encoder: str | None = setting(
        None, "encoder of questions that belongs to --index: directory, URL or hub id", metavar="MODEL"
    )
    model: str | None = setting(None, "or a RAG model, for its question encoder", metavar="MODEL")
    passages: str | None = setting(
        None, "the passages, if the place in a manifest cannot be read: moved, or secured", metavar="DIR"
    )
    embeddings: str | None = setting(None, "the embeddings likewise, for --rescore", metavar="DIR")
    n_docs: int = setting(
        100, "passages for a question", group="hits", at_least=1, at_most=defaults.MAX_DOCS, memory=True
    )
    compute_dtype: str = setting(
        "auto",
        "of the models' arithmetic: auto, float32 or bfloat16; auto is bfloat16 on a GPU, and on a CPU that has "
        "instructions for it, else float32; on a GPU questions' vectors are in float32",
        group="workers",
        choices=SEARCH_DTYPES,
    )
    block_questions: int = setting(
        256, "questions that travel and are searched together", group="hits", at_least=1, at_most=100_000
    )
    search: SearchSettings = dataclasses.field(default_factory=SearchSettings)
    rescore: int | None = setting(
        None,
        "take so many candidates from the index and score them exactly from the stored vectors",
        group="hits",
        metavar="N",
        at_least=1,
        at_most=100_000,
    )
    trec: str | None = setting(
        None,
        "also write a TREC run: question, Q0, passage, rank, score, tag",
        group="hits",
        metavar="FILE",
        writes=True,
    )
    keep_going: bool = setting(
        False,
        "write the passages even if over half of 20 or more questions fail in the model in the same way",
        group="hits",
    )
    num_shards: int | None = num_shards_setting()
    workers: WorkerOptions = dataclasses.field(default_factory=WorkerOptions)

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.index is None:
            raise InputError("there is nothing to search in", value="no --index", expected="--index DIR")
        if (self.question_encoder is None) == (self.model is None):
            raise InputError(
                "an index is searched with one encoder of questions",
                value="neither" if self.model is None else "both --question_encoder and --model",
                expected="--question_encoder MODEL or --model DIR",
            )
        if self.rescore is not None and self.rescore < self.n_docs:
            raise InputError(
                "--rescore is less than --n_docs", value=self.rescore, expected=f"at least {self.n_docs} candidates"
            )
        if self.trec is not None and places.holds(places.location(self.output), places.location(self.trec)):
            raise InputError(
                "--trec lies in --output, which holds shards alone", value=self.trec, expected="a place apart from it"
            )

    @property
    def encoder(self) -> str:
        """The model that encodes questions."""
        return self.question_encoder or self.model or ""
