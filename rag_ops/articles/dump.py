"""MediaWiki XML dumps, streamed: pages of any byte range, each exactly once whatever the cuts."""

from __future__ import annotations

import bisect
import dataclasses
import functools
import itertools
import logging
import re
from collections.abc import Iterable, Iterator, Mapping
from xml.parsers import expat

from rag_ops.articles.article import MAX_SPLITS, moment_of
from rag_ops.articles.dropped import TOO_LONG
from rag_ops.errors import InputError
from rag_ops.markup import siteinfo
from rag_ops.markup.pages import is_disambiguation, is_redirect
from rag_ops.markup.siteinfo import ENGLISH_SITE, SiteInfo
from rag_ops.markup.wikitext import MAX_PAGE_CHARS
from rag_ops.storage import compression, store

logger = logging.getLogger(__name__)

OPEN_TAG, CLOSE_TAG = b"<page>", b"</page>"
ROOT = "mediawiki"
_INDEX_SUFFIX = re.compile(r"\.xml(\.bz2)$")
MAX_TITLE_CHARS = 1000  # every passage of a page carries its title; MediaWiki's own limit is 255 bytes
ENCODING_BYTES = 1000  # beginning of a dump, which shows UTF-16 by its zeros
MAX_DEPTH = 100  # nested elements; an export has five
MAX_TOKEN_BYTES = 32 << 20  # longest tag or comment, which the XML parser holds whole
_PAGE_FIELDS = {"title", "ns", "id"}
_REVISION_FIELDS = {"id", "timestamp", "model", "text"}
WIKITEXT = "wikitext"  # the content model of articles; a page of Wikidata or Lua code has another
SINGLE_STREAMS = (".gz", ".zst", ".xz")


@dataclasses.dataclass(frozen=True, slots=True)
class Page:
    """One page of a dump.

    Attributes:
        page_id: MediaWiki's page id, decimal.
        namespace: 0 for articles.
        title: as shown, without a namespace prefix for articles.
        redirect: whether the page has a <redirect/> element.
        wikitext: text of the latest revision in the dump; empty if it is deleted.
        too_long: whether the title or the text was left out because no page has as much.
        model: content model of that revision.
        date, revision: its time, as MediaWiki writes it in its database: 20240501000000; and its id; -1 without.
    """

    page_id: str
    namespace: int
    title: str
    redirect: bool
    wikitext: str
    too_long: bool = False
    model: str = WIKITEXT
    date: int = -1
    revision: int = -1


def drop_reason(page: Page, site: SiteInfo = ENGLISH_SITE) -> str | None:
    """Why a page is no article: namespace, content_model, redirect, too_long, empty or disambiguation; else None."""
    if page.namespace != 0:
        return "namespace"
    if page.model != WIKITEXT:
        return "content_model"
    if page.redirect or is_redirect(page.wikitext, site):
        return "redirect"
    if page.too_long:
        return TOO_LONG
    if not page.wikitext.strip():
        return "empty"
    return "disambiguation" if is_disambiguation(page.title, page.wikitext, site) else None


def cut_dump(url: str, split_bytes: int) -> list[tuple[int, int | None]]:
    """Byte ranges (start, end) into which a dump is split; the end of the last is None.

    Plain XML and multistream bz2 are cut every `split_bytes`, the latter at the streams of its companion index if
    that lies beside it. A single-stream file is one range, and a line in the log says so.

    Raises:
        InputError: the file is empty.
    """
    size, name = store.size_bytes(url), store.name_of(url).lower()
    if size == 0:
        raise InputError("the dump is empty", value=url, expected="a MediaWiki XML export", remedy="download it again")
    if name.endswith(SINGLE_STREAMS) or (name.endswith(".bz2") and not compression.is_multistream(url)):
        logger.info(
            "%s is a single compressed stream, so one worker reads it; a multistream dump (or .xml) is read by all", url
        )
        return [(0, None)]
    starts = list(range(0, size, split_bytes)[: MAX_SPLITS + 1])  # of which more are refused
    if name.endswith(".bz2") and (offsets := companion_offsets(url)):
        starts = sorted({offsets[min(bisect.bisect_left(offsets, start), len(offsets) - 1)] for start in starts})
    return [(start, end) for start, end in zip(starts, [*starts[1:], None], strict=True)]


def companion_offsets(url: str) -> list[int]:
    """The offsets of the streams of a multistream dump, from its `-index.txt.bz2` (or `.txt`); empty without one."""
    for suffix in ("-index.txt.bz2", "-index.txt"):
        companion = _INDEX_SUFFIX.sub(suffix, url)
        if companion != url and store.exists(companion):
            with store.open_read(companion) as raw:
                lines = compression.decompressed(raw, companion)
                try:
                    return sorted({0, *(int(line.split(b":", 1)[0]) for line in lines if line.strip())})
                except (ValueError, OSError, EOFError) as error:
                    raise InputError(
                        f"the dump's index cannot be read ({error})",
                        value=companion,
                        expected="lines of offset:page id:title",
                        remedy="download it again, or remove it: the streams are then found without it",
                    ) from error
    return []


def read_pages(url: str, start: int = 0, end: int | None = None) -> Iterator[Page]:
    """Yields the pages that a byte range owns: those whose "<page>" begins in its bytes, or in its bz2 streams.

    Args:
        url: `.xml`, or that with `.gz`, `.bz2`, `.zst` or `.xz`.
        start: first byte as stored; a .bz2 range begins with the first stream at or after it.
        end: byte after the last; None for the end of the file, which must then be the end of the dump.

    Raises:
        InputError: cut, malformed, not XML or no MediaWiki export; with the file and the position where known.
    """
    chunks = _chunks(url, start, end)
    parser = _PageParser(url, start)
    if start:
        parser.feed(b"<mediawiki>")
        chunks = _from_first_page(chunks)
    yield from parser.feed_all(_up_to_last_page(chunks), whole=end is None)


def read_site(url: str) -> SiteInfo:
    """Reads the name and the namespaces of the wiki from a dump's head; what the head lacks is as in `SiteInfo()`.

    Raises:
        InputError: the file is cut or not what its name says.
    """
    return siteinfo.read_head(piece for piece, _ in _chunks(url, 0, None))


def _chunks(url: str, start: int, end: int | None) -> Iterator[tuple[bytes, bool]]:
    name = store.name_of(url).lower()
    if name.endswith(".bz2"):
        return compression.bz2_chunks(url, start, end)
    if name.endswith(SINGLE_STREAMS):
        return compression.single_stream_chunks(url)
    return compression.plain_chunks(url, start, end)


def _from_first_page(chunks: Iterator[tuple[bytes, bool]]) -> Iterator[tuple[bytes, bool]]:
    """Yields what follows the first "<page>" that begins in an owned piece, with it; nothing if there is none."""
    pending = b""
    for piece, owned in chunks:
        window = pending + piece
        place = window.find(OPEN_TAG)
        if place >= 0 and (owned or place < len(pending)):
            if place < len(pending):  # the tag lies across two pieces, and the page is of the first
                yield window[place : len(pending)], True
            yield window[max(place, len(pending)) :], owned
            yield from chunks
            return
        if not owned:
            return
        pending = _tag_start(window)


def _up_to_last_page(chunks: Iterator[tuple[bytes, bool]]) -> Iterator[bytes]:
    """Yields owned pieces, and of those beyond just enough to close a page that began before."""
    tail = b""  # what follows the last "</page>" so far: a page is open if "<page>" stands in it, or begins at its end
    for piece, owned in chunks:
        if not owned:
            break
        yield piece
        tail = _after_last_close(tail + piece)
    else:
        return
    if OPEN_TAG not in tail:
        begun = _tag_start(tail)
        if not begun or not OPEN_TAG.startswith((begun + piece)[: len(OPEN_TAG)]):
            return
    for beyond in itertools.chain([piece], (piece for piece, _ in chunks)):
        window = tail + beyond
        place = window.find(CLOSE_TAG)
        if place >= 0:
            yield window[len(tail) : place + len(CLOSE_TAG)]
            return
        yield beyond
        tail = window[-(len(CLOSE_TAG) - 1) :]


def _after_last_close(text: bytes) -> bytes:
    """What must be remembered of `text` to know whether a page is open: bounded, whatever the page's length."""
    place = text.rfind(CLOSE_TAG)
    rest = text[place + len(CLOSE_TAG) :] if place >= 0 else text
    if (opened := rest.find(OPEN_TAG)) >= 0:
        return OPEN_TAG + rest[max(opened + len(OPEN_TAG), len(rest) - len(CLOSE_TAG) + 1) :]
    return rest[-(len(CLOSE_TAG) - 1) :]


def _tag_start(text: bytes) -> bytes:
    """The longest end of `text` that begins "<page>" without being the whole of it."""
    ends = (text[-length:] for length in range(len(OPEN_TAG) - 1, 0, -1))
    return next((end for end in ends if OPEN_TAG.startswith(end)), b"")


class _PageParser:
    """Expat, set up for MediaWiki exports; exports that follow one another in a file are read as one."""

    def __init__(self, url: str, start: int):
        self._url, self._start = url, start
        self._pages: list[Page] = []
        self._path: list[str] = []
        self._fields: dict[str, str] = {}  # of the page; "long" names one that was cut
        self._revision: dict[str, str] = {}  # the one that is being read, likewise
        self._latest: dict[str, str] = {}  # the latest revision of the page so far
        self._text: list[str] | None = None
        self._room = 0  # characters that the field may still have
        self._ended = False
        self._before = 0  # bytes of the exports before this one
        self._begin()

    def _begin(self) -> None:
        self._fed = 0
        self._closed_at = -1  # the byte at which the root's end tag begins
        self._parser = expat.ParserCreate("utf-8")
        self._parser.buffer_text = True
        self._parser.buffer_size = 1 << 16
        self._parser.SetParamEntityParsing(expat.XML_PARAM_ENTITY_PARSING_NEVER)
        self._parser.StartElementHandler, self._parser.EndElementHandler = self._open, self._close
        self._parser.StartDoctypeDeclHandler = self._refuse_doctype

    def feed(self, data: bytes) -> None:
        """Parses some bytes."""
        while data:
            if self._ended and not self._fed:
                self._before += len(data) - len(data.lstrip())
                data = data.lstrip()
            fed, self._closed_at = self._fed, -1
            self._parse(data)
            if self._closed_at < 0:
                return
            rest = data[max(0, self._closed_at - fed) :]
            rest = rest[rest.find(b">") + 1 :]
            self._before += fed + len(data) - len(rest)
            data = rest
            self._begin()

    def _parse(self, data: bytes, *, last: bool = False) -> None:
        try:
            self._parser.Parse(data, last)
        except expat.ExpatError as error:
            if self._closed_at >= 0:
                return  # this export is whole; a parser of its own judges what follows
            if last and error.code == expat.errors.codes[expat.errors.XML_ERROR_NO_ELEMENTS]:
                return  # a comment after the last export
            raise InputError(
                f"the dump is not well-formed XML ({expat.errors.messages[error.code]})",
                value=self._place(self._parser.ErrorByteIndex),
                expected="a MediaWiki XML export",
                remedy="download it again, or check --format",
            ) from error
        self._fed += len(data)
        if self._closed_at < 0 and self._fed - self._parser.CurrentByteIndex > MAX_TOKEN_BYTES:
            raise InputError(
                f"the dump has a tag or comment of more than {MAX_TOKEN_BYTES >> 20} MiB",
                value=self._place(self._parser.CurrentByteIndex),
                expected="a MediaWiki XML export",
            )

    def _place(self, byte: int) -> str:
        return f"{self._url}, byte {self._before + byte} of the text from byte {self._start} on"

    def feed_all(self, pieces: Iterable[bytes], *, whole: bool) -> Iterator[Page]:
        """Parses all pieces and yields pages as they close; `whole` says that the dump must end with them."""
        seen = False
        for piece in pieces:
            if not seen and b"\0" in piece[:ENCODING_BYTES]:  # expat would read it, but no split of it would be found
                raise InputError("the dump is not UTF-8", value=self._url, expected="a MediaWiki XML export in UTF-8")
            seen = True
            self.feed(piece)
            yield from self._pages
            self._pages.clear()
        if whole and self._ended and self._fed:
            self._closed_at = -1
            self._parse(b"", last=True)
        if (self._fields or "page" in self._path) or (whole and seen and not self._ended):
            raise InputError(
                "the dump is cut: it ends without </mediawiki>",
                value=self._url,
                expected="a whole file",
                remedy="download it again",
            )

    def _open(self, name: str, attributes: dict[str, str]) -> None:
        name = name.rsplit(":", 1)[-1]
        if not self._path and name != ROOT:
            raise InputError(
                "not a MediaWiki export",
                value=f"{self._url} (root element <{name}>)",
                expected=f"<{ROOT}>",
                remedy="check --input and --format",
            )
        self._ended = False
        self._path.append(name)
        depth = len(self._path)
        if depth > MAX_DEPTH:
            raise InputError(
                f"the dump has elements in elements, {depth} deep",
                value=f"{self._url}, page {self._fields.get('title', '?')!r}",
                expected="a MediaWiki XML export",
            )
        if name == "page" and depth == 2:
            self._fields = {"page": ""}
            self._latest = {}
        elif name == "revision" and depth == 3:
            self._revision = {}
        elif name == "redirect" and depth == 3:
            self._fields["redirect"] = "yes"
        elif (depth == 3 and (name in _PAGE_FIELDS or (name == "dbname" and (self._start or self._before)))) or (
            depth == 4 and name in _REVISION_FIELDS and self._path[2] == "revision"
        ):
            self._text = []
            self._room = MAX_PAGE_CHARS if name == "text" else MAX_TITLE_CHARS
            self._parser.CharacterDataHandler = self._collect

    def _close(self, name: str) -> None:
        name = name.rsplit(":", 1)[-1]
        self._path.pop()
        depth = len(self._path)
        fields, names = (self._fields, _PAGE_FIELDS) if depth == 2 else (self._revision, _REVISION_FIELDS)
        if self._text is not None and (name in names or name == "dbname"):
            text, self._text = "".join(self._text), None
            self._parser.CharacterDataHandler = None
            if name == "dbname":  # of an export that is not the first of the file
                self._check_wiki(text.strip())
            else:
                fields |= {name: text, "long": name} if self._room < 0 else {name: text}
        elif name == "revision" and depth == 2:
            # Exports write revisions in either order; of two of one second the greater id is the later.
            if not self._latest or _moment(self._revision) >= _moment(self._latest):
                self._latest = self._revision
            self._revision = {}
        elif name == "page" and depth == 1:
            self._pages.append(self._page())
            self._fields, self._latest = {}, {}
        elif not self._path:
            self._ended = True
            self._closed_at = self._parser.CurrentByteIndex

    def _collect(self, data: str) -> None:
        """Adds to the open field, as far as there is room: memory is bounded whatever the dump says."""
        assert self._text is not None
        self._room -= len(data)
        if self._room >= 0:
            self._text.append(data)
        elif self._path[-1] == "text":
            self._text.clear()
        else:
            self._text.append(data[: max(0, self._room + len(data))])  # the title shows which page it is

    def _page(self) -> Page:
        fields, latest = self._fields, self._latest
        try:
            if not (page_id := fields["id"].strip()):
                raise KeyError("id")
            return Page(
                page_id,
                # Exports before version 0.6, of 2012, have no <ns>.
                int(fields["ns"]) if "ns" in fields else self._site.namespace_of(fields["title"]),
                fields["title"],
                "redirect" in fields,
                latest.get("text", ""),
                "long" in fields or "long" in latest,
                latest.get("model", "").strip() or WIKITEXT,
                *_moment(latest),
            )
        except (KeyError, ValueError) as error:
            raise InputError(
                f"a page of the dump lacks a field ({error})",
                value=f"{self._url}, page {fields.get('title', fields.get('id', '?'))!r}",
                expected="title and id, and ns as a number",
            ) from error

    @functools.cached_property
    def _site(self) -> SiteInfo:
        return read_site(self._url)

    def _check_wiki(self, wiki: str) -> None:
        if wiki != self._site.wiki:
            raise InputError(
                "dumps of two wikis follow one another in a file, and their pages' ids begin anew",
                value=f"{self._url}: {self._site.wiki or 'a wiki without a name'} and {wiki}",
                expected="one wiki in a file",
                remedy="give them as two files: their ids then get the wikis' names",
            )

    def _refuse_doctype(self, name: str, *_: object) -> None:
        raise InputError(
            "the dump declares a document type, which can hide an entity bomb",
            value=f"{self._url} (<!DOCTYPE {name}>)",
            expected="a MediaWiki XML export, which has none",
        )


def _moment(revision: Mapping[str, str]) -> tuple[int, int]:
    return moment_of(revision.get("timestamp", ""), revision.get("id", ""))
