"""answer --max_error: no answer is given whose score is below what a calibration has learned."""

from __future__ import annotations

import dataclasses
import logging
from collections.abc import Collection, Mapping
from typing import Any

import numpy as np

from pipelines.answer.options import AnswerOptions
from rag_ops.evaluation.promise import Calibration

logger = logging.getLogger("ragbeam")


@dataclasses.dataclass(frozen=True)
class Floor:
    """The least score of an answer that is given.

    Attributes:
        max_error: admitted share of errors among answers that are given.
        confidence: probability of that.
        threshold: the least score; None if no answer is given.
    """

    max_error: float
    confidence: float
    threshold: float | None

    @property
    def config(self) -> dict[str, Any]:
        """What it adds to the configuration."""
        return dataclasses.asdict(self)

    def reason(self, score: float | None) -> str | None:
        """Why an answer with a score is not given; None if it is, or has no score."""
        if score is None or (self.threshold is not None and np.float32(score) >= np.float32(self.threshold)):
            return None
        promise = f"at most {100 * self.max_error:g}% of the answers are wrong (confidence {100 * self.confidence:g}%)"
        if self.threshold is None:
            return f"no score was found from which on {promise}"
        return f"the score is below {self.threshold:.6g}, from which on {promise}"


def floor_of(options: AnswerOptions, config: Mapping[str, Any], unknown: Collection[str] = ()) -> Floor | None:
    """The least score that the options ask for, if any.

    Args:
        options: options of the job.
        config: its configuration.
        unknown: names in the configuration that are not settled yet.

    Raises:
        InputError: the calibration cannot be read, was learned with other settings, or not for the share of errors.
    """
    if options.max_error is None or options.calibration is None:
        return None
    learned = Calibration.read(options.calibration)
    found = learned.threshold(options.max_error)
    learned.check(config, unknown)
    if "index_digest" not in unknown and learned.index_digest != config["index_digest"]:
        logger.warning("the calibration was learned from answers out of other passages; what it promises is for those")
    return Floor(options.max_error, learned.confidence, found.score)
