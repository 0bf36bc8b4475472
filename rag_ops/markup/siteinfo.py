"""Reads the head of a MediaWiki dump: the wiki's name and language, and the namespaces that titles can be in."""

from __future__ import annotations

import contextlib
import dataclasses
import functools
import json
import re
from collections.abc import Iterable, Mapping
from typing import Any
from urllib.parse import urlsplit
from xml.parsers import expat

from rag_ops.markup import languages
from rag_ops.markup.languages import ENGLISH, Language

MAX_HEAD_BYTES = 1 << 20  # a head has some kilobytes; Wikipedia's with 30 namespaces has 3
_READ_BYTES = 1 << 14
FILE, CATEGORY = 6, 14
_DATABASE = re.compile(r"([a-z_]+?)(?:wiki|wiktionary|wikibooks|wikinews|wikiquote|wikisource|wikiversity|wikivoyage)")
_HOST = re.compile(r"([a-z-]+)(?:\.m)?\.wik[a-z]+\.org")


@dataclasses.dataclass(frozen=True)
class SiteInfo:
    """A wiki: its name, its language and its namespaces; all that is known of where a page is.

    Attributes:
        wiki: its database's name, else its host, else its own name; empty if the dump gives none.
        code: the code of its language, as the dump gives it; English if it gives none.
        namespaces: names in lower case and their numbers, without that of articles. Those of the language's Wikipedia
            if the dump names none; names that every wiki knows are always among them.
        keep_ipa: whether pronunciations in IPA are kept, in their brackets.
        case_sensitive: whether the first letter of a title counts in either case, as in Wiktionaries.
    """

    wiki: str = ""
    code: str = ENGLISH
    namespaces: Mapping[str, int] = dataclasses.field(default_factory=dict, hash=False)
    keep_ipa: bool = False
    case_sensitive: bool = False

    def __post_init__(self) -> None:
        object.__setattr__(self, "namespaces", {**self.language.namespaces, **self.namespaces})

    @property
    def language(self) -> Language:
        """The words of the wiki's language."""
        return languages.language(self.code)

    def namespace_of(self, title: str) -> int:
        """The number of a title's namespace; 0 for articles, colons in whose titles are nothing special.

        >>> SiteInfo().namespace_of("User_talk:Ada"), SiteInfo().namespace_of("2001: A Space Odyssey")
        (3, 0)
        """
        prefix, colon, _ = title.partition(":")
        return self.namespaces.get(normal_name(prefix), 0) if colon else 0

    @functools.cached_property
    def apparatus(self) -> frozenset[str]:
        """The names of the namespaces whose links show no words in a page: files and categories.

        >>> sorted(SiteInfo().apparatus)
        ['category', 'file', 'image']
        """
        return frozenset(name for name, number in self.namespaces.items() if number in (FILE, CATEGORY))

    def to_json(self) -> str:
        """One line that `from_json` reads back."""
        return json.dumps(dataclasses.asdict(self))

    @classmethod
    def from_json(cls, line: str) -> SiteInfo:
        """The wiki of a line.

        >>> SiteInfo.from_json(SiteInfo("dewiki", "de", {"datei": 6}).to_json()).namespace_of("Datei:A.png")
        6
        """
        return cls(**json.loads(line))


def normal_name(name: str) -> str:
    """A namespace's name in the form in which names are compared: lower case, single spaces.

    >>> normal_name(" User_talk")
    'user talk'
    """
    return " ".join(name.replace("_", " ").split()).lower()


def read_head(pieces: Iterable[bytes]) -> SiteInfo:
    """Reads a dump's head, up to its first page, from its decompressed bytes; no more than `MAX_HEAD_BYTES` of them.

    Malformed XML ends the reading and raises nothing.
    """
    path: list[str] = []
    names: dict[str, int] = {}
    fields: dict[str, str] = {}
    key = written = ""
    done = False

    def open_element(name: str, attributes: Mapping[str, str]) -> None:
        nonlocal key, written, done
        path.append(name.rsplit(":", 1)[-1])
        key, written = attributes.get("key", ""), ""
        if len(path) == 1:
            fields["lang"] = attributes.get("xml:lang", "").strip().lower()
        done = done or path[-1] == "page"

    def close_element(_: str) -> None:
        nonlocal done
        name = path.pop()
        if done:
            return
        if name == "siteinfo":
            done = True
        elif name == "namespace" and normal_name(written):
            with contextlib.suppress(ValueError):  # a key that is no number names no namespace
                names[normal_name(written)] = int(key)
        elif path[-1:] == ["siteinfo"]:
            fields[name] = written.strip()

    def add_text(data: str) -> None:
        nonlocal written
        written += data

    def stop(*_: Any) -> None:
        nonlocal done
        done = True  # the reader of pages refuses a document type; here no entity is looked at

    parser = expat.ParserCreate("utf-8")
    parser.buffer_text = True
    parser.SetParamEntityParsing(expat.XML_PARAM_ENTITY_PARSING_NEVER)
    parser.StartElementHandler, parser.EndElementHandler = open_element, close_element
    parser.CharacterDataHandler, parser.StartDoctypeDeclHandler = add_text, stop
    read = 0
    for some in (piece[at : at + _READ_BYTES] for piece in pieces for at in range(0, len(piece), _READ_BYTES)):
        try:
            parser.Parse(some, False)
        except expat.ExpatError:
            break
        read += len(some)
        if done or read >= MAX_HEAD_BYTES:
            break
    host = urlsplit(fields.get("base", "")).hostname or ""
    wiki = fields.get("dbname") or host or fields.get("sitename", "")
    code = fields.get("lang") or language_of(fields.get("dbname", ""), host)
    return SiteInfo(wiki, code, names, case_sensitive=fields.get("case") == "case-sensitive")


def language_of(database: str, host: str = "") -> str:
    """The language of a wiki's database or host; English if neither says one.

    >>> language_of("zh_yuewiki"), language_of("", "de.wikipedia.org")
    ('zh-yue', 'de')
    """
    return language_said(database, host) or ENGLISH


def language_said(database: str, host: str = "") -> str:
    """What stands where a wiki's database or host has its language; empty if neither has one.

    >>> language_said("commonswiki"), language_said("", "example.org")
    ('commons', '')
    """
    if found := _DATABASE.fullmatch(database):
        return found[1].replace("_", "-")
    found = _HOST.fullmatch(host)
    return found[1] if found else ""


ENGLISH_SITE = SiteInfo()
