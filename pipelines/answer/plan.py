"""The plan of the answer job: its options, its corpus, the questions left to ask, and where its files go."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence

from pipelines.answer.options import AnswerOptions
from pipelines.answer.sources import IndexSource, Source
from pipelines.transforms.inference import (
    ModelSettings,
)
from rag_ops.questions import blocks
from rag_ops.retrieval.corpus import Corpus
from rag_ops.storage import store
from schemas.manifest import ShardRecord


@dataclasses.dataclass(frozen=True)
class Work:
    """The answer job's working directory: named by the run's fingerprint, so no other run's files are in it."""

    url: str

    def name(self, kind: str, number: int, suffix: str = "parquet") -> str:
        """The file name of part `number` of a kind: vectors, texts."""
        return f"{kind}-{number:05d}.{suffix}"

    def path(self, name: str) -> str:
        """The URL of a file."""
        return store.join(self.url, name)


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

    @property
    def corpus(self) -> Corpus:
        """The index that is searched, with its passages."""
        assert isinstance(self.source, IndexSource)
        return self.source.corpus

    def index_shards(self) -> list[tuple[ShardRecord, int]]:
        """The shards to search, each with its first row; none if no question is to be asked."""
        starts = self.corpus.index.row_starts()
        return list(zip(self.corpus.index.shards, starts, strict=False)) if self.todo else []

    @property
    def candidates(self) -> int:
        """Number of hits to take from the index for a question."""
        return self.options.rescore or self.options.kept

    @property
    def search_params(self) -> dict[str, int | None]:
        """The settings of the search: as given, else what index found to be enough, else None."""
        return self.options.search.over(self.corpus.index.info.get("search", {}))

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
    def asked(self) -> int:
        """About how many questions the whole job asks: the same in a run that takes it up again."""
        return len(self.block_numbers) * self.options.block_questions

    @property
    def shard_of_block(self) -> dict[int, int]:
        """The answer shard that each block belongs to."""
        return {block: shard for shard, numbers in enumerate(self.cuts) for block in numbers}
