"""Judgements of passages (qrels): which passages are relevant to which question, and how much."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator, Sequence

from rag_ops.errors import InputError
from rag_ops.questions.text_lines import UNDECODABLE, decoded_lines
from rag_ops.storage import compression, store

FORMS = "question 0 passage relevance (TREC), or query-id, corpus-id and score with tabs and a header (BEIR)"
BEIR_HEADER = ("query-id", "corpus-id", "score")
TREC_CELLS = 4
MAX_RELEVANCE = 1000  # trec_eval reserves memory for each grade up to the highest
SHOWN_CHARS = 80


@dataclasses.dataclass(frozen=True)
class Judgements:
    """The judgements of all files.

    Attributes:
        by_question: relevance by passage id, by question id; 0 is not relevant, more is better. Never empty, nor is
            any of its members.
    """

    by_question: dict[str, dict[str, int]]

    @property
    def count(self) -> int:
        """The number of judged pairs of question and passage."""
        return sum(map(len, self.by_question.values()))


def read_qrels(urls: Sequence[str]) -> Judgements:
    """Reads files of judgements, each in TREC's form or BEIR's, which its first line shows.

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


def _judgements(url: str) -> Iterator[tuple[int, str, str, int]]:
    """Yields line number, question id, passage id and relevance of each line."""
    beir: bool | None = None
    with store.open_read(url) as raw:
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
            try:
                relevance = int(cells[-1])
            except ValueError as error:
                raise InputError(
                    "a relevance of --qrels is no integer", value=_shown(url, number, line), expected=FORMS
                ) from error
            if relevance > MAX_RELEVANCE:
                raise InputError(
                    "a relevance of --qrels is too large",
                    value=_shown(url, number, line),
                    expected=f"at most {MAX_RELEVANCE}",
                )
            yield number, cells[0], cells[-2], max(relevance, 0)


def _shown(url: str, number: int, line: str) -> str:
    return f"{url}, line {number}: {line.strip()[:SHOWN_CHARS]}"
