"""Passages: up to 100 words of one article with its title and section; the rows of `passages/`."""

from __future__ import annotations

import dataclasses
import hashlib

import pyarrow as pa

CONTENT_HASH_BYTES = 16  # 128 bits: no chance collision among the 21 million passages of a Wikipedia

PROSE, TABLE, INFOBOX, CAPTION = KINDS = ("prose", "table", "infobox", "caption")  # what a passage is cut from

SCHEMA = pa.schema(
    [
        pa.field("id", pa.string(), nullable=False),  # "<article id>:<position>", or the source's own (psgs_w100)
        pa.field("title", pa.string(), nullable=False),
        pa.field("text", pa.string(), nullable=False),
        pa.field("article_id", pa.string(), nullable=False),
        pa.field("position", pa.int32(), nullable=False),  # 0, 1, 2 ... within the article
        pa.field("content_hash", pa.binary(CONTENT_HASH_BYTES), nullable=False),
        pa.field("section", pa.string(), nullable=False),  # "History > Middle Ages"; empty for the lead
        pa.field("kind", pa.string(), nullable=False),  # one of KINDS
    ]
)


@dataclasses.dataclass(frozen=True, slots=True)
class Passage:
    """A passage as people and models read it: its id, the title of its article, its text.

    `section` is the passage's section if it belongs to what models read of it (`embed --contexts title_section`).
    """

    passage_id: str
    title: str
    text: str
    section: str = ""

    @property
    def heading(self) -> str:
        """What stands before the text: the title, with the section behind it."""
        return heading(self.title, self.section)


def heading(title: str, section: str) -> str:
    """A title with a section behind it.

    >>> heading("Alabama", "History > Antebellum"), heading("Alabama", "")
    ('Alabama > History > Antebellum', 'Alabama')
    """
    return f"{title} > {section}" if section else title


def content_hash(title: str, text: str, section: str = "") -> bytes:
    """The first 16 bytes of SHA-256 over title, a zero byte and text in UTF-8: what an embedding depends on.

    A section that is not empty follows after another zero byte.

    >>> content_hash("Aardvark", "It digs.").hex()
    '7ac306596a27b542ce8414a97ac62fdb'
    """
    named = b"\0" + section.encode() if section else b""
    digest = hashlib.sha256(title.encode() + b"\0" + text.encode() + named).digest()
    return digest[:CONTENT_HASH_BYTES]
