"""Articles from any input: what files there are, how they are split among workers, and what is in each split."""

from __future__ import annotations

import codecs
import contextlib
import csv
import dataclasses
import json
import os
import posixpath
import re
import zlib
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from functools import partial
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import zstandard

from rag_ops import storage, streams, wikipedia
from rag_ops.dropping import TOO_LONG, drop
from rag_ops.errors import InputError
from schemas.manifest import digest_of

Row = tuple[Callable[[], str], dict[str, Any]]  # where a row stands, told only when asked, and its columns
FORMATS = ("mediawiki", "jsonl", "parquet", "psgs", "hf")
SUFFIXES = {".jsonl": "jsonl", ".ndjson": "jsonl", ".json": "jsonl", ".parquet": "parquet", ".tsv": "psgs"}
COMPRESSIONS = (".gz", ".bz2", ".zst")
PARQUET_BATCH_ROWS = 256
MAX_LINE_BYTES = 256 << 20  # of JSONL and TSV; more is no line: a few bytes can unpack to gigabytes
MAX_NAME_CHARS = 1000  # of a title or an id, which every passage of the article carries
_SURROGATE = re.compile(r"[\ud800-\udfff]")  # what "\ud800" in JSON makes, and no file can hold
PSGS_COLUMNS = ["id", "text", "title"]  # the header of psgs_w100.tsv


@dataclasses.dataclass(frozen=True)
class InputOptions:
    """How inputs are read.

    Attributes:
        format: "auto" (told from the name), "mediawiki", "jsonl", "parquet", "psgs" or "hf".
        id_column, title_column, text_column: names in JSONL, Parquet and datasets.
        dataset_config, dataset_split: of a Hugging Face dataset.
        split_bytes: what one worker reads at a time, as stored.
    """

    format: str = "auto"
    id_column: str = "id"
    title_column: str = "title"
    text_column: str = "text"
    dataset_config: str | None = None
    dataset_split: str = "train"
    split_bytes: int = 16 * 2**20

    def __post_init__(self) -> None:
        if self.format not in ("auto", *FORMATS):
            raise InputError("unknown --format", value=self.format, expected=f"auto, {', '.join(FORMATS)}")
        if self.split_bytes < 1:
            raise InputError("--split_bytes is too small", value=self.split_bytes, expected="1 or more")


@dataclasses.dataclass(frozen=True)
class Split:
    """One unit of reading.

    Attributes:
        ordinal: its place among all splits of the job, in input order.
        format: one of `FORMATS`.
        url: the file, or the name of a dataset.
        start, end: bytes of a text file or dump, row groups of a Parquet file, or the shard of a dataset; end is
            exclusive, None for all the rest.
        shards: of a dataset, how many it has.
    """

    ordinal: int
    format: str
    url: str
    start: int = 0
    end: int | None = None
    shards: int = 0


@dataclasses.dataclass(frozen=True, slots=True)
class Article:
    """An article; `text` is wikitext in a MediaWiki dump, plain text elsewhere."""

    article_id: str
    title: str
    text: str


@dataclasses.dataclass(frozen=True, slots=True)
class ReadyPassage:
    """A row of psgs_w100.tsv: a passage already, with its own id."""

    passage_id: str
    title: str
    text: str


def expand_inputs(urls: Sequence[str], options: InputOptions) -> list[str]:
    """The input files that URLs, globs and directories name, in the order given; datasets' names as they are.

    Raises:
        InputError: there is no such file.
    """
    if options.format == "hf":
        return list(urls)
    found = [file for url in urls for file in storage.expand(url, "input file")]
    # The companion index of a multistream dump is no dump; a glob over a dump's folder finds it too.
    return [url for url in found if not url.endswith(("-index.txt.bz2", "-index.txt"))] or found


def plan_splits(urls: Sequence[str], options: InputOptions) -> list[Split]:
    """Cuts all inputs into splits, in input order.

    Raises:
        InputError: a file is missing, its format cannot be told, or its header is wrong.
    """
    cuts = [(kind, url, cut) for url in expand_inputs(urls, options) for kind, cut in _cuts(url, options)]
    return [Split(ordinal, kind, url, *cut) for ordinal, (kind, url, cut) in enumerate(cuts)]


def read_split(split: Split, options: InputOptions, dropped: Counter[str]) -> Iterator[Article | ReadyPassage]:
    """The articles of a split, in input order; what is no article is counted in `dropped` by reason.

    Raises:
        InputError: the input is malformed, with file and line, row or byte.
    """
    if split.format == "mediawiki":
        for page in wikipedia.read_pages(split.url, split.start, split.end):
            reason = wikipedia.drop_reason(page)
            if reason == TOO_LONG:
                drop(dropped, reason, page.title)
            elif reason:
                dropped[reason] += 1
            else:
                yield Article(page.page_id, page.title, page.wikitext)
    elif split.format == "psgs":
        yield from _psgs_rows(split)
    else:
        readers = {"jsonl": _jsonl_rows, "parquet": _parquet_rows, "hf": _dataset_rows}
        for source, row in readers[split.format](split, options):
            article = _article(source, row, options)
            if len(article.title) > MAX_NAME_CHARS or len(article.article_id) > MAX_NAME_CHARS:
                drop(dropped, TOO_LONG, article.title or article.article_id)
            elif article.text.strip():
                yield article
            else:
                dropped["empty"] += 1


def format_of(url: str, options: InputOptions) -> str:
    """The format of a file: as the options say, else told from its name.

    Raises:
        InputError: the name does not tell.
    """
    if options.format != "auto":
        return options.format
    name = posixpath.basename(url).lower()
    if ".xml" in name:
        return "mediawiki"
    for suffix in COMPRESSIONS:
        name = name.removesuffix(suffix)
    kind = SUFFIXES.get(posixpath.splitext(name)[1])
    if kind is None:
        raise InputError(
            "the format of an input cannot be told from its name",
            value=url,
            expected=f"a name with .xml, {', '.join(SUFFIXES)}",
            remedy=f"give --format {'|'.join(FORMATS)}",
        )
    return kind


def _cuts(url: str, options: InputOptions) -> Iterator[tuple[str, tuple[int, int | None] | tuple[int, int, int]]]:
    """Format and (start, end[, shards]) of each split of an input."""
    kind = format_of(url, options)
    if kind == "hf":
        count = _open_dataset(url, options).num_shards
        yield from ((kind, (number, number + 1, count)) for number in range(count))
    elif kind == "mediawiki":
        yield from ((kind, cut) for cut in wikipedia.cut_dump(url, options.split_bytes))
    elif kind == "parquet":
        yield from ((kind, cut) for cut in _parquet_cuts(url, options))
    elif url.lower().endswith(COMPRESSIONS):
        yield kind, (0, None)
    else:
        size = storage.size_bytes(url)
        starts = list(range(0, size, options.split_bytes)) or [0]
        yield from ((kind, (start, min(start + options.split_bytes, size))) for start in starts)


def _article(source: Callable[[], str], row: dict[str, Any], options: InputOptions) -> Article:
    columns = (options.id_column, options.title_column, options.text_column)
    for flag, column in zip(("--id_column", "--title_column", "--text_column"), columns, strict=True):
        if column not in row:
            raise InputError(
                f"an article has no {column}",
                value=f"{source()} has {', '.join(map(str, row)) or 'nothing'}",
                expected=f"a value for {column!r}",
                remedy=f"name the column with {flag}",
            )
    article_id, title, text = (row[column] for column in columns)
    if isinstance(article_id, bool) or not isinstance(article_id, (str, int)) or article_id == "":
        raise InputError(
            "an article's id is no text or number", value=f"{source()}: {article_id!r}", expected="a string or integer"
        )
    for name, value in (("title", title), ("text", text)):
        if value is not None and not isinstance(value, str):
            raise InputError(f"an article's {name} is no text", value=f"{source()}: {value!r}", expected="a string")
    try:
        shown_id = str(article_id)
    except ValueError as error:  # a number of thousands of digits
        raise InputError("an article's id is no number that can be shown", value=source()) from error
    return Article(*(_SURROGATE.sub("\ufffd", part) for part in (shown_id, title or "", text or "")))


def _jsonl_rows(split: Split, _: InputOptions) -> Iterator[Row]:
    for lines_before, line in _lines(split):
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
            ) from error
        if not isinstance(row, dict):
            raise InputError(
                "a line is no JSON object",
                value=_line_source(split, lines_before),
                expected='{"id": ..., "title": ..., "text": ...}',
            )
        yield partial(_line_source, split, lines_before), row


def _psgs_rows(split: Split) -> Iterator[ReadyPassage]:
    last = 0

    def decoded() -> Iterator[str]:
        nonlocal last
        for number, line in _lines(split):
            last = number
            try:
                yield line.decode("utf-8")
            except UnicodeDecodeError as error:
                raise InputError(f"a line is not UTF-8 ({error.reason})", value=_line_source(split, number)) from error

    for row in _cells(decoded(), lambda: _line_source(split, last)):
        if row == PSGS_COLUMNS or not row:
            continue
        if len(row) != len(PSGS_COLUMNS) or not row[0]:
            raise InputError(
                f"a line has {len(row)} columns",
                value=_line_source(split, last),
                expected=f"{', '.join(PSGS_COLUMNS)}, separated by tabs",
                remedy="check --format: psgs is what DPR's psgs_w100.tsv looks like",
            )
        yield ReadyPassage(row[0], row[2], row[1])


def _cells(lines: Iterator[str], source: Callable[[], str]) -> Iterator[list[str]]:
    try:
        yield from csv.reader(lines, delimiter="\t")
    except csv.Error as error:
        raise InputError(f"a line cannot be parsed ({error})", value=source()) from error


def _parquet_cuts(url: str, options: InputOptions) -> Iterator[tuple[int, int]]:
    with _open_parquet(url) as parquet:
        names = parquet.schema_arrow.names
        wanted = {
            "--id_column": options.id_column,
            "--title_column": options.title_column,
            "--text_column": options.text_column,
        }
        for flag, column in wanted.items():
            if column not in names:
                raise InputError(
                    f"a Parquet file has no column {column}",
                    value=f"{url} has {', '.join(names)}",
                    expected=column,
                    remedy=f"name the column with {flag}",
                )
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
    columns = list(dict.fromkeys([options.id_column, options.title_column, options.text_column]))
    with _open_parquet(split.url) as parquet:
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


def _lines(split: Split) -> Iterator[tuple[int, bytes]]:
    """The lines that begin in a split's bytes, each with the number of lines before it in the split."""
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
                at_file_start = position == 0
                position += len(line)
                yield number, line.removeprefix(codecs.BOM_UTF8) if at_file_start else line
        except (EOFError, OSError, zlib.error, zstandard.ZstdError) as error:
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
