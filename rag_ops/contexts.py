"""Generator inputs: one context for each question and passage, as the RAG paper's code and Hugging Face write it.

    prefix + title + " / " + text + " // " + question

(`title_sep` and `doc_sep` of RagConfig; transformers' RagRetriever.postprocess_docs). Where the whole is too long,
Hugging Face cuts its end, which is the question; we cut the passage's text, and say so.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from typing import Any

from rag_ops.errors import InputError

MIN_PASSAGE_TOKENS = 16  # a question may crowd out the passage down to this many tokens, then it is cut itself


@dataclasses.dataclass(frozen=True, slots=True)
class Passage:
    """A retrieved passage."""

    passage_id: str
    title: str
    text: str


@dataclasses.dataclass(frozen=True)
class ContextFormat:
    """How a context is written; RagConfig's fields.

    Attributes:
        title_sep: between title and text.
        doc_sep: between passage and question.
        prefix: before all, for generators such as T5 that want a task's name.
        max_tokens: longest context, special tokens included (RagConfig.max_combined_length).
        keep_question: whether a context that is too long loses words of the passage; else it loses its end, which is
            the question, as in transformers.
    """

    title_sep: str
    doc_sep: str
    prefix: str
    max_tokens: int
    keep_question: bool = True

    def render(self, passage: Passage, question: str) -> tuple[str, int]:
        """The text of a context, and where in it (in characters) the part with the question begins.

        >>> ContextFormat(" / ", " // ", "", 300).render(Passage("1:0", '"Ampere"', "A unit."), "what is it")
        ('Ampere / A unit. // what is it', 16)
        """
        title = passage.title.removeprefix('"').removesuffix('"')
        head = (self.prefix + title + self.title_sep + passage.text).replace("  ", " ")
        return (head + self.doc_sep + question).replace("  ", " "), len(head)


def encode_context(tokenizer: Any, form: ContextFormat, passage: Passage, question: str) -> tuple[list[int], bool]:
    """Token ids of one context, and whether it was cut. Where the whole text fits, the ids are the tokenizer's own.

    Args:
        tokenizer: a fast tokenizer of the generator.
        form: how contexts are written.
        passage: the passage.
        question: as the question tokenizer decodes it (lower case for an uncased one).
    """
    return encode_contexts(tokenizer, form, [passage], [question])[0]


def encode_contexts(
    tokenizer: Any, form: ContextFormat, passages: Sequence[Passage], questions: Sequence[str]
) -> list[tuple[list[int], bool]]:
    """`encode_context` for many pairs at once.

    Raises:
        InputError: the tokenizer is not a fast one, which alone tells where in the text a token stands.
    """
    if not getattr(tokenizer, "is_fast", False):
        raise InputError(
            "the generator's tokenizer is slow", value=type(tokenizer).__name__, expected="a fast tokenizer"
        )
    rendered = [form.render(passage, question) for passage, question in zip(passages, questions, strict=True)]
    if not rendered:
        return []
    encoded = tokenizer([text for text, _ in rendered], return_offsets_mapping=True, truncation=False)
    contexts = []
    for ids, offsets, (_, question_start) in zip(
        encoded["input_ids"], encoded["offset_mapping"], rendered, strict=True
    ):
        if len(ids) <= form.max_tokens:
            contexts.append((list(ids), False))
        else:
            kept_from = question_start if form.keep_question else None
            contexts.append((_cut(list(ids), offsets, kept_from, form.max_tokens), True))
    return contexts


def _cut(ids: list[int], offsets: Sequence[tuple[int, int]], question_start: int | None, limit: int) -> list[int]:
    """Shortens a context to `limit` tokens.

    Args:
        ids: of the whole context.
        offsets: first character of each token and the one after its last; special tokens have the empty span.
        question_start: the character from which on all is kept; None to cut the end, as transformers does.
        limit: tokens to keep, special tokens included.
    """
    closing = next((n for n, (start, end) in enumerate(reversed(offsets)) if end > start), 0)  # special tokens
    specials = ids[len(ids) - closing :]
    if question_start is None:
        return ids[: limit - closing] + specials
    after = (place for place, (start, end) in enumerate(offsets) if start >= question_start and end > start)
    tail = ids[next(after, len(ids) - closing) :]
    room = limit - len(tail)
    if room >= min(MIN_PASSAGE_TOKENS, limit // 2):
        return ids[:room] + tail
    # The question alone is too long: it keeps its beginning and the closing special tokens.
    head = ids[: min(MIN_PASSAGE_TOKENS, limit // 2)]
    return head + tail[: limit - len(head) - closing] + specials
