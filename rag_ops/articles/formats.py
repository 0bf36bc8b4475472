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
from rag_ops.articles import containers, dump, languages
from rag_ops.articles.article import Article, NoArticle, Split
from rag_ops.articles.collections import Beir, Hotpotqa, Kilt, Pyserini, Squad, Triviaqa
from rag_ops.articles.columns import find_columns
from rag_ops.articles.dropped import Dropped
from rag_ops.articles.enterprise import Enterprise
from rag_ops.articles.finewiki import Finewiki
from rag_ops.articles.lines import JSON_LINES
from rag_ops.articles.msmarco import Msmarco
from rag_ops.articles.options import DATASET, InputOptions
from rag_ops.articles.parquet_rows import column_names, group_cuts, parquet_rows
from rag_ops.articles.psgs import Psgs
from rag_ops.articles.source_format import Cut, Format, Row
from rag_ops.articles.structured import Structured
from rag_ops.articles.text_files import Text
from rag_ops.articles.zim import Zim
from rag_ops.errors import InputError
from rag_ops.storage import arrow, store
from schemas.manifest import digest_of


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
    """One JSON object a line; one array of them, or a tar archive of such files, is one split."""

    name, suffixes, in_archives = "jsonl", JSON_LINES, True

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
