"""Questions to train on: which are held out, what is retrieved for them, and their batches of tensors."""

from __future__ import annotations

import hashlib
import logging
from collections.abc import Iterable, Iterator, Sequence
from typing import Any

import numpy as np
import torch

from rag_ops.errors import InputError
from rag_ops.evaluation.metrics import has_answer
from rag_ops.generation.special_tokens import sequence_tokens, special_tokens
from rag_ops.questions.reading import Question
from rag_ops.training.settings import FinetuneSettings
from schemas.passages import Passage

logger = logging.getLogger(__name__)
RETRIEVED_BATCH = 64  # questions that are retrieved for and answered together


def split_questions(
    questions: Iterable[Question], held_out: Iterable[Question] | None, fraction: float
) -> tuple[list[dict[str, Any]], list[dict[str, Any]]]:
    """Training and held-out questions, each with its answers; which are held out depends on the question alone.

    Rows with an error or without gold answers are left out, and counted in a warning.

    Raises:
        InputError: none is left for one of the two.
    """
    rows = _usable(questions, "train")
    if held_out is not None:
        training, evaluation = rows, _usable(held_out, "eval")
    else:
        parts: tuple[list[dict[str, Any]], list[dict[str, Any]]] = ([], [])
        for row in rows:
            digest = hashlib.sha256(row["question"].encode()).digest()
            parts[int.from_bytes(digest[:4], "big") < fraction * 2**32].append(row)
        training, evaluation = parts
    for what, part in (("to train on", training), ("held out", evaluation)):
        if not part:
            raise InputError(
                f"no question {what}",
                value=f"{len(rows)} questions with answers",
                expected="questions with gold answers",
                remedy="see --train, --eval, --eval_fraction and --answer_column",
            )
    return training, evaluation


def _usable(rows: Iterable[Question], what: str) -> list[dict[str, Any]]:
    """The rows that can be trained on, as question and answers; warns of the others, with the reason of the first."""
    kept, left_out, first = [], 0, ""
    for row in rows:
        answers = [answer for answer in row.answers or () if answer.strip()]
        if row.error is None and answers:
            kept.append({"question": row.question, "answers": answers})
        else:
            left_out += 1
            first = first or row.error or row.note or f"no gold answers ({row.source})"
    if left_out:
        logger.warning("--%s: %d of %d rows are left out, first for: %s", what, left_out, left_out + len(kept), first)
    return kept


def answerable(model: Any, questions: list[dict[str, Any]], settings: FinetuneSettings) -> list[dict[str, Any]]:
    """The questions that have a passage with an answer, by DPR's `has_answer`; in their order.

    Raises:
        InputError: there are none.
    """
    asked = [question["question"] for question in questions]
    found = (passages for _, batch, _ in retrieved(model.eval(), asked, settings) for passages in batch)
    kept = [
        question
        for question, passages in zip(questions, found, strict=True)
        if any(has_answer(passage.text, question["answers"]) for passage in passages)
    ]
    if not kept:
        raise InputError(
            "no question to train on",
            value=f"{len(questions)} questions, and no passage that holds an answer",
            expected="an index whose passages tell",
            remedy="leave out --answerable_only, or raise --n_docs",
        )
    return kept


def retrieved(
    model: Any, questions: Sequence[str], settings: FinetuneSettings
) -> Iterator[tuple[list[str], list[list[Passage]], np.ndarray]]:
    """Batches of questions with their passages and scores, as the question encoder of the model is now.

    Args:
        model: a RAG model with the `RagRetriever` of a ragbeam index.
        questions: texts of the questions.
        settings: settings of the training.
    """
    tokenizer, passages = model.retriever.question_encoder_tokenizer, model.retriever.index.passages
    for start in range(0, len(questions), RETRIEVED_BATCH):
        batch = list(questions[start : start + RETRIEVED_BATCH])
        encoded = encode_questions(tokenizer, batch, settings)
        with torch.inference_mode():
            vectors = model.question_encoder(
                encoded["input_ids"].to(model.device), attention_mask=encoded["attention_mask"].to(model.device)
            )[0]
        hits = passages.search(vectors.float().cpu().numpy(), settings.n_docs)
        yield batch, [passages.passages(rows) for rows in hits.rows], hits.scores


def encode_questions(tokenizer: Any, questions: list[str], settings: FinetuneSettings) -> Any:
    """Token ids and mask of questions, padded to the longest, int64 (questions, tokens)."""
    limit = settings.max_question_tokens
    return tokenizer(questions, padding=True, truncation=True, max_length=limit, return_tensors="pt")


class Collator:
    """Makes a batch of tensors from questions with answers.

    Labels are the decoder's start token, the answer's tokens and the end token: the start token is what generation
    begins with, so the first word is learned from where it will be asked.
    """

    def __init__(self, tokenizer: Any, model: Any, settings: FinetuneSettings):
        self._tokenizer, self._settings = tokenizer, settings
        if getattr(model, "generation_config", None) is None:  # a RAG-Sequence model's generator has it
            self._special = sequence_tokens(model.generator.generation_config, model.config.generator)
        else:
            self._special = special_tokens(model.generation_config, model.config)
        self._pad = model.config.generator.pad_token_id  # the loss leaves out the generator's own

    def __call__(self, questions: Sequence[dict[str, Any]]) -> dict[str, torch.Tensor]:
        """`input_ids`, `attention_mask` and `labels`, int64 (questions, tokens)."""
        settings = self._settings
        asked = [question["question"] for question in questions]
        encoded = encode_questions(self._tokenizer.question_encoder, asked, settings)
        answers = self._tokenizer.generator(
            [question["answers"][0] for question in questions],
            add_special_tokens=False,
            truncation=True,
            max_length=settings.max_answer_tokens - 1,
        )["input_ids"]
        rows = [torch.tensor([self._special.start, *ids, self._special.ends[0]]) for ids in answers]
        labels = torch.nn.utils.rnn.pad_sequence(rows, batch_first=True, padding_value=self._pad)
        return {"input_ids": encoded["input_ids"], "attention_mask": encoded["attention_mask"], "labels": labels}
