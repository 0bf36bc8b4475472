"""A wiki's templates in one file, which every worker looks them up in.

Each split of a dump gives a run: its templates, sorted by name. The runs are merged into one file, an Arrow IPC file
whose record batches are sorted by name, and whose last batch says with which name each of the others begins. A reader
holds that list and what it used last, so its memory does not grow with the wiki.
"""

from __future__ import annotations

import bisect
import heapq
import itertools
from collections.abc import Iterable, Iterator, Sequence
from types import TracebackType
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc

from rag_ops.articles.dump import Page
from rag_ops.markup.siteinfo import SiteInfo
from rag_ops.markup.template_source import Template, template_name, template_of
from rag_ops.markup.templates import TEMPLATE
from rag_ops.storage import store

BATCH_BYTES = 1 << 18  # of text; what a look-up decompresses
KEPT_CHARS = 16 << 20  # of texts that a reader keeps
ROW_CHARS = 200  # of a template besides its text
_OPTIONS = pa.ipc.IpcWriteOptions(compression="zstd")
SCHEMA = pa.schema(
    [
        pa.field("name", pa.string(), nullable=False),
        pa.field("text", pa.string(), nullable=False),
        pa.field("redirect", pa.string(), nullable=False),
        pa.field("needs_lua", pa.bool_(), nullable=False),
        pa.field("disambiguates", pa.bool_(), nullable=False),
        pa.field("date", pa.int64(), nullable=False),  # of the revision, as `dump.Page` has it
        pa.field("revision", pa.int64(), nullable=False),
    ]
)
Row = dict[str, Any]


class TemplateRun:
    """Collects the templates of a split; of the revisions of one template the latest."""

    def __init__(self, site: SiteInfo):
        self._site = site
        self._latest: dict[str, Row] = {}

    def __len__(self) -> int:
        return len(self._latest)

    def add(self, page: Page) -> None:
        """Takes a page, if it is a template."""
        if page.namespace != TEMPLATE or page.too_long:
            return
        name = template_name(page.title, self._site)
        known = self._latest.get(name or "")
        if name and (known is None or _moment(known) <= (page.date, page.revision)):
            self._latest[name] = _row(name, template_of(page.wikitext, self._site), page)

    def write(self, directory: str, name: str) -> None:
        """Writes the templates as `directory/name`, sorted by name; the file is whole under its name, or absent."""
        with store.atomic_write(directory, name) as file, pa.ipc.new_file(file, SCHEMA, options=_OPTIONS) as writer:
            for batch in _batches(self._latest[key] for key in sorted(self._latest)):
                writer.write_batch(batch)


def merge_runs(directory: str, name: str, runs: Sequence[str]) -> int:
    """Merges runs, files in the same directory, into the wiki's file of templates; returns how many there are.

    Memory is one batch of each run.
    """
    rows = heapq.merge(*(_rows(store.join(directory, run)) for run in runs), key=lambda row: row["name"])
    heads: list[Row] = []
    with store.atomic_write(directory, name) as file, pa.ipc.new_file(file, SCHEMA, options=_OPTIONS) as writer:
        groups = (max(same, key=_moment) for _, same in itertools.groupby(rows, key=lambda row: row["name"]))
        for batch in _batches(groups):
            writer.write_batch(batch)
            heads.append({**_EMPTY, "name": batch["name"][0].as_py(), "revision": batch.num_rows})
        writer.write_batch(pa.RecordBatch.from_pylist(heads, schema=SCHEMA))
    return sum(head["revision"] for head in heads)


_EMPTY: Row = {"text": "", "redirect": "", "needs_lua": False, "disambiguates": False, "date": -1, "revision": -1}


def _row(name: str, template: Template, page: Page) -> Row:
    return {
        "name": name,
        "text": template.text,
        "redirect": template.redirect,
        "needs_lua": template.needs_lua,
        "disambiguates": template.disambiguates,
        "date": page.date,
        "revision": page.revision,
    }


def _moment(row: Row) -> tuple[int, int]:
    return row["date"], row["revision"]


def _batches(rows: Iterable[Row]) -> Iterator[pa.RecordBatch]:
    buffer: list[Row] = []
    size = 0
    for row in rows:
        buffer.append(row)
        size += len(row["text"]) + ROW_CHARS
        if size >= BATCH_BYTES:
            yield pa.RecordBatch.from_pylist(buffer, schema=SCHEMA)
            buffer, size = [], 0
    if buffer:
        yield pa.RecordBatch.from_pylist(buffer, schema=SCHEMA)


def _rows(url: str) -> Iterator[Row]:
    """Yields the rows of a run; the file is open only while a batch of it is read, because there can be many runs."""
    for number in itertools.count():
        with store.open_read(url) as file, pa.ipc.open_file(file) as reader:
            if number >= reader.num_record_batches:
                return
            rows = reader.get_batch(number).to_pylist()
        yield from rows


class TemplateFile:
    """The templates of a wiki's file by name, as `markup.expansion` asks for them; a context that closes the file."""

    def __init__(self, url: str):
        self._file = store.open_read(url)
        self._reader = pa.ipc.open_file(self._file)
        heads = self._reader.get_batch(self._reader.num_record_batches - 1)
        self._heads: list[str] = heads["name"].to_pylist()
        self._count = pc.sum(heads["revision"]).as_py() or 0
        self._kept: dict[str, Template | None] = {}
        self._kept_chars = 0
        self._batch: tuple[int, pa.RecordBatch] | None = None

    def __len__(self) -> int:
        return self._count

    def get(self, name: str, /) -> Template | None:
        """The template of a name as `template_name` gives it; None if there is none."""
        if name not in self._kept:
            template = self._read(name)
            self._kept_chars += ROW_CHARS + (len(template.text) if template else 0)
            if self._kept_chars > KEPT_CHARS:
                self._kept.clear()
                self._kept_chars = 0
            self._kept[name] = template
        return self._kept[name]

    def _read(self, name: str) -> Template | None:
        number = bisect.bisect_right(self._heads, name) - 1
        if number < 0:
            return None
        if self._batch is None or self._batch[0] != number:
            self._batch = number, self._reader.get_batch(number)
        place = pc.index(self._batch[1]["name"], name).as_py()
        if place < 0:
            return None
        fields = ("text", "redirect", "needs_lua", "disambiguates")
        return Template(*(self._batch[1][field][place].as_py() for field in fields))

    def __enter__(self) -> TemplateFile:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._file.close()
