"""Articles from any input: how it is split among workers, and what is in each split."""

from __future__ import annotations

import codecs
import contextlib
import json
import os
import re
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from functools import partial
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from rag_ops import storage, streams, tsv, wikipedia
from rag_ops.columns import find_columns, joined_text, made_id
from rag_ops.dropping import TOO_LONG, drop
from rag_ops.errors import InputError
from rag_ops.inputs import (
    Article,
    InputOptions,
    NoArticle,
    ReadyPassage,
    Split,
    expand_inputs,
    format_of,
    id_prefixes,
    same_id_error,
)
from rag_ops.streams import COMPRESSIONS
from rag_ops.tsv import Layout
from schemas.manifest import digest_of

Row = tuple[Callable[[], str], dict[str, Any]]  # where a row stands, told only when asked, and its columns
FILES_LOOKED_AT = 100  # before anything runs
PARQUET_BATCH_ROWS = 256
MAX_LINE_BYTES = 256 << 20  # of JSONL and TSV; more is no line: a few bytes can unpack to gigabytes
MAX_NAME_CHARS = 1000  # of a title or an id, which every passage of the article carries
_SURROGATE = re.compile(r"[\ud800-\udfff]")  # what "\ud800" in JSON makes, and no file can hold


def plan_splits(urls: Sequence[str], options: InputOptions) -> list[Split]:
    """Cuts all inputs into splits, in input order.

    Raises:
        InputError: a file is missing, its format cannot be told, or its header is wrong.
    """
    files = expand_inputs(urls, options)
    kinds = {url: format_of(url, options) for url in files}
    prefixes = id_prefixes(kinds, options)
    cuts = [(url, cut) for url in files for cut in _cuts(url, kinds[url], options)]
    splits = [
        Split(ordinal, kinds[url], url, *cut, prefix=prefixes[url])  # type: ignore[misc]
        for ordinal, (url, cut) in enumerate(cuts)
    ]
    _check_first_ids(splits, options)
    return splits


def read_split(
    split: Split, options: InputOptions, dropped: Counter[str]
) -> Iterator[Article | NoArticle | ReadyPassage]:
    """The articles of a split, in input order; what is no article is counted in `dropped` by reason.

    Raises:
        InputError: the input is malformed, with file and line, row or byte.
    """
    if split.format == "mediawiki":
        yield from _dump_pages(split, dropped)
        return
    rows = {"jsonl": _jsonl_rows, "parquet": _parquet_rows, "hf": _dataset_rows, "psgs": _psgs_rows}
    for source, row in rows[split.format](split, options):
        article = _article(source, row, split, options)
        if len(article.title) > MAX_NAME_CHARS or len(article.article_id) > MAX_NAME_CHARS:
            drop(dropped, TOO_LONG, article.title or article.article_id)
        elif split.format == "psgs":
            yield ReadyPassage(article.article_id, article.title, article.text)
        elif article.text.strip():
            yield article
        else:
            dropped["empty"] += 1


def _check_first_ids(splits: Sequence[Split], options: InputOptions) -> None:
    """Looks at the first article of some files: ids that begin anew in each would end the job after hours of work.

    Raises:
        InputError: two of them differ and have one id.
    """
    firsts = [split for split in splits if not split.start and split.format in ("jsonl", "parquet", "psgs")]
    seen: dict[str, tuple[Any, str]] = {}
    for split in firsts[:FILES_LOOKED_AT] if len(firsts) > 1 else ():
        article = next(read_split(split, options, Counter()), None)
        if article is None:
            continue
        name = article.passage_id if isinstance(article, ReadyPassage) else article.article_id
        other, url = seen.setdefault(name, (article, split.url))
        if other != article:
            raise same_id_error(name, [url, split.url])


def _dump_pages(split: Split, dropped: Counter[str]) -> Iterator[Article | NoArticle]:
    for page in wikipedia.read_pages(split.url, split.start, split.end):
        article_id = split.prefix + page.page_id
        reason = wikipedia.drop_reason(page)
        if reason is None:
            yield Article(article_id, page.title, page.wikitext, page.date, page.revision)
            continue
        if reason == TOO_LONG:
            drop(dropped, reason, page.title)
        else:
            dropped[reason] += 1
        if page.namespace == 0:
            yield NoArticle(article_id, page.date, page.revision)


def _cuts(url: str, kind: str, options: InputOptions) -> Iterator[tuple[int, int | None] | tuple[int, int, int]]:
    """(start, end[, shards]) of each split of an input."""
    if kind == "hf":
        count = _open_dataset(url, options).num_shards
        yield from ((number, number + 1, count) for number in range(count))
    elif kind == "mediawiki":
        yield from wikipedia.cut_dump(url, options.split_bytes)
    elif kind == "parquet":
        yield from _parquet_cuts(url, options)
    else:
        if kind == "jsonl" and _is_array(url):
            raise InputError(
                "the file is a JSON array and not JSONL",
                value=url,
                expected="one JSON object a line",
                remedy="jq -c '.[]' FILE > NAME.jsonl makes it so",
            )
        size = storage.size_bytes(url)
        if url.lower().endswith(COMPRESSIONS):
            yield 0, None
        elif kind == "psgs" and size > options.split_bytes and _layout(url, options).quoted:
            yield from _record_cuts(url, size, options)
        else:
            starts = list(range(0, size, options.split_bytes)) or [0]
            yield from ((start, min(start + options.split_bytes, size)) for start in starts)


def _record_cuts(url: str, size: int, options: InputOptions) -> Iterator[tuple[int, int]]:
    """Cuts at the beginnings of records; finding them takes 4 s a GB, where reading the records takes 35 s."""
    start = 0
    for _, position, _ in tsv.records(_lines(Split(0, "psgs", url)), _layout(url, options).width):
        if position >= start + options.split_bytes:
            yield start, position
            start = position
    yield start, size


def _article(source: Callable[[], str], row: dict[str, Any], split: Split, options: InputOptions) -> Article:
    columns = find_columns(row, options.columns, source)
    title = None if columns.title is None else row[columns.title]
    text = joined_text(row[columns.text])
    for name, value in (("title", title), ("text", text)):
        if value is not None and not isinstance(value, str):
            raise InputError(f"an article's {name} is no text", value=f"{source()}: {value!r}", expected="a string")
    title, text = (_SURROGATE.sub("\ufffd", part or "") for part in (title, text))
    if columns.id is None:
        return Article(split.prefix + made_id(title, text), title, text)
    article_id = row[columns.id]
    if isinstance(article_id, bool) or not isinstance(article_id, (str, int)) or article_id == "":
        raise InputError(
            "an article's id is no text or number", value=f"{source()}: {article_id!r}", expected="a string or integer"
        )
    try:
        shown_id = str(article_id)
    except ValueError as error:  # a number of thousands of digits
        raise InputError("an article's id is no number that can be shown", value=source()) from error
    return Article(split.prefix + _SURROGATE.sub("\ufffd", shown_id), title, text)


def _is_array(url: str) -> bool:
    """Whether a JSON file is a single array."""
    try:
        lines = (line.lstrip() for _, _, line in _lines(Split(0, "jsonl", url)))
        return next(filter(None, lines), b"").startswith(b"[")
    except InputError:
        return False  # the reader says what is wrong, and where


def _jsonl_rows(split: Split, options: InputOptions) -> Iterator[Row]:
    for lines_before, _, line in _lines(split):
        if not line.strip():
            continue
        try:
            row = json.loads(line)
        except (ValueError, RecursionError) as error:
            shown = line[:60].decode("utf-8", "replace")
            raise InputError(
                f"a line is not JSON ({error})",
                value=f"{_line_source(split, lines_before)}: {shown}",
                expected="one JSON object in UTF-8 a line",
                remedy="mend the line; a document over several lines is made JSONL by jq -c . FILE",
            ) from error
        if not isinstance(row, dict):
            raise InputError(
                "a line is no JSON object",
                value=_line_source(split, lines_before),
                expected='{"id": ..., "title": ..., "text": ...}',
            )
        yield partial(_line_source, split, lines_before), row


def _layout(url: str, options: InputOptions) -> Layout:
    return tsv.layout_of(tsv.head(_lines(Split(0, "psgs", url))), url, options.columns)


def _psgs_rows(split: Split, options: InputOptions) -> Iterator[Row]:
    """The rows of a TSV file, under our names for its columns."""
    layout = _layout(split.url, options)
    places = {options.text_column: layout.text, options.title_column: layout.title, options.id_column: layout.id}
    lines = _lines(split)
    for number, _, data in tsv.records(lines, layout.width) if layout.quoted else lines:
        source = partial(_line_source, split, number)
        try:
            cells = tsv.cells_of(data.decode("utf-8"), quoted=layout.quoted)
        except UnicodeDecodeError as error:
            raise InputError(f"a line is not UTF-8 ({error.reason})", value=source()) from error
        if cells == [""] or tuple(cells) == layout.header:
            continue
        if len(cells) != layout.width:
            raise InputError(
                f"a line has {len(cells)} columns",
                value=source(),
                expected=f"{layout.width}, separated by tabs, as in the lines before",
                remedy="check --format: psgs is what DPR's psgs_w100.tsv looks like",
            )
        yield source, {name: cells[place] for name, place in places.items() if place is not None}


def _parquet_cuts(url: str, options: InputOptions) -> Iterator[tuple[int, int]]:
    with _open_parquet(url) as parquet:
        find_columns(parquet.schema_arrow.names, options.columns, lambda: url, "a Parquet file")
        start = size = 0
        for group in range(parquet.num_row_groups):
            size += sum(
                parquet.metadata.row_group(group).column(n).total_compressed_size
                for n in range(parquet.metadata.num_columns)
            )
            if size >= options.split_bytes:
                yield start, group + 1
                start, size = group + 1, 0
        if start < parquet.num_row_groups:
            yield start, parquet.num_row_groups


def _parquet_rows(split: Split, options: InputOptions) -> Iterator[Row]:
    with _open_parquet(split.url) as parquet:
        columns = find_columns(parquet.schema_arrow.names, options.columns, lambda: split.url).present()
        end = parquet.num_row_groups if split.end is None else split.end
        number = sum(parquet.metadata.row_group(group).num_rows for group in range(split.start))
        batches = parquet.iter_batches(PARQUET_BATCH_ROWS, row_groups=list(range(split.start, end)), columns=columns)
        try:
            for batch in batches:
                for row in batch.to_pylist():
                    number += 1
                    yield partial("{}, row {}".format, split.url, number), row
        except (pa.ArrowException, OSError, UnicodeDecodeError) as error:
            raise InputError(
                f"a Parquet file is damaged, or its texts are not UTF-8 ({error})",
                value=f"{split.url}, after row {number}",
                remedy="download it again",
            ) from error


def _open_parquet(url: str) -> pq.ParquetFile:
    try:
        return pq.ParquetFile(storage.open_read(url))
    except (pa.ArrowException, OSError, UnicodeDecodeError) as error:
        raise InputError(
            f"not a whole Parquet file ({error})", value=url, remedy="check --format, or download it again"
        ) from error


def _dataset_rows(split: Split, options: InputOptions) -> Iterator[Row]:
    shard = _open_dataset(split.url, options).shard(num_shards=split.shards, index=split.start)
    for number, row in enumerate(shard, 1):
        yield partial("{}, shard {}, row {}".format, split.url, split.start, number), row


def dataset_digest(name: str, options: InputOptions) -> str:
    """A hash of what a Hugging Face dataset is made of: its files' names with their revision on the hub, or their times
    where they are local.

    Raises:
        InputError: it cannot be loaded.
    """
    from datasets import load_dataset_builder

    with _loading_dataset(name, options):
        builder = load_dataset_builder(name, options.dataset_config)
    return digest_of([builder.hash, builder.config_id])


def _open_dataset(name: str, options: InputOptions) -> Any:
    from datasets import load_dataset

    with _loading_dataset(name, options):
        return load_dataset(name, options.dataset_config, split=options.dataset_split, streaming=True)


@contextlib.contextmanager
def _loading_dataset(name: str, options: InputOptions) -> Iterator[None]:
    if storage.has_magic(name) and os.path.isdir(name):
        raise InputError(
            "the datasets library would take this directory's name for a pattern, and read another directory",
            value=name,
            expected="a name without *, ? and [",
            remedy="rename it, or give its files with another --format",
        )
    try:
        yield
    except Exception as error:  # datasets raises its own, the hub's and the file system's errors
        reason = str(error).strip().splitlines()[0] if str(error).strip() else type(error).__name__
        raise InputError(
            f"the dataset cannot be loaded ({reason[:160]})",
            value=f"{name}, configuration {options.dataset_config}, split {options.dataset_split}",
            expected="a Hugging Face dataset",
            remedy="check --input, --dataset_config, --dataset_split and the network",
        ) from error


def _lines(split: Split) -> Iterator[tsv.Line]:
    """The lines that begin in a split's bytes, each with the number of lines before it in the split, and its place."""
    with storage.open_read(split.url) as raw:
        stream = streams.decompressed(raw, split.url)
        position = 0
        if split.start:
            stream.seek(split.start - 1)
            position = split.start - 1 + len(stream.readline())  # the line in progress belongs to the split before
        try:
            for number, line in enumerate(iter(lambda: stream.readline(MAX_LINE_BYTES + 1), b"")):
                if len(line) > MAX_LINE_BYTES:
                    raise InputError(
                        f"a line is longer than {MAX_LINE_BYTES >> 20} MiB",
                        value=_line_source(split, number),
                        expected="one article a line",
                        remedy="check --format",
                    )
                if split.end is not None and position >= split.end:
                    return
                yield number, position, line if position else line.removeprefix(codecs.BOM_UTF8)
                position += len(line)
        except streams.BAD_COMPRESSION as error:
            raise InputError(
                f"the file cannot be decompressed ({error})",
                value=split.url,
                expected="a whole file",
                remedy="download it again",
            ) from error


def _line_source(split: Split, lines_before: int) -> str:
    """File and line for a message."""
    return f"{split.url}, line {_line_number(split, lines_before)}"


def _line_number(split: Split, lines_before: int) -> int:
    """The number of a line in the whole file, from 1; counts the lines before the split, for errors alone."""
    if not split.start:
        return lines_before + 1
    count, position = 0, 0
    with storage.open_read(split.url) as file:
        while position < split.start and (piece := file.read(min(1 << 20, split.start - position))):
            count += piece.count(b"\n")
            position += len(piece)
        file.seek(split.start - 1)
        count += file.read(1) != b"\n"
    return count + lines_before + 1
