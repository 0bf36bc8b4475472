"""Judgements of passages (qrels): which passages are relevant to which question, and how much."""

from __future__ import annotations

import dataclasses
import re
from collections.abc import Iterator, Sequence
from typing import Any

from rag_ops.errors import InputError
from rag_ops.questions.columns import QuestionOptions, plain
from rag_ops.questions.files import record_columns, rows_of
from rag_ops.questions.gold_answers import as_text
from rag_ops.questions.text_lines import UNDECODABLE, decoded_lines
from rag_ops.storage import compression, store

FORMS = (
    "question 0 passage relevance (TREC); query-id, corpus-id and score with tabs and a header (BEIR), or as records; "
    "or question files of KILT or HotpotQA, which name pages"
)
BEIR_HEADER = ("query-id", "corpus-id", "score")
TREC_CELLS = 4
MAX_RELEVANCE = 1000  # trec_eval reserves memory for each grade up to the highest
SHOWN_CHARS = 80
_INTEGER = re.compile(r"[+-]?[0-9]{1,4000}")


@dataclasses.dataclass(frozen=True)
class Judgements:
    """The judgements of all files.

    Attributes:
        by_question: relevance by passage id, by question id; 0 is not relevant, more is better. Never empty, nor is
            any of its members.
    """

    by_question: dict[str, dict[str, int]]

    @property
    def questions(self) -> Sequence[str]:
        """The ids of the judged questions."""
        return list(self.by_question)

    @property
    def passages(self) -> set[str]:
        """The ids of the judged passages."""
        return {passage for grades in self.by_question.values() for passage in grades}

    @property
    def count(self) -> int:
        """The number of judged pairs of question and passage."""
        return sum(map(len, self.by_question.values()))


def read_qrels(urls: Sequence[str]) -> Judgements:
    """Reads files of judgements, each in TREC's form or BEIR's, which its first line shows, or BEIR's as records.

    A relevance below 0, which TREC's web tracks give to junk, is 0. A judgement that stands twice counts once.

    Args:
        urls: the files; they may be compressed. Held in memory.

    Raises:
        InputError: a file is missing, damaged, empty or of another form; a relevance is no integer or too large; or a
            passage is judged twice, and not alike.
    """
    found: dict[str, dict[str, int]] = {}
    for url in urls:
        empty = True
        for number, question, passage, relevance in _judgements(url):
            empty = False
            before = found.setdefault(question, {}).setdefault(passage, relevance)
            if before != relevance:
                raise InputError(
                    "a passage is judged twice, and not alike",
                    value=f"{url}, line {number}: question {question}, passage {passage}: {before} and {relevance}",
                    expected="one judgement of a passage for a question",
                )
        if empty:
            raise InputError("a file of --qrels has no judgements", value=url, expected=FORMS)
    return Judgements(found)


def is_of_judgements(names: Sequence[str]) -> bool:
    """Whether records with these columns are judgements, as the datasets library and MTEB have BEIR's.

    >>> is_of_judgements(["query-id", "corpus-id", "score"]), is_of_judgements(["id", "question"])
    (True, False)
    """
    return set(map(plain, BEIR_HEADER)) <= set(map(plain, names))


def _judgements(url: str) -> Iterator[tuple[int, str, str, int]]:
    """Yields line number, or row number from 1, question id, passage id and relevance of each judgement."""
    names = record_columns(url)
    for number, cells, shown in _lines(url) if names is None else _records(url, names):
        relevance = _as_integer(cells[2])
        if relevance is None:
            raise InputError("a relevance of --qrels is no integer", value=shown, expected=FORMS)
        if relevance > MAX_RELEVANCE:
            raise InputError("a relevance of --qrels is too large", value=shown, expected=f"at most {MAX_RELEVANCE}")
        yield number, cells[0], cells[1], max(relevance, 0)


def _lines(url: str) -> Iterator[tuple[int, tuple[str, str, str], str]]:
    """Yields number, question id, passage id and relevance of each line, and how it is shown in an error."""
    beir: bool | None = None
    with store.open_read(url) as raw, compression.whole(url):
        for number, line in enumerate(decoded_lines(compression.decompressed(raw, url), url), 1):
            if not line.strip():
                continue
            if beir is None:
                beir = tuple(cell.strip() for cell in line.split("\t")) == BEIR_HEADER
                if beir:
                    continue
            cells = [cell.strip() for cell in line.split("\t")] if beir else line.split()
            if len(cells) != (len(BEIR_HEADER) if beir else TREC_CELLS) or not all(cells) or UNDECODABLE in line:
                raise InputError("a line of --qrels is no judgement", value=_shown(url, number, line), expected=FORMS)
            yield number, (cells[0], cells[-2], cells[-1]), _shown(url, number, line)


def _records(url: str, names: Sequence[str]) -> Iterator[tuple[int, tuple[str, str, Any], str]]:
    """The same of records."""
    by_name = {plain(name): name for name in reversed(names)}
    question, passage, score = (by_name[plain(name)] for name in BEIR_HEADER)
    # A judgement is read as if it were a question: its members are of any kind, and a line may be no JSON.
    for row in rows_of(url, QuestionOptions(question_column=question, id_column=passage, answer_column=score)):
        cells = as_text(row.question).strip(), as_text(row.question_id).strip()
        shown = _shown(url, row.number, f"{cells[0]} {cells[1]} {row.answers}")
        if row.problem or not all(cells):
            problem = f" ({row.problem})" if row.problem else ""
            raise InputError(f"a record of --qrels is no judgement{problem}", value=shown, expected=FORMS)
        yield row.number, (*cells, row.answers), shown


def _as_integer(value: Any) -> int | None:
    """An integer, or a text or whole number that stands for one; else None."""
    if isinstance(value, float):
        return int(value) if value.is_integer() else None
    text = str(value) if isinstance(value, (int, str)) and not isinstance(value, bool) else ""
    return int(text) if _INTEGER.fullmatch(text.strip()) else None


def _shown(url: str, number: int, line: str) -> str:
    return f"{url}, line {number}: {line.strip()[:SHOWN_CHARS]}"
