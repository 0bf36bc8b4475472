"""Which questions a question encoder cuts to its length, from its tokenizer alone."""

from __future__ import annotations

import functools
from collections.abc import Sequence
from typing import Any

import numpy as np

from rag_ops.models import checkpoints
from rag_ops.models.encoder import MAX_TEXT_CHARS
from rag_ops.models.loading import load_encoder_tokenizer


def cut_questions(directory: str, questions: Sequence[str]) -> np.ndarray:
    """Whether the question encoder of a RAG model's local directory reads only a part of each question, bool (n,)."""
    tokenizer, prompt, limit = _reader(directory)
    if not questions:
        return np.zeros(0, bool)
    texts = [prompt + question[:MAX_TEXT_CHARS] for question in questions]
    ids = tokenizer(texts, truncation=False, return_attention_mask=False, verbose=False)["input_ids"]
    long = [len(question) > MAX_TEXT_CHARS for question in questions]
    return np.array([len(row) > limit or cut for row, cut in zip(ids, long, strict=True)])


@functools.lru_cache(1)
def _reader(directory: str) -> tuple[Any, str, int]:
    """Tokenizer, prompt and longest input of the question encoder."""
    config = checkpoints.encoder_config(directory, "question")
    positions = checkpoints.read_config(directory).get("question_encoder", {}).get("max_position_embeddings")
    limit = min(config.max_tokens, positions) if positions and positions > 0 else config.max_tokens
    return load_encoder_tokenizer(directory), config.prompt, limit
