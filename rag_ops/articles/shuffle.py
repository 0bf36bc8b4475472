"""Chunk's shuffle by spill files: each input split writes one, and each shard is put together from all of them.

A spill file is an Arrow IPC file in which every record batch belongs to one shard, and the last one says which: its
column `source` has the shard of each batch before it. So no passage's text meets a GroupByKey, nothing is sent for each
pair of split and shard, and the memory for a shard is the shard.
"""

from __future__ import annotations

import dataclasses
import json
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from types import MappingProxyType
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from rag_ops import heap
from rag_ops.articles.article import UNKNOWN, Article, NoArticle, Source, Split
from rag_ops.articles.dropped import SPLIT_TEMPLATES, TOO_COMPLEX, Dropped, most_common
from rag_ops.articles.formats import FORMATS
from rag_ops.articles.options import InputOptions
from rag_ops.articles.reading import read_split, same_id_error
from rag_ops.articles.splitting import WHOLE, Cutting, cut_article, shard_of
from rag_ops.markup import bounded, parts
from rag_ops.markup.expansion import Expander
from rag_ops.markup.parts import Part
from rag_ops.markup.siteinfo import SiteInfo
from rag_ops.markup.template_source import Templates
from rag_ops.redaction import public_url
from rag_ops.storage import store
from schemas import passages
from schemas.passages import Passage

# What is buffered before a round of batches is written: of psgs_w100 a split, which takes 60 MB. The smaller it is, the
# smaller are the batches, and what each costs besides its rows was most of the time of putting shards together.
ROUND_BYTES = 64 << 20
PIECE_BYTES = 4 << 20  # of rows that are not yet Arrow
ROW_BYTES = 500  # of such a row, besides its text
SOURCE_BITS = 40  # low bits of a source number: the article's place in its split; the split's ordinal is above them
NO_PASSAGE = -1  # the position in the row of a page that is no article
# What decides between articles of one id: the latest of a dump's revisions, then the first in input order.
_ORDER = [pa.field(name, pa.int64(), nullable=False) for name in ("source", "date", "revision")]
SCHEMA = pa.schema([*passages.SCHEMA, *_ORDER])
NO_TEMPLATES: Templates = MappingProxyType({})
_OPTIONS = pa.ipc.IpcWriteOptions(compression="zstd")


@dataclasses.dataclass(frozen=True)
class SpillRecord:
    """The record of a spill file: URL, counts of the split, titles dropped, and the templates dropped most often."""

    url: str
    articles: int
    passages: int
    text_bytes: int
    dropped: dict[str, int]
    titles: dict[str, list[str]] = dataclasses.field(default_factory=dict)
    templates: dict[str, int] = dataclasses.field(default_factory=dict)


def write_spill(
    directory: str,
    name: str,
    sources: Iterable[Source],
    dropped: Dropped,
    *,
    ordinal: int,
    num_shards: int,
    cutting: Cutting,
) -> SpillRecord:
    """Splits the articles of one input split into passages and writes them as `directory/name`.

    Args:
        directory, name: where to write; the sidecar `name + ".json"`, which marks the file complete, is written last.
        sources: articles in plain text or in parts, pages that are none, or ready passages; read once, streamed.
        dropped: counts by reason, added to partly by the reader while `sources` is read.
        ordinal: position of the split among all splits; of equal articles the first in input order is kept.
        num_shards: number of shards over which articles are hashed.
        cutting: how articles are cut into passages.
    """
    shards: list[int] = []  # of each batch
    articles = rows = text_bytes = 0
    with store.atomic_write(directory, name) as file, pa.ipc.new_file(file, SCHEMA, options=_OPTIONS) as writer:
        for whole in _rounds(_passages(sources, dropped, cutting), ordinal << SOURCE_BITS):
            places = np.array([shard_of(article_id, num_shards) for article_id in whole["article_id"].to_pylist()])
            order = np.argsort(places, kind="stable")
            numbers, starts = np.unique(places[order], return_index=True)
            for shard, of_shard in zip(numbers.tolist(), np.split(order, starts[1:]), strict=True):
                writer.write_batch(whole.take(pa.array(of_shard)))
                shards.append(shard)
            positions = whole["position"].to_numpy()
            rows += int((positions != NO_PASSAGE).sum())
            articles += int((positions == 0).sum())
            text_bytes += pc.sum(pc.utf8_length(whole["text"])).as_py()
            del whole
            heap.trim()
        writer.write_batch(_contents(shards))
    counts, lost = dict(sorted(dropped.items())), most_common(dropped.templates, SPLIT_TEMPLATES)
    record = SpillRecord(store.join(directory, name), articles, rows, text_bytes, counts, dropped.titles, lost)
    sidecar = json.dumps({**dataclasses.asdict(record), "url": public_url(record.url)}, sort_keys=True)
    store.write_bytes(directory, name + ".json", sidecar.encode())
    return record


def plain_articles(
    split: Split,
    options: InputOptions,
    dropped: Dropped,
    templates: Templates = NO_TEMPLATES,
    pages: Iterable[Source] | None = None,
) -> Iterator[Source]:
    """Yields the articles of a split without markup: a dump's pages are rendered, other formats come as they are.

    A page whose markup cannot be rendered within the bounds of `markup.bounded` is dropped, counted and named; so is a
    disambiguation page, which only its wiki's templates may show to be one.

    Args:
        split, options: what is read, and how.
        dropped: counts by reason what is no article.
        templates: of the dump's wiki.
        pages: those of the split, if they have been read already.
    """
    site = options.site_of(split.url) if FORMATS[split.format].is_wikitext else SiteInfo()
    expander = Expander(templates, site)
    for source in read_split(split, options, dropped) if pages is None else pages:
        if not FORMATS[split.format].is_wikitext or not isinstance(source, Article):
            yield source
            continue
        page, lost = expander.expand(source.text, source.title), Counter[str]()
        if page.disambiguates:
            dropped["disambiguation"] += 1
        elif (found := bounded.render_parts(page.wikitext, site, options.parts, lost)) is None:
            dropped.name(TOO_COMPLEX, source.title)
        else:
            dropped.lose(lost)
            yield dataclasses.replace(source, text=parts.prose(found), parts=tuple(found))
            continue
        yield NoArticle(source.article_id, source.date, source.revision)


def _contents(shards: Sequence[int]) -> pa.RecordBatch:
    """The last batch of a spill file: the shard of each batch before it."""
    blank = _row("", "", NO_PART, "", NO_PASSAGE)
    return pa.RecordBatch.from_pylist([{**blank, "source": shard} for shard in shards], schema=SCHEMA)


def read_shard(urls: Sequence[str], shard: int, inputs: Sequence[str] = ()) -> tuple[pa.Table, int]:
    """Reads the passages of one shard in their final order, and the number of articles dropped for a repeated id.

    Args:
        urls: URLs of all spill files.
        shard: number of the shard.
        inputs: the file of each split by its ordinal, for messages.

    Returns:
        A table of `schemas.passages.SCHEMA`, sorted by article id (shorter ids first: so numbers are in order), then by
        position. Of the pages of a dump that have one id the latest revision counts, as a whole; it can be one that is
        no article. An article that comes again, word for word, is kept once.

    Raises:
        InputError: two articles differ and have one id, and neither is a later revision: one of them would be lost.
    """
    batches: list[pa.RecordBatch] = []
    for url in urls:
        with store.open_read(url) as file, pa.ipc.open_file(file) as reader:
            shards = reader.get_batch(reader.num_record_batches - 1)["source"].to_numpy()
            batches += map(reader.get_batch, np.flatnonzero(shards == shard).tolist())
    table = pa.Table.from_batches(batches, SCHEMA).combine_chunks()
    if not table.num_rows:
        return passages.SCHEMA.empty_table(), 0
    table = table.append_column("id_length", pc.binary_length(table["article_id"]))
    keys = [("id_length", "ascending"), ("article_id", "ascending"), ("date", "descending"), ("revision", "descending")]
    table = table.take(pc.sort_indices(table, sort_keys=[*keys, ("source", "ascending"), ("position", "ascending")]))
    ids = table["article_id"].combine_chunks()
    sources, dates, revisions = (table[name].to_numpy() for name in ("source", "date", "revision"))
    first_of_id = np.concatenate([[True], pc.not_equal(ids[1:], ids[:-1]).to_numpy(zero_copy_only=False)])
    first = np.maximum.accumulate(np.where(first_of_id, np.arange(len(ids)), 0))  # the row with which each id begins
    kept = sources == sources[first]
    equals = (dates == dates[first]) & (revisions == revisions[first])  # as late as the one that is kept
    _check_same(table.filter(pa.array(np.isin(first, first[equals & ~kept]) & equals)), inputs)
    is_passage = table["position"].to_numpy() != NO_PASSAGE
    duplicates = len(np.unique(sources[~kept & is_passage]))
    return table.filter(pa.array(kept & is_passage)).select(passages.SCHEMA.names).cast(passages.SCHEMA), duplicates


def _check_same(rivals: pa.Table, inputs: Sequence[str]) -> None:
    """Checks that articles of one id have the same passages, row for row; `rivals` is sorted."""
    seen: dict[str, dict[int, list[bytes]]] = {}
    for row in rivals.select(["article_id", "source", "content_hash"]).to_pylist():
        seen.setdefault(row["article_id"], {}).setdefault(row["source"], []).append(row["content_hash"])
    for article_id, contents in seen.items():
        first, *others = contents
        for other in others:
            if contents[other] != contents[first]:
                raise same_id_error(article_id, [inputs[source >> SOURCE_BITS] for source in (first, other) if inputs])


def _passages(sources: Iterable[Source], dropped: Dropped, cutting: Cutting) -> Iterator[tuple[int, dict[str, Any]]]:
    """Yields passages as rows after their article's number in the split; a page that is none is a row without text."""
    for number, source in enumerate(sources):
        if isinstance(source, Passage):
            part = Part(passages.PROSE, source.section, source.text)
            yield number, _row(source.passage_id, source.title, part, source.passage_id, 0)
            continue
        rows = 0
        if isinstance(source, Article):
            for part in cut_article(source, cutting):
                is_whole = cutting.passage_unit == WHOLE and part.kind == passages.PROSE
                passage_id = source.article_id if is_whole else f"{source.article_id}:{rows}"
                yield number, _row(passage_id, source.title, part, source.article_id, rows, source)
                rows += 1
            if not rows:
                dropped["empty"] += 1
        if not rows and (source.date, source.revision) != (UNKNOWN, UNKNOWN):
            yield number, _row("", "", NO_PART, source.article_id, NO_PASSAGE, source)


NO_MOMENT = NoArticle("")  # for rows that are no revision of a dump
NO_PART = Part(passages.PROSE, "", "")  # and for those that are no passage


def _row(
    passage_id: str, title: str, part: Part, article_id: str, position: int, moment: Article | NoArticle = NO_MOMENT
) -> dict[str, Any]:
    row = {"id": passage_id, "title": title, "text": part.text, "article_id": article_id, "position": position}
    row |= {"content_hash": passages.content_hash(title, part.text, part.section)}
    row |= {"section": part.section, "kind": part.kind}
    return {**row, "date": moment.date, "revision": moment.revision}


def _rounds(rows: Iterator[tuple[int, dict[str, Any]]], first_source: int) -> Iterator[pa.RecordBatch]:
    """Yields rows with their source, some `ROUND_BYTES` at a time."""
    pieces: list[pa.RecordBatch] = []
    size = 0
    for piece in _pieces(rows, first_source):
        if pieces and size + piece.nbytes > ROUND_BYTES:
            yield _joined(pieces)
            size = 0
        pieces.append(piece)
        size += piece.nbytes
    if pieces:
        yield _joined(pieces)


def _joined(pieces: list[pa.RecordBatch]) -> pa.RecordBatch:
    """All pieces in one, which alone is left: the list is emptied."""
    whole = pa.concat_batches(pieces)
    pieces.clear()
    return whole


def _pieces(rows: Iterator[tuple[int, dict[str, Any]]], first_source: int) -> Iterator[pa.RecordBatch]:
    """Yields rows with their source, as many at a time as `PIECE_BYTES` hold."""
    buffer: list[dict[str, Any]] = []
    size = 0
    for number, row in rows:
        buffer.append({**row, "source": first_source + number})
        size += ROW_BYTES + len(row["text"])
        if size >= PIECE_BYTES:
            yield pa.RecordBatch.from_pylist(buffer, schema=SCHEMA)
            buffer, size = [], 0
    if buffer:
        yield pa.RecordBatch.from_pylist(buffer, schema=SCHEMA)


def find_spill(directory: str, name: str) -> SpillRecord | None:
    """Returns the record of a spill file that an earlier run completed, else None."""
    try:
        record = json.loads(store.read_text(store.join(directory, name + ".json")))
    except FileNotFoundError:
        return None
    return SpillRecord(**{**record, "url": store.join(directory, name)})
