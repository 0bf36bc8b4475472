"""Figures of answers: EM, F1 and recall@k, per directory, per question file and over all, in one pass over the rows.

Memory is one row group, the gold file if there is one, and the rows that the report shows.
"""

from __future__ import annotations

import dataclasses
import itertools
import re
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from typing import Any, ClassVar, Protocol

from rag_ops.errors import InputError, RagbeamError
from rag_ops.evaluation.judging import Judge
from rag_ops.evaluation.scored import ByNumber, Scored, known, score
from rag_ops.evaluation.tally import NO_BOOTSTRAP, Bootstrap, Tally
from rag_ops.questions.reading import EMPTY, QuestionOptions, read_questions
from rag_ops.redaction import public_url
from rag_ops.storage import store
from rag_ops.storage.manifests import read_manifest
from rag_ops.storage.parquet import open_parquet
from schemas.manifest import Manifest, digest_of

SLICE_ROWS = 64  # rows that are Python objects at a time
COLUMNS = (
    *("question_id", "question", "answer", "score", "passages", "gold_answers", "tokens", "choices", "truncated"),
    *("abstained", "error"),
)


class RowSet(Protocol):
    """Rows of questions with what was found for them: answers and passages, or passages alone."""

    answered: ClassVar[bool]  # whether rows have answers
    texts: ClassVar[bool]  # whether their passages have texts

    @property
    def url(self) -> str:
        """The directory, or the file."""

    @property
    def rows(self) -> int:
        """The number of rows, or 0 if it is not known before they are read."""

    @property
    def n_docs(self) -> int:
        """The number of passages that a question was answered from."""

    @property
    def kept(self) -> int:
        """The number of passages that are kept of a question."""

    def groups(self) -> Iterator[Iterator[dict[str, Any]]]:
        """The rows, in order, as rows of `schemas.answers`, a group of them at a time."""

    def question_files(self) -> list[tuple[str, int]]:
        """Name and number of rows of each question file, in order; empty if there is only one or they are not known."""


@dataclasses.dataclass(frozen=True)
class AnswerSet:
    """One output directory of ragbeam answer."""

    answered: ClassVar[bool] = True
    texts: ClassVar[bool] = True

    url: str
    manifest: Manifest

    @classmethod
    def open(cls, url: str) -> AnswerSet:
        """Opens the directory.

        Raises:
            InputError: it is no whole output of ragbeam answer.
        """
        return cls(url, read_manifest(url, "answer"))

    @property
    def rows(self) -> int:
        """The number of rows."""
        return self.manifest.rows

    @property
    def n_docs(self) -> int:
        """The number of passages that a question was answered from."""
        return int(self.manifest.config["n_docs"])

    @property
    def kept(self) -> int:
        """The number of passages that are kept of a question."""
        return int(self.manifest.config.get("retrieve") or self.n_docs)

    def groups(self) -> Iterator[Iterator[dict[str, Any]]]:
        """The rows, in order, a row group at a time: the rows of one block of questions, or a part of them."""
        for shard in self.manifest.shards:
            with open_parquet(store.join(self.url, shard.path)) as parquet:
                for number in range(parquet.num_row_groups):
                    table = parquet.read_row_group(number, columns=list(COLUMNS))
                    starts = range(0, table.num_rows, SLICE_ROWS)
                    yield (row for start in starts for row in table.slice(start, SLICE_ROWS).to_pylist())

    def question_files(self) -> list[tuple[str, int]]:
        """Name and number of rows of each question file, in order; empty if there is only one, or any has changed.

        The rows of an answers directory do not name their file, so the files are counted again.
        """
        names = [name for name in self.manifest.inputs if re.fullmatch(r"questions_\d+", name)]
        if len(names) < 2:
            return []
        names.sort(key=lambda name: int(name[10:]))
        urls = [store.resolve_url(self.manifest.inputs[name], self.url) for name in names]
        try:
            reading = QuestionOptions(**self.manifest.config["reading"])
            digests = {name: store.sha256_of(url) for name, url in zip(names, urls, strict=True)}
            described = {"stage": "answer", "config": self.manifest.config, "inputs": digests}
            if digest_of(described) != self.manifest.fingerprint:
                return []
            return [(store.name_of(url), sum(1 for _ in read_questions([url], reading))) for url in urls]
        except (RagbeamError, OSError, TypeError):
            return []


class GoldFile:
    """Gold answers of question files: found by the question's id, else by its text.

    If an id is there with the text of another question, and this text stands elsewhere in the files, the text decides:
    many files have ids such as "1".

    Args:
        urls: question files.
        reading: how they are read.

    Attributes:
        joined: how many rows were found, by how.
        unreadable, first_unreadable: how many rows of the files cannot be read in full, and why the first of them; one
            without a question is found by its id.

    Raises:
        InputError: a file is missing or malformed, or none of them gives an answer.
    """

    def __init__(self, urls: Sequence[str], reading: QuestionOptions):
        self._by_id: dict[str, tuple[str, list[str]]] = {}
        self._by_text: dict[str, list[str]] = {}
        self.joined = {"by_id": 0, "by_id_with_another_text": 0, "by_text": 0, "not_in_the_file": 0}
        self.unreadable = 0
        self.first_unreadable: str | None = None
        for question in read_questions(urls, reading):
            if (problem := question.note or question.error) and problem != EMPTY:
                self.unreadable += 1
                self.first_unreadable = self.first_unreadable or problem
            answers = known(question.answers)
            if not answers:
                continue
            text, kept = self._by_id.setdefault(question.question_id, (question.question, []))
            if text == question.question:
                kept += [answer for answer in answers if answer not in kept]
            if question.question:
                same = self._by_text.setdefault(question.question, [])
                same += [answer for answer in answers if answer not in same]
        if not self._by_id:
            raise InputError(
                "--gold gives no gold answers",
                value=" ".join(urls),
                expected=f"a column {reading.answer_column or 'answer or answers'}",
                remedy=self.first_unreadable or "name it with --answer_column",
            )

    def find(self, question_id: str, question: str) -> list[str] | None:
        """The gold answers of a row, or None; counted in `joined`."""
        text, answers = self._by_id.get(question_id, (None, None))
        how = "by_id" if text == question else "by_id_with_another_text"
        if text != question and question in self._by_text:
            how, answers = "by_text", self._by_text[question]
        if answers is None:
            how = "not_in_the_file"
        self.joined[how] += 1
        return answers


def evaluate(
    sets: Sequence[RowSet],
    *,
    gold_file: GoldFile | None = None,
    patterns: bool = False,
    sweep: Sequence[int] = (),
    again: Sequence[Callable[[Sequence[Scored]], Sequence[ByNumber]]] = (),
    on_row: Callable[[Scored], None] = lambda scored: None,
    judge: Judge | None = None,
    bootstrap: Bootstrap = NO_BOOTSTRAP,
) -> dict[str, Any]:
    """The figures of all rows of answers directories, read once.

    Args:
        sets: the directories.
        gold_file: gold answers that replace those of the answers.
        patterns: whether gold answers are regular expressions.
        sweep: numbers of passages to generate from again.
        again: generators of the directories' answers; see `rag_ops.evaluation.sweep`.
        on_row: called with each row.
        judge: judgements of passages, for the figures of rankings.
        bootstrap: how intervals are found.

    Returns:
        "all": figures; "files": those of each directory, with "question_files" if there are several; "gold": how gold
        answers were found, if there is a gold file; "qrels": what was judged, if there are judgements.

    Raises:
        InputError: no row has a gold answer and none is judged, or the gold file or the judgements have none of the
            questions.
    """
    columns = judge.measures.columns if judge else ()
    total = Tally("all", min(one.kept for one in sets), sweep, columns, all(one.answered for one in sets))
    files = []
    for number, one in enumerate(sets):
        here = Tally(public_url(one.url), one.kept, sweep, columns, one.answered)
        counted = one.question_files()
        parts = [Tally(name, one.kept, sweep, columns, one.answered) for name, _ in counted]
        of_row = iter(part for part, (_, count) in zip(parts, counted, strict=True) for _ in range(count))
        find_gold = gold_file.find if gold_file and one.texts else None
        for group in one.groups():
            rows: Iterable[Scored] = (
                score(row, number, find_gold=find_gold, patterns=patterns, answered=one.answered) for row in group
            )
            if judge:
                rows = judge.judged(rows)
            extras: Iterable[ByNumber] = itertools.repeat({})
            if sweep:
                rows = list(rows)  # a row group at once, so that questions are generated in large batches
                extras = again[number](rows)
            for scored, extra in zip(rows, extras, strict=False):
                for tally in (total, here, *itertools.islice(of_row, 1)):
                    tally.add(scored, extra)
                on_row(scored)
        if judge and (missing := judge.next_set()):
            for tally in (total, here):
                tally.add_missing(missing)
        by_file = [part.figures(bootstrap) for part in parts]
        files.append({**here.figures(bootstrap), "n_docs": one.n_docs, "question_files": by_file})
    if gold_file is not None and total.rows and gold_file.joined["not_in_the_file"] == total.rows:
        raise InputError(
            "--gold has none of the answered questions",
            value=f"{total.rows} rows",
            expected="their ids or texts",
            remedy="name its columns with --question_id_column and --question_column",
        )
    if judge:
        judge.check(total.rows)
    elif not total.scored:
        raise InputError(
            "no row has a gold answer",
            value=sets[0].url,
            expected="gold_answers",
            remedy="give --gold FILE, or --qrels FILE for the passages",
        )
    return {
        "all": total.figures(bootstrap),
        "files": files,
        "gold": dict(gold_file.joined) if gold_file else None,
        "qrels": judge.counts() if judge else None,
    }


def recall_at(figures: Mapping[str, Any]) -> list[str]:
    """The numbers of passages that any directory has a recall for, ascending, as keys of `recall`."""
    every = [figures["all"], *figures["files"]]
    return sorted({k for one in every for k, value in one["recall"].items() if value is not None}, key=int)
