"""Tar archives of NDJSON files, each plain or compressed by itself: read as streams, with nothing unpacked to disk.

Wikimedia Enterprise's snapshots are such archives, HotpotQA's Wikipedia (folders of .bz2 files without another suffix),
and MS MARCO's second version (.gz files likewise).
"""

from __future__ import annotations

import contextlib
import posixpath
from collections.abc import Iterator
from functools import partial
from typing import IO

from rag_ops import machine
from rag_ops.articles.lines import JSON_LINES, bounded_lines, json_object
from rag_ops.articles.source_format import Row
from rag_ops.errors import InputError
from rag_ops.storage import compression, store, tar
from rag_ops.storage.compression import COMPRESSIONS

SUFFIXES = (".tar", ".tgz", *(f".tar{suffix}" for suffix in COMPRESSIONS))


def is_archive(url: str) -> bool:
    """Whether a file is a tar archive by its name."""
    return store.name_of(url).lower().endswith(SUFFIXES)


def archive_rows(url: str) -> Iterator[Row]:
    """Yields the objects of all NDJSON files in an archive.

    Raises:
        InputError: there is no such file in it, a line is not JSON, or the archive or a file in it is cut or none.
    """
    number = 0
    with store.open_read(url) as raw, _reading(url):
        for name, content in tar.members(_opened(raw, url)):
            if not holds_rows(name):
                continue
            number += 1
            place = partial(_place, url, name)
            with _reading(f"{url}, {name}"):
                for before, line in enumerate(bounded_lines(compression.decompressed(content, name.lower()), place)):
                    if line.strip():
                        source = partial(place, before)
                        yield source, json_object(line, source)
    if not number:
        raise InputError(
            "the archive has no NDJSON",
            value=url,
            expected=f"files with {', '.join(JSON_LINES)} in it, or compressed ones without a suffix of their own",
            remedy="unpack another archive, and give --input its files",
        )


def holds_rows(name: str) -> bool:
    """Whether a file of an archive is NDJSON by its name; hidden ones, such as macOS puts beside each, are not.

    >>> [holds_rows(name) for name in ("a/AA/wiki_00.bz2", "a.ndjson", "a.json.gz", "b/._a.ndjson", "a.txt.gz")]
    [True, True, True, False, False]
    """
    base = posixpath.basename(name).lower()
    plain = base
    for suffix in COMPRESSIONS:
        plain = plain.removesuffix(suffix)
    return not base.startswith(".") and (plain.endswith(JSON_LINES) or (plain != base and "." not in plain))


def _place(url: str, name: str, lines_before: int) -> str:
    return f"{url}, {name}, line {lines_before + 1}"


def _opened(raw: IO[bytes], url: str) -> IO[bytes]:
    name = store.name_of(url).lower()
    return compression.decompressed(raw, "x.gz" if name.endswith(".tgz") else url)


@contextlib.contextmanager
def _reading(place: str) -> Iterator[None]:
    try:
        yield
    except InputError:
        raise
    except compression.BAD_COMPRESSION as error:
        machine.check(error)
        raise InputError(
            f"the archive cannot be read ({error})", value=place, expected="a whole file", remedy="download it again"
        ) from error
