"""Settings of decoding; they check themselves when they are made, for the command line and for a notebook alike."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Sequence

from rag_ops.checks import check_choice, check_count, check_whole
from rag_ops.errors import InputError


@dataclasses.dataclass(frozen=True)
class GenerationSettings:
    """Every setting of decoding, pinned: only the ids of special tokens come from a model's files.

    Attributes:
        num_beams: 1 for greedy decoding.
        min_length: shortest sequence in tokens, counting the decoder's start token, as transformers does.
        max_new_tokens: longest answer in tokens, the end token included.
        length_penalty: a beam's score is its log-probability over length to this power.
        no_repeat_ngram_size: n-grams of this many tokens come once in an answer; 0 for no such rule.
        early_stopping: whether a question is finished as soon as `num_beams` of its sequences are.
        n_best: answers for a question, at most `num_beams`.
        forbidden_words: words that may not come in an answer, as they are written.
        forced_tokens: "model" begins answers, and ends those that reach the limit, with the tokens that the model's
            files force (`forced_bos_token_id`, `forced_eos_token_id`), as transformers does; "none" forces none.
        max_combined_length: longest context in tokens; None for the model's own.
        truncation: "question" keeps the question whole and cuts the passage; "hf" cuts the end, which is the question,
            as transformers does.
        score_scale: what inner products are multiplied by before the softmax over passages; None for the model's own.
        spelling: "tokens" writes answers as the tokenizer decodes them; "passages" as the passages do, where one holds
            the same letters, digits and signs; "auto" is "passages" for a vocabulary without capitals, and
            for extractive answers.
        extractive: whether an answer has to stand in a passage's title or text, from word to word; only
            `max_new_tokens` may cut it inside one.

    Raises:
        InputError: a setting is out of range, or two don't go together; it names the command line's flag.
    """

    num_beams: int = 1
    min_length: int = 1
    max_new_tokens: int = 50
    length_penalty: float = 1.0
    no_repeat_ngram_size: int = 0
    early_stopping: bool = False
    n_best: int = 1
    forbidden_words: Sequence[str] = ()
    forced_tokens: str = "model"
    max_combined_length: int | None = None
    truncation: str = "question"
    score_scale: float | None = None
    spelling: str = "auto"
    extractive: bool = False

    def __post_init__(self) -> None:
        for name in ("num_beams", "max_new_tokens", "n_best", "max_combined_length"):
            check_count("--" + name, getattr(self, name))
        for name in ("min_length", "no_repeat_ngram_size"):
            check_whole("--" + name, getattr(self, name))
        check_choice("--truncation", self.truncation, ("question", "hf"))
        check_choice("--spelling", self.spelling, ("auto", "passages", "tokens"))
        check_choice("--forced_tokens", self.forced_tokens, ("model", "none"))
        if self.n_best > self.num_beams:
            raise InputError(
                "--n_best is more than --num_beams",
                value=self.n_best,
                expected=f"at most {self.num_beams}",
                remedy="beam search finds as many answers as it has beams",
            )
        if self.score_scale is not None and not 0 < self.score_scale < math.inf:
            raise InputError("--score_scale is out of range", value=self.score_scale, expected="more than 0")
        if not 0 <= self.min_length <= self.max_new_tokens + 1:
            raise InputError(
                "--min_length is out of range", value=self.min_length, expected="0 to --max_new_tokens + 1"
            )
        if self.no_repeat_ngram_size < 0:
            raise InputError(
                "--no_repeat_ngram_size is negative", value=self.no_repeat_ngram_size, expected="0 or more"
            )
        if not math.isfinite(self.length_penalty):
            raise InputError(
                "--length_penalty is not finite", value=self.length_penalty, expected="a number, such as 1"
            )
        if isinstance(self.forbidden_words, str):
            raise InputError("--forbidden_words is one text", value=self.forbidden_words, expected="a list of words")
        object.__setattr__(self, "forbidden_words", tuple(self.forbidden_words))
