"""finetune: question files in, a trained RAG model out. One process on one machine: no pipeline."""

from __future__ import annotations

import dataclasses
import os
import sys
import time
from collections.abc import Sequence

from pipelines.answer.options import read_prompt
from pipelines.console import events
from pipelines.console.command import Command, say
from pipelines.console.options import Options, local_output_setting, query_prefix_setting
from pipelines.console.progress import PLAIN_LINE_SECS
from pipelines.transforms.model_workers import DeviceOptions
from rag_ops.errors import InputError
from rag_ops.models import checkpoints
from rag_ops.questions.reading import QuestionOptions, expand_question_files, read_questions
from rag_ops.settings import setting
from rag_ops.storage.places import local_output
from rag_ops.training.settings import FinetuneSettings


@dataclasses.dataclass(frozen=True, kw_only=True)
class FinetuneOptions(Options):
    """Options of finetune: trains `model` on `train` questions over a fixed `index`, into `output`."""

    model: str = setting(..., "RAG model to start from: directory, URL or hub id", metavar="MODEL")
    index: str = setting(..., "output of ragbeam index; its vectors stay", metavar="DIR")
    train: Sequence[str] = setting(..., "question files with gold answers", metavar="URL")
    eval: Sequence[str] | None = setting(None, "question files to evaluate on", metavar="URL")
    output: str = local_output_setting()
    reading: QuestionOptions = dataclasses.field(default_factory=QuestionOptions)
    query_prefix: str | None = query_prefix_setting()
    prompt: str | None = setting(
        None,
        "file with the prompt of a causal generator, as answer takes it, which the trained model keeps; by default the "
        "model's own, else its tokenizer's chat template",
        group="training",
        metavar="URL",
    )
    settings: FinetuneSettings = dataclasses.field(default_factory=FinetuneSettings)
    resume: bool = setting(False, "go on from the last checkpoint in --output", group="training")
    overwrite: bool = setting(False, "throw away the model or the unfinished training in --output", group="training")
    workers: DeviceOptions = dataclasses.field(default_factory=DeviceOptions)

    def __post_init__(self) -> None:
        super().__post_init__()
        path = local_output(self.output)
        if os.path.exists(path) and not os.path.isdir(path):
            raise InputError("--output is a file", value=self.output, expected="a directory")


def run(options: FinetuneOptions, beam_arguments: Sequence[str] = ()) -> None:
    """Trains the model and prints how well it does.

    Raises:
        InputError: an input is missing or malformed.
    """
    from rag_ops.retrieval.corpus import check_model, open_corpus

    settings = options.settings
    if options.prompt is not None:
        settings = dataclasses.replace(settings, template=read_prompt(options.prompt))
    training = expand_question_files(options.train)
    held_out = expand_question_files(options.eval) if options.eval else None
    check_model(options.model, open_corpus(options.index).index.info, options.query_prefix)
    from rag_ops.training.finetune import finetune

    bars = sys.stderr.isatty() and not events.is_json()
    result = finetune(
        checkpoints.find_model(options.model),
        options.index,
        read_questions(training, options.reading),
        options.output,
        settings,
        held_out=read_questions(held_out, options.reading) if held_out else None,
        query_prefix=options.query_prefix,
        device=options.workers.device,
        threads=options.workers.cpu_threads,
        resume=options.resume,
        overwrite=options.overwrite,
        progress=bars,
        on_step=_Steps() if not bars else lambda step, steps: None,
        on_evaluation=_say,
    )
    alone = settings.told_only
    left_out = f", {result.left_out:,} questions left out, whose passages hold no answer" if alone else ""
    say(f"finetune: {len(result.losses)} steps{left_out}; saved to {options.output}")


class _Steps:
    """Reports from time to time how far the training is."""

    def __init__(self) -> None:
        self._said = time.monotonic()
        self._first: tuple[float, int] | None = None

    def __call__(self, step: int, steps: int) -> None:
        now = time.monotonic()
        if self._first is None:
            self._first = now, step
        elif now - self._said >= PLAIN_LINE_SECS:
            rate = (step - self._first[1]) / (now - self._first[0])
            left = (steps - step) / rate
            line = f"finetune: {step:,} of {steps:,} steps, {rate:.2f}/s, {left:,.0f} s left"
            if events.is_json():
                counts = {"done": step, "total": steps, "per_sec": round(rate, 2), "seconds_left": round(left)}
                events.event("progress", line, counts)
            else:
                sys.stderr.write(line + "\n")
            self._said = now


def _say(figures: dict[str, float]) -> None:
    step, loss, em, f1 = (figures[name] for name in ("step", "loss", "em", "f1"))
    say(f"  step {step:,}: held-out loss {loss:.4f}, EM {em:.2%}, F1 {f1:.2%}")


COMMAND = Command.of(
    "finetune",
    "trains a RAG model on questions with answers",
    "Question encoder and generator learn through the marginal loss; the index stays. A causal generator may learn "
    "through low-rank adapters. Needs ragbeam[finetune].",
    FinetuneOptions,
    run,
    takes_beam_flags=False,
)

if __name__ == "__main__":
    COMMAND.main()
