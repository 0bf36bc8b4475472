"""Question files: JSONL, CSV, TSV, Parquet and plain text, read as a stream; every row comes out, readable or not."""

from __future__ import annotations

import ast
import dataclasses
import hashlib
import io
import itertools
import json
import posixpath
import tokenize
import unicodedata
import zlib
from collections.abc import Iterable, Iterator, Sequence
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import zstandard

from rag_ops import storage, streams
from rag_ops.errors import InputError
from rag_ops.text_lines import UNDECODABLE, decoded, decoded_lines, records

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
# What a row's error begins with; where it stands follows in brackets.
NO_TEXT, UNREADABLE = "the question is no text", "the question has bytes that are no text"
NO_ANSWERS = "the gold answers are no texts"
TOO_LONG, TOO_MANY_CELLS = "the question is too long", "the line has more cells than the header"
ANSWER_KEYS = ("text", "aliases", "value")  # of SQuAD's gold answers, and of TriviaQA's
MAX_QUESTION_CHARS = 4 << 20  # a book is no question; a model reads some hundred words of it in any case
SHOWN_CHARS = 1000  # of a question that is too long
SHOWN_KEYS = 100  # characters, of an object that is no gold answer
HEADER_ROWS = 100  # of JSONL: one of the first so many must have the question's key
_INVISIBLE = frozenset(("Cc", "Cf", "Cs", "Zs", "Zl", "Zp"))


@dataclasses.dataclass(frozen=True)
class QuestionOptions:
    """How question files are read.

    Attributes:
        format: "auto" (told from the name), "jsonl", "csv", "tsv", "parquet" or "text".
        question_column: column or key of the question.
        id_column: column or key of its id; made from the question where absent.
        answer_column: column or key of the gold answers: a string, a list, or an object as SQuAD (`text`) and TriviaQA
            (`aliases`, `value`) have it; "answers" is accepted too.
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

    Blank lines of JSONL and plain text are no rows; a row whose question is missing, empty, too long or no text comes
    with its error.

    Raises:
        InputError: a format cannot be told, a line cannot be parsed, or a column is not there; with file and line.
    """
    for url in urls:
        kind = _format_of(url, options)
        rows = _parquet_rows(url, options) if kind == "parquet" else _text_rows(url, kind, options)
        for row in rows:
            yield _make(f"{posixpath.basename(url)}:{row.number}", row)


def clean(text: str) -> str:
    """A question without control characters, lone surrogates and outer white space; all other characters stay.

    A text in which nothing can be seen is empty.

    >>> clean("  what\\x00is\\tthis?\\n")
    'what is\\tthis?'
    """
    if not text.isprintable():
        kept = (c if c in "\t\n" or unicodedata.category(c) not in ("Cc", "Cs") else " " for c in text)
        text = "".join(kept)
        if all(unicodedata.category(c) in _INVISIBLE for c in text):
            return ""
    return text.strip()


@dataclasses.dataclass(frozen=True, slots=True)
class _Row:
    """A row as its file has it: line or row number from 1, id, question, answers, and what is wrong with the line."""

    number: int
    question_id: Any
    question: Any
    answers: Any
    problem: str | None = None


def _make(source: str, row: _Row) -> Question:
    given = row.question
    text, error = "", row.problem
    if isinstance(given, bytes):
        given = decoded(given)
    if isinstance(given, str):
        text = clean(given)
        if len(text) > MAX_QUESTION_CHARS:
            error = error or f"{TOO_LONG} ({len(text):,} characters, at most {MAX_QUESTION_CHARS:,})"
            text = text[:SHOWN_CHARS]
        elif UNDECODABLE in given:
            error = error or UNREADABLE
            text = clean(given.replace(UNDECODABLE, "\ufffd"))
    elif given is not None:
        error = error or f"{NO_TEXT} ({type(given).__name__})"
    answers = None
    try:
        answers = _answers(row.answers)
    except (TypeError, RecursionError) as problem:
        error = error or f"{NO_ANSWERS} ({problem})"
    if error is not None:
        error = f"{error.removesuffix(')')}, {source})" if error.endswith(")") else f"{error} ({source})"
    elif not text:
        error = EMPTY
    question_id = clean(_as_text(row.question_id))
    if not question_id:
        question_id = "q-" + hashlib.sha256(text.encode()).hexdigest()[:16]
    return Question(question_id, text, answers, error, source)


def _as_text(value: Any) -> str:
    """A cell's value as text: of bytes what they spell, of other values what Python writes."""
    if value is None:
        return ""
    if isinstance(value, bytes):
        return value.decode("utf-8", "replace")
    try:
        return str(value)
    except (ValueError, RecursionError):  # a number of thousands of digits; lists in lists in lists
        return ""


def _answers(value: Any) -> tuple[str, ...] | None:
    """Gold answers as a file has them: a text, a list, or an object whose `ANSWER_KEYS` hold one.

    Raises:
        TypeError: an object has none of them.
    """
    if value is None:
        return None
    if isinstance(value, dict):
        key = next((key for key in ANSWER_KEYS if value.get(key) is not None), None)
        if key is None:
            raise TypeError(f"an object of {clean(', '.join(map(_as_text, value)))[:SHOWN_KEYS] or 'nothing'}")
        return _answers(value[key])
    if isinstance(value, (list, tuple)):
        return tuple(text for item in value if item is not None for text in _answers(item) or ())
    return (clean(_as_text(value)),)


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


def _text_rows(url: str, kind: str, options: QuestionOptions) -> Iterator[_Row]:
    with storage.open_read(url) as raw:
        try:
            lines = decoded_lines(streams.decompressed(raw, url), url)
            if kind == "jsonl":
                yield from _with_question_key(url, _jsonl_rows(url, lines), options)
            elif kind == "text":
                yield from (_Row(number, None, line, None) for number, line in enumerate(lines, 1) if line.strip())
            else:
                yield from _delimited_rows(url, lines, "," if kind == "csv" else "\t", options)
        except (OSError, EOFError, zlib.error, zstandard.ZstdError) as error:
            raise InputError(
                f"a question file cannot be decompressed ({error})", value=url, expected="a whole file"
            ) from error


def _jsonl_rows(url: str, lines: Iterable[str]) -> Iterator[tuple[int, dict[str, Any]]]:
    for number, line in enumerate(lines, 1):
        if not line.strip():
            continue
        try:
            row = json.loads(line, strict=False)  # control characters in a string are the question's affair
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
        yield number, row


def _with_question_key(
    url: str, rows: Iterator[tuple[int, dict[str, Any]]], options: QuestionOptions
) -> Iterator[_Row]:
    """Rows of JSONL; a file whose first rows all have other keys than the question's is not what was meant."""
    first = list(itertools.islice(rows, HEADER_ROWS))
    keys = list(dict.fromkeys(str(key) for _, row in first for key in row))
    others = [key for key in keys if key not in (options.id_column, options.answer_column, "answers")]
    if others and options.question_column not in keys:
        raise _no_question_column(url, keys, options)
    for number, row in itertools.chain(first, rows):
        answers = row.get(options.answer_column, row.get("answers"))
        yield _Row(number, row.get(options.id_column), row.get(options.question_column), answers)


def _no_question_column(url: str, names: Sequence[str], options: QuestionOptions) -> InputError:
    return InputError(
        "a question file lacks the question column",
        value=f"{url} has {', '.join(names) or 'no columns'}",
        expected=options.question_column,
        remedy="name it with --question_column",
    )


def _delimited_rows(url: str, lines: Iterable[str], delimiter: str, options: QuestionOptions) -> Iterator[_Row]:
    header: list[str] | None = None
    for number, cells in records(lines, delimiter, url):
        if header is None:
            if not cells:
                continue
            header = [cell.strip() for cell in cells]
            if options.question_column in header:
                continue
            if delimiter == "\t" and len(cells) == 2:
                header = [options.question_column, options.answer_column]  # DPR's own files have no header
            else:
                raise _no_question_column(url, header, options)
        if not cells:
            continue
        more = any(cell.strip() for cell in cells[len(header) :])
        problem = f"{TOO_MANY_CELLS} ({len(cells)}, not {len(header)})" if more else None
        row = dict(zip(header, cells, strict=False))
        answers = _cell_answers(row.get(options.answer_column, row.get("answers")))
        yield _Row(number, row.get(options.id_column), row.get(options.question_column), answers, problem)


def _cell_answers(cell: str | None) -> Any:
    """A cell's gold answers: a list written as JSON, as Python writes it or as NumPy does, else the cell itself."""
    if cell is None or cell == "":
        return None
    if cell.startswith("["):
        for parse in (json.loads, _python_list):
            try:
                value = parse(cell)
            except (ValueError, SyntaxError, RecursionError, MemoryError, tokenize.TokenError):
                continue
            if isinstance(value, list) and all(isinstance(item, (str, int, float)) for item in value):
                return [str(item) for item in value]
    return cell


def _python_list(cell: str) -> Any:
    """A Python literal; NumPy's texts have no commas between them, and Python would make one text of them."""
    value = ast.literal_eval(cell)
    tokens = tokenize.generate_tokens(io.StringIO(cell).readline)
    texts = [token.string for token in tokens if token.type == tokenize.STRING]
    if isinstance(value, list) and len(value) < len(texts):
        return [ast.literal_eval(text) for text in texts]
    return value


def _parquet_rows(url: str, options: QuestionOptions) -> Iterator[_Row]:
    number = 0
    try:
        with storage.open_read(url) as raw, pq.ParquetFile(raw) as parquet:
            names = parquet.schema_arrow.names
            if options.question_column not in names:
                raise _no_question_column(url, names, options)
            wanted = (options.question_column, options.id_column, options.answer_column, "answers")
            columns = list(dict.fromkeys(name for name in wanted if name in names))
            for batch in parquet.iter_batches(PARQUET_BATCH_ROWS, columns=columns):
                cells = {name: _python_values(batch.column(name)) for name in batch.schema.names}
                for place in range(batch.num_rows):
                    number += 1
                    row = {name: values[place] for name, values in cells.items()}
                    answers = row.get(options.answer_column, row.get("answers"))
                    yield _Row(number, row.get(options.id_column), row[options.question_column], answers)
    except (pa.ArrowException, OSError, UnicodeDecodeError) as error:
        raise InputError(
            f"not a whole Parquet file ({error})", value=f"{url}, after row {number}" if number else url
        ) from error


def _python_values(column: Any) -> list[Any]:
    """A column's values; of texts the bytes, because what calls itself text in a file need not be UTF-8."""
    if pa.types.is_dictionary(column.type):
        column = column.dictionary_decode()
    if pa.types.is_string(column.type) or pa.types.is_large_string(column.type):
        return column.cast(pa.binary() if pa.types.is_string(column.type) else pa.large_binary()).to_pylist()
    try:
        return column.to_pylist()
    except (ValueError, OverflowError):  # texts that are not UTF-8 in a list, days that Python's calendar lacks
        return [_python_value(value) for value in column]


def _python_value(value: Any) -> Any:
    try:
        return value.as_py()
    except (ValueError, OverflowError):
        return None
