"""Which columns of a question file hold question, id, gold answers and choices: as named, else by well-known names."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence
from functools import partial
from typing import Any

from rag_ops import settings
from rag_ops.errors import InputError

FORMATS = ("jsonl", "csv", "tsv", "parquet", "arrow", "text")
# In order of preference, as `plain` writes them. "query": MS MARCO, "question_text": Natural Questions, "input": KILT.
QUESTION_NAMES = ("question", "query", "questiontext", "input")
ID_NAMES = ("id", "qid", "questionid", "queryid", "exampleid")
CHOICES_NAMES = ("choices",)
ANSWER_NAMES = ("answer", "answers", "possibleanswers", "goldanswer", "goldanswers", "originalnqanswers")
SENTENCE_WORDS = 4  # no name of a column is as long: it is a question, of a table without a header
KILT_QUESTION, KILT_ANSWERS = "input", "output"
EVIDENCE_NAMES = ("supportingfacts",)  # HotpotQA's

setting = partial(settings.setting, group="questions")


@dataclasses.dataclass(frozen=True)
class QuestionOptions:
    """How question files are read; None stands for the column, or JSON key, that has a well-known name."""

    format: str = setting("auto", f"auto, by the file's name; or {', '.join(FORMATS)}", flag="questions_format")
    question_column: str | None = setting(
        None, "column or key of the question; by default the one called question, query, question_text or input"
    )
    id_column: str | None = setting(
        None,
        "column or key of the question's id; by default the one called id, qid, question_id, query_id, example_id; "
        "an id that is absent is made from the question",
        flag="question_id_column",
    )
    answer_column: str | None = setting(
        None, "column or key of the gold answers; by default answer, answers, possible_answers, or KILT's output"
    )

    def __post_init__(self) -> None:
        if self.format not in ("auto", *FORMATS):
            raise InputError("unknown --questions_format", value=self.format, expected=f"auto, {', '.join(FORMATS)}")

    @property
    def names_a_column(self) -> bool:
        """Whether any column is named, so that the file must have names for them."""
        return any(name is not None for name in (self.question_column, self.id_column, self.answer_column))


@dataclasses.dataclass(frozen=True)
class Columns:
    """The columns to read; of those of gold answers the first that a row has something in counts."""

    question: str
    question_id: str | None = None
    answers: tuple[str, ...] = ()
    choices: str | None = None
    evidence: str | None = None

    def answers_of(self, row: Mapping[str, Any]) -> Any:
        """The value that holds the gold answers of a row, or None."""
        values = [row[name] for name in self.answers if row.get(name) is not None]
        return next((value for value in values if value not in ("", b"", [], {})), values[0] if values else None)

    def choices_of(self, row: Mapping[str, Any]) -> Any:
        """The value that holds the only answers that a row may have, or None."""
        return None if self.choices is None else row.get(self.choices)

    def evidence_of(self, row: Mapping[str, Any]) -> Any:
        """The value that says where an answer of a row stands, as `provenance.evidence_of` takes it, or None."""
        return None if self.evidence is None else row.get(self.evidence)

    def id_of(self, row: Mapping[str, Any]) -> Any:
        """The id of a row, or None."""
        return None if self.question_id is None else row.get(self.question_id)


def plain(name: str) -> str:
    """A column's name in small letters and digits alone.

    >>> plain("Question_Text "), plain("_id")
    ('questiontext', 'id')
    """
    return "".join(character for character in name.casefold() if character.isalnum())


def choose(url: str, names: Sequence[str], options: QuestionOptions, *, keys: bool = False) -> Columns:
    """Chooses the columns to read among those of a file.

    With `keys` the names are those of some JSON objects, any of which may lack one: a file of ids and answers alone is
    then a question file whose questions are missing, and each row's error.

    Raises:
        InputError: a column that the options name is not there, or none or several could be the question.
    """
    question = options.question_column
    if question is None:
        others = any(plain(name) not in (*ID_NAMES, *ANSWER_NAMES) for name in names)
        question = _question_by_name(url, names) if others or not keys else QUESTION_NAMES[0]
    elif question not in names:
        raise _no_question_column(url, names, options)
    for flag, name in (("--question_id_column", options.id_column), ("--answer_column", options.answer_column)):
        if name is not None and name not in names:
            raise InputError(
                f"a question file lacks the column of {flag}",
                value=f"{url} has {', '.join(names) or 'no columns'}",
                expected=name,
                remedy=f"name one of these with {flag}, or leave the flag out",
            )
    if list(names).count(question) > 1:
        raise InputError("two columns have the question's name", value=f"{url}: {question}", expected="one")
    of_kilt = (KILT_ANSWERS,) if plain(question) == KILT_QUESTION else ()
    free = [name for name in names if name != question]
    return Columns(
        question,
        options.id_column or next(iter(_by_name(free, ID_NAMES)), None),
        (options.answer_column,) if options.answer_column else tuple(_by_name(free, ANSWER_NAMES + of_kilt)),
        next(iter(_by_name(free, CHOICES_NAMES)), None),
        next(iter(_by_name(free, EVIDENCE_NAMES + of_kilt)), None),
    )


def _no_question_column(url: str, names: Sequence[str], options: QuestionOptions) -> InputError:
    """The error for a file that has no question column among these names."""
    wanted = options.question_column
    seems = _seems(names)
    return InputError(
        f"a question file lacks the question column{f' (it seems to be {seems})' if seems else ''}",
        value=f"{url} has {', '.join(names) or 'no columns'}",
        expected=wanted if wanted is not None else "question, query, input or question_text",
        remedy="name it with --question_column",
    )


def _question_by_name(url: str, names: Sequence[str]) -> str:
    if "question" in names:
        return "question"
    plains = {plain(name) for name in names}
    # An instruction with an input is another kind of file: there the input may be empty, and is no question.
    wanted = QUESTION_NAMES if "instruction" not in plains else QUESTION_NAMES[:-1]
    found = _by_name(names, wanted)
    if not found and "_id" in names and "text" in names and "title" not in plains:
        return "text"  # BEIR's queries
    if len(found) > 1:
        raise InputError(
            "two columns could be the question",
            value=f"{url} has {', '.join(found)}",
            expected="one",
            remedy="name it with --question_column",
        )
    if not found:
        raise _no_question_column(url, names, QuestionOptions())
    return found[0]


def _by_name(names: Sequence[str], wanted: Sequence[str]) -> list[str]:
    """The names that are well known, best first: those spelled alike, then by the order of `wanted`."""
    known = [name for name in dict.fromkeys(names) if plain(name) in wanted]
    return sorted(known, key=lambda name: (name not in wanted, wanted.index(plain(name))))


def _seems(names: Sequence[str]) -> str | None:
    """Says what a file with these columns, no question among them, seems to be; None if that is unclear."""
    plains = {plain(name) for name in names}
    if plains & {"qas", "paragraphs"}:
        return "a file of articles, whose questions lie deeper"
    if "text" in plains and "title" in plains:
        return "a corpus of passages or articles"
    if {"corpusid", "score"} <= plains:
        return "a file of relevance judgements"
    if any(name.strip().isdigit() or name.endswith("?") or len(name.split()) >= SENTENCE_WORDS for name in names):
        return "a table without a header, to which a first line such as id, question should be added"
    return None
