"""The plan of the search job: its options, what it searches in, the questions left, and where its files go."""

from __future__ import annotations

import dataclasses

from pipelines.search.options import SearchOptions
from pipelines.search.sources import Sources
from pipelines.search.words import WordSearch
from pipelines.transforms.allowed import Allowed
from pipelines.transforms.index_search import IndexSearch
from pipelines.transforms.inference import ModelSettings
from pipelines.transforms.question_blocks import BlockPlan
from rag_ops.retrieval.corpus import question_changes
from rag_ops.retrieval.filters import parse


@dataclasses.dataclass(frozen=True, kw_only=True)
class Plan(BlockPlan):
    """Everything that the pipeline is built from."""

    options: SearchOptions
    sources: Sources
    question_dtype: str = "float32"
    rerank_dtype: str = "float32"

    @property
    def allowed(self) -> Allowed | None:
        """The passages that --filter leaves; None for all."""
        if self.options.filter is None:
            return None
        texts = self.sources.texts
        return Allowed(texts.url, texts.passages, parse(self.options.filter), self.work)

    @property
    def dense(self) -> IndexSearch | None:
        """How the questions' vectors are searched for, if they are."""
        options = self.options
        if self.sources.dense is None:
            return None
        return IndexSearch(
            self.sources.dense,
            self.work,
            options.workers,
            options.search,
            kept=options.searched,
            candidates=options.rescore or options.searched,
            asked=len(self.block_numbers) * options.block_questions,
            block_questions=options.block_questions,
            allowed=self.allowed,
        )

    @property
    def words(self) -> WordSearch | None:
        """How the questions' words are searched for, if they are."""
        if self.sources.words is None:
            return None
        numbers = [block.number for block in self.todo]
        return WordSearch(self.sources.words, self.work, numbers, self.options.searched, self.allowed)

    @property
    def encoder(self) -> ModelSettings:
        """The settings by which a worker encodes questions."""
        options = self.options
        assert options.encoder is not None
        assert self.sources.dense is not None
        changes = question_changes(self.sources.dense.index.info, options.query_prefix)
        return ModelSettings(options.encoder, options.workers, dtype=self.question_dtype, changes=changes)

    @property
    def reranker(self) -> ModelSettings | None:
        """The settings by which a worker reranks, if it does."""
        options = self.options
        if options.rerank is None:
            return None
        return ModelSettings(options.rerank, options.workers, dtype=self.rerank_dtype)
