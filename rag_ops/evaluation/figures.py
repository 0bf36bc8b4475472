"""Figures of answers: EM, F1 and recall@k, per directory, per question file and over all, in one pass over the rows.

Memory is one row group, the gold file if there is one, and the rows that the report shows.
"""

from __future__ import annotations

import dataclasses
import itertools
import math
import re
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from typing import Any

import numpy as np

from rag_ops.errors import InputError, RagbeamError
from rag_ops.evaluation.metrics import Gold, GoldPatterns, GoldTexts, first_place
from rag_ops.questions.reading import EMPTY, QuestionOptions, read_questions
from rag_ops.redaction import public_url
from rag_ops.storage import store
from rag_ops.storage.manifests import read_manifest
from rag_ops.storage.parquet import open_parquet
from schemas.manifest import Manifest, digest_of

RECALL_AT = (1, 5, 20, 100)  # Karpukhin et al. 2020, tables 2 and 3
CALIBRATION_BINS = 10
MAX_WORDS = 20  # longer answers are counted together
SLICE_ROWS = 64  # rows that are Python objects at a time
COLUMNS = (
    *("question_id", "question", "answer", "score", "passages", "gold_answers", "tokens", "choices", "truncated"),
    "error",
)


@dataclasses.dataclass(frozen=True)
class AnswerSet:
    """One output directory of ragbeam answer."""

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


def known(answers: Iterable[str] | None) -> list[str]:
    """Gold answers without empty ones."""
    return [answer for answer in answers or () if answer.strip()]


@dataclasses.dataclass
class Scored:
    """One row with its figures.

    Attributes:
        row: row of the answers, its gold answers replaced by those that count.
        source: number of the answers directory.
        gold: gold answers, to score further answers with; None for a row without any, which is not scored.
        em, f1: 0 to 1; f1 is None for regular expressions, which have no words.
        place: place of the first passage that holds an answer, from 1; None if none does.
    """

    row: dict[str, Any]
    source: int
    gold: Gold | None
    em: float = 0.0
    f1: float | None = None
    place: int | None = None

    @property
    def outcome(self) -> str:
        """One of "right", "wrong", "error" and "no gold"."""
        if self.gold is None:
            return "no gold"
        if self.row["error"]:
            return "error"
        return "right" if self.em else "wrong"


def score(row: dict[str, Any], source: int, *, gold_file: GoldFile | None = None, patterns: bool = False) -> Scored:
    """Scores one row of answers; one with an error is wrong.

    Args:
        row: row of `schemas.answers`.
        source: number of its directory.
        gold_file: gold answers that replace those of the row if it has any for it.
        patterns: whether gold answers are regular expressions.

    Raises:
        InputError: a gold answer is no regular expression, or takes too long.
    """
    given = gold_file.find(row["question_id"], row["question"]) if gold_file else None
    answers = known(given if given is not None else row["gold_answers"])
    row["gold_answers"] = answers
    if not answers:
        return Scored(row, source, None)
    gold: Gold = GoldPatterns(answers, row["question_id"]) if patterns else GoldTexts(answers)
    answer = None if row["error"] else row["answer"]
    texts = [passage["text"] for passage in row["passages"] or ()]
    return Scored(row, source, gold, gold.exact(answer), gold.f1(answer), first_place(texts, gold))


ByNumber = Mapping[int, tuple[float, float | None]]  # number of passages to EM and F1 of the answer generated from them


class Tally:
    """Sums over the rows of one scope: a directory, a question file, or all.

    Args:
        name: name of the scope.
        kept: number of passages kept of a question: recall is known up to there.
        sweep: numbers of passages that answers were generated from again.
    """

    def __init__(self, name: str, kept: int, sweep: Sequence[int] = ()):
        self.name, self.kept = name, kept
        self.rows = self.scored = self.errors = self.truncated = self.answered = 0
        self._em = self._f1 = 0.0
        self._no_f1 = False
        self._places = np.zeros(kept + 1, np.int64)  # by place of the first hit; place 0 is not used
        self._words = np.zeros(MAX_WORDS + 1, np.int64)
        self._gold_words = np.zeros(MAX_WORDS + 1, np.int64)
        self._all_words = 0
        self._bins = np.zeros((CALIBRATION_BINS, 3))  # rows, sum of probabilities, sum of exact matches
        self._sweep = {n: [0.0, 0.0] for n in sweep}

    def add(self, scored: Scored, again: ByNumber) -> None:
        """Adds one row.

        Args:
            scored: the row.
            again: figures of the answers that were generated again.
        """
        row = scored.row
        self.rows += 1
        self.errors += row["error"] is not None
        self.truncated += bool(row["truncated"])
        if row["error"] is None:
            words = len(row["answer"].split())
            self.answered += 1
            self._all_words += words
            self._words[min(words, MAX_WORDS)] += 1
        if scored.gold is None:
            return
        self.scored += 1
        self._em += scored.em
        self._f1 += scored.f1 or 0.0
        self._no_f1 |= scored.f1 is None
        if isinstance(scored.gold, GoldTexts):
            self._gold_words[min(len(row["gold_answers"][0].split()), MAX_WORDS)] += 1
        if scored.place is not None and scored.place <= self.kept:
            self._places[scored.place] += 1
        if row["error"] is None and row["score"] is not None:
            probability = min(math.exp(row["score"]), 1.0)
            place = min(int(probability * CALIBRATION_BINS), CALIBRATION_BINS - 1)
            self._bins[place] += 1, probability, scored.em
        for n, (em, f1) in again.items():
            self._sweep[n][0] += em
            self._sweep[n][1] += f1 or 0.0

    def figures(self) -> dict[str, Any]:
        """All figures as JSON values; shares are 0 to 1, and None if nothing was scored."""

        def share(total: float) -> float | None:
            return total / self.scored if self.scored else None

        held = np.cumsum(self._places)[1:].tolist()
        at = sorted({*RECALL_AT, self.kept})
        return {
            "name": self.name,
            "rows": self.rows,
            "scored": self.scored,
            "without_gold": self.rows - self.scored,
            "errors": self.errors,
            "truncated": self.truncated,
            "em": share(self._em),
            "f1": None if self._no_f1 else share(self._f1),
            "passages": self.kept,
            "recall": {str(k): share(held[k - 1]) if k <= self.kept else None for k in at},
            "recall_curve": [share(count) for count in held],
            "sweep": [
                {"n_docs": n, "em": share(em), "f1": None if self._no_f1 else share(f1)}
                for n, (em, f1) in sorted(self._sweep.items())
            ],
            "answer_words": {
                "mean": self._all_words / self.answered if self.answered else None,
                "answers": self._words.tolist(),
                "first_gold_answers": self._gold_words.tolist(),
            },
            "calibration": self._calibration(),
        }

    def _calibration(self) -> dict[str, Any]:
        """Bins of the answer's probability, and the expected calibration error: the mean gap, weighed by rows."""
        bins = [
            {
                "from": number / CALIBRATION_BINS,
                "to": (number + 1) / CALIBRATION_BINS,
                "rows": int(count),
                "mean_probability": probability / count if count else None,
                "em": em / count if count else None,
            }
            for number, (count, probability, em) in enumerate(self._bins.tolist())
        ]
        rows = self._bins[:, 0].sum()
        gap = np.abs(self._bins[:, 1] - self._bins[:, 2]).sum()
        return {"bins": bins, "expected_error": float(gap / rows) if rows else None}


def evaluate(
    sets: Sequence[AnswerSet],
    *,
    gold_file: GoldFile | None = None,
    patterns: bool = False,
    sweep: Sequence[int] = (),
    again: Sequence[Callable[[Sequence[Scored]], Sequence[ByNumber]]] = (),
    on_row: Callable[[Scored], None] = lambda scored: None,
) -> dict[str, Any]:
    """The figures of all rows of answers directories, read once.

    Args:
        sets: the directories.
        gold_file: gold answers that replace those of the answers.
        patterns: whether gold answers are regular expressions.
        sweep: numbers of passages to generate from again.
        again: generators of the directories' answers; see `rag_ops.evaluation.sweep`.
        on_row: called with each row.

    Returns:
        "all": figures; "files": those of each directory, with "question_files" if there are several.

    Raises:
        InputError: no row has a gold answer, or the gold file has none of the questions.
    """
    total = Tally("all", min(one.kept for one in sets), sweep)
    files = []
    for number, one in enumerate(sets):
        here = Tally(public_url(one.url), one.kept, sweep)
        counted = one.question_files()
        parts = [Tally(name, one.kept, sweep) for name, _ in counted]
        of_row = iter(part for part, (_, count) in zip(parts, counted, strict=True) for _ in range(count))
        for group in one.groups():
            rows: Iterable[Scored] = (score(row, number, gold_file=gold_file, patterns=patterns) for row in group)
            extras: Iterable[ByNumber] = itertools.repeat({})
            if sweep:
                rows = list(rows)  # a row group at once, so that questions are generated in large batches
                extras = again[number](rows)
            for scored, extra in zip(rows, extras, strict=False):
                for tally in (total, here, *itertools.islice(of_row, 1)):
                    tally.add(scored, extra)
                on_row(scored)
        by_file = [part.figures() for part in parts]
        files.append({**here.figures(), "n_docs": one.n_docs, "question_files": by_file})
    if gold_file is not None and gold_file.joined["not_in_the_file"] == total.rows:
        raise InputError(
            "--gold has none of the answered questions",
            value=f"{total.rows} rows",
            expected="their ids or texts",
            remedy="name its columns with --question_id_column and --question_column",
        )
    if not total.scored:
        raise InputError(
            "no row has a gold answer", value=sets[0].url, expected="gold_answers", remedy="give --gold FILE"
        )
    return {"all": total.figures(), "files": files, "gold": dict(gold_file.joined) if gold_file else None}


def recall_at(figures: Mapping[str, Any]) -> list[str]:
    """The numbers of passages that any directory has a recall for, ascending, as keys of `recall`."""
    every = [figures["all"], *figures["files"]]
    return sorted({k for one in every for k, value in one["recall"].items() if value is not None}, key=int)
