"""Hits of many questions, in any order, grouped by question in bounded memory: what came is written down by parts.

Like chunk's spill files: every so many hits become one file, in it a record batch for each part of the questions.
"""

from __future__ import annotations

import dataclasses
import functools
from collections.abc import Iterable, Sequence
from typing import Any

import pyarrow as pa

from rag_ops.retrieval.retrieved_files import Hit
from rag_ops.storage import store

PART_QUESTIONS = 256  # whose hits are in memory together
SPILL_HITS = 200_000  # of a file: with texts some 200 MB
SPILL_CHARS = 128 << 20  # or so much text
PARTS_HELD = 2
SCHEMA = pa.schema(
    [
        pa.field("ordinal", pa.int64()),
        pa.field("question_id", pa.string()),
        pa.field("rank", pa.int64()),
        pa.field("line", pa.int64()),
        pa.field("passage_id", pa.string()),
        pa.field("score", pa.float64()),
        pa.field("title", pa.string()),
        pa.field("section", pa.string()),
        pa.field("text", pa.string()),
        pa.field("problem", pa.string()),
    ]
)
_OPTIONS = pa.ipc.IpcWriteOptions(compression="zstd")


def best(hits: Iterable[Hit], kept: int) -> list[Hit]:
    """The first `kept` hits of one question: by rank, of equal ranks by score, then by line.

    A line that says the same again, as a question that was searched twice leaves it, counts once.

    >>> best([Hit("q", 2, 1, "b", 9.0), Hit("q", 1, 2, "a", 3.0), Hit("q", 2, 3, "b", 9.0)], 5)[1].passage_id
    'b'
    """
    ordered = sorted(hits, key=lambda hit: (hit.rank, -_finite(hit.score), hit.line))
    once: dict[tuple[object, ...], Hit] = {}
    for hit in ordered:
        once.setdefault((hit.rank, hit.score, hit.passage_id, hit.text, hit.problem), hit)
    return list(once.values())[:kept]


def _finite(score: float | None) -> float:
    return score if score is not None and score == score else float("-inf")


class HitSpill:
    """Hits by the ordinal of their question.

    Args:
        directory: directory for the files; what is there by their names is replaced.
        kept: number of hits of a question that count.
    """

    def __init__(self, directory: str, kept: int):
        self._directory, self._kept = directory, kept
        self._waiting: dict[int, list[Hit]] = {}
        self._hits = self._chars = 0
        self._files: list[dict[int, int]] = []  # of each file: part to number of its record batch
        self._part = functools.lru_cache(PARTS_HELD)(self._read)

    def add(self, ordinal: int, hit: Hit) -> None:
        """Adds a hit of a question; questions asked about one after the other should have ordinals near by."""
        self._waiting.setdefault(ordinal, []).append(hit)
        self._hits += 1
        self._chars += len(hit.text or "")
        if self._hits >= SPILL_HITS or self._chars >= SPILL_CHARS:
            self._flush()

    def of(self, ordinal: int) -> list[Hit]:
        """The best hits of a question, once all are added."""
        if self._waiting and self._files:
            self._flush()
        if not self._files:  # few: never written
            return best(self._waiting.get(ordinal, ()), self._kept)
        return self._part(ordinal // PART_QUESTIONS).get(ordinal, [])

    def _flush(self) -> None:
        parts: dict[int, list[tuple[int, Hit]]] = {}
        for ordinal in sorted(self._waiting):
            part = parts.setdefault(ordinal // PART_QUESTIONS, [])
            part += [(ordinal, hit) for hit in best(self._waiting[ordinal], self._kept)]
        file = store.atomic_write(self._directory, self._name(len(self._files)))
        with file as raw, pa.ipc.new_file(raw, SCHEMA, options=_OPTIONS) as writer:
            for rows in parts.values():
                writer.write_batch(_batch(rows))
        self._files.append({part: number for number, part in enumerate(parts)})
        self._waiting, self._hits, self._chars = {}, 0, 0

    def _read(self, part: int) -> dict[int, list[Hit]]:
        found: dict[int, list[Hit]] = {}
        for number, batches in enumerate(self._files):
            if part in batches:
                url = store.join(self._directory, self._name(number))
                with store.open_read(url) as raw, pa.ipc.open_file(raw) as reader:
                    for row in reader.get_batch(batches[part]).to_pylist():
                        found.setdefault(row.pop("ordinal"), []).append(Hit(**row))
        return {ordinal: best(hits, self._kept) for ordinal, hits in found.items()}

    def _name(self, number: int) -> str:
        return f"hits-{number:05d}.arrow"


def _batch(rows: Sequence[tuple[int, Hit]]) -> Any:
    values = [{"ordinal": ordinal, **dataclasses.asdict(hit)} for ordinal, hit in rows]
    return pa.RecordBatch.from_pylist(values, schema=SCHEMA)
