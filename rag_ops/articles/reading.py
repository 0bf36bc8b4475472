"""Articles from any input: what files there are, how they are split among workers, and what is in each split."""

from __future__ import annotations

import dataclasses
import itertools
import posixpath
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from rag_ops.articles import containers
from rag_ops.articles.archives import SUFFIXES as TAR
from rag_ops.articles.archives import archive_rows
from rag_ops.articles.article import MAX_SPLITS, Source, Split
from rag_ops.articles.dropped import Dropped
from rag_ops.articles.formats import FORMATS, Jsonl
from rag_ops.articles.options import DATASET, SPLIT_BYTES, InputOptions
from rag_ops.articles.parquet_rows import column_names
from rag_ops.articles.wiki_format import first_keys, is_parquet
from rag_ops.articles.zim import MAGIC, Zim
from rag_ops.errors import InputError, JobError
from rag_ops.redaction import public_url
from rag_ops.storage import arrow, store
from rag_ops.storage.compression import COMPRESSIONS
from schemas.passages import Passage

FILES_LOOKED_AT = 100  # before anything runs
USUAL_SPLITS = 256  # most splits of an input of one file, unless --split_bytes is given
UNPACK = {
    ".7z": "7z x -so FILE | zstd > NAME.zst",
    "rar": "unrar p -inul FILE | zstd > NAME.zst",
    "zip": "unzip FILE, and give --input the files that are wanted",
    "tar": "tar -xf FILE, and give --input the files that are wanted",
}
ARCHIVES = (".7z", ".zip", ".rar", *TAR)


def plan_splits(urls: Sequence[str], options: InputOptions) -> list[Split]:
    """Cuts all inputs into splits, in input order.

    Raises:
        InputError: a file is missing, its format is unclear, or its header is wrong.
    """
    files = expand_inputs(urls, options)
    if len(files) > MAX_SPLITS:
        raise InputError(
            "there are more files than a job takes",
            value=f"{len(files):,} files",
            expected=f"at most {MAX_SPLITS:,}",
            remedy="make JSONL of them, an article a line, or give a part at a time",
        )
    kinds = {url: format_of(url, options) for url in files}
    prefixes = id_prefixes(kinds, options)
    options = dataclasses.replace(options, split_bytes=options.split_bytes or split_bytes(kinds))
    cuts = ((url, cut) for url in files for cut in FORMATS[kinds[url]].cuts(url, options))
    splits = [
        Split(ordinal, kinds[url], url, *cut, prefix=prefixes[url])  # type: ignore[misc]
        for ordinal, (url, cut) in enumerate(itertools.islice(cuts, MAX_SPLITS + 1))
    ]
    if len(splits) > MAX_SPLITS:
        raise InputError(
            "the input is cut into too many splits",
            value=f"--split_bytes {options.split_bytes}",
            expected=f"at most {MAX_SPLITS:,} splits",
            remedy="give a larger --split_bytes",
        )
    _check_first_ids(splits, options)
    return splits


def split_bytes(kinds: Mapping[str, str]) -> int:
    """The size of a split when none is given: each split meets each shard, so neither may grow with all of the input.

    Args:
        kinds: the format of each input.
    """
    total = sum(store.size_bytes(url) for url, kind in kinds.items() if FORMATS[kind].is_file)
    return max(SPLIT_BYTES, -(-total // USUAL_SPLITS))


def read_split(split: Split, options: InputOptions, dropped: Dropped) -> Iterator[Source]:
    """Yields the articles of a split; see `Format.articles`."""
    return FORMATS[split.format].articles(split, options, dropped)


def expand_inputs(urls: Sequence[str], options: InputOptions) -> list[str]:
    """The input files that URLs, globs and directories name, in the order given; datasets' names as they are.

    Of a dataset that the datasets library saved to disk these are its Arrow files, those of --dataset_split.

    Raises:
        InputError: there is no such file.
    """
    found: list[str] = []
    for url in urls:
        if saved := arrow.saved_files(url, options.dataset_split):
            found += saved
        else:
            found += [url] if options.names_datasets else store.expand(url, "input file")
    # The companion index of a multistream dump is no dump; a glob over a dump's folder finds it too.
    return [url for url in found if not url.endswith(("-index.txt.bz2", "-index.txt"))] or found


def format_of(url: str, options: InputOptions) -> str:
    """The format of a file: as the options say, else by its name, or by its first articles if those say more.

    Raises:
        InputError: the name shows no format, or is an archive's that holds none; or the options say another than the
            file shows.
    """
    name = store.name_of(url).lower()
    wanted = "auto" if options.format == DATASET and name.endswith(arrow.SUFFIX) else options.format
    if wanted == DATASET:
        return DATASET
    seen = seen_format(url)
    asked = seen if wanted == "auto" else wanted
    if name.endswith(ARCHIVES) and not (name.endswith(TAR) and asked and FORMATS[asked].in_archives):
        raise InputError(
            "an archive cannot be read as it is",
            value=url,
            expected=f"a file, or one compressed by itself: {', '.join(COMPRESSIONS)}",
            remedy=f"unpack it: {UNPACK.get(name[-3:], UNPACK['tar'])}",
        )
    if seen and wanted not in ("auto", seen) and not FORMATS[seen].is_markup:
        return wanted  # rows of a collection are rows like any other
    if seen and wanted not in ("auto", seen):
        raise InputError(
            f"the file is no {options.format}",
            value=url,
            expected=f"--format {options.format} is for other files; this one is {seen}",
            remedy=f"give --format {seen}, or none",
        )
    if seen:
        return seen
    if wanted != "auto":
        return wanted
    if ".xml" in name:  # also of "pages-articles1.xml-p1p41242.bz2"
        return "mediawiki"
    for suffix in COMPRESSIONS:
        name = name.removesuffix(suffix)
    known = {suffix: one.name for one in FORMATS.values() for suffix in one.suffixes}
    kind = known.get(posixpath.splitext(name)[1])
    if kind is None:
        raise InputError(
            "the format of an input cannot be told from its name",
            value=url,
            expected=f"a name with {', '.join(known)}",
            remedy=f"give --format {'|'.join(FORMATS)}",
        )
    return kind


def seen_format(url: str) -> str | None:
    """The format that a file shows by its place or what is in it: one of `FORMATS`, or ZIM; else None."""
    name = store.name_of(url).lower()
    try:
        if named := next((one.name for one in FORMATS.values() if one.named_by(url)), None):
            return named
        if name.endswith(TAR):
            keys = first_keys(archive_rows(url))
        elif is_parquet(url):
            keys = column_names(url)
        elif name.endswith(arrow.SUFFIX):
            keys = arrow.column_names(url)
        elif any(suffix in name for suffix in Jsonl.suffixes):
            keys = first_keys(containers.rows(Split(0, "jsonl", url)))
        else:
            with store.open_read(url) as file:
                if file.read(len(MAGIC)) == MAGIC:
                    return Zim.name
            if _has_suffix(name):
                return None
            keys = first_keys(containers.rows(Split(0, "jsonl", url)))
    except (OSError, InputError, JobError):
        return None  # the reader of the format says what is wrong, and where
    shown = next((one.name for one in FORMATS.values() if one.shown_by(set(keys))), None)
    return shown or (Jsonl.name if keys and (name.endswith(TAR) or not _has_suffix(name)) else None)


def _has_suffix(name: str) -> bool:
    """Whether a file's name says what is in it, beyond its compression."""
    for suffix in COMPRESSIONS:
        name = name.removesuffix(suffix)
    return bool(posixpath.splitext(name)[1])


def id_prefixes(kinds: Mapping[str, str], options: InputOptions) -> dict[str, str]:
    """The text before the ids of each input: its name, or that of its wiki among several wikis."""
    if options.prefix_ids:
        parts = {url: public_url(url).split("/") for url in kinds}
        folders = zip(*(names[:-1] for names in parts.values()), strict=False)
        shared = sum(1 for _ in itertools.takewhile(lambda level: len(set(level)) == 1, folders))
        short = {url: "/".join(names[shared:]) for url, names in parts.items()}
        stems = {
            url: posixpath.join(posixpath.dirname(name), posixpath.basename(name).split(".")[0])
            for url, name in short.items()
        }
        names = stems if len(set(stems.values())) == len(stems) else short
        return {url: f"{name}:" for url, name in names.items()}
    wikis = {url: FORMATS[kind].wiki(url, options) for url, kind in kinds.items()} if len(kinds) > 1 else {}
    several = len(set(wikis.values()) - {""}) > 1
    return {url: f"{wikis[url]}:" if several and wikis.get(url) else "" for url in kinds}


def same_id_error(article_id: str, files: Sequence[str]) -> InputError:
    """The error of two articles that differ and have one id; `files` are those that they are in, as far as known."""
    return InputError(
        "two articles have one id and are not the same, so one of them would be lost",
        value=f"{article_id} in {' and '.join(dict.fromkeys(files)) or 'the input'}",
        expected="an id for each article",
        remedy="--prefix_ids puts each file's name before its ids; within a file name another --id_column",
    )


def _check_first_ids(splits: Sequence[Split], options: InputOptions) -> None:
    """Looks at the first article of some files: a column that is not there, or ids that begin anew in each file, would
    end the job after hours of work.

    Raises:
        InputError: one cannot be read, or two of them differ and have one id.
    """
    firsts = [split for split in splits if not split.start and FORMATS[split.format].checks_ids]
    seen: dict[str, tuple[Any, str]] = {}
    for split in firsts[:FILES_LOOKED_AT]:
        article = next(read_split(split, options, Dropped()), None)
        if article is None:
            continue
        name = article.passage_id if isinstance(article, Passage) else article.article_id
        other, url = seen.setdefault(name, (article, split.url))
        if other != article:
            raise same_id_error(name, [url, split.url])
