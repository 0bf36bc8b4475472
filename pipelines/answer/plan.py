"""The plan of the answer job: its options, its corpus, the questions left to ask, and where its files go."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping

from pipelines.answer.options import AnswerOptions
from pipelines.answer.promise import Floor
from pipelines.answer.sources import IndexSource, Source
from pipelines.transforms.index_search import IndexSearch
from pipelines.transforms.inference import ModelSettings
from pipelines.transforms.question_blocks import BlockPlan
from rag_ops.retrieval.corpus import Corpus


@dataclasses.dataclass(frozen=True, kw_only=True)
class Plan(BlockPlan):
    """Everything that the pipeline is built from."""

    options: AnswerOptions
    source: Source
    digests: Mapping[str, str]
    question_dtype: str = "float32"
    floor: Floor | None = None

    @property
    def corpus(self) -> Corpus:
        """The index that is searched, with its passages."""
        assert isinstance(self.source, IndexSource)
        return self.source.corpus

    @property
    def search(self) -> IndexSearch:
        """How the questions are searched for."""
        options = self.options
        kept, asked = options.kept, len(self.block_numbers) * options.block_questions
        return IndexSearch(
            self.corpus,
            self.work,
            options.workers,
            options.search,
            kept,
            options.rescore or kept,
            asked,
            options.block_questions,
        )

    @property
    def settings(self) -> ModelSettings:
        """The settings by which a worker runs the model."""
        options = self.options
        return ModelSettings(options.model, options.workers, dtype=options.compute_dtype)
