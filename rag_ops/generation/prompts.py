"""Prompts of causal generators: a passage and a question through a template, as token ids.

The passage comes first, so that the tokens before the question's first character are the passage's alone: a prompt says
how many they are, and what a generator reads of them serves every question that the passage is found for.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from rag_ops.errors import InputError
from rag_ops.generation.contexts import MIN_PASSAGE_TOKENS
from rag_ops.generation.templates import Template
from schemas.passages import Passage, heading

# What a model with a chat template is told, and what one without goes on from.
MESSAGE = (
    "Answer the question from the passage, in as few words as possible.\n\n{title}\n{text}\n\nQuestion: {question}"
)
PLAIN = "{{ title }}\n{{ text }}\n\nQuestion: {{ question }}\nAnswer:"
PLAIN_STOPS = ("\n",)
SAMPLE = (Passage("", "Moon", "The Moon orbits the Earth."), "What orbits the Earth?")
OTHER_QUESTION = "\ue000\ue001"  # begins with a character of no language: where its prompt differs, questions begin


class Prompt(list[int]):
    """Token ids of a prompt, of which the first `shared` stand before the question."""

    def __init__(self, ids: Sequence[int], shared: int):
        super().__init__(ids)
        self.shared = shared


class PromptFormat:
    """The prompts of a model.

    Args:
        tokenizer: tokenizer of the generator.
        template: text of a template with the variables question, title and text, beside the special tokens
            (`bos_token`); None for the tokenizer's chat template, or `PLAIN` for a tokenizer without one.
        max_tokens: longest prompt.
        keep_question: whether a prompt that is too long loses words of the passage; else it loses its end.

    Attributes:
        head: token ids that all prompts begin with: a task, or examples.

    Raises:
        InputError: the template cannot be read, or fails on any passage.
    """

    def __init__(self, tokenizer: Any, template: str | None, max_tokens: int, keep_question: bool = True):
        self._tokenizer, self._max_tokens, self._keep_question = tokenizer, max_tokens, keep_question
        self._fast = bool(getattr(tokenizer, "is_fast", False))
        chat = None if template is not None else chat_template(tokenizer)
        self.is_chat = chat is not None
        source, name = (chat, "the tokenizer's chat template") if chat else (template or PLAIN, "--prompt")
        self._template = Template(source, name)
        self._specials = {key: str(value) for key, value in tokenizer.special_tokens_map.items()}
        special = sorted({*tokenizer.all_special_tokens} - {""}, key=len, reverse=True)
        self._special = re.compile("|".join(map(re.escape, special))) if special else None
        with_ids, self._opening = tokenizer("a")["input_ids"], list[int]()
        plain = tokenizer("a", add_special_tokens=False)["input_ids"]
        if not self.is_chat:  # which writes such tokens itself
            starts = range(len(with_ids) - len(plain) + 1)
            self._opening = with_ids[: next((n for n in starts if with_ids[n : n + len(plain)] == plain), 0)]
        try:
            one = self._ids(*SAMPLE)
            other = self._ids(Passage("", OTHER_QUESTION, OTHER_QUESTION), OTHER_QUESTION)
        except ValueError as error:
            raise InputError(f"the prompt template fails ({error})", value=name) from error
        self.head = tuple(one[: _alike(one, other)])

    @property
    def stops(self) -> tuple[str, ...]:
        """Texts that end an answer if nothing else is said: a model without a chat template ends no answer itself."""
        return () if self.is_chat else PLAIN_STOPS

    def encode_answers(self, answers: Sequence[str]) -> list[list[int]]:
        """Token ids of answers as a generator would write them: those that they have in one text with a prompt.

        A space stands between the two, unless the prompt ends in one or is a chat's. If the tokenizer joins the two,
        they are the ids of the answer's text alone, for the prompt's are given.
        """

        def ids_of(texts: list[str]) -> list[list[int]]:
            return self._tokenizer(texts, add_special_tokens=False, truncation=False)["input_ids"] if texts else []

        prompt = self.render(*SAMPLE)
        space = "" if self.is_chat or prompt[-1:].isspace() else " "
        texts = [space + answer for answer in answers]
        [before], whole, alone = ids_of([prompt]), ids_of([prompt + text for text in texts]), ids_of(texts)
        size = len(before)
        return [ids[size:] if ids[:size] == before else own for ids, own in zip(whole, alone, strict=True)]

    def encode(self, passages: Sequence[Passage], questions: Sequence[str]) -> list[tuple[Prompt, bool]]:
        """The prompt of each passage and question, and whether one of the two was cut.

        Raises:
            ValueError: the template fails, or is too long by itself.
        """
        return [self._fitted(*pair) for pair in zip(passages, questions, strict=True)]

    def render(self, passage: Passage, question: str) -> str:
        """The text of a prompt. Special tokens that passage or question write out become spaces."""
        title = heading(passage.title.removeprefix('"').removesuffix('"'), passage.section)
        parts = {
            name: self._special.sub(" ", text) if self._special else text
            for name, text in (("title", title), ("text", passage.text), ("question", question))
        }
        return self._template.render({**self._specials, **self._variables(parts)})

    def _variables(self, parts: Mapping[str, str]) -> dict[str, Any]:
        if not self.is_chat:
            return dict(parts)
        said = [{"role": "user", "content": MESSAGE.format(**parts)}]
        # Qwen3's and others' templates: an answer, without thoughts before it
        return {"messages": said, "add_generation_prompt": True, "enable_thinking": False}

    def _ids(self, passage: Passage, question: str) -> Prompt:
        """The prompt, uncut."""
        text, other = self.render(passage, question), self.render(passage, OTHER_QUESTION)
        start = _alike(text, other)
        begun = bool(self._opening) and text.startswith(self._specials.get("bos_token") or "\0")
        opening = [] if begun else self._opening
        encoded = self._tokenizer(
            text, add_special_tokens=False, truncation=False, **({"return_offsets_mapping": True} if self._fast else {})
        )
        ids = encoded["input_ids"]
        if self._fast:
            offsets = encoded["offset_mapping"]
            same = next((n for n, (_, end) in enumerate(offsets) if end > start), len(ids))
        else:  # the tokens that both prompts begin with
            others = self._tokenizer(other, add_special_tokens=False, truncation=False)["input_ids"]
            same = _alike(ids, others)
        if not (ids := [*opening, *ids]):
            raise ValueError("it writes nothing")
        return Prompt(ids, min(len(opening) + same, len(ids) - 1))

    def _fitted(self, passage: Passage, question: str) -> tuple[Prompt, bool]:
        whole = self._ids(passage, question)
        if len(whole) <= self._max_tokens:
            return whole, False
        if not self._keep_question:
            return Prompt(whole[: self._max_tokens], min(whole.shared, self._max_tokens - 1)), True

        def shorter(words: int) -> Prompt:
            return self._ids(_begun(passage, words), question)

        least = min(MIN_PASSAGE_TOKENS, len(passage.text.split()))
        if found := self._longest(shorter, least, len(passage.text.split())):
            return found, True
        passage = _begun(passage, least)
        if found := self._longest(lambda words: self._ids(passage, _first(question, words)), 0, len(question.split())):
            return found, True
        raise ValueError(f"the prompt's own text is longer than {self._max_tokens} tokens")

    def _longest(self, of: Callable[[int], Prompt], low: int, high: int) -> Prompt | None:
        """The prompt of the most words that fits, from `low` words on; None if that is too long."""
        found = None
        while low <= high:
            middle = (low + high) // 2 if found else low
            prompt = of(middle)
            if len(prompt) <= self._max_tokens:
                found, low = prompt, middle + 1
            elif found is None:
                return None
            else:
                high = middle - 1
        return found


def chat_template(tokenizer: Any) -> str | None:
    """The tokenizer's chat template, the one called "default" of several; None if it has none."""
    found = getattr(tokenizer, "chat_template", None)
    return found.get("default") if isinstance(found, Mapping) else found


def _alike(one: Sequence[Any], other: Sequence[Any]) -> int:
    """How many characters, or tokens, two sequences begin with alike."""
    pairs = zip(one, other, strict=False)
    return next((n for n, (a, b) in enumerate(pairs) if a != b), min(len(one), len(other)))


def _begun(passage: Passage, words: int) -> Passage:
    """The passage with the first words of its text alone."""
    return Passage(passage.passage_id, passage.title, _first(passage.text, words), passage.section)


def _first(text: str, words: int) -> str:
    ends = [match.end() for match in re.finditer(r"\S+", text)]
    return text[: ends[words - 1]] if 0 < words <= len(ends) else text[:0] if not words else text
