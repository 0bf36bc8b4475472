"""The plan of the search job: its options, its corpus, the questions left to ask, and where its files go."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence

from pipelines.search.options import SearchOptions
from pipelines.transforms.index_search import IndexSearch
from pipelines.transforms.inference import ModelSettings
from pipelines.transforms.work import Work
from rag_ops.questions import blocks
from rag_ops.retrieval.corpus import Corpus, question_changes


@dataclasses.dataclass(frozen=True)
class Plan:
    """Everything that the pipeline is built from."""

    options: SearchOptions
    corpus: Corpus
    work: Work
    fingerprint: str
    todo: Sequence[blocks.Block]
    cuts: Sequence[Sequence[int]]
    names: Sequence[str]
    wanted: Sequence[str]
    question_dtype: str = "float32"

    @property
    def dense(self) -> IndexSearch:
        """How the questions' vectors are searched for."""
        options = self.options
        asked = len(self.block_numbers) * options.block_questions
        return IndexSearch(
            self.corpus,
            self.work,
            options.workers,
            options.search,
            kept=options.n_docs,
            candidates=options.rescore or options.n_docs,
            asked=asked,
            block_questions=options.block_questions,
        )

    @property
    def encoder(self) -> ModelSettings:
        """The settings by which a worker encodes questions."""
        changes = question_changes(self.corpus.index.info, self.options.query_prefix)
        return ModelSettings(self.options.encoder, self.options.workers, dtype=self.question_dtype, changes=changes)

    @property
    def block_numbers(self) -> list[int]:
        """All blocks of the job, those that an earlier run searched for among them."""
        return sorted(block for numbers in self.cuts for block in numbers)

    @property
    def shard_of_block(self) -> dict[int, int]:
        """The shard that each block belongs to."""
        return {block: shard for shard, numbers in enumerate(self.cuts) for block in numbers}
