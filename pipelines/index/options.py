"""The options of index."""

from __future__ import annotations

import dataclasses

from pipelines.console.options import StageOptions, num_shards_setting, shard_memory_setting, spec_setting
from rag_ops import defaults
from rag_ops.settings import setting


@dataclasses.dataclass(frozen=True, kw_only=True)
class IndexOptions(StageOptions):
    """index: `embeddings` to a FAISS index in `output`."""

    embeddings: str = setting(..., "output of ragbeam embed", metavar="DIR")
    spec: str = spec_setting()
    shard_memory: str = shard_memory_setting()
    target_recall: float | None = setting(
        None,
        "recall@1, 5, 20 and 100 that the search must reach, with the least effort that does; auto takes 0.95",
        group="index",
        within=(0, 1),
    )
    queries: str | None = setting(
        None,
        "query vectors to measure with (.npy, .parquet); else passages",
        group="index",
        metavar="URL",
    )
    recall_queries: int = setting(
        512, "passages to measure recall with; 0 for none", group="index", at_least=0, at_most=1_000_000
    )
    trained_from: str | None = setting(None, "earlier output of ragbeam index: keep what was trained", metavar="DIR")
    num_shards: int | None = num_shards_setting()
    threads: int | None = setting(
        None, "CPU threads of FAISS; by default all cores", group="workers", at_least=1, at_most=defaults.MAX_THREADS
    )

    @property
    def cpu_threads(self) -> int:
        """The threads, as given or by default."""
        return self.threads or defaults.THREADS
