"""What is read: splits of inputs, and the articles in them."""

from __future__ import annotations

import dataclasses
import re

from rag_ops.markup.parts import Part
from schemas.passages import Passage

UNKNOWN = -1  # when a text was written, if nothing says so
MAX_SPLITS = 100_000  # of a job
MAX_ID_DIGITS = 19  # digits of a revision's id, so that it fits into 64 bits
_TIMESTAMP = re.compile(r"(\d{4})-(\d\d)-(\d\d)T(\d\d):(\d\d):(\d\d)(?:\.\d+)?Z")


@dataclasses.dataclass(frozen=True)
class Split:
    """A unit of reading: a part of an input.

    Attributes:
        ordinal: place of the split among all splits of the job, in input order.
        format: name of one of `formats.FORMATS`.
        url: the file, or the name of a dataset.
        start, end: bytes of a text file or dump, row groups of a Parquet file, entries of a ZIM file, or the shard of a
            dataset; end is exclusive, None for all the rest.
        shards: number of shards of a dataset.
        prefix: text put before the ids of its articles.
    """

    ordinal: int
    format: str
    url: str
    start: int = 0
    end: int | None = None
    shards: int = 0
    prefix: str = ""


@dataclasses.dataclass(frozen=True, slots=True)
class Article:
    """An article; `text` is wikitext in a MediaWiki dump, plain text elsewhere.

    Attributes:
        date, revision: those of a dump's revision (`dump.Page`), else `UNKNOWN`.
        section: the section that all of it belongs to, if the input says so.
        parts: the parts of a page whose markup has been rendered; its prose is then `text`.
    """

    article_id: str
    title: str
    text: str
    date: int = UNKNOWN
    revision: int = UNKNOWN
    section: str = ""
    parts: tuple[Part, ...] = ()


@dataclasses.dataclass(frozen=True, slots=True)
class NoArticle:
    """A page of a dump that is no article; as the latest revision it replaces an article of the same id."""

    article_id: str
    date: int = UNKNOWN
    revision: int = UNKNOWN


Source = Article | NoArticle | Passage  # what reading gives; a passage is one already, and is not split


def moment_of(timestamp: str, revision: str) -> tuple[int, int]:
    """The time and the id of a revision, -1 for what it lacks; of two revisions the later has the greater pair.

    >>> moment_of("2024-05-01T12:00:00Z", "1221"), moment_of("yesterday", "")
    ((20240501120000, 1221), (-1, -1))
    """
    written, number = _TIMESTAMP.fullmatch(timestamp.strip()), revision.strip()
    known = number.isascii() and number.isdigit() and len(number) < MAX_ID_DIGITS
    return int("".join(written.groups())) if written else UNKNOWN, int(number) if known else UNKNOWN
