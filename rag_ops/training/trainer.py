"""Hugging Face's Trainer for the marginal loss, which evaluates by answering too."""

from __future__ import annotations

import copy
from collections.abc import Callable, Sequence
from types import SimpleNamespace
from typing import Any

import numpy as np
from transformers import Trainer

from rag_ops.evaluation.metrics import exact_match, f1
from rag_ops.generation.rag_token import RagTokenGenerator
from rag_ops.generation.settings import GenerationSettings
from rag_ops.interop.model_card import RagTokenizer
from rag_ops.training.data import retrieved
from rag_ops.training.settings import FinetuneSettings


class MarginalTrainer(Trainer):
    """The Trainer with the mean marginal loss, and with answers' EM and F1 at each evaluation."""

    def prepare(
        self,
        tokenizer: RagTokenizer,
        settings: FinetuneSettings,
        device: str,
        threads: int,
        on_evaluation: Callable[[dict[str, float]], None],
    ) -> None:
        """Sets what evaluation needs besides the model."""
        self._rag_tokenizer, self._settings = tokenizer, settings
        self._rag_device, self._threads, self._on_evaluation = device, threads, on_evaluation
        self.model_accepts_loss_kwargs = False  # or the Trainer would leave out to divide by the accumulated batches

    def compute_loss(
        self, model: Any, inputs: Any, return_outputs: bool = False, num_items_in_batch: Any = None
    ) -> Any:
        """-log p(y|x), smoothed, the mean over the batch."""
        loss = model(**inputs, n_docs=self._settings.n_docs).loss.mean()
        return (loss, {"loss": loss}) if return_outputs else loss

    def evaluate(self, eval_dataset: Any = None, ignore_keys: Any = None, metric_key_prefix: str = "eval") -> Any:
        """Loss, and EM and F1 of greedy answers."""
        figures = super().evaluate(eval_dataset, ignore_keys, metric_key_prefix)
        questions: Any = eval_dataset if eval_dataset is not None else self.eval_dataset
        answers = self.answers([question["question"] for question in questions])
        gold = [question["answers"] for question in questions]
        found = {
            f"{metric_key_prefix}_em": float(np.mean([exact_match(a, g) for a, g in zip(answers, gold, strict=True)])),
            f"{metric_key_prefix}_f1": float(np.mean([f1(a, g) for a, g in zip(answers, gold, strict=True)])),
            f"{metric_key_prefix}_loss": figures[f"{metric_key_prefix}_loss"],
        }
        self.log(found)
        self._on_evaluation({"step": self.state.global_step, **figures_of(found)})
        return figures | found

    def answers(self, questions: Sequence[str]) -> list[str | None]:
        """Greedy answers of the model as it is now."""
        model: Any = self.model
        was_training = model.training
        model.eval()
        parts = self.for_answers(model)
        decoding = GenerationSettings(max_new_tokens=self._settings.max_answer_tokens)
        generator = RagTokenGenerator(parts, self._rag_tokenizer, decoding, self._rag_device, self._threads)
        found: list[str | None] = []
        for batch, texts, scores in retrieved(model, questions, self._settings):
            found += [answer.text for answer in generator.answer(batch, texts, scores)]
        model.train(was_training)
        return found

    def for_answers(self, model: Any) -> Any:
        """What `RagTokenGenerator` takes of the model, to be used up."""
        return SimpleNamespace(
            config=model.config,
            generation_config=getattr(model, "generation_config", None),
            rag=SimpleNamespace(generator=copy.deepcopy(model.rag.generator)),
        )


def figures_of(entry: dict[str, Any]) -> dict[str, float]:
    """Loss, EM and F1 of an evaluation, by names without the Trainer's prefix; those that it has."""
    return {name: float(entry[f"eval_{name}"]) for name in ("loss", "em", "f1") if f"eval_{name}" in entry}
