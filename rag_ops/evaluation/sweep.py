"""EM and F1 by number of passages: answers generated again from the passages beside them, without retrieval.

Settings of decoding are those of the answers' own manifest, so that as many passages as they were made from give the
same answers.
"""

from __future__ import annotations

import dataclasses
import functools
import json
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np

from rag_ops.errors import InputError
from rag_ops.evaluation.figures import AnswerSet
from rag_ops.evaluation.scored import ByNumber, Scored
from rag_ops.generation.settings import GenerationSettings
from rag_ops.models import checkpoints
from rag_ops.questions.failures import Failures
from schemas.passages import Passage


class Sweep:
    """Generates the answers of one directory again.

    Args:
        answers: the directory.
        n_docs: numbers of passages.
        model: directory, URL or hub id of the RAG model that gave the answers.
        device: "auto", "cpu" or "cuda".
        threads: torch threads.
        batch_tokens: context tokens of a batch; None for what suits the device.
        on_rows: called with the number of answers generated since the last call.

    Raises:
        InputError: a number is more than the passages kept, some questions are not answered for their score's sake, or
            the model is another, has other special tokens, or is no RAG model.
    """

    def __init__(
        self,
        answers: AnswerSet,
        n_docs: Sequence[int],
        model: str,
        *,
        device: str = "auto",
        threads: int = 2,
        batch_tokens: int | None = None,
        on_rows: Callable[[int], None] = lambda rows: None,
    ):
        self._config, self._n_docs = answers.manifest.config, sorted(set(n_docs))
        self._failures = {n: Failures() for n in self._n_docs}
        self._batch_tokens, self._on_rows = batch_tokens, on_rows
        self._device, self._threads = device, threads
        if max(n_docs) > answers.kept:
            raise InputError(
                "--sweep wants more passages than the answers keep",
                value=max(n_docs),
                expected=f"at most {answers.kept}, which {answers.url} keeps",
                remedy=f"run ragbeam answer --retrieve {max(n_docs)}",
            )
        if "max_error" in self._config:
            raise InputError(
                "--sweep knows no least score of answers from other numbers of passages",
                value=f"{answers.url} was made with --max_error {self._config['max_error']}",
                expected="answers made without --max_error",
            )
        self._directory = checkpoints.find_model(model)
        checkpoints.check_rag(self._directory, model)
        if (digest := checkpoints.model_digest(self._directory)) != self._config["model_digest"]:
            raise InputError(
                "--model is not the one that gave the answers",
                value=f"{model}, digest {digest}",
                expected=f"digest {self._config['model_digest']}, as {answers.url} has it",
            )
        from rag_ops.generation.special_tokens import read_special_tokens

        # They may stand in generation_config.json, which is no part of the digest.
        decoding = self._config.get("decoding", "token")
        before, now = self._config["special_tokens"], read_special_tokens(self._directory, decoding)
        now = now if self._config["forced_tokens"] == "model" else now.unforced()
        if (found := json.loads(json.dumps(dataclasses.asdict(now)))) != before:
            raise InputError(
                "--model has other special tokens than when it gave the answers",
                value=f"{model}, {found}",
                expected=f"{before}, as {answers.url} has it",
            )

    def __call__(self, rows: Sequence[Scored]) -> list[ByNumber]:
        """EM and F1 of each row by number of passages; empty for rows without gold, zeros for rows with an error.

        Raises:
            JobError: the machine failed.
        """
        distinct = {_identity(one.row): one.row for one in rows if one.gold and not one.row["error"]}
        by_n = self._answers(distinct)
        found: list[ByNumber] = []
        for one in rows:
            scores = {}
            if one.gold:
                for n, answers in by_n.items():
                    answer = None if one.row["error"] else answers[_identity(one.row)]
                    scores[n] = one.gold.exact(answer), one.gold.f1(answer)
            found.append(scores)
        return found

    def check(self) -> None:
        """Checks, after all rows, that the model has not failed alike on over half of them.

        Raises:
            JobError: it has, for some number of passages.
        """
        for failures in self._failures.values():
            failures.check("mend the cause and run the same command again")

    def _answers(self, rows: Mapping[Any, Mapping[str, Any]]) -> dict[int, dict[Any, str | None]]:
        """For each number of passages the answers by `_identity`; a passage is encoded once for all numbers."""
        if not rows:
            return {n: {} for n in self._n_docs}
        most = self._n_docs[-1]
        passages = [row["passages"][:most] for row in rows.values()]
        scores = np.full((len(rows), most), -np.inf, np.float32)
        for number, found in enumerate(passages):
            # Passages that counted alike do so again; their scores are another search's.
            alike = self._config.get("prior") == "uniform"
            scores[number, : len(found)] = [0.0 if alike else passage["score"] for passage in found]
        contexts = [
            [Passage(one["id"], one["title"], one["text"], one.get("section") or "") for one in found]
            for found in passages
        ]
        by_n = self._generator.answer_by_docs(
            [row["question"] for row in rows.values()],
            contexts,
            scores,
            self._n_docs,
            choices=[_choices(row) for row in rows.values()],
            batch_tokens=self._batch_tokens,
            on_rows=self._on_rows,
        )
        for n, answers in by_n.items():
            self._failures[n].add(answer.error for answer in answers)
        return {
            n: {identity: answer.text for identity, answer in zip(rows, answers, strict=True)}
            for n, answers in by_n.items()
        }

    @functools.cached_property
    def _generator(self) -> Any:
        from rag_ops.generation.rag_token import RagTokenGenerator

        # Those of an older version lack some.
        names = [field.name for field in dataclasses.fields(GenerationSettings)]
        chosen = {name: self._config[name] for name in names if name in self._config}
        chosen |= {"decoding": self._config.get("decoding", "token"), "any_architecture": True}  # answer has checked it
        return RagTokenGenerator.load(
            self._directory,
            GenerationSettings(**chosen),
            device=self._device,
            threads=self._threads,
            dtype=self._config["compute_dtype"],
        )


def _choices(row: Mapping[str, Any]) -> list[str] | None:
    """The only answers that a row could have; None if it could have any."""
    return [one["choice"] for one in row["choices"]] if row["choices"] else None


def _identity(row: Mapping[str, Any]) -> tuple[str, ...]:
    """What makes the question of a row a distinct one."""
    return row["question"], *(_choices(row) or ())
