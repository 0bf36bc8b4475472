"""Decides when so many questions have failed in the model that the job fails."""

from __future__ import annotations

import dataclasses
from collections import Counter
from collections.abc import Iterable

from rag_ops.errors import JobError

NO_HIT = "no passage was found for the question"
MODEL_FAILED = "the model failed"
NOT_ENCODED = "the question cannot be encoded"
FEWEST_QUESTIONS = 20  # a job with fewer says nothing about the model
REMEDY = (
    "mend the cause and run the same command again, which asks them again; "
    "--keep_going writes such rows with their error"
)


@dataclasses.dataclass
class Failures:
    """Counts of the distinct questions of a job that reached a model, and of their failures there.

    Attributes:
        reached: number of questions that the model was asked; others could not be read, or found no passage.
        failed: number of failures by the exception's name, under the step that raised it.
        example: first error of each kind.
    """

    reached: int = 0
    failed: Counter[str] = dataclasses.field(default_factory=Counter)
    example: dict[str, str] = dataclasses.field(default_factory=dict)

    def add(self, errors: Iterable[str | None]) -> None:
        """Counts the errors of some questions, None for a question that was answered."""
        for error in errors:
            if error != NO_HIT:
                self.reached += 1
            if is_of_model(error):
                assert error is not None
                kind = error.partition(":")[0].rstrip(")")  # "the model failed (RuntimeError"
                self.failed[kind] += 1
                self.example.setdefault(kind, error)

    def check(self, remedy: str = REMEDY) -> None:
        """Raises if more than half of the questions failed in one way.

        Args:
            remedy: what to do about it.

        Raises:
            JobError: it has, and there were at least `FEWEST_QUESTIONS`.
        """
        kind, count = next(iter(self.failed.most_common(1)), ("", 0))
        if self.reached >= FEWEST_QUESTIONS and 2 * count > self.reached:
            raise JobError(
                f"the model failed alike on {count} of {self.reached} questions",
                value=self.example[kind],
                expected="at most half",
                remedy=remedy,
            )


def is_of_model(error: str | None) -> bool:
    """Whether an error is a model's failure, rather than a question that cannot be read or has no passage."""
    return error is not None and error.startswith((MODEL_FAILED, NOT_ENCODED))
