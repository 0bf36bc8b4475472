"""Scores pairs of question and passage with a cross-encoder: a sequence classifier of one label."""

from __future__ import annotations

import os
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import torch
from transformers import AutoModelForSequenceClassification

from rag_ops import heap
from rag_ops.compute import batching, processor
from rag_ops.compute.devices import DTYPES, pick_device, torch_threads
from rag_ops.defaults import ENCODER_BATCH_TOKENS
from rag_ops.errors import InputError
from rag_ops.models import checkpoints
from rag_ops.models.encoder import MAX_TEXT_CHARS
from rag_ops.models.loading import load_auto, load_tokenizer, longest_input

MAX_TOKENS = 1 << 14  # a limit that is no limit: a tokenizer without one says 10^30


def check_cross_encoder(directory: str) -> None:
    """Checks, from config.json alone, that a local directory holds a cross-encoder.

    Raises:
        InputError: it holds another kind of model, or one of several labels.
    """
    config = checkpoints.read_config(directory)
    names = config.get("architectures") or []
    labels = config.get("num_labels", len(config.get("id2label") or "12"))
    if not any(str(name).endswith("ForSequenceClassification") for name in names):
        raise InputError(
            "--rerank is no cross-encoder",
            value=f"{directory} ({' '.join(map(str, names)) or config['model_type']})",
            expected="a model for sequence classification with one label",
        )
    if labels != 1:
        raise InputError(
            "--rerank is a classifier of several labels, none of which ranks passages",
            value=f"{directory} ({labels} labels)",
            expected="one label",
        )


class CrossEncoder:
    """A loaded cross-encoder. A score is the model's logit, before any activation, which would keep the order.

    Attributes:
        max_tokens: longest input, of question and passage together.
    """

    def __init__(self, model: Any, tokenizer: Any, device: str, threads: int):
        self._model, self._tokenizer, self._device = model.to(device).eval(), tokenizer, device
        self._threads = threads
        limits = longest_input(model, MAX_TOKENS), getattr(tokenizer, "model_max_length", MAX_TOKENS), MAX_TOKENS
        self.max_tokens = int(min(limits))
        heap.hold()

    @classmethod
    def load(cls, directory: str, *, device: str = "auto", threads: int = 2, dtype: str = "float32") -> CrossEncoder:
        """Loads the cross-encoder in a local directory: of transformers, or of sentence-transformers.

        Args:
            directory: see `checkpoints.find_model`.
            device: "auto", "cpu" or "cuda".
            threads: torch threads on a CPU.
            dtype: "float32" or "bfloat16", of the weights and the arithmetic.

        Raises:
            InputError: it is none, or its files do not hold all of it.
            JobError: the device is absent, or the processor has no instructions for the dtype.
        """
        check_cross_encoder(directory)
        device, folder = pick_device(device), os.fspath(checkpoints.weights_directory(directory))
        if device == "cpu":
            processor.check(dtype)
        tokenizer = load_tokenizer(directory)
        model = load_auto("the cross-encoder", folder, DTYPES[dtype], AutoModelForSequenceClassification)
        return cls(model, tokenizer, device, threads)

    def score(
        self,
        questions: Sequence[str],
        passages: Sequence[str],
        *,
        batch_tokens: int | None = None,
        on_rows: Callable[[int], None] = lambda rows: None,
    ) -> tuple[np.ndarray, np.ndarray, dict[int, str]]:
        """Scores pairs of a question and a passage, in batches of like length that the pairs alone decide.

        Args:
            questions: question of each pair.
            passages: passage of each pair: its title and text, as one text.
            batch_tokens: most tokens of a batch; by default what suits the device.
            on_rows: called after each batch with its number of pairs.

        Returns:
            Scores, float32 (pairs,), NaN for a pair that cannot be scored; whether each pair was cut to the model's
            length, the longer side first, bool (pairs,); and the number of each pair without a score, with the reason.

        Raises:
            JobError: the machine failed.
        """
        scores, cut = np.full(len(questions), np.nan, np.float32), np.zeros(len(questions), bool)
        if not len(questions):
            return scores, cut, {}
        sides = [[text[:MAX_TEXT_CHARS] for text in side] for side in (questions, passages)]
        encoded = self._tokenizer(*sides, truncation=False, padding=False, verbose=False)["input_ids"]
        lengths = [len(ids) for ids in encoded]
        cut[:] = [length > self.max_tokens for length in lengths]
        lengths = [min(length, self.max_tokens) for length in lengths]
        budget = batch_tokens or ENCODER_BATCH_TOKENS[self._device]

        def work(numbers: np.ndarray) -> np.ndarray:
            return self._score_batch([sides[0][n] for n in numbers], [sides[1][n] for n in numbers])

        found: dict[int, np.floating]
        with torch_threads(self._threads), torch.inference_mode():
            found, failed = batching.in_batches(lengths, budget, work, on_rows)
        for number, score in found.items():
            if np.isfinite(score):
                scores[number] = score
            else:
                failed[number] = "its score is not finite"
        return scores, cut, failed

    def _score_batch(self, questions: list[str], passages: list[str]) -> np.ndarray:
        given = self._tokenizer(
            questions, passages, truncation=True, max_length=self.max_tokens, padding=True, return_tensors="pt"
        )
        inputs = {name: tensor.to(self._device) for name, tensor in given.items()}
        return self._model(**inputs).logits[:, 0].float().cpu().numpy()


def passage_text(title: str, text: str) -> str:
    """What a cross-encoder reads of a passage: its title and its text as one, as sentence-transformers' users give it.

    >>> passage_text("Ada Lovelace", "She wrote."), passage_text("", "She wrote.")
    ('Ada Lovelace She wrote.', 'She wrote.')
    """
    return f"{title} {text}" if title else text
