"""Generator inputs: one context for each question and passage, as the RAG paper's code and Hugging Face write it.

    prefix + title + " / " + text + " // " + question

where the section stands behind the title ("Alabama > History") if the passages' vectors were made of it too
(`title_sep` and `doc_sep` of RagConfig; transformers' RagRetriever.postprocess_docs). If the whole is too long,
Hugging Face cuts its end, which is the question; we cut the passage's text, and say so.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from typing import Any

from schemas.passages import Passage, heading

MIN_PASSAGE_TOKENS = 16  # a question may crowd out the passage down to this many tokens, then it is cut itself


@dataclasses.dataclass(frozen=True)
class ContextFormat:
    """The format of a context, by RagConfig's fields.

    Attributes:
        title_sep: separator between title and text.
        doc_sep: separator between passage and question.
        prefix: text before everything else, for generators such as T5 that expect a task name.
        max_tokens: longest context, special tokens included (RagConfig.max_combined_length).
        keep_question: whether a context that is too long loses words of the passage; else it loses its end, which is
            the question, as in transformers.
    """

    title_sep: str
    doc_sep: str
    prefix: str
    max_tokens: int
    keep_question: bool = True

    @classmethod
    def of(cls, config: Any, generator: Any, prefix: str | None, longest: int | None = None) -> ContextFormat:
        """The format of the contexts of a RAG model.

        Args:
            config: RagConfig of the model.
            generator: configuration of its generator; a context is no longer than it has positions for.
            prefix: text before everything else.
            longest: longest context; by default that of the model.
        """
        limits = [longest or config.max_combined_length, getattr(generator, "max_position_embeddings", None)]
        return cls(config.title_sep, config.doc_sep, prefix or "", min(limit for limit in limits if limit))

    def render(self, passage: Passage, question: str) -> tuple[str, int]:
        """Writes the text of a context; returns it and the character at which the part with the question begins.

        >>> ContextFormat(" / ", " // ", "", 300).render(Passage("1:0", '"Ampere"', "A unit."), "what is it")
        ('Ampere / A unit. // what is it', 16)
        """
        title = heading(passage.title.removeprefix('"').removesuffix('"'), passage.section)
        head, tail = self.prefix + title + self.title_sep + passage.text, self.doc_sep + question
        kept = head.replace("  ", " ")
        # Spaces are paired from the left: one that the head leaves over is paired with the first of the rest
        shared = (len(head) - len(head.rstrip(" "))) % 2 and tail.startswith(" ")
        return (head + tail).replace("  ", " "), len(kept) - int(shared)


def encode_contexts(
    tokenizer: Any, form: ContextFormat, passages: Sequence[Passage], questions: Sequence[str]
) -> list[tuple[list[int], bool]]:
    """Token ids of each context, and whether it was cut. If a whole text fits, its ids are the tokenizer's own.

    Args:
        tokenizer: tokenizer of the generator.
        form: format of the contexts.
        passages: passage of each context.
        questions: its question, as the question tokenizer decodes it (lower case for an uncased one).
    """
    rendered = [form.render(passage, question) for passage, question in zip(passages, questions, strict=True)]
    if not rendered:
        return []
    fast = bool(getattr(tokenizer, "is_fast", False))
    more = {"return_offsets_mapping": True, "return_special_tokens_mask": True} if fast and form.keep_question else {}
    encoded = tokenizer([text for text, _ in rendered], truncation=False, **more)
    contexts = []
    for number, (ids, (text, question_start)) in enumerate(zip(encoded["input_ids"], rendered, strict=True)):
        if len(ids) <= form.max_tokens:
            contexts.append((list(ids), False))
        elif not form.keep_question:
            contexts.append((list(tokenizer(text, truncation=True, max_length=form.max_tokens)["input_ids"]), True))
        elif fast:
            offsets, specials = encoded["offset_mapping"][number], encoded["special_tokens_mask"][number]
            contexts.append((_cut(list(ids), offsets, specials, question_start, form.max_tokens), True))
        else:
            contexts.append((_cut_slowly(tokenizer, text, question_start, form.max_tokens), True))
    return contexts


def _cut(
    ids: list[int], offsets: Sequence[tuple[int, int]], specials: Sequence[int], question_start: int, limit: int
) -> list[int]:
    """Shortens a context to `limit` tokens, all of them those of the whole context.

    Args:
        ids: token ids of the whole context.
        offsets: first character of each token and the one after its last.
        specials: 1 for tokens that the tokenizer puts around a text, else 0.
        question_start: the character from which on all is kept.
        limit: number of tokens to keep, special tokens included.
    """
    closing = next((place for place, special in enumerate(reversed(specials)) if not special), 0)
    end = len(ids) - closing
    after = (place for place in range(end) if offsets[place][0] >= question_start and not specials[place])
    return _joined(ids[:end], ids[next(after, end) : end], ids[end:], limit)


def _cut_slowly(tokenizer: Any, text: str, question_start: int, limit: int) -> list[int]:
    """Does the same for a tokenizer that gives no offsets: the question is encoded once more alone."""
    ids = list(tokenizer(text, truncation=False)["input_ids"])
    plain, tail = (
        list(tokenizer(part, add_special_tokens=False, truncation=False)["input_ids"])
        for part in (text, text[question_start:])
    )
    opening = next((n for n in range(len(ids) - len(plain) + 1) if ids[n : n + len(plain)] == plain), 0)
    end = opening + len(plain)
    return _joined(ids[:end], tail, ids[end:], limit)


def _joined(ids: list[int], tail: list[int], closing: list[int], limit: int) -> list[int]:
    """`limit` tokens of a context: its beginning, and all of the question unless that leaves too little of the rest.

    Args:
        ids: token ids of the whole context, without the special tokens that close it.
        tail: token ids of the part with the question, with which `ids` ends.
        closing: special tokens at the end.
        limit: number of tokens to keep.
    """
    least = min(MIN_PASSAGE_TOKENS, limit // 2)
    room = limit - len(tail) - len(closing)
    if room >= least:
        return ids[:room] + tail + closing
    # The question alone is too long: it keeps its beginning
    return ids[:least] + tail[: max(limit - least - len(closing), 0)] + closing
