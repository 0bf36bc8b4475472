"""The options of chunk."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence

from pipelines.console.options import StageOptions, num_shards_setting
from rag_ops.articles.formats import InputOptions
from rag_ops.articles.splitting import check_lengths
from rag_ops.settings import setting


@dataclasses.dataclass(frozen=True, kw_only=True)
class ChunkOptions(StageOptions):
    """chunk: `input` to passages in `output`."""

    input: Sequence[str] = setting(
        ..., "files, globs, or dataset names with --format hf", group="articles", metavar="URL"
    )
    reading: InputOptions = dataclasses.field(default_factory=InputOptions)
    passage_words: int = setting(100, "words of a passage", group="articles", at_most=100_000)
    passage_overlap: int = setting(0, "words that a passage repeats from the one before", group="articles")
    num_shards: int | None = num_shards_setting()

    def __post_init__(self) -> None:
        super().__post_init__()
        check_lengths(self.passage_words, self.passage_overlap)
