"""Passages: up to 100 words of one article with its title; the rows of `passages/`."""

from __future__ import annotations

import dataclasses
import hashlib

import pyarrow as pa

CONTENT_HASH_BYTES = 16  # 128 bits: no chance collision among the 21 million passages of a Wikipedia

SCHEMA = pa.schema(
    [
        pa.field("id", pa.string(), nullable=False),  # "<article id>:<position>", or the source's own (psgs_w100)
        pa.field("title", pa.string(), nullable=False),
        pa.field("text", pa.string(), nullable=False),
        pa.field("article_id", pa.string(), nullable=False),
        pa.field("position", pa.int32(), nullable=False),  # 0, 1, 2 ... within the article
        pa.field("content_hash", pa.binary(CONTENT_HASH_BYTES), nullable=False),
    ]
)


@dataclasses.dataclass(frozen=True, slots=True)
class Passage:
    """A passage as people and models read it: its id, the title of its article, its text."""

    passage_id: str
    title: str
    text: str


def content_hash(title: str, text: str) -> bytes:
    """The first 16 bytes of SHA-256 over title, a zero byte and text in UTF-8: what an embedding depends on.

    >>> content_hash("Aardvark", "It digs.").hex()
    '7ac306596a27b542ce8414a97ac62fdb'
    """
    digest = hashlib.sha256(title.encode() + b"\0" + text.encode()).digest()
    return digest[:CONTENT_HASH_BYTES]
