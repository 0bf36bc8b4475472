"""The options of chunk."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence

from pipelines.console.options import StageOptions, num_shards_setting
from rag_ops.articles.options import InputOptions
from rag_ops.articles.splitting import Cutting
from rag_ops.settings import setting


@dataclasses.dataclass(frozen=True, kw_only=True)
class ChunkOptions(StageOptions):
    """chunk: `input` to passages in `output`."""

    input: Sequence[str] = setting(
        ..., "files, globs, or dataset names with --format hf", group="articles", metavar="URL"
    )
    reading: InputOptions = dataclasses.field(default_factory=InputOptions)
    cutting: Cutting = dataclasses.field(default_factory=Cutting)
    num_shards: int | None = num_shards_setting()
