"""Question files: JSONL, CSV, TSV, Parquet and plain text, read as a stream; every row comes out, readable or not."""

from __future__ import annotations

import dataclasses
import hashlib
from collections.abc import Iterator, Sequence

from rag_ops.questions import files
from rag_ops.questions.choices import BAD_CHOICES, choices_of
from rag_ops.questions.columns import QuestionOptions
from rag_ops.questions.files import SHOWN_CHARS, Row
from rag_ops.questions.found import Found
from rag_ops.questions.gold_answers import UnreadableError, as_text, gold_answers
from rag_ops.questions.text_lines import UNDECODABLE, clean, decoded
from rag_ops.storage import arrow, store

EMPTY = "the question is empty"
# What a row's error begins with; where it stands follows in brackets. So do notes.
NO_TEXT, UNREADABLE = "the question is no text", "the question has bytes that are no text"
TOO_LONG = "the question is too long"
NO_ANSWERS = "the gold answers are no texts"
MAX_QUESTION_CHARS = 4 << 20  # a book is no question; a model reads some hundred words of it in any case


@dataclasses.dataclass(frozen=True, slots=True)
class Question:
    """One row of a question file.

    Attributes:
        question_id: id from the file, or "q-" and 16 hex digits of SHA-256 over the question: equal texts, equal ids.
        question: the text, control characters replaced by spaces, outer white space removed.
        answers: gold answers, if the file has them.
        error: why it cannot be answered, or None.
        source: file and line (or row), for messages.
        note: why its gold answers could not be read, or None; it can be answered all the same.
        found: passages that were found for it elsewhere, best first; None if they are still to be searched.
        choices: the only answers that it may have, or None.
    """

    question_id: str
    question: str
    answers: tuple[str, ...] | None
    error: str | None
    source: str
    note: str | None = None
    found: tuple[Found, ...] | None = None
    choices: tuple[str, ...] | None = None


def expand_question_files(urls: Sequence[str]) -> list[str]:
    """Lists the question files that URLs and globs name, in the order given, each glob sorted.

    A folder that the datasets library saved a dataset to stands for its Arrow files.

    Raises:
        InputError: a file or a glob's files are not there.
    """
    return [found for url in urls for found in arrow.saved_files(url) or store.expand(url, "question file")]


def check_question_files(urls: Sequence[str], options: QuestionOptions) -> None:
    """Checks question files by their first rows, which show most of what can be wrong with a file.

    Raises:
        InputError: a file is not there, or `read_questions` would refuse it at its beginning.
    """
    for url in expand_question_files(urls):
        next(files.rows_of(url, options), None)


def read_questions(urls: Sequence[str], options: QuestionOptions) -> Iterator[Question]:
    """Yields all rows of question files, file by file and in order.

    Blank lines of JSONL and plain text are no rows. A line that cannot be read, and one whose question is missing,
    empty, too long or no text, comes with its error; gold answers that cannot be read are a note, and the question is
    asked.

    Raises:
        InputError: a file is damaged or not what it is taken for, or a column is not there; with what it seems to be.
    """
    for url in urls:
        for row in files.rows_of(url, options):
            yield question_of(f"{store.name_of(url)}:{row.number}", row)


def question_of(source: str, row: Row) -> Question:
    """The question of a row, with its error if it has none; `source` says where the row stands, for messages."""
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
    answers = note = None
    try:
        answers = gold_answers(row.answers, cell=row.cells)
    except UnreadableError as problem:
        note = _placed(f"{NO_ANSWERS} ({problem})", source)
    choices = None
    try:
        choices = choices_of(row.choices, cell=row.cells)
    except UnreadableError as problem:
        error = error or f"{BAD_CHOICES} ({problem})"
    if error is None and not text:
        error = EMPTY
    elif error is not None:
        error = _placed(error, source)
    question_id = clean(as_text(row.question_id))
    if not question_id:
        question_id = "q-" + hashlib.sha256(text.encode()).hexdigest()[:16]
    return Question(question_id, text, answers, error, source, note, choices=choices)


def _placed(message: str, source: str) -> str:
    """Adds to a message, inside its brackets, where the row stands."""
    return f"{message[:-1]}, {source})" if message.endswith(")") else f"{message} ({source})"
