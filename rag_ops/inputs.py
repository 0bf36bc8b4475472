"""What can be read: options, formats by name, the units of reading, and what comes of them."""

from __future__ import annotations

import dataclasses
import itertools
import posixpath
from collections.abc import Mapping, Sequence

from rag_ops import storage, wikipedia
from rag_ops.columns import Columns
from rag_ops.errors import InputError
from rag_ops.streams import COMPRESSIONS

FORMATS = ("mediawiki", "jsonl", "parquet", "psgs", "hf")
UNPACK = {".7z": "7z x -so", "zip": "unzip -p", "rar": "unrar p -inul"}
UNKNOWN = -1  # when a text was written, where that is not told
SUFFIXES = {".jsonl": "jsonl", ".ndjson": "jsonl", ".json": "jsonl", ".parquet": "parquet", ".tsv": "psgs"}
ARCHIVES = (".7z", ".zip", ".rar", ".tar", ".tgz", ".tar.gz", ".tar.bz2", ".tar.xz", ".tar.zst")


@dataclasses.dataclass(frozen=True)
class InputOptions:
    """How inputs are read.

    Attributes:
        format: "auto" (told from the name), "mediawiki", "jsonl", "parquet", "psgs" or "hf".
        id_column, title_column, text_column: names in JSONL, Parquet, TSV with a header and datasets; where a default
            is missing, the first name of `columns.KNOWN` that is there.
        dataset_config, dataset_split: of a Hugging Face dataset.
        split_bytes: what one worker reads at a time, as stored.
        prefix_ids: whether each article's id gets its file's name before it, for files whose ids each begin anew.
    """

    format: str = "auto"
    id_column: str = "id"
    title_column: str = "title"
    text_column: str = "text"
    dataset_config: str | None = None
    dataset_split: str = "train"
    split_bytes: int = 16 * 2**20
    prefix_ids: bool = False

    def __post_init__(self) -> None:
        if self.format not in ("auto", *FORMATS):
            raise InputError("unknown --format", value=self.format, expected=f"auto, {', '.join(FORMATS)}")
        if self.split_bytes < 1:
            raise InputError("--split_bytes is too small", value=self.split_bytes, expected="1 or more")

    @property
    def columns(self) -> Columns:
        """The columns that the flags name."""
        return Columns(self.text_column, self.title_column, self.id_column)


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
        prefix: what stands before the ids of its articles.
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

    `date` and `revision` are those of a dump's revision (`wikipedia.Page`), else `UNKNOWN`.
    """

    article_id: str
    title: str
    text: str
    date: int = UNKNOWN
    revision: int = UNKNOWN


@dataclasses.dataclass(frozen=True, slots=True)
class NoArticle:
    """A page of a dump that is no article: where it is the latest revision, it takes the place of one that was."""

    article_id: str
    date: int = UNKNOWN
    revision: int = UNKNOWN


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


def format_of(url: str, options: InputOptions) -> str:
    """The format of a file: as the options say, else told from its name.

    Raises:
        InputError: the name does not tell, or is an archive's.
    """
    name = posixpath.basename(url).lower()
    if name.endswith(ARCHIVES) and options.format != "hf":
        raise InputError(
            "an archive cannot be read as it is",
            value=url,
            expected=f"a file, or one compressed by itself: {', '.join(COMPRESSIONS)}",
            remedy=f"unpack it: {UNPACK.get(name[-3:], 'tar -xOf')} FILE | zstd > NAME.zst",
        )
    if options.format != "auto":
        return options.format
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


def id_prefixes(kinds: Mapping[str, str], options: InputOptions) -> dict[str, str]:
    """What stands before the ids of each input: its name, or that of its wiki among several wikis."""
    if options.prefix_ids:
        parts = {url: url.split("/") for url in kinds}
        folders = zip(*(names[:-1] for names in parts.values()), strict=False)
        shared = sum(1 for _ in itertools.takewhile(lambda level: len(set(level)) == 1, folders))
        short = {url: "/".join(names[shared:]) for url, names in parts.items()}
        stems = {
            url: posixpath.join(posixpath.dirname(name), posixpath.basename(name).split(".")[0])
            for url, name in short.items()
        }
        names = stems if len(set(stems.values())) == len(stems) else short
        return {url: f"{name}:" for url, name in names.items()}
    dumps = [url for url, kind in kinds.items() if kind == "mediawiki"]
    wikis = {url: wikipedia.read_site(url).wiki for url in dumps} if len(dumps) > 1 else {}
    several = len(set(wikis.values()) - {""}) > 1
    return {url: f"{wikis[url]}:" if several and wikis.get(url) else "" for url in kinds}


def same_id_error(article_id: str, files: Sequence[str]) -> InputError:
    """The error of two articles that differ and have one id.

    Args:
        article_id: their id.
        files: where they stand, as far as it is known.
    """
    return InputError(
        "two articles have one id and are not the same, so one of them would be lost",
        value=f"{article_id} in {' and '.join(dict.fromkeys(files)) or 'the input'}",
        expected="an id for each article",
        remedy="--prefix_ids puts each file's name before its ids; within a file name another --id_column",
    )
