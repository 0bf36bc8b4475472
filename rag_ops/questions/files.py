"""Reads the rows of a question file of any format, as they are: JSONL, JSON, CSV, TSV, Parquet, Arrow or plain text."""

from __future__ import annotations

import dataclasses
import itertools
import json
import posixpath
from collections.abc import Iterable, Iterator, Sequence
from typing import IO, Any

import pyarrow as pa

from rag_ops.errors import InputError
from rag_ops.questions.columns import (
    ANSWER_NAMES,
    CHOICES_NAMES,
    EVIDENCE_NAMES,
    FORMATS,
    ID_NAMES,
    KILT_ANSWERS,
    QUESTION_NAMES,
    Columns,
    QuestionOptions,
    choose,
    plain,
)
from rag_ops.questions.tables import DELIMITERS, layout_of
from rag_ops.questions.text_lines import decoded_lines, decoded_text, peeked, records
from rag_ops.storage import arrow, compression, json_documents, store
from rag_ops.storage.parquet import open_given_parquet

SUFFIXES = {
    **dict.fromkeys((".jsonl", ".jsonlines", ".ndjson", ".json"), "jsonl"),
    **{".csv": "csv", ".tsv": "tsv", ".parquet": "parquet", ".txt": "text", ".questions": "text"},
    arrow.SUFFIX: "arrow",
}
PARQUET_BATCH_ROWS = 1000
# What a row's error begins with; details follow in brackets.
NOT_JSON, NO_OBJECT = "the line is not JSON", "the row is no JSON object"
TOO_MANY_CELLS = "the line has more cells than the header"
SHOWN_CHARS = 1000  # shown of a line or a question that cannot be read
_Object = tuple[int, dict[str, Any]]  # the number and the members of an object of JSON
FIRST_ROWS = 100  # these decide what a file is: its columns, its delimiter, whether it is JSON at all


@dataclasses.dataclass(frozen=True, slots=True)
class Row:
    """A row of a question file, as the file has it.

    Attributes:
        number: number of the line, or of the row in Parquet and JSON documents, from 1.
        question_id, question, answers: values of any kind; None if there is none.
        problem: what is wrong with the line, or None.
        choices: the only answers that it may have, of any kind; None if there are none.
        evidence: what says where an answer stands, for `provenance.evidence_of`; None if there is nothing.
        cells: whether the values are cells of CSV or TSV, so that numbers are texts too.
    """

    number: int
    question_id: Any
    question: Any
    answers: Any
    problem: str | None = None
    cells: bool = False
    choices: Any = None
    evidence: Any = None


def rows_of(url: str, options: QuestionOptions) -> Iterator[Row]:
    """Yields the rows of one file in order. Blank lines are no rows, except inside CSV cells.

    A line that cannot be read is a row with a problem; a file that is not what it is taken for is refused.

    Raises:
        InputError: the format is unclear, a column is not there, or the file is damaged; with what it seems to be.
    """
    kind = _format_of(url, options)
    if kind == "arrow":
        columns = choose(url, arrow.column_names(url), options)
        return _rows_of_batches(arrow.batches(url, _names_of(columns)), columns)
    return _parquet_rows(url, options) if kind == "parquet" else _text_rows(url, kind, options)


def record_columns(url: str) -> list[str] | None:
    """The columns of a file of records, of JSON the members of its first object; None if its name is of another file.

    Raises:
        InputError: it is damaged, or its JSON begins with no object.
    """
    kind = _kind_by_name(url)
    if kind == "arrow":
        return arrow.column_names(url)
    if kind == "parquet":
        with open_given_parquet(url) as parquet:
            return list(parquet.schema_arrow.names)
    if kind != "jsonl":
        return None
    with store.open_read(url) as raw, compression.whole(url):
        head, stream = peeked(compression.decompressed(raw, url))
        if json_documents.is_of_columns(head):
            return [name for name, _ in json_documents.members(decoded_text(stream), url)]
        if json_documents.is_document(head):
            first = next((_checked(1, value) for value in json_documents.elements(decoded_text(stream), url)), None)
        else:
            first = next(_json_lines(decoded_lines(stream, url)), None)
    if first is None or isinstance(first, Row):
        raise InputError(
            f"a file has no JSON objects{f': {first.problem}' if first else ''}",
            value=f"{url}, line {first.number}" if first else url,
            expected="an object on each line, or one array of objects",
        )
    return list(first[1])


def _format_of(url: str, options: QuestionOptions) -> str:
    if options.format != "auto":
        return options.format
    kind = _kind_by_name(url)
    if kind is None:
        raise InputError(
            "the format of a question file cannot be told from its name",
            value=url,
            expected=", ".join(SUFFIXES),
            remedy=f"give --questions_format {'|'.join(FORMATS)}",
        )
    return kind


def _kind_by_name(url: str) -> str | None:
    name = store.name_of(url).lower()
    for suffix in compression.COMPRESSIONS:
        name = name.removesuffix(suffix)
    return SUFFIXES.get(posixpath.splitext(name)[1])


def _text_rows(url: str, kind: str, options: QuestionOptions) -> Iterator[Row]:
    with store.open_read(url) as raw, compression.whole(url):
        head, stream = peeked(compression.decompressed(raw, url))
        if kind == "jsonl" and json_documents.is_of_columns(head):
            yield from _column_rows(url, decoded_text(stream), options)
        elif kind == "jsonl" and json_documents.is_document(head):
            found = _questions_in(json_documents.elements(decoded_text(stream), url))
            yield from _with_columns(url, itertools.starmap(_checked, enumerate(found, 1)), options)
        elif kind == "jsonl":
            yield from _with_columns(url, _json_lines(decoded_lines(stream, url)), options)
        elif kind == "text":
            yield from _plain_rows(url, decoded_lines(stream, url), options)
        else:
            yield from _delimited_rows(url, decoded_lines(stream, url), DELIMITERS[kind], options)


def _json_lines(lines: Iterable[str]) -> Iterator[_Object | Row]:
    for number, line in enumerate(lines, 1):
        if not line.strip():
            continue
        try:
            value = json.loads(line, strict=False)  # control characters in a string are the question's affair
        except RecursionError:
            yield _unreadable(number, f"{NOT_JSON} (nested too deeply)", line)
        except ValueError as error:
            yield _unreadable(number, f"{NOT_JSON} ({getattr(error, 'msg', error)})", line)
        else:
            if isinstance(value, dict) and value.keys() == {"header"}:  # of MRQA's files
                continue
            for one in _questions_in([value]):
                yield _checked(number, one, line)


def _checked(number: int, value: Any, line: str = "") -> _Object | Row:
    is_object = isinstance(value, dict)
    return (number, value) if is_object else _unreadable(number, f"{NO_OBJECT} ({type(value).__name__})", line)


def _unreadable(number: int, problem: str, line: str) -> Row:
    return Row(number, None, line[:SHOWN_CHARS], None, problem)


def _questions_in(values: Iterable[Any]) -> Iterator[Any]:
    """Yields the questions of a document's elements: those of SQuAD's articles, else the elements themselves."""
    for value in values:
        inner = value.get("paragraphs", value.get("qas")) if isinstance(value, dict) else None
        if isinstance(inner, list) and not any(plain(name) in QUESTION_NAMES for name in value):
            yield from _questions_in(inner)
        else:
            yield value


def _with_columns(url: str, rows: Iterator[_Object | Row], options: QuestionOptions) -> Iterator[Row]:
    """Yields rows of JSON by the columns that the first rows show; refuses a file with no object among those."""
    first = list(itertools.islice(rows, FIRST_ROWS))
    if not first:
        return
    objects = [row[1] for row in first if not isinstance(row, Row)]
    if not objects and isinstance(row := first[0], Row):
        where = f"line {row.number}: {row.question[:60].strip()}" if row.question else f"element {row.number}"
        raise InputError(
            f"a question file has no JSON objects: {row.problem}",
            value=f"{url}, {where}",
            expected='{"question": ...} on each line, or one array of such objects',
            remedy="check the file, or give --questions_format",
        )
    columns = choose(url, list(dict.fromkeys(itertools.chain.from_iterable(objects))), options, keys=True)
    for row in itertools.chain(first, rows):
        if isinstance(row, Row):
            yield row
        else:
            number, members = row
            values = columns.id_of(members), members.get(columns.question), columns.answers_of(members)
            more = {"choices": columns.choices_of(members), "evidence": columns.evidence_of(members)}
            yield Row(number, *values, **more)


def _plain_rows(url: str, lines: Iterator[str], options: QuestionOptions) -> Iterator[Row]:
    first = list(itertools.islice(lines, FIRST_ROWS))
    if options.format == "auto":
        _check_plain(url, [line for line in first if line.strip()])
    for number, line in enumerate(itertools.chain(first, lines), 1):
        if line.strip():
            yield Row(number, None, line, None)


def _check_plain(url: str, lines: Sequence[str]) -> None:
    """Refuses a text file that seems to be a table or JSON, whose lines would be asked as they are."""
    tabs = {line.strip().count("\t") for line in lines}
    begins_as_json = any(isinstance(row, tuple) for row in _json_lines(lines[:1]))
    if len(lines) > 1 and len(tabs) == 1 and tabs != {0}:
        seems, remedy = f"a table of {tabs.pop() + 1} columns with tabs between them", "tsv"
    elif begins_as_json and all(line.lstrip().startswith("{") for line in lines):
        seems, remedy = "JSON, an object a line", "jsonl"
    else:
        return
    raise InputError(
        f"a text file of questions seems to be {seems}",
        value=f"{url}, line 1: {lines[0][:60].strip()}",
        expected="a question a line",
        remedy=f"give --questions_format {remedy}, or --questions_format text if it is right as it is",
    )


def _delimited_rows(url: str, lines: Iterator[str], delimiter: str, options: QuestionOptions) -> Iterator[Row]:
    first = list(itertools.islice(lines, FIRST_ROWS))
    layout = layout_of(url, first, delimiter, options)
    if layout is None:
        return
    columns = choose(url, layout.names, options) if layout.has_header else Columns("question", "id", ("answers",))
    header_to_come, width = layout.has_header, len(layout.names)
    for number, cells in records(itertools.chain(first, lines), layout.delimiter, url):
        if not cells or header_to_come:
            header_to_come = header_to_come and not cells
            continue
        more = any(cell.strip() for cell in cells[width:])
        problem = f"{TOO_MANY_CELLS} ({len(cells)}, not {width})" if more else None
        row = {name: cell for name, cell in zip(layout.names, cells, strict=False) if cell != ""}
        values = columns.id_of(row), row.get(columns.question), columns.answers_of(row)
        yield Row(number, *values, problem, cells=True, choices=columns.choices_of(row))


def _column_rows(url: str, text: IO[str], options: QuestionOptions) -> Iterator[Row]:
    """The rows of one JSON object of columns, as pandas and MS MARCO 2.1 write it; numbered from 1 in their order."""
    named = {options.question_column, options.id_column, options.answer_column}
    known = {*QUESTION_NAMES, *ID_NAMES, *ANSWER_NAMES, *CHOICES_NAMES, *EVIDENCE_NAMES, KILT_ANSWERS, "text"}
    names, values = json_documents.columns(text, url, lambda name: name in named or plain(name) in known)
    columns = choose(url, names, options)
    for number, key in enumerate(values[columns.question], 1):
        row = {name: members.get(key) for name, members in values.items()}
        found = columns.id_of(row), row[columns.question], columns.answers_of(row)
        yield Row(number, *found, choices=columns.choices_of(row), evidence=columns.evidence_of(row))


def _parquet_rows(url: str, options: QuestionOptions) -> Iterator[Row]:
    reached = [0]
    with open_given_parquet(url, reached) as parquet:
        columns = choose(url, parquet.schema_arrow.names, options)
        batches = parquet.iter_batches(PARQUET_BATCH_ROWS, columns=_names_of(columns))
        for row in _rows_of_batches(batches, columns):
            reached[0] = row.number
            yield row


def _names_of(columns: Columns) -> list[str]:
    wanted = [columns.question, columns.question_id, *columns.answers, columns.choices, columns.evidence]
    return list(dict.fromkeys(name for name in wanted if name is not None))


def _rows_of_batches(batches: Iterable[pa.RecordBatch], columns: Columns) -> Iterator[Row]:
    number = 0
    for batch in batches:
        cells = {name: _python_values(batch.column(name)) for name in batch.schema.names}
        for place in range(batch.num_rows):
            number += 1
            row = {name: values[place] for name, values in cells.items()}
            found = columns.id_of(row), row[columns.question], columns.answers_of(row)
            yield Row(number, *found, choices=columns.choices_of(row), evidence=columns.evidence_of(row))


def _python_values(column: Any) -> list[Any]:
    """A column's values; texts as bytes, because what a file calls text need not be UTF-8."""
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
