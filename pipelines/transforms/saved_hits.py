"""The hits of one index shard, in the job's working directory: a job that is killed need not search the shard again."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator

import pyarrow as pa

from pipelines.runners.counters import StepCounters
from pipelines.transforms.work import Work
from rag_ops.retrieval.topk import TopK
from rag_ops.storage import store

SCHEMA = pa.schema([("block", pa.int64()), ("content", pa.binary()), ("hits", pa.binary())])


def search_once(
    work: Work,
    name: str,
    blocks: Iterable[int],
    content: Callable[[int], bytes],
    search: Callable[[list[int]], Iterator[tuple[int, bytes, TopK]]],
    counters: StepCounters,
) -> Iterator[tuple[int, TopK]]:
    """Yields (block, hits) of all blocks: as an earlier run of the same job found them, or from a search.

    Args:
        work: the job's working directory: its name has what the hits depend on, but for the content of blocks.
        name: of the file with the hits, which is there once all of them have been found.
        blocks: numbers of the blocks of questions.
        content: gives what identifies a block's content: hits of another one do not count.
        search: gives blocks, in ascending order, with their contents and hits; called if there are blocks left.
        counters: of the step; `reused` blocks are counted.
    """
    left = set(blocks)
    with store.atomic_write(work.url, name) as file, pa.ipc.new_stream(file, SCHEMA) as writer:

        def keep(block: int, known: bytes, hits: TopK) -> tuple[int, TopK]:
            writer.write_batch(pa.record_batch([[block], [known], [hits.to_bytes()]], schema=SCHEMA))
            return block, hits

        for block, known, hits in _saved(work.path(name)):
            if block in left and known == content(block):
                left.remove(block)
                counters.add(reused=1)
                yield keep(block, known, hits)
        if left:
            for block, known, hits in search(sorted(left)):
                yield keep(block, known, hits)


def _saved(url: str) -> Iterator[tuple[int, bytes, TopK]]:
    if not store.exists(url):
        return
    with store.open_read(url) as file, pa.ipc.open_stream(file) as reader:
        for batch in reader:
            for row in batch.to_pylist():
                yield row["block"], row["content"], TopK.from_bytes(row["hits"])
