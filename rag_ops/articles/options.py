"""How inputs are read: the settings, and the wiki that a text is from."""

from __future__ import annotations

import dataclasses
import functools
import re
from functools import partial

from rag_ops import settings
from rag_ops.articles import dump
from rag_ops.articles.columns import Columns
from rag_ops.errors import InputError
from rag_ops.markup.languages import ENGLISH
from rag_ops.markup.parts import Wanted
from rag_ops.markup.siteinfo import SiteInfo

DATASET = "hf"  # the format whose inputs are names
FORMATS = (
    *("mediawiki", "enterprise", "zim", "finewiki", "structured"),
    *("kilt", "beir", "pyserini", "msmarco", "hotpotqa", "squad", "triviaqa"),
    *("jsonl", "parquet", "arrow", "psgs", "text", DATASET),
)
SPLIT_BYTES = 16 << 20  # read by one worker at a time, unless the input is large or a flag says
LANGUAGE_CODE = re.compile(r"[A-Za-z]{2,12}(-[A-Za-z]{2,12})*")
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
        None, "language of the wiki, as a code such as de; by default as the dump or its articles say", metavar="CODE"
    )
    keep_ipa: bool = setting(False, "keep pronunciations in IPA that a wiki's templates give")
    templates: str = setting("dump", "how a dump's templates are expanded: dump, by its own; or none, by ours alone")

    tables: str = setting(
        "rows", "tables and infoboxes of a wiki: as passages of their own, or not at all", choices=TABLES
    )
    captions: bool = setting(False, "captions of a wiki's files as passages of their own")

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

    def wiki(self, code: str, wiki: str = "") -> SiteInfo:
        """The wiki of an article that names its language, with the language of --language if that is given."""
        code = self.language or (code if LANGUAGE_CODE.fullmatch(code) else ENGLISH)
        return _site(wiki, code.lower(), self.keep_ipa)

    @property
    def cut_bytes(self) -> int:
        """Bytes of a split."""
        return self.split_bytes or SPLIT_BYTES

    @property
    def names_datasets(self) -> bool:
        """Whether inputs are names of datasets, by the format that is given; else they are files."""
        return self.format == DATASET

    @property
    def columns(self) -> Columns:
        """The columns that the flags name."""
        return Columns(self.text_column, self.title_column, self.id_column)


@functools.lru_cache(1000)
def _site(wiki: str, code: str, keep_ipa: bool) -> SiteInfo:
    return SiteInfo(wiki, code, keep_ipa=keep_ipa)
