"""Settings of fine-tuning; they check themselves when they are made, for the command line and for a notebook alike."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Sequence
from functools import partial
from numbers import Integral

from rag_ops import settings
from rag_ops.errors import InputError

setting = partial(settings.setting, group="training")


@dataclasses.dataclass(frozen=True)
class FinetuneSettings:
    """The settings of a training.

    Raises:
        InputError: a setting is out of range; it names the command line's flag.
    """

    epochs: float = setting(3.0, "passes over the training questions", within=(0, 1e6))
    max_steps: int | None = setting(None, "stop after so many steps", at_least=1)
    learning_rate: float = setting(3e-5, "peak of the learning rate, which falls linearly to 0", within=(0, 1))
    warmup_steps: float = setting(
        0.1, "steps in which the learning rate rises from 0; below 1, their share of all", finite=False
    )
    batch_size: int = setting(8, "questions of a batch", at_least=1, at_most=100_000, memory=True)
    accumulation: int = setting(1, "batches whose gradients are added up before a step", at_least=1)
    n_docs: int = setting(5, "passages for a question", at_least=1, at_most=10_000, memory=True)
    label_smoothing: float = setting(
        0.1, "share of the loss that is spread over the vocabulary, as the paper's code", finite=False
    )
    eval_fraction: float = setting(
        0.1, "share of --train that is held out, by a hash of the question, if --eval is not given", within=(0, 1)
    )
    eval_steps: int | None = setting(None, "steps between evaluations and checkpoints; by default an epoch", at_least=1)
    max_answer_tokens: int = setting(32, "longer gold answers are cut", at_least=1)
    max_question_tokens: int = setting(64, "longer questions are cut", at_least=1)
    freeze: Sequence[str] = setting((), "beginnings of the names of parameters that stay", metavar="NAME")
    adapter_rank: int | None = setting(
        None,
        "train a causal generator through low-rank adapters of this rank, which are saved beside its weights; by "
        "default it learns whole",
        at_least=1,
        at_most=4096,
    )
    compute_dtype: str = setting(
        "auto",
        "arithmetic in training: auto: bfloat16 on a GPU, else float32; bfloat16 is quicker on CPUs that have "
        "instructions for it",
        choices=("auto", "float32", "bfloat16"),
    )
    seed: int = setting(1, "seed of the order of the questions, and of dropout", at_least=0, at_most=2**32 - 1)
    # The field keeps its first name, which is a key of settings.json and training.json.
    told_only: bool = setting(
        False,
        "leave out training questions whose passages, as the given model retrieves them, hold no answer, as DPR does: "
        "from those a model that copies learns to guess",
        flag="answerable_only",
        also=("told_only",),
    )
    template: str | None = None  # text of the file that --prompt names

    def __post_init__(self) -> None:
        settings.check(self)
        if not (0 <= self.warmup_steps < 1 or (1 <= self.warmup_steps < math.inf and self.warmup_steps % 1 == 0)):
            raise InputError(
                "--warmup_steps is out of range",
                value=self.warmup_steps,
                expected="a number of steps, or a share of all, from 0 to under 1",
            )
        if not 0 <= self.label_smoothing < 1:
            raise InputError("--label_smoothing is out of range", value=self.label_smoothing, expected="0 to under 1")
        if not isinstance(self.seed, Integral) or not 0 <= self.seed < 2**32:
            raise InputError("--seed is out of range", value=self.seed, expected="a whole number, 0 to 2**32 - 1")
        if isinstance(self.freeze, str):
            raise InputError("--freeze is one text", value=self.freeze, expected="a tuple of names")
        object.__setattr__(self, "freeze", tuple(self.freeze))

    def check_generator(self, causal: bool) -> None:
        """Checks that the settings go with a model's generator.

        Args:
            causal: whether it is a causal one.

        Raises:
            InputError: a setting is for causal generators alone, and it is none.
        """
        given = {"adapter_rank": self.adapter_rank, "prompt": self.template}
        if wrong := [name for name, value in given.items() if value is not None and not causal]:
            raise InputError(
                f"--{wrong[0]} is for causal generators",
                expected="a model that ragbeam compose made of one",
                remedy="leave it out",
            )
