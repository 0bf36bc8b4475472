"""Question files: JSONL, CSV, TSV, Parquet and plain text, read as a stream; every row comes out, readable or not."""

from __future__ import annotations

import ast
import codecs
import csv
import dataclasses
import hashlib
import io
import json
import logging
import posixpath
import sys
import unicodedata
from collections.abc import Iterable, Iterator, Sequence
from typing import IO, Any

import pyarrow as pa
import pyarrow.parquet as pq
import zstandard

from rag_ops import storage, streams
from rag_ops.errors import InputError

logger = logging.getLogger(__name__)

SUFFIXES = {
    ".jsonl": "jsonl",
    ".ndjson": "jsonl",
    ".json": "jsonl",
    ".csv": "csv",
    ".tsv": "tsv",
    ".parquet": "parquet",
    ".txt": "text",
    ".questions": "text",
}
FORMATS = ("jsonl", "csv", "tsv", "parquet", "text")
COMPRESSIONS = (".gz", ".bz2", ".zst")
PARQUET_BATCH_ROWS = 1000
EMPTY = "the question is empty"
csv.field_size_limit(min(sys.maxsize, 2**31 - 1))  # the library's own limit of 128 KiB would refuse long questions


@dataclasses.dataclass(frozen=True)
class QuestionOptions:
    """How question files are read.

    Attributes:
        format: "auto" (told from the name), "jsonl", "csv", "tsv", "parquet" or "text".
        question_column: column or key of the question.
        id_column: column or key of its id; made from the question where absent.
        answer_column: column or key of the gold answers: a string or a list; "answers" is accepted too.
    """

    format: str = "auto"
    question_column: str = "question"
    id_column: str = "id"
    answer_column: str = "answer"

    def __post_init__(self) -> None:
        if self.format not in ("auto", *FORMATS):
            raise InputError("unknown --questions_format", value=self.format, expected=f"auto, {', '.join(FORMATS)}")


@dataclasses.dataclass(frozen=True, slots=True)
class Question:
    """One row of a question file.

    Attributes:
        question_id: the file's own, or "q-" and 16 hex digits of SHA-256 over the question: equal texts, equal ids.
        question: the text, control characters replaced by spaces, outer white space removed.
        answers: gold answers, where the file gives them.
        error: why it cannot be answered, or None.
        source: file and line (or row), for messages.
    """

    question_id: str
    question: str
    answers: tuple[str, ...] | None
    error: str | None
    source: str


def expand_question_files(urls: Sequence[str]) -> list[str]:
    """The question files that URLs and globs name, in the order given, each glob sorted.

    Raises:
        InputError: a file or a glob's files are not there.
    """
    return [found for url in urls for found in storage.expand(url, "question file")]


def read_questions(urls: Sequence[str], options: QuestionOptions) -> Iterator[Question]:
    """All rows of question files, file by file and in order, as a stream.

    Blank lines of JSONL and plain text are no rows; a row whose question is missing or empty comes with its error.

    Raises:
        InputError: a format cannot be told, a line cannot be parsed, or a column is not there; with file and line.
    """
    for url in urls:
        kind = _format_of(url, options)
        rows = _parquet_rows(url, options) if kind == "parquet" else _text_rows(url, kind, options)
        for number, question_id, question, answers in rows:
            yield _make(f"{posixpath.basename(url)}:{number}", question_id, question, answers)


def clean(text: str) -> str:
    """A question without control characters, lone surrogates and outer white space; all other characters stay.

    >>> clean("  what\\x00is\\tthis?\\n")
    'what is\\tthis?'
    """
    if not text.isprintable():
        kept = (c if c in "\t\n" or unicodedata.category(c) not in ("Cc", "Cs") else " " for c in text)
        text = "".join(kept)
    return text.strip()


def _make(source: str, question_id: Any, question: Any, answers: Any) -> Question:
    text = clean(question) if isinstance(question, str) else ""
    error = None
    if question is not None and not isinstance(question, str):
        error = f"the question is no text but {type(question).__name__}"
    elif not text:
        error = EMPTY
    if question_id is None or question_id == "":
        question_id = "q-" + hashlib.sha256(text.encode()).hexdigest()[:16]
    return Question(clean(str(question_id)), text, _answers(answers), error, source)


def _answers(value: Any) -> tuple[str, ...] | None:
    if value is None:
        return None
    if isinstance(value, (list, tuple)):
        return tuple(clean(str(item)) for item in value if item is not None)
    return (clean(str(value)),)


def _format_of(url: str, options: QuestionOptions) -> str:
    if options.format != "auto":
        return options.format
    name = url.lower()
    for suffix in COMPRESSIONS:
        name = name.removesuffix(suffix)
    kind = SUFFIXES.get(posixpath.splitext(name)[1])
    if kind is None:
        raise InputError(
            "the format of a question file cannot be told from its name",
            value=url,
            expected=", ".join(SUFFIXES),
            remedy=f"give --questions_format {'|'.join(FORMATS)}",
        )
    return kind


Row = tuple[int, Any, Any, Any]  # line or row number from 1, id, question, answers


def _text_rows(url: str, kind: str, options: QuestionOptions) -> Iterator[Row]:
    with storage.open_read(url) as raw:
        lines = _decoded_lines(streams.decompressed(raw, url), url)
        try:
            if kind == "jsonl":
                yield from _jsonl_rows(url, lines, options)
            elif kind == "text":
                yield from ((number, None, line, None) for number, line in enumerate(lines, 1) if line.strip())
            else:
                yield from _delimited_rows(url, lines, "," if kind == "csv" else "\t", options)
        except (OSError, EOFError, zstandard.ZstdError) as error:
            raise InputError(
                f"a question file cannot be decompressed ({error})", value=url, expected="a whole file"
            ) from error


def _jsonl_rows(url: str, lines: Iterable[str], options: QuestionOptions) -> Iterator[Row]:
    for number, line in enumerate(lines, 1):
        if not line.strip():
            continue
        try:
            row = json.loads(line)
        except (ValueError, RecursionError) as error:
            raise InputError(
                f"a line is not JSON ({error})",
                value=f"{url}, line {number}: {line[:60]}",
                expected="one JSON object a line",
            ) from error
        if not isinstance(row, dict):
            raise InputError(
                "a line is no JSON object", value=f"{url}, line {number}: {line[:60]}", expected='{"question": ...}'
            )
        answers = row.get(options.answer_column, row.get("answers"))
        yield number, row.get(options.id_column), row.get(options.question_column), answers


def _delimited_rows(url: str, lines: Iterable[str], delimiter: str, options: QuestionOptions) -> Iterator[Row]:
    # A TSV's quotes are characters like any other unless they open a cell, which is what the csv module does too.
    reader = csv.reader((line.replace("\0", " ") for line in lines), delimiter=delimiter)
    header: list[str] | None = None
    try:
        for cells in reader:
            if header is None:
                header = [cell.strip() for cell in cells]
                if options.question_column in header:
                    continue
                if delimiter == "\t" and len(cells) == 2:
                    header = [options.question_column, options.answer_column]  # DPR's own files have no header
                else:
                    raise InputError(
                        "a question file lacks the question column",
                        value=f"{url} has {', '.join(header) or 'no columns'}",
                        expected=options.question_column,
                        remedy="name it with --question_column",
                    )
            if not cells:
                continue
            row = dict(zip(header, cells, strict=False))
            answers = row.get(options.answer_column, row.get("answers"))
            yield reader.line_num, row.get(options.id_column), row.get(options.question_column), _cell_answers(answers)
    except csv.Error as error:
        raise InputError(f"a line cannot be parsed ({error})", value=f"{url}, line {reader.line_num}") from error


def _cell_answers(cell: str | None) -> Any:
    """A cell's gold answers: a list written as JSON or as a Python literal of strings, else the cell itself."""
    if cell is None or cell == "":
        return None
    if cell.startswith("["):
        for parse in (json.loads, ast.literal_eval):
            try:
                value = parse(cell)
            except (ValueError, SyntaxError, RecursionError, MemoryError):
                continue
            if isinstance(value, list) and all(isinstance(item, (str, int, float)) for item in value):
                return [str(item) for item in value]
    return cell


def _parquet_rows(url: str, options: QuestionOptions) -> Iterator[Row]:
    try:
        with storage.open_read(url) as raw, pq.ParquetFile(raw) as parquet:
            names = parquet.schema_arrow.names
            if options.question_column not in names:
                raise InputError(
                    "a question file lacks the question column",
                    value=f"{url} has {', '.join(names)}",
                    expected=options.question_column,
                    remedy="name it with --question_column",
                )
            columns = [
                c for c in (options.question_column, options.id_column, options.answer_column, "answers") if c in names
            ]
            number = 0
            for batch in parquet.iter_batches(PARQUET_BATCH_ROWS, columns=list(dict.fromkeys(columns))):
                for row in batch.to_pylist():
                    number += 1
                    answers = row.get(options.answer_column, row.get("answers"))
                    yield number, row.get(options.id_column), row[options.question_column], answers
    except pa.ArrowInvalid as error:
        raise InputError(f"not a whole Parquet file ({error})", value=url) from error


def _decoded_lines(raw: IO[bytes], url: str) -> Iterator[str]:
    """Lines of text with their line ends: UTF-16 by its byte order mark, else UTF-8, else Windows-1252 line by line."""
    head = raw.peek(4)[:4] if hasattr(raw, "peek") else raw.read(4)
    stream: Any = raw if hasattr(raw, "peek") else io.BufferedReader(_Rejoined(head, raw))
    if head.startswith((codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE)):
        try:
            yield from io.TextIOWrapper(stream, "utf-16", newline=None)
        except UnicodeError as error:
            raise InputError(f"a question file is not UTF-16 ({error})", value=url) from error
        return
    fallbacks = 0
    for number, line in enumerate(stream):
        data = line.removeprefix(codecs.BOM_UTF8) if number == 0 else line
        try:
            text = data.decode("utf-8")
        except UnicodeDecodeError:
            fallbacks += 1
            text = data.decode("cp1252", "replace")
        yield text.removesuffix("\n").removesuffix("\r") + "\n"
    if fallbacks:
        logger.warning("%s: %d lines are not UTF-8 and were read as Windows-1252", url, fallbacks)


class _Rejoined(io.RawIOBase):
    """A stream whose first bytes were read already."""

    def __init__(self, head: bytes, rest: IO[bytes]):
        self._head, self._rest = head, rest

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: Any) -> int:
        data = self._head[: len(buffer)] or self._rest.read(len(buffer))
        self._head = self._head[len(data) :] if self._head else b""
        buffer[: len(data)] = data
        return len(data)
