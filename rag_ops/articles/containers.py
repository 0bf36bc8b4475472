"""Rows of any file that holds rows: JSON a line, also in an archive, one JSON document, Parquet or Arrow.

What they mean is a format's.
"""

from __future__ import annotations

import codecs
from collections.abc import Iterator, Sequence
from functools import partial
from typing import Any

from rag_ops import machine
from rag_ops.articles import languages
from rag_ops.articles.archives import archive_rows, is_archive
from rag_ops.articles.article import Split
from rag_ops.articles.lines import json_rows
from rag_ops.articles.options import InputOptions
from rag_ops.articles.parquet_rows import column_names, group_cuts, parquet_rows
from rag_ops.articles.source_format import Cut, Row, byte_cuts
from rag_ops.errors import InputError
from rag_ops.storage import arrow, compression, json_documents, store
from rag_ops.storage.compression import COMPRESSIONS

HEAD_BYTES = 64 << 10  # of a file, which show whether it is one JSON document
PARQUET, ARROW, ARCHIVE, DOCUMENT, LINES = "parquet", "arrow", "archive", "document", "lines"


def container_of(url: str) -> str:
    """What holds the rows of a file, by its name and, for JSON, its beginning.

    Raises:
        InputError: it is compressed and damaged.
    """
    if is_archive(url):
        return ARCHIVE
    name = store.name_of(url).lower()
    for suffix in COMPRESSIONS:
        name = name.removesuffix(suffix)
    if name.endswith(".parquet"):
        return PARQUET
    if name.endswith(arrow.SUFFIX):
        return ARROW
    with store.open_read(url) as raw:
        try:
            head = compression.decompressed(raw, url).read(HEAD_BYTES).decode("utf-8-sig", "replace")
        except compression.BAD_COMPRESSION as error:
            machine.check(error)
            return LINES  # whose reader says what is wrong
    return DOCUMENT if json_documents.is_document(head) else LINES


def cuts(url: str, options: InputOptions) -> Iterator[Cut]:
    """Yields the splits of a file: row groups of Parquet, bytes of lines; other files are one each."""
    kind = container_of(url)
    if kind == PARQUET:
        yield from group_cuts(url, options.cut_bytes)
    elif kind == LINES:
        yield from byte_cuts(url, options)
    else:
        yield 0, None


def rows(split: Split, columns: Sequence[str] | None = None) -> Iterator[Row]:
    """Yields the rows of a split, each behind a function that says where it stands.

    Args:
        split: see `cuts`.
        columns: those of Parquet and Arrow that are read, as far as the file has them; None for all.

    Raises:
        InputError: the file is damaged, or a row is no JSON object.
    """
    kind = container_of(split.url)
    if kind == LINES:
        yield from json_rows(split)
    elif kind == ARCHIVE:
        yield from archive_rows(split.url)
    elif kind == DOCUMENT:
        yield from _elements(split.url)
    elif kind == PARQUET:
        there = column_names(split.url)
        yield from parquet_rows(split, [name for name in columns or there if name in there])
    else:
        there, number = arrow.column_names(split.url), 0
        for batch in arrow.batches(split.url, [name for name in columns or there if name in there]):
            for row in batch.to_pylist():
                number += 1
                yield partial("{}, row {}".format, split.url, number), row


def language(url: str) -> str:
    """The code of the language of the Wikipedia that a file's first rows name by their `url`; empty if they don't."""
    return languages.of_rows(rows(Split(0, "", url), ["url"]))


def _elements(url: str) -> Iterator[Row]:
    with store.open_read(url) as raw:
        try:
            text: Any = codecs.getreader("utf-8-sig")(compression.decompressed(raw, url))
            for number, value in enumerate(json_documents.elements(text, url), 1):
                if not isinstance(value, dict):
                    raise InputError(
                        "an element of a JSON document is no object",
                        value=f"{url}, element {number}: {str(value)[:60]}",
                        expected='{"id": ..., "title": ..., "text": ...}',
                    )
                yield partial("{}, element {}".format, url, number), value
        except UnicodeDecodeError as error:
            raise InputError(f"a JSON document is not UTF-8 ({error.reason})", value=url) from error
        except compression.BAD_COMPRESSION as error:
            machine.check(error)
            raise InputError(
                f"the file cannot be decompressed ({error})", value=url, expected="a whole file"
            ) from error
