"""The articles of a split as wikitext in a file of their own, so that a dump is decompressed and parsed once.

A page can be rendered only when all templates of its wiki are known, and those stand anywhere in the dump. Reading a
dump twice would decompress it again, which for bz2 takes an eighth of the time of the whole job; writing its articles
down with zstd takes a seventh of that, and while the job runs about as much room as the dump has in bz2.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator
from typing import Any

import pyarrow as pa

from rag_ops.articles.article import Article, NoArticle
from rag_ops.articles.dropped import Dropped
from rag_ops.storage import store

BATCH_CHARS = 4 << 20
_OPTIONS = pa.ipc.IpcWriteOptions(compression=pa.Codec("zstd", 3))
SCHEMA = pa.schema(
    [
        pa.field("article_id", pa.string(), nullable=False),
        pa.field("title", pa.string(), nullable=False),
        pa.field("text", pa.string()),  # null for a page that is no article
        pa.field("date", pa.int64(), nullable=False),
        pa.field("revision", pa.int64(), nullable=False),
    ]
)


def write_pages(directory: str, name: str, sources: Iterable[Article | NoArticle], dropped: Dropped) -> None:
    """Writes the pages of a split as `directory/name`, and what was dropped beside it, last: then the file is whole."""
    with store.atomic_write(directory, name) as file, pa.ipc.new_file(file, SCHEMA, options=_OPTIONS) as writer:
        for rows in _batches(sources):
            writer.write_batch(pa.RecordBatch.from_pylist(rows, schema=SCHEMA))
    counts = {"dropped": dict(sorted(dropped.items())), "titles": dropped.titles}
    store.write_bytes(directory, name + ".json", json.dumps(counts, sort_keys=True).encode())


def _batches(sources: Iterable[Article | NoArticle]) -> Iterator[list[dict[str, Any]]]:
    rows: list[dict[str, Any]] = []
    size = 0
    for source in sources:
        is_article = isinstance(source, Article)
        title, text = (source.title, source.text) if is_article else ("", None)  # type: ignore[union-attr]
        moment = {"date": source.date, "revision": source.revision}
        rows.append({"article_id": source.article_id, "title": title, "text": text, **moment})
        size += 100 + len(text or "")
        if size >= BATCH_CHARS:
            yield rows
            rows, size = [], 0
    if rows:
        yield rows


def have_pages(directory: str, name: str) -> bool:
    """Whether an earlier run completed a file."""
    return store.exists(store.join(directory, name + ".json"))


def read_pages(directory: str, name: str, dropped: Dropped) -> Iterator[Article | NoArticle]:
    """Yields the pages of a file as they were written; adds to `dropped` what was dropped then."""
    counts = json.loads(store.read_text(store.join(directory, name + ".json")))
    dropped.add(counts["dropped"], counts["titles"])
    with store.open_read(store.join(directory, name)) as file, pa.ipc.open_file(file) as reader:
        for number in range(reader.num_record_batches):
            for row in reader.get_batch(number).to_pylist():
                if row["text"] is None:
                    yield NoArticle(row["article_id"], row["date"], row["revision"])
                else:
                    yield Article(**row)


def remove_pages(directory: str, name: str) -> None:
    """Removes a file that is no longer needed."""
    for one in (name + ".json", name):
        store.remove(store.join(directory, one))
