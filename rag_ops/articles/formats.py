"""The formats of input: a new one takes an entry in `FORMATS`, and its name in `options.FORMATS`.

A format knows the suffixes of its files, how a file is cut among workers, what articles are in a split, and what digest
stands for an input in the fingerprint.
"""

from __future__ import annotations

import contextlib
import os
from collections.abc import Callable, Iterator
from functools import partial
from typing import Any

from rag_ops import machine
from rag_ops.articles import containers, dump, languages, tsv
from rag_ops.articles.article import Article, NoArticle, Split
from rag_ops.articles.collections import Beir, Collection, Hotpotqa, Kilt, Pyserini, Squad, Triviaqa
from rag_ops.articles.columns import SECTION, find_columns
from rag_ops.articles.dropped import Dropped
from rag_ops.articles.enterprise import Enterprise
from rag_ops.articles.finewiki import Finewiki
from rag_ops.articles.lines import JSON_LINES, line_source, read_lines
from rag_ops.articles.options import DATASET, InputOptions
from rag_ops.articles.parquet_rows import column_names, group_cuts, parquet_rows
from rag_ops.articles.source_format import Cut, Format, Row, byte_cuts
from rag_ops.articles.structured import Structured
from rag_ops.articles.tsv import Layout
from rag_ops.articles.zim import Zim
from rag_ops.errors import InputError
from rag_ops.storage import arrow, store
from rag_ops.storage.compression import COMPRESSIONS
from schemas.manifest import digest_of
from schemas.passages import Passage


class MediaWiki(Format):
    """XML exports of MediaWiki."""

    name, suffixes, checks_ids = "mediawiki", (".xml",), False
    is_wikitext = is_markup = True

    def cuts(self, url: str, options: InputOptions) -> Iterator[Cut]:
        yield from dump.cut_dump(url, options.cut_bytes)

    def wiki(self, url: str, options: InputOptions) -> str:
        return dump.read_site(url).wiki

    def language(self, url: str, options: InputOptions) -> str:
        return languages.code_of(options.site_of(url).code)

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
            dropped.count(reason, page.title)
            if page.namespace == 0:
                yield NoArticle(article_id, page.date, page.revision)


class Jsonl(Format):
    """One JSON object a line, or one array of them, which is one split."""

    name, suffixes = "jsonl", JSON_LINES

    def cuts(self, url: str, options: InputOptions) -> Iterator[Cut]:
        return containers.cuts(url, options)

    def language(self, url: str, options: InputOptions) -> str:
        return containers.language(url)

    def rows(self, split: Split, options: InputOptions) -> Iterator[Row]:
        return containers.rows(split)


class Parquet(Format):
    """Parquet files, cut at row groups."""

    name, suffixes = "parquet", (".parquet",)

    def cuts(self, url: str, options: InputOptions) -> Iterator[Cut]:
        find_columns(column_names(url), options.columns, lambda: url, "a Parquet file")
        yield from group_cuts(url, options.cut_bytes)

    def language(self, url: str, options: InputOptions) -> str:
        return containers.language(url)

    def rows(self, split: Split, options: InputOptions) -> Iterator[Row]:
        names = find_columns(column_names(split.url), options.columns, lambda: split.url).present()
        return parquet_rows(split, names)


class Arrow(Format):
    """Arrow files, as the datasets library saves them to disk; each is one split."""

    name, suffixes = "arrow", (arrow.SUFFIX,)

    def cuts(self, url: str, options: InputOptions) -> Iterator[Cut]:
        find_columns(arrow.column_names(url), options.columns, lambda: url, "an Arrow file")
        yield 0, None

    def language(self, url: str, options: InputOptions) -> str:
        return containers.language(url)

    def rows(self, split: Split, options: InputOptions) -> Iterator[Row]:
        names = find_columns(arrow.column_names(split.url), options.columns, lambda: split.url).present()
        return containers.rows(split, names)


class Psgs(Format):
    """TSV, as DPR's psgs_w100.tsv: each row is a passage already, kept with its id."""

    name, suffixes = "psgs", (".tsv",)

    def cuts(self, url: str, options: InputOptions) -> Iterator[Cut]:
        """Cuts every `split_bytes`; between records if cells are quoted, which takes a pass over the file."""
        start, size = 0, store.size_bytes(url)
        is_one = store.name_of(url).lower().endswith(COMPRESSIONS) or size <= options.cut_bytes
        if is_one or not (layout := _layout(url, options)).quoted:
            yield from byte_cuts(url, options)
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


class Text(Format):
    """Plain text, an article a file: its name is the id and, with spaces for underscores, the title."""

    name = "text"

    def cuts(self, url: str, options: InputOptions) -> Iterator[Cut]:
        yield 0, None

    def rows(self, split: Split, options: InputOptions) -> Iterator[Row]:
        parts = [data for _, _, data in read_lines(split)]
        try:
            text = b"".join(parts).decode("utf-8")
        except UnicodeDecodeError as error:
            raise InputError(f"a text is not UTF-8 ({error.reason})", value=split.url) from error
        name = store.name_of(split.url)
        for suffix in (*COMPRESSIONS, ".txt"):
            name = name.removesuffix(suffix)
        columns = {options.id_column: name, options.title_column: name.replace("_", " "), options.text_column: text}
        yield lambda: split.url, columns


class Msmarco(Collection):
    """MS MARCO's passages: collection.tsv of the first version, as `psgs` reads it; `pid` and `passage` of the second.

    https://microsoft.github.io/msmarco/
    """

    name, whole = "msmarco", True
    needs = shows = (frozenset(("pid", "passage")),)

    def texts(self, row: dict[str, Any], source: Callable[[], str], options: InputOptions) -> Iterator[dict[str, Any]]:
        yield {name: value for name, value in row.items() if name != "docid" or options.id_column == "docid"}

    def cuts(self, url: str, options: InputOptions) -> Iterator[Cut]:
        return Psgs().cuts(url, options) if _is_tsv(url) else super().cuts(url, options)

    def rows(self, split: Split, options: InputOptions) -> Iterator[Row]:
        return Psgs().rows(split, options) if _is_tsv(split.url) else super().rows(split, options)

    def language(self, url: str, options: InputOptions) -> str:
        return "" if _is_tsv(url) else super().language(url, options)


class Dataset(Format):
    """Datasets of Hugging Face, by name or directory, streamed."""

    name, is_file, checks_ids = DATASET, False, False

    def cuts(self, url: str, options: InputOptions) -> Iterator[Cut]:
        count = _open_dataset(url, options).num_shards
        yield from ((number, number + 1, count) for number in range(count))

    def rows(self, split: Split, options: InputOptions) -> Iterator[Row]:
        shard = _open_dataset(split.url, options).shard(num_shards=split.shards, index=split.start)
        for number, row in enumerate(shard, 1):
            yield partial("{}, shard {}, row {}".format, split.url, split.start, number), row

    def language(self, url: str, options: InputOptions) -> str:
        return languages.of_configuration(url, options.dataset_config)

    def digest(self, url: str, options: InputOptions) -> str:
        """A hash of the names of the dataset's files, with their revision on the hub or, if local, their times.

        Raises:
            InputError: it cannot be loaded.
        """
        from datasets import load_dataset_builder

        with _loading_dataset(url, options):
            builder = load_dataset_builder(url, options.dataset_config)
        return digest_of([builder.hash, builder.config_id])


FORMATS: dict[str, Format] = {
    one.name: one
    for one in (
        *(MediaWiki(), Enterprise(), Zim(), Finewiki(), Structured()),
        *(Kilt(), Beir(), Pyserini(), Msmarco(), Hotpotqa(), Squad(), Triviaqa()),
        *(Jsonl(), Parquet(), Arrow(), Psgs(), Text(), Dataset()),
    )
}


def _is_tsv(url: str) -> bool:
    return any(suffix in store.name_of(url).lower() for suffix in Psgs.suffixes)


def _layout(url: str, options: InputOptions) -> Layout:
    return tsv.layout_of(tsv.head(read_lines(Split(0, "psgs", url))), url, options.columns)


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
