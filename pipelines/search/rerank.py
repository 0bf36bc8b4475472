"""Reranking of a block's passages under Beam's RunInference."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from typing import Any

import numpy as np

from pipelines.runners.counters import StepCounters
from pipelines.transforms.inference import ModelSettings, Unit, UnitHandler
from rag_ops.questions.failures import MODEL_FAILED
from rag_ops.retrieval.reranking import reordered
from rag_ops.retrieval.topk import TopK
from schemas.passages import Passage


@dataclasses.dataclass(frozen=True)
class RankUnit(Unit):
    """A block of questions with their passages, before or after they are reranked.

    Attributes:
        block: number of the block.
        questions: its questions.
        hits: the passages of each, best first.
        sources: scores by name, float32 in the places of `hits`; NaN for none.
        passages: row to passage.
        truncated: whether each question, or a passage with it, was cut, bool (questions,).
        errors: why some questions have no passages, by number.
    """

    block: int
    questions: list[str]
    hits: TopK
    sources: Mapping[str, np.ndarray]
    passages: Mapping[int, Passage]
    truncated: np.ndarray
    errors: Mapping[int, str]

    @property
    def nbytes(self) -> int:
        """Characters of the questions and bytes of the hits."""
        return sum(map(len, self.questions)) + self.hits.rows.nbytes + self.hits.scores.nbytes


class RerankHandler(UnitHandler[RankUnit, RankUnit, Any]):
    """Reranks the first passages of each question with a cross-encoder.

    Args:
        step: label for the counters.
        settings: settings of the model.
        top: number of passages that are scored.
        kept: number of passages that a question keeps.
    """

    def __init__(self, step: str, settings: ModelSettings, top: int, kept: int):
        super().__init__(step)
        self._settings, self._top, self._kept = settings, top, kept

    def load(self) -> Any:
        """Loads the cross-encoder."""
        from rag_ops.models import checkpoints
        from rag_ops.models.cross_encoder import CrossEncoder

        settings, workers = self._settings, self._settings.workers
        return CrossEncoder.load(
            checkpoints.find_model(settings.name),
            device=workers.worker_device,
            threads=workers.cpu_threads,
            dtype=settings.dtype,
        )

    def work(self, unit: RankUnit, model: Any, counters: StepCounters) -> RankUnit:
        """Reranks one block; a question of which a pair cannot be scored gets an error."""
        from rag_ops.models.cross_encoder import passage_text

        real = unit.hits.rows[:, : self._top] >= 0
        real[sorted(unit.errors)] = False
        asked, places = np.nonzero(real)
        found = [unit.passages[row] for row in unit.hits.rows[asked, places].tolist()]
        scored, cut, failed = model.score(
            [unit.questions[number] for number in asked],
            [passage_text(one.heading, one.text) for one in found],
            batch_tokens=self._settings.workers.batch_tokens,
            on_rows=counters.tick,
        )
        scores = np.full(real.shape, np.nan, np.float32)
        scores[asked, places] = scored
        truncated = unit.truncated.copy()
        truncated[asked[cut]] = True
        errors = {int(asked[pair]): f"{MODEL_FAILED} ({reason})" for pair, reason in failed.items()}
        hits, sources = reordered(unit.hits, unit.sources, scores, self._kept)
        counters.add(rows_in=len(asked), rows_out=len(asked), truncated=int(cut.sum()), errors=len(errors))
        return dataclasses.replace(
            unit, hits=hits, sources=sources, truncated=truncated, errors={**errors, **unit.errors}
        )
