"""Texts that end an answer: a model that was taught no end token goes on with the next question of its own making."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any


class Stops:
    """Stop texts, as tokens show them.

    Args:
        tokenizer: tokenizer of the generator.
        texts: the texts, at least one, none of them empty.

    Attributes:
        ends: ids of tokens that are such a text and no more.
    """

    def __init__(self, tokenizer: Any, texts: Sequence[str]):
        self._tokenizer, self._texts = tokenizer, tuple(texts)
        written = tokenizer.batch_decode([[token] for token in range(len(tokenizer))])
        last = {text[-1] for text in texts}
        self._closing = {token for token, text in enumerate(written) if not last.isdisjoint(text)}
        self.ends = tuple(token for token, text in enumerate(written) if text in self._texts)

    def finished(self, tokens: Sequence[int]) -> bool:
        """Whether an answer, which is not finished without its last token, is finished with it."""
        if tokens[-1] not in self._closing:  # no stop text ends in it
            return False
        written = self._tokenizer.decode(tokens, skip_special_tokens=True)
        return any(text in written for text in self._texts)

    def cut(self, text: str) -> str:
        """The answer up to the first stop text.

        Args:
            text: as it was decoded.
        """
        return text[: min((place for one in self._texts if (place := text.find(one)) >= 0), default=len(text))]
