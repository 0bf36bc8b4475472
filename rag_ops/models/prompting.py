"""Inserts an encoder's question prompt among token ids, for transformers' RAG classes, which see no text.

`Encoder` puts the prompt before the text and tokenises both. `RagTokenForGeneration` is given token ids, of which the
retriever writes the contexts too, so they must not hold the prompt: it is inserted on the way into the encoder.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from typing import Any

import torch

from rag_ops.errors import InputError
from rag_ops.models.sentence_encoders import EncoderConfig

PROMPT_IDS = "question_prompt_ids"  # in config.json, under our key: `QuestionPrompt` as JSON, or null
_SAMPLES = ("who is it", "Where", "3 of them", "(a)", "éclair", "a")


@dataclasses.dataclass(frozen=True)
class QuestionPrompt:
    """A prompt as token ids, and how many special tokens stand before and behind a tokenised text."""

    ids: tuple[int, ...]
    opening: int
    closing: int

    @classmethod
    def of(cls, tokenizer: Any, prompt: str) -> QuestionPrompt | None:
        """The token ids that a prompt adds to those of any text; None if they depend on the text.

        They do in a byte-level vocabulary: behind a prompt that ends in a space "who" is another token than at the
        beginning.

        Args:
            tokenizer: tokenizer of the encoder.
            prompt: text of the prompt, not empty.
        """
        special = set(tokenizer.all_special_ids) - {tokenizer.unk_token_id}
        found: QuestionPrompt | None = None
        for text in _SAMPLES:
            alone, both = tokenizer(text)["input_ids"], tokenizer(prompt + text)["input_ids"]
            places = [place for place, one in enumerate(alone) if one not in special]
            opening, closing = (places[0], len(alone) - 1 - places[-1]) if places else (0, 0)
            ids = both[opening : opening + len(both) - len(alone)]
            one = cls(tuple(ids), opening, closing)
            if both != [*alone[:opening], *ids, *alone[opening:]] or found not in (None, one):
                return None
            found = one
        return found if found is not None and tokenizer.padding_side == "right" else None

    @classmethod
    def from_json(cls, value: Any, prompt: str) -> QuestionPrompt:
        """The inverse of `dataclasses.asdict`.

        Raises:
            InputError: `value` is null, which says that the prompt cannot be inserted.
        """
        if not value:
            raise InputError(
                "the question encoder's prompt cannot be put among token ids: its vocabulary joins it with the text",
                value=prompt,
                expected="questions as texts",
                remedy="use ragbeam answer, which reads texts",
            )
        return cls(tuple(value["ids"]), value["opening"], value["closing"])

    def insert(self, ids: torch.Tensor, mask: torch.Tensor, limit: int) -> tuple[torch.Tensor, torch.Tensor]:
        """Puts the prompt into questions; one that gets too long loses its end, but for the special tokens.

        Args:
            ids: int64 (questions, tokens), padded on the right.
            mask: 1 for tokens, 0 for padding, of the same shape.
            limit: longest input of the encoder.

        Returns:
            Ids and mask, (questions, up to tokens + those of the prompt).

        >>> prompt = QuestionPrompt((5,), 1, 1)
        >>> padded = torch.tensor([[2, 7, 8, 3], [2, 9, 3, 0]])
        >>> ids, mask = prompt.insert(padded, (padded > 0).long(), limit=4)
        >>> ids.tolist(), mask.tolist()
        ([[2, 5, 7, 3], [2, 5, 9, 3]], [[1, 1, 1, 1], [1, 1, 1, 1]])
        """
        head = self.opening
        added = torch.tensor(self.ids, dtype=ids.dtype, device=ids.device).expand(len(ids), -1)
        longer = torch.cat([ids[:, :head], added, ids[:, head:]], 1)
        seen = torch.cat([mask[:, :head], torch.ones_like(added, dtype=mask.dtype), mask[:, head:]], 1)
        lengths = seen.sum(1)
        for row in torch.nonzero(lengths > limit).flatten().tolist():
            end = int(lengths[row])
            longer[row, limit - self.closing : limit] = longer[row, end - self.closing : end].clone()
        return longer[:, :limit], seen[:, :limit]


def encoder_note(encoding: EncoderConfig, tokenizer: Any) -> dict[str, Any]:
    """The entry on the question encoder in config.json of a RAG model, under our key.

    Args:
        encoding: how the encoder makes its vectors.
        tokenizer: tokenizer of the encoder.
    """
    ours: dict[str, Any] = {"question_encoder": encoding.as_dict()}
    if encoding.prompt:
        prompt = QuestionPrompt.of(tokenizer, encoding.prompt)
        ours[PROMPT_IDS] = dataclasses.asdict(prompt) if prompt else None
    return ours


def check_question_prompt(ours: Mapping[str, Any]) -> None:
    """Checks that transformers' classes can put in the prompt of a model, if it has one.

    Args:
        ours: the value of our key in config.json.

    Raises:
        InputError: they cannot.
    """
    if prompt := (ours.get("question_encoder") or {}).get("prompt"):
        QuestionPrompt.from_json(ours.get(PROMPT_IDS), prompt)
