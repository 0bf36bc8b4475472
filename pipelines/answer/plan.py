"""The plan of the answer job: its options, its corpus, the questions left to ask, and where its files go."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence

from pipelines.answer.options import AnswerOptions
from pipelines.answer.promise import Floor
from pipelines.answer.sources import IndexSource, Source
from pipelines.transforms.index_search import IndexSearch
from pipelines.transforms.inference import ModelSettings
from pipelines.transforms.work import Work
from rag_ops.questions import blocks
from rag_ops.retrieval.corpus import Corpus


@dataclasses.dataclass(frozen=True)
class Plan:
    """Everything that the pipeline is built from."""

    options: AnswerOptions
    source: Source
    work: Work
    fingerprint: str
    todo: Sequence[blocks.Block]
    cuts: Sequence[Sequence[int]]
    names: Sequence[str]
    wanted: Sequence[str]
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

    @property
    def block_numbers(self) -> list[int]:
        """All blocks of the job, those that an earlier run answered among them."""
        return sorted(block for numbers in self.cuts for block in numbers)

    @property
    def shard_of_block(self) -> dict[int, int]:
        """The answer shard that each block belongs to."""
        return {block: shard for shard, numbers in enumerate(self.cuts) for block in numbers}
