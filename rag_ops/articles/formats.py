"""The formats of input: an entry in `FORMATS` is all that a new one takes.

A format knows the suffixes of its files, how a file is cut among workers, what articles are in a split, and what digest
stands for an input in the fingerprint.
"""

from __future__ import annotations

import contextlib
import dataclasses
import json
import os
import re
from collections.abc import Callable, Iterator
from functools import partial
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from rag_ops import machine, settings
from rag_ops.articles import dump, tsv
from rag_ops.articles.article import Article, NoArticle, Source, Split
from rag_ops.articles.columns import SECTION, Columns, find_columns, joined_text, made_id
from rag_ops.articles.dropped import TOO_LONG, Dropped
from rag_ops.articles.lines import line_source, read_lines
from rag_ops.articles.tsv import Layout
from rag_ops.errors import InputError
from rag_ops.markup.parts import Wanted
from rag_ops.markup.siteinfo import SiteInfo
from rag_ops.storage import store
from rag_ops.storage.compression import COMPRESSIONS
from schemas.manifest import digest_of
from schemas.passages import Passage

Row = tuple[Callable[[], str], dict[str, Any]]  # where a row stands, said only when asked, and its columns
Cut = tuple[int, int | None] | tuple[int, int, int]  # start, end and, of a dataset, the number of its shards
PARQUET_BATCH_ROWS = 256
SPLIT_BYTES = 16 << 20  # read by one worker at a time, unless the input is large or a flag says
MAX_NAME_CHARS = 1000  # longest title, section or id, which every passage of the article carries
LANGUAGE_CODE = re.compile(r"[A-Za-z]{2,12}(-[A-Za-z]{2,12})*")
_SURROGATE = re.compile(r"[\ud800-\udfff]")  # what "\ud800" in JSON makes, and no file can hold


class Format:
    """One kind of input. Subclasses give its cuts and either its rows or its articles.

    Attributes:
        name: name on the command line and in splits.
        suffixes: suffixes of its files, without those of a compression.
        is_file: whether an input is a file; else it is a dataset's name.
        is_wikitext: whether texts are markup, to be rendered.
        checks_ids: whether the first ids of its files are compared beforehand, as they may begin anew in each.
    """

    name: str
    suffixes: tuple[str, ...] = ()
    is_file = True
    is_wikitext = False
    checks_ids = True

    def cuts(self, url: str, options: InputOptions) -> Iterator[Cut]:
        """Yields the ranges of an input that its splits cover, in order.

        Raises:
            InputError: the input is missing or not of this format.
        """
        raise NotImplementedError

    def rows(self, split: Split, options: InputOptions) -> Iterator[Row]:
        """Yields the rows of a split, each under the columns' names in the file.

        Raises:
            InputError: the input is malformed, with file and line or row.
        """
        raise NotImplementedError

    def articles(self, split: Split, options: InputOptions, dropped: Dropped) -> Iterator[Source]:
        """Yields the articles of a split in input order; counts in `dropped`, by reason, what is no article.

        Raises:
            InputError: the input is malformed, with file and line, row or byte.
        """
        for source, row in self.rows(split, options):
            article = _article(source, row, split, options)
            if max(map(len, (article.title, article.article_id, article.section))) > MAX_NAME_CHARS:
                dropped.name(TOO_LONG, article.title or article.article_id)
            elif (kept := self.kept(article)) is not None:
                yield kept
            else:
                dropped["empty"] += 1

    def kept(self, article: Article) -> Article | Passage | None:
        """The article of a row, or None if it has no text."""
        return article if article.text.strip() else None

    def digest(self, url: str, options: InputOptions) -> str:
        """The digest that stands for an input in the fingerprint."""
        return store.sha256_of(url)


class MediaWiki(Format):
    """XML exports of MediaWiki."""

    name, suffixes, is_wikitext, checks_ids = "mediawiki", (".xml",), True, False

    def cuts(self, url: str, options: InputOptions) -> Iterator[Cut]:
        yield from dump.cut_dump(url, options.cut_bytes)

    def articles(
        self, split: Split, options: InputOptions, dropped: Dropped, other: Callable[[dump.Page], None] | None = None
    ) -> Iterator[Article | NoArticle]:
        """Yields pages; one that is no article leaves a mark, so that no older revision comes back in its place.

        `other` is called with each page that is outside the namespace of articles.
        """
        site = options.site_of(split.url)
        for page in dump.read_pages(split.url, split.start, split.end):
            if other and page.namespace != 0:
                other(page)
            article_id = split.prefix + page.page_id
            reason = dump.drop_reason(page, site)
            if reason is None:
                yield Article(article_id, page.title, page.wikitext, page.date, page.revision)
                continue
            if reason == TOO_LONG:
                dropped.name(reason, page.title)
            else:
                dropped[reason] += 1
            if page.namespace == 0:
                yield NoArticle(article_id, page.date, page.revision)


class Jsonl(Format):
    """One JSON object a line."""

    name, suffixes = "jsonl", (".jsonl", ".ndjson", ".json")

    def cuts(self, url: str, options: InputOptions) -> Iterator[Cut]:
        if _is_array(url):
            raise InputError(
                "the file is a JSON array and not JSONL",
                value=url,
                expected="one JSON object a line",
                remedy="jq -c '.[]' FILE > NAME.jsonl makes it so",
            )
        yield from _byte_cuts(url, options)

    def rows(self, split: Split, options: InputOptions) -> Iterator[Row]:
        for lines_before, _, line in read_lines(split):
            if not line.strip():
                continue
            try:
                row = json.loads(line)
            except (ValueError, RecursionError) as error:
                shown = line[:60].decode("utf-8", "replace")
                raise InputError(
                    f"a line is not JSON ({error})",
                    value=f"{line_source(split, lines_before)}: {shown}",
                    expected="one JSON object in UTF-8 a line",
                    remedy="mend the line; a document over several lines is made JSONL by jq -c . FILE",
                ) from error
            if not isinstance(row, dict):
                raise InputError(
                    "a line is no JSON object",
                    value=line_source(split, lines_before),
                    expected='{"id": ..., "title": ..., "text": ...}',
                )
            yield partial(line_source, split, lines_before), row


class Parquet(Format):
    """Parquet files, cut at row groups."""

    name, suffixes = "parquet", (".parquet",)

    def cuts(self, url: str, options: InputOptions) -> Iterator[Cut]:
        """Cuts after row groups that have `split_bytes` together, compressed."""
        with _open_parquet(url) as parquet:
            find_columns(parquet.schema_arrow.names, options.columns, lambda: url, "a Parquet file")
            # Of columns, whose compressed sizes there are too, an encrypted one ends the process.
            sizes = [parquet.metadata.row_group(group).total_byte_size for group in range(parquet.num_row_groups)]
            compressed, start, size = store.size_bytes(url) / max(sum(sizes), 1), 0, 0.0
            for group, uncompressed in enumerate(sizes):
                size += uncompressed * compressed
                if size >= options.cut_bytes:
                    yield start, group + 1
                    start, size = group + 1, 0.0
            if start < parquet.num_row_groups:
                yield start, parquet.num_row_groups

    def rows(self, split: Split, options: InputOptions) -> Iterator[Row]:
        with _open_parquet(split.url) as parquet:
            columns = find_columns(parquet.schema_arrow.names, options.columns, lambda: split.url).present()
            end = parquet.num_row_groups if split.end is None else split.end
            number = sum(parquet.metadata.row_group(group).num_rows for group in range(split.start))
            groups = list(range(split.start, end))
            try:
                for batch in parquet.iter_batches(PARQUET_BATCH_ROWS, groups, columns):
                    for row in batch.to_pylist():
                        number += 1
                        yield partial("{}, row {}".format, split.url, number), row
            except (pa.ArrowException, OSError, UnicodeDecodeError) as error:
                machine.check(error)
                raise InputError(
                    f"a Parquet file is damaged, or its texts are not UTF-8 ({error})",
                    value=f"{split.url}, after row {number}",
                    remedy="download it again",
                ) from error


class Psgs(Format):
    """TSV, as DPR's psgs_w100.tsv: each row is a passage already, kept with its id."""

    name, suffixes = "psgs", (".tsv",)

    def cuts(self, url: str, options: InputOptions) -> Iterator[Cut]:
        """Cuts every `split_bytes`; between records if cells are quoted, which takes a pass over the file."""
        start, size = 0, store.size_bytes(url)
        is_one = store.name_of(url).lower().endswith(COMPRESSIONS) or size <= options.cut_bytes
        if is_one or not (layout := _layout(url, options)).quoted:
            yield from _byte_cuts(url, options)
            return
        for _, position, _ in tsv.records(read_lines(Split(0, "psgs", url)), layout.width):  # 4 s a GB
            if position >= start + options.cut_bytes:
                yield start, position
                start = position
        yield start, size

    def rows(self, split: Split, options: InputOptions) -> Iterator[Row]:
        """The rows of a TSV file, under our names for its columns."""
        layout = _layout(split.url, options)
        places = {options.text_column: layout.text, options.title_column: layout.title, options.id_column: layout.id}
        places.setdefault(SECTION, layout.section)
        lines = read_lines(split)
        for number, _, data in tsv.records(lines, layout.width) if layout.quoted else lines:
            source = partial(line_source, split, number)
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

    def kept(self, article: Article) -> Passage:
        """A passage, also without text."""
        return Passage(article.article_id, article.title, article.text, article.section)


class Dataset(Format):
    """Datasets of Hugging Face, by name or directory, streamed."""

    name, is_file, checks_ids = "hf", False, False

    def cuts(self, url: str, options: InputOptions) -> Iterator[Cut]:
        count = _open_dataset(url, options).num_shards
        yield from ((number, number + 1, count) for number in range(count))

    def rows(self, split: Split, options: InputOptions) -> Iterator[Row]:
        shard = _open_dataset(split.url, options).shard(num_shards=split.shards, index=split.start)
        for number, row in enumerate(shard, 1):
            yield partial("{}, shard {}, row {}".format, split.url, split.start, number), row

    def digest(self, url: str, options: InputOptions) -> str:
        """A hash of the names of the dataset's files, with their revision on the hub or, if local, their times.

        Raises:
            InputError: it cannot be loaded.
        """
        from datasets import load_dataset_builder

        with _loading_dataset(url, options):
            builder = load_dataset_builder(url, options.dataset_config)
        return digest_of([builder.hash, builder.config_id])


FORMATS = {one.name: one for one in (MediaWiki(), Jsonl(), Parquet(), Psgs(), Dataset())}

TABLES = ("rows", "drop")
setting = partial(settings.setting, group="articles")
_USUAL = "; where it is missing, a name in common use"


@dataclasses.dataclass(frozen=True)
class InputOptions:
    """How inputs are read."""

    format: str = setting("auto", f"auto, by the file's name; or {', '.join(FORMATS)}")
    id_column: str = setting("id", f"column or key of the article's id{_USUAL}")
    title_column: str = setting("title", f"column or key of the title{_USUAL}")
    text_column: str = setting("text", f"column or key of the text{_USUAL}")
    dataset_config: str | None = setting(None, "configuration of a Hugging Face dataset, such as 20231101.en")
    dataset_split: str = setting("train", "split of a Hugging Face dataset")
    split_bytes: int | None = setting(
        None, "input read by one worker at a time, in bytes as stored; by default 16 MiB or a 256th of all", at_least=1
    )
    prefix_ids: bool = setting(False, "put each file's name before its ids, which begin anew in each file")

    language: str | None = setting(
        None, "language of the wiki of a dump, as a code such as de; by default as the dump says", metavar="CODE"
    )
    keep_ipa: bool = setting(False, "keep pronunciations in IPA that a dump's templates give")
    templates: str = setting("dump", "how a dump's templates are expanded: dump, by its own; or none, by ours alone")

    tables: str = setting(
        "rows", "tables and infoboxes of a dump: as passages of their own, or not at all", choices=TABLES
    )
    captions: bool = setting(False, "captions of a dump's files as passages of their own")

    def __post_init__(self) -> None:
        if self.language is not None and not LANGUAGE_CODE.fullmatch(self.language):
            raise InputError("--language is no code of a language", value=self.language, expected="de or zh-yue, say")
        if self.format not in ("auto", *FORMATS):
            raise InputError("unknown --format", value=self.format, expected=f"auto, {', '.join(FORMATS)}")
        if self.templates not in ("dump", "none"):
            raise InputError("unknown --templates", value=self.templates, expected="dump or none")
        settings.check(self)

    @property
    def parts(self) -> Wanted:
        """What is wanted of a page beside its prose."""
        return Wanted(self.tables == "rows", self.captions)

    def site_of(self, url: str) -> SiteInfo:
        """The wiki of a dump, with the language of --language if that is given.

        Raises:
            InputError: the file is cut or not what its name says.
        """
        site = dataclasses.replace(dump.read_site(url), keep_ipa=self.keep_ipa)
        return dataclasses.replace(site, code=self.language.lower()) if self.language else site

    @property
    def cut_bytes(self) -> int:
        """Bytes of a split."""
        return self.split_bytes or SPLIT_BYTES

    @property
    def names_datasets(self) -> bool:
        """Whether inputs are names of datasets, by the format that is given; else they are files."""
        return self.format in FORMATS and not FORMATS[self.format].is_file

    @property
    def columns(self) -> Columns:
        """The columns that the flags name."""
        return Columns(self.text_column, self.title_column, self.id_column)


def _article(source: Callable[[], str], row: dict[str, Any], split: Split, options: InputOptions) -> Article:
    columns = find_columns(row, options.columns, source)
    title = None if columns.title is None else row[columns.title]
    text = joined_text(row[columns.text])
    for name, value in (("title", title), ("text", text)):
        if value is not None and not isinstance(value, str):
            raise InputError(f"an article's {name} is no text", value=f"{source()}: {value!r}", expected="a string")
    section = row[columns.section] if columns.section else ""
    section = section if isinstance(section, str) else ""  # a column of that name for something else
    title, text, section = (_SURROGATE.sub("\ufffd", part or "") for part in (title, text, section))
    if columns.id is None:
        return Article(split.prefix + made_id(title, text), title, text, section=section)
    article_id = row[columns.id]
    if isinstance(article_id, bool) or not isinstance(article_id, (str, int)) or article_id == "":
        raise InputError(
            "an article's id is no text or number", value=f"{source()}: {article_id!r}", expected="a string or integer"
        )
    try:
        shown_id = str(article_id)
    except ValueError as error:  # a number of thousands of digits
        raise InputError("an article's id is no number that can be shown", value=source()) from error
    return Article(split.prefix + _SURROGATE.sub("\ufffd", shown_id), title, text, section=section)


def _byte_cuts(url: str, options: InputOptions) -> Iterator[Cut]:
    """Cuts every `split_bytes`, wherever they fall in a line; a compressed file is one split."""
    size = store.size_bytes(url)
    if store.name_of(url).lower().endswith(COMPRESSIONS):
        yield 0, None
        return
    for start in range(0, size, options.cut_bytes) or [0]:
        yield start, min(start + options.cut_bytes, size)


def _is_array(url: str) -> bool:
    """Whether a JSON file is a single array."""
    try:
        lines = (line.lstrip() for _, _, line in read_lines(Split(0, "jsonl", url)))
        return next(filter(None, lines), b"").startswith(b"[")
    except InputError:
        return False  # the reader says what is wrong, and where


def _layout(url: str, options: InputOptions) -> Layout:
    return tsv.layout_of(tsv.head(read_lines(Split(0, "psgs", url))), url, options.columns)


def _open_parquet(url: str) -> pq.ParquetFile:
    try:
        return pq.ParquetFile(store.open_read(url))
    except (pa.ArrowException, OSError, UnicodeDecodeError) as error:
        machine.check(error)
        raise InputError(
            f"not a whole Parquet file ({error})", value=url, remedy="check --format, or download it again"
        ) from error


def _open_dataset(name: str, options: InputOptions) -> Any:
    from datasets import load_dataset

    with _loading_dataset(name, options):
        return load_dataset(name, options.dataset_config, split=options.dataset_split, streaming=True)


@contextlib.contextmanager
def _loading_dataset(name: str, options: InputOptions) -> Iterator[None]:
    if store.has_magic(name) and os.path.isdir(name):
        raise InputError(
            "the datasets library would take this directory's name for a pattern, and read another directory",
            value=name,
            expected="a name without *, ? and [",
            remedy="rename it, or give its files with another --format",
        )
    try:
        yield
    except Exception as error:  # datasets raises its own, the hub's and the file system's errors
        machine.check(error)
        reason = str(error).strip().splitlines()[0] if str(error).strip() else type(error).__name__
        raise InputError(
            f"the dataset cannot be loaded ({reason[:160]})",
            value=f"{name}, configuration {options.dataset_config}, split {options.dataset_split}",
            expected="a Hugging Face dataset",
            remedy="check --input, --dataset_config, --dataset_split and the network",
        ) from error
