"""The file of a calibration: thresholds on scores, and what they were learned on, so that no other answers use them."""

from __future__ import annotations

import dataclasses
import json
import math
from collections.abc import Collection, Iterator, Mapping
from typing import Any

import numpy as np

from rag_ops.errors import InputError
from rag_ops.evaluation import thresholds as rule
from rag_ops.evaluation.figures import AnswerSet, Scored
from rag_ops.evaluation.thresholds import Threshold
from rag_ops.redaction import public_url
from rag_ops.storage import store

CONFIDENCE = 0.95
KIND, VERSION = "ragbeam calibration", 1
# What a configuration of answers says of its inputs and files: all else decides scores
OF_INPUTS = {
    *("questions", "reading", "index_digest", "retrieved", "retrieved_digest", "passages_digest"),
    *("block_questions", "num_shards", "retrieve", "max_error", "confidence", "threshold"),
}
REMEDY = "learn it again: ragbeam evaluate --calibrate FILE on answers made like these"


@dataclasses.dataclass(frozen=True)
class Calibration:
    """Thresholds, and what they were learned on.

    Attributes:
        answers: URL of the answers directory, without secrets.
        answers_digest: digest of its manifest.
        index_digest: what the answers' passages were found in.
        settings: settings that decide scores, those of generation and the model's digest among them, by their names.
        confidence: probability with which each threshold holds.
        seed: seed of the choice of the rows that set the thresholds to try.
        rows: questions that were learned from: answered, with a gold answer, each distinct one once.
        wrong: wrong answers among these.
        thresholds: one for each admitted share of errors.
    """

    answers: str
    answers_digest: str
    index_digest: str
    settings: dict[str, Any]
    confidence: float
    seed: int
    rows: int
    wrong: int
    thresholds: tuple[Threshold, ...]

    def to_json(self) -> str:
        """The content of the file."""
        return (
            json.dumps({"kind": KIND, "version": VERSION, **dataclasses.asdict(self)}, indent=2, sort_keys=True) + "\n"
        )

    def lines(self) -> Iterator[str]:
        """What was learned, as lines of text."""
        yield f"calibrated on {self.rows:,} answers, {self.wrong:,} of them wrong; confidence {self.confidence:g}"
        for one in self.thresholds:
            promise = f"at most {100 * one.max_error:g}% wrong"
            if one.score is None:
                yield f"{promise}: no score passes, nothing is answered"
                continue
            share = f"{one.answered:,} of {one.rows:,} answered, {one.wrong:,} wrong"
            yield f"{promise}: score {one.score:.4f} or more ({share}; upper bound {one.bound:.2%})"

    @classmethod
    def read(cls, url: str) -> Calibration:
        """Reads a file.

        Raises:
            InputError: it is not there, or no calibration.
        """
        try:
            found = json.loads(store.read_text(url))
            if not isinstance(found, dict):
                raise ValueError("no JSON object")
            if (found.pop("kind"), found.pop("version")) != (KIND, VERSION):
                raise ValueError("of another kind or version")
            thresholds = tuple(Threshold(**one) for one in found.pop("thresholds"))
            made = cls(**found, thresholds=thresholds)
            numbers = [made.confidence, *(one.max_error for one in thresholds)]
            numbers += [one.score for one in thresholds if one.score is not None]
            sound = all(isinstance(one, (int, float)) and not math.isnan(one) for one in numbers)
            if not sound or not isinstance(made.settings, dict):
                raise ValueError("its numbers are none")
        except (ValueError, TypeError, KeyError, AttributeError, OSError, RecursionError) as error:
            raise InputError(
                f"--calibration cannot be read ({type(error).__name__}: {error})".replace("\n", " "),
                value=url,
                expected="a file that ragbeam evaluate --calibrate wrote",
            ) from error
        return made

    def threshold(self, max_error: float) -> Threshold:
        """The threshold for an admitted share of errors.

        Raises:
            InputError: none was learned for it.
        """
        for one in self.thresholds:
            if one.max_error == max_error:
                return one
        learned = ", ".join(f"{one.max_error:g}" for one in self.thresholds)
        raise InputError("no threshold was learned for --max_error", value=max_error, expected=f"one of {learned}")

    def check(self, config: Mapping[str, Any], unknown: Collection[str] = ()) -> None:
        """Checks that answers of a configuration may use the thresholds.

        Args:
            config: configuration of the answers.
            unknown: names of settings that are not known yet.

        Raises:
            InputError: a setting is another one; it is named.
        """
        now = settings_of(config)
        for name in sorted({*self.settings, *now} - {*unknown}):
            if self.settings.get(name) != now.get(name):
                what = "model" if name == "model_digest" else name
                raise InputError(
                    f"the calibration was learned from answers with another {what}",
                    value=now.get(name),
                    expected=self.settings.get(name),
                    remedy=REMEDY,
                )


def check_replaceable(url: str) -> None:
    """Checks that a file to be written does not exist yet, or is a calibration.

    Raises:
        InputError: it is something else.
    """
    if store.is_directory(url):
        raise InputError("--calibrate is a directory", value=url, expected="a file's name")
    if store.exists(url):
        try:
            Calibration.read(url)
        except InputError as error:
            raise InputError(
                "--calibrate is a file that evaluate did not write",
                value=url,
                remedy="give another --calibrate, or move it away",
            ) from error


def settings_of(config: Mapping[str, Any]) -> dict[str, Any]:
    """The settings that decide scores, from the configuration of answers, as JSON has them."""
    return json.loads(json.dumps({name: value for name, value in config.items() if name not in OF_INPUTS}))


class Sample:
    """Collects what thresholds are learned from, row by row: each distinct question once, for two alike say no more.

    Args:
        answers: the directory.

    Raises:
        InputError: some of its questions are not answered for their score's sake.
    """

    def __init__(self, answers: AnswerSet):
        if "max_error" in answers.manifest.config:
            raise InputError(
                "--calibrate learns from answers to all questions",
                value=f"{answers.url} was made with --max_error {answers.manifest.config['max_error']}",
                expected="answers made without --max_error",
            )
        self._answers, self._seen = answers, set[tuple[str, ...]]()
        self._scores: list[float] = []
        self._wrong: list[bool] = []

    def add(self, scored: Scored) -> None:
        """Takes a row in if it is answered, with a score, and has a gold answer."""
        row = scored.row
        identity = (row["question"], *(one["choice"] for one in row["choices"] or ()))
        if scored.gold is None or row["error"] is not None or scored.probability is None or identity in self._seen:
            return
        self._seen.add(identity)
        self._scores.append(row["score"])
        self._wrong.append(not scored.em)

    def learn(self, confidence: float, seed: int = 0) -> Calibration:
        """Learns thresholds; see `thresholds.learn`."""
        scores, wrong = np.array(self._scores, np.float64), np.array(self._wrong, bool)
        manifest = self._answers.manifest
        return Calibration(
            public_url(self._answers.url),
            manifest.digest,
            str(manifest.info.get("index_digest", "")),
            settings_of(manifest.config),
            confidence,
            seed,
            len(scores),
            int(wrong.sum()),
            tuple(rule.learn(scores, wrong, confidence, seed=seed)),
        )
