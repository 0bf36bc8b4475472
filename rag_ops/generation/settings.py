"""Settings of decoding; they check themselves when they are made, for the command line and for a notebook alike."""

from __future__ import annotations

import dataclasses
import functools
import math
from collections.abc import Sequence
from functools import partial
from typing import Any

from rag_ops import defaults, settings
from rag_ops.errors import InputError
from rag_ops.questions.choices import parse_choices
from rag_ops.questions.gold_answers import UnreadableError
from rag_ops.sizes import parse_size

setting = partial(settings.setting, group="answers")

DECODINGS = ("token", "sequence", "sequence-fast")
MAX_PENALTY = 100  # exponent of the length: of more, scores are 0 or infinite


@dataclasses.dataclass(frozen=True)
class GenerationSettings:
    """Every setting of decoding, pinned: only the ids of special tokens come from a model's files.

    Raises:
        InputError: a setting is out of range, or two don't go together; it names the command line's flag.
    """

    num_beams: int = setting(
        1, "beams, by sequences of each passage; 1 is greedy", at_least=1, at_most=1000, memory=True
    )
    min_length: int = setting(1, "shortest answer in tokens, the start token counted, as transformers does")
    max_new_tokens: int = setting(50, "longest answer in tokens, the end token included", at_least=1)
    length_penalty: float = setting(1.0, "power of the length by which a beam's log-probability is divided")
    no_repeat_ngram_size: int = setting(
        0, "n-grams of this many tokens come once in an answer; 0 for no rule", at_least=0
    )
    early_stopping: bool = setting(False, "finish a question as soon as it has as many finished answers as beams")
    decoding: str | None = setting(
        None,
        "token: the mixture of passages gives each token; sequence: each passage alone gives hypotheses, which all "
        "passages score; sequence-fast: those score that gave them; by default what the model was trained for",
        choices=DECODINGS,
    )
    any_architecture: bool = setting(False, "allow a --decoding that the model was not trained for")
    n_best: int = setting(
        1, "answers for a question, at most as many as beams; the others go to alternatives", at_least=1, at_most=1000
    )
    forbidden_words: Sequence[str] = setting((), "words that no answer may have, as they are written", metavar="WORD")
    forced_tokens: str = setting(
        "model",
        "model: answers begin, and end at the limit, with the tokens that the model's files force, as in "
        "transformers; none: nothing is forced",
        choices=("model", "none"),
    )
    max_combined_length: int | None = setting(None, "longest context in tokens; by default the model's", at_least=1)
    truncation: str = setting(
        "question",
        "what a context that is too long keeps: question cuts the passage; hf cuts the end, which is the question, as "
        "transformers does",
        choices=("question", "hf"),
    )
    score_scale: float | None = setting(
        None,
        "factor of inner products before the softmax over passages; by default the model's own, else 1",
        finite=False,
    )
    spelling: str = setting(
        "auto",
        "how answers are spelt: tokens, as the tokenizer decodes them; passages, as those write them; auto: passages "
        "for an uncased vocabulary and with --extractive",
        choices=("auto", "passages", "tokens"),
    )
    choices: str | None = setting(
        None,
        "the only answers, with commas between them as in CSV, of which the likeliest is chosen; a question's own, in "
        "a column called choices, overrule them",
        metavar="LIST",
    )
    extractive: bool = setting(
        False, "only answers that stand in a passage, from word to word; only --max_new_tokens may cut one"
    )
    lazy: bool = setting(
        False,
        "in greedy decoding with a BART, read no more of a question's passages than prove each token of its answer; "
        "answers are the same, scores are lower bounds",
    )
    exact_scores: bool = setting(
        False, "with --lazy: read the other passages too once an answer is found, for its score and the posterior"
    )

    stop: Sequence[str] = setting(
        (),
        "texts that end an answer of a causal generator; by default the end of a line for one without a chat template",
        metavar="TEXT",
    )
    passage_memory: str = setting(
        defaults.PASSAGE_MEMORY,
        "what a causal generator may keep of passages that other questions have too; more are read again",
        memory=True,
    )
    passage_cache: str | None = setting(
        None,
        "directory for what a causal generator has read of passages: blocks and jobs to come read it from there",
        metavar="DIR",
        writes=True,
    )
    passage_cache_size: str | None = setting(
        None,
        "what --passage_cache may hold; what was unused for longest is removed; by default "
        + defaults.PASSAGE_CACHE_SIZE,
        metavar="SIZE",
    )
    template: str | None = None  # text of the file that --prompt names

    def __post_init__(self) -> None:
        settings.check(self)
        self.passage_bytes, self.passage_cache_bytes  # noqa: B018 (checks them)
        if self.passage_cache_size is not None and self.passage_cache is None:
            raise InputError(
                "--passage_cache_size goes with --passage_cache",
                value=self.passage_cache_size,
                expected="--passage_cache DIR as well",
            )
        if self.lazy and self.num_beams > 1:
            raise InputError(
                "--lazy is for greedy decoding",
                value=f"--num_beams {self.num_beams}",
                expected="--num_beams 1",
                remedy="leave out one of the two",
            )
        self.closed_set  # noqa: B018 (checks it)
        self.check_decoding(self.decoding)
        if self.exact_scores and not self.lazy:
            raise InputError(
                "--exact_scores is a part of --lazy", remedy="give both, or neither: scores are exact without"
            )
        if self.n_best > self.num_beams:
            raise InputError(
                "--n_best is more than --num_beams",
                value=self.n_best,
                expected=f"at most {self.num_beams}",
                remedy="beam search finds as many answers as it has beams",
            )
        if self.score_scale is not None and not 0 < self.score_scale < math.inf:
            raise InputError("--score_scale is out of range", value=self.score_scale, expected="more than 0")
        if abs(self.length_penalty) > MAX_PENALTY:
            raise InputError(
                "--length_penalty is out of range",
                value=self.length_penalty,
                expected=f"-{MAX_PENALTY} to {MAX_PENALTY}",
            )
        if not 0 <= self.min_length <= self.max_new_tokens + 1:
            raise InputError(
                "--min_length is out of range", value=self.min_length, expected="0 to --max_new_tokens + 1"
            )
        if isinstance(self.forbidden_words, str) or not all(word.strip() for word in self.forbidden_words):
            raise InputError(
                "--forbidden_words is no list of words",
                value=self.forbidden_words,
                expected="words, none of them empty",
            )
        if isinstance(self.stop, str) or not all(self.stop):
            raise InputError("--stop is no list of texts", value=self.stop, expected="texts, none of them empty")
        object.__setattr__(self, "forbidden_words", tuple(self.forbidden_words))
        object.__setattr__(self, "stop", tuple(self.stop))

    @property
    def passage_bytes(self) -> int:
        """`passage_memory` as a number.

        Raises:
            InputError: it is none.
        """
        return parse_size("--passage_memory", self.passage_memory)

    @property
    def passage_cache_bytes(self) -> int:
        """`passage_cache_size`, or what it is by default, as a number.

        Raises:
            InputError: it is none.
        """
        return parse_size("--passage_cache_size", self.passage_cache_size or defaults.PASSAGE_CACHE_SIZE)

    def check_generator(self, causal: bool) -> None:
        """Checks that the settings go with a model's generator.

        Args:
            causal: whether it is a causal one.

        Raises:
            InputError: a setting is of the other kind.
        """
        given = {"stop": self.stop, "prompt": self.template is not None, "passage_cache": self.passage_cache}
        if wrong := [name for name, value in given.items() if value and not causal]:
            raise InputError(
                f"--{wrong[0]} is for causal generators",
                expected="a model that ragbeam compose made of one",
                remedy="leave it out",
            )
        if causal and self.decoding not in (None, "token"):
            raise InputError(
                f"--decoding {self.decoding} is for sequence-to-sequence generators",
                value="a causal one",
                expected="--decoding token",
                remedy="leave out --decoding",
            )

    def config(self, decoding: str = "token") -> dict[str, Any]:
        """What decides the answers: later settings are left out as long as they change nothing.

        Args:
            decoding: how answers are decoded, if the settings leave that to the model.
        """
        found = dataclasses.asdict(self)
        for name in ("passage_memory", "passage_cache", "passage_cache_size", "decoding", "any_architecture"):
            del found[name]
        if decoding != "token":
            found["decoding"] = decoding
        return {name: value for name, value in found.items() if value or name not in ("choices", "stop", "template")}

    @functools.cached_property
    def closed_set(self) -> tuple[str, ...] | None:
        """The only answers, if `choices` names them.

        Raises:
            InputError: it is no closed set, or does not go together with another setting.
        """
        if self.choices is None:
            return None
        try:
            found = parse_choices(self.choices)
        except UnreadableError as error:
            raise InputError(
                f"--choices is no closed set of answers ({error})",
                value=self.choices,
                expected="two or more different texts with commas between them, such as yes,no",
                remedy='write quotation marks around one that holds a comma: yes,"no, never"',
            ) from error
        of_decoding = ("num_beams", "n_best", "extractive", "lazy", "no_repeat_ngram_size", "forbidden_words")
        unset = {field.name: field.default for field in dataclasses.fields(self)}
        for name in of_decoding:
            if (value := getattr(self, name)) and value != unset[name]:
                raise InputError(
                    f"--{name} is for answers that are decoded, and --choices leaves nothing to decode",
                    value=value,
                    remedy="leave out one of the two",
                )
        return found

    def check_decoding(self, decoding: str | None) -> None:
        """Checks that the settings go with the decoding that a model is to be used by.

        Args:
            decoding: one of `DECODINGS`; None for one that only the model's files name.

        Raises:
            InputError: they do not.
        """
        if self.lazy and decoding not in (None, "token"):
            raise InputError(
                "--lazy is for the mixture of tokens",
                value=f"--decoding {decoding}",
                expected="--decoding token",
                remedy="leave out --lazy",
            )

    def dtype(self, wanted: str) -> str:
        """The dtype to compute in, as --compute_dtype names them: for lazy decoding "float32" is what "auto" means.

        Raises:
            InputError: lazy decoding is to compute in another.
        """
        if not self.lazy or wanted == "float32":
            return wanted
        if wanted != "auto":
            raise InputError(
                "--lazy proves its tokens in float32 alone",
                value=f"--compute_dtype {wanted}",
                expected="float32",
                remedy="leave out one of the two",
            )
        return "float32"
