"""Reads the head of a MediaWiki dump: the wiki's name, and the namespaces that titles can be in."""

from __future__ import annotations

import contextlib
import dataclasses
from collections.abc import Iterable, Mapping
from types import MappingProxyType
from typing import Any
from urllib.parse import urlsplit
from xml.parsers import expat

from rag_ops.markup import tables

MAX_HEAD_BYTES = 1 << 20  # a head has some kilobytes; Wikipedia's with 30 namespaces has 3
_READ_BYTES = 1 << 14
MEDIA, FILE, CATEGORY = -2, 6, 14
# Every wiki knows the names of no language beside those of its own, so no article's title can begin with one. Those of
# English Wikipedia are taken if a dump names no namespaces at all.
_NAMED = [(language, name, int(number)) for language, number, name in tables.rows("namespaces.tsv", 3)]
CANONICAL = MappingProxyType({name: number for language, name, number in _NAMED if language == "*"})
ENGLISH = MappingProxyType({name: number for _, name, number in _NAMED})


@dataclasses.dataclass(frozen=True)
class SiteInfo:
    """A wiki: its name and its namespaces.

    Attributes:
        wiki: its database's name, else its host, else its own name; empty if the dump gives none.
        namespaces: names in lower case and their numbers, without that of articles.
    """

    wiki: str = ""
    namespaces: Mapping[str, int] = dataclasses.field(default_factory=lambda: dict(ENGLISH))

    def namespace_of(self, title: str) -> int:
        """The number of a title's namespace; 0 for articles, colons in whose titles are nothing special.

        >>> SiteInfo().namespace_of("User_talk:Ada"), SiteInfo().namespace_of("2001: A Space Odyssey")
        (3, 0)
        """
        prefix, colon, _ = title.partition(":")
        return self.namespaces.get(normal_name(prefix), 0) if colon else 0

    def apparatus(self) -> frozenset[str]:
        """The names of the namespaces whose links show no words in a page: files and categories.

        >>> sorted(SiteInfo().apparatus())
        ['category', 'file', 'image', 'media']
        """
        return frozenset(name for name, number in self.namespaces.items() if number in (MEDIA, FILE, CATEGORY))


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
    wiki = fields.get("dbname") or urlsplit(fields.get("base", "")).hostname or fields.get("sitename", "")
    return SiteInfo(wiki, {**CANONICAL, **names}) if names else SiteInfo(wiki)
