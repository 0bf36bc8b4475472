"""Our models under Beam's RunInference: loading once per worker, sharing and metrics are Beam's, batches are ours.

An element is a whole unit of work (a passage shard, a block of questions), so Beam's own batching is held at one: what
is computed together must depend on the unit alone. Resource hints belong on the composite around the model's step
(`pipelines/runners/resources.py`), not on the handler.
"""

from __future__ import annotations

import dataclasses
import logging
import time
from collections.abc import Mapping, Sequence
from typing import Any, Generic, TypeVar

import numpy as np
import pyarrow as pa
from apache_beam.ml.inference.base import ModelHandler

from pipelines.runners.counters import StepCounters
from pipelines.transforms.model_workers import WorkerOptions
from rag_ops.generation.settings import GenerationSettings
from rag_ops.models.sentence_encoders import UNCHANGED, EncoderChanges
from rag_ops.questions.failures import NOT_ENCODED

logger = logging.getLogger("ragbeam")
E = TypeVar("E", bound="Unit")
P = TypeVar("P")
M = TypeVar("M")


class Unit:
    """A unit of work: a passage shard, a block of questions."""

    @property
    def nbytes(self) -> int:
        """Its bytes, about."""
        raise NotImplementedError


class UnitHandler(ModelHandler[E, P, M], Generic[E, P, M]):
    """A ModelHandler that works on one unit at a time; subclasses say how to load and what to do with a unit."""

    def __init__(self, step: str):
        super().__init__(min_batch_size=1, max_batch_size=1)
        self._step = step

    def load(self) -> M:
        """Loads the model in this process."""
        raise NotImplementedError

    def work(self, unit: E, model: M, counters: StepCounters) -> P:
        """The result of one unit."""
        raise NotImplementedError

    def load_model(self) -> M:
        """Loads the model once per worker process, and logs how long it took."""
        started = time.perf_counter()
        model = self.load()
        seconds = time.perf_counter() - started
        logger.info("%s: model loaded in %.1f s", self._step, seconds)
        StepCounters(self._step).add_later(model_loads=1, load_millis=round(1000 * seconds))
        return model

    def run_inference(self, batch: Sequence[E], model: M, inference_args: dict[str, Any] | None = None) -> list[P]:
        """The results of a batch; a list, because errors in a generator would escape Beam's error handling."""
        counters = StepCounters(self._step)
        with counters.timed():
            return [self.work(unit, model, counters) for unit in batch]

    def get_num_bytes(self, batch: Sequence[E]) -> int:
        """The bytes of a batch, for Beam's metrics, which would pickle it to count them."""
        return sum(unit.nbytes for unit in batch)

    def get_metrics_namespace(self) -> str:
        """The namespace of Beam's own inference metrics."""
        return f"beam.{self._step}"

    def batch_elements_kwargs(self) -> Mapping[str, Any]:
        """Arguments that make each batch one unit."""
        return {"min_batch_size": 1, "max_batch_size": 1}


@dataclasses.dataclass(frozen=True)
class ModelSettings:
    """The model to load, and how a worker runs it.

    Attributes:
        name: directory, fsspec URL or hub id.
        workers: device and threads to run it on.
        max_tokens: longest input; None for the model's own limit.
        dtype: dtype of the arithmetic; "auto" is bfloat16 on a GPU, float32 on a CPU and for questions' vectors.
        quantised: URL of an encoder's int8 model, which "int8" needs.
        changes: prefix and dimensions that are asked of an encoder.
    """

    name: str
    workers: WorkerOptions
    max_tokens: int | None = None
    dtype: str = "auto"
    quantised: str | None = None
    changes: EncoderChanges = UNCHANGED


@dataclasses.dataclass(frozen=True)
class TextUnit(Unit):
    """A unit of texts to encode: `key` identifies the unit; `columns` has one column (texts) or two (title, text)."""

    key: Any
    table: pa.Table

    @property
    def nbytes(self) -> int:
        """Bytes of the texts."""
        return self.table.nbytes


@dataclasses.dataclass(frozen=True)
class VectorUnit:
    """The vectors of a unit, (rows, dimension), with the table that they came from.

    `errors` maps each row that could not be encoded to the reason; its vector is 0. Only questions may have them.
    """

    key: Any
    table: pa.Table
    vectors: np.ndarray
    truncated: np.ndarray
    errors: Mapping[int, str] = dataclasses.field(default_factory=dict)


class EncoderHandler(UnitHandler[TextUnit, VectorUnit, Any]):
    """Encodes the columns of a unit with the context or the question encoder.

    Args:
        step: label for the counters.
        settings: settings of the model.
        role: "context" or "question".
        columns: the columns to encode: a text, or a title and a text.
        dtype: dtype of the vectors, a NumPy name.
    """

    def __init__(self, step: str, settings: ModelSettings, role: str, columns: Sequence[str], dtype: str):
        super().__init__(step)
        self._settings, self._role, self._columns, self._dtype = settings, role, list(columns), dtype

    def load(self) -> Any:
        """Loads the encoder."""
        from rag_ops.models import checkpoints, encoder

        settings, linears = self._settings, {}
        if settings.quantised is not None:
            from rag_ops.models import quantisation

            linears = quantisation.read(settings.quantised)
        return encoder.Encoder.load(
            checkpoints.find_model(settings.name),
            role=self._role,
            device=settings.workers.worker_device,
            threads=settings.workers.cpu_threads,
            max_tokens=settings.max_tokens,
            dtype=settings.dtype,
            linears=linears,
            changes=settings.changes,
        )

    def work(self, unit: TextUnit, model: Any, counters: StepCounters) -> VectorUnit:
        """Encodes one unit; a question that cannot be encoded is reported in `errors`.

        Raises:
            JobError: a passage cannot be encoded; `row` is its number in the unit.
        """
        texts = [unit.table[column].to_pylist() for column in self._columns]
        errors: dict[int, str] = {}
        vectors, truncated = model.encode(
            *texts,
            batch_tokens=self._settings.workers.batch_tokens,
            dtype=np.dtype(self._dtype),
            on_rows=counters.tick,
            on_failure=errors.__setitem__ if self._role == "question" else None,
        )
        counters.add(rows_in=len(vectors), rows_out=len(vectors), bytes=vectors.nbytes, truncated=int(truncated.sum()))
        counters.add(errors=len(errors))
        return VectorUnit(unit.key, unit.table, vectors, truncated, errors)


@dataclasses.dataclass(frozen=True)
class AnswerUnit(Unit):
    """A block of questions with what was found for them: `passages[i]`, best first, and `scores`, (questions, k).

    `errors` maps each question that could not be encoded to the reason; it has no passages. `choices` are the only
    answers of each question, None for one that may have any.
    """

    block: int
    questions: list[str]
    passages: list[list[Any]]
    scores: np.ndarray
    truncated: np.ndarray
    errors: Mapping[int, str] = dataclasses.field(default_factory=dict)
    choices: Sequence[Sequence[str] | None] | None = None

    @property
    def nbytes(self) -> int:
        """Characters of the texts and bytes of the arrays."""
        texts = (one.title + one.text for found in self.passages for one in found)
        return sum(map(len, self.questions)) + sum(map(len, texts)) + self.scores.nbytes + self.truncated.nbytes


class GeneratorHandler(UnitHandler[AnswerUnit, tuple[AnswerUnit, list[Any]], Any]):
    """Answers the questions of a block with the generator of a RAG model.

    Args:
        step: label for the counters.
        settings: settings of the model.
        generation: how answers are decoded.
        n_docs: number of passages, from the first, that a question is answered from.
        uniform: whether all passages count alike, whatever their scores.
    """

    def __init__(
        self, step: str, settings: ModelSettings, generation: GenerationSettings, n_docs: int, *, uniform: bool = False
    ):
        super().__init__(step)
        self._settings, self._generation, self._n_docs, self._uniform = settings, generation, n_docs, uniform

    def load(self) -> Any:
        """Loads generator and tokenizers."""
        from rag_ops.generation.rag_token import RagTokenGenerator
        from rag_ops.models import checkpoints

        settings = self._settings
        return RagTokenGenerator.load(
            checkpoints.find_model(settings.name),
            self._generation,
            device=settings.workers.worker_device,
            threads=settings.workers.cpu_threads,
            dtype=settings.dtype,
        )

    def work(self, unit: AnswerUnit, model: Any, counters: StepCounters) -> tuple[AnswerUnit, list[Any]]:
        """Answers one block."""
        found = model.answer(
            unit.questions,
            [passages[: self._n_docs] for passages in unit.passages],
            np.zeros_like(unit.scores) if self._uniform else unit.scores,
            choices=unit.choices,
            batch_tokens=self._settings.workers.batch_tokens,
            on_rows=counters.tick,
        )
        for number, reason in unit.errors.items():
            found[number] = dataclasses.replace(found[number], error=f"{NOT_ENCODED} ({reason})")
        counters.add(rows_in=len(found), rows_out=len(found), errors=sum(answer.error is not None for answer in found))
        given = (min(len(passages), self._n_docs) for passages in unit.passages)
        counters.add(passages=sum(given), passages_read=sum(answer.read for answer in found))
        if any(computed := model.passages_computed):
            counters.add(passages_computed=computed[0], passages_computed_again=computed[1])
        return unit, found
