"""finetune: question files in, a trained RAG-Token model out. One process on one machine: no pipeline."""

from __future__ import annotations

import argparse
import os
import sys
import time
from typing import Any

from pipelines import telling
from pipelines.options import check_choice
from pipelines.progress import PLAIN_LINE_SECS
from rag_ops import checkpoints, storage
from rag_ops.errors import InputError
from rag_ops.questions import expand_question_files, read_questions


def run(flags: argparse.Namespace, reading: Any) -> int:
    """Trains and says how well.

    Raises:
        InputError: a flag is out of range, or an input is missing or malformed.
    """
    _check(flags)
    from pipelines.corpus import check_model, open_corpus
    from rag_ops.finetuning import FinetuneSettings, finetune

    names = [name for name in FinetuneSettings.__dataclass_fields__ if name != "freeze"]
    settings = FinetuneSettings(**{name: getattr(flags, name) for name in names}, freeze=tuple(flags.freeze))
    training = expand_question_files(flags.train)
    held_out = expand_question_files(flags.eval) if flags.eval else None
    check_model(flags.model, open_corpus(flags.index).index.info)
    bars = sys.stderr.isatty() and not telling.is_json()
    result = finetune(
        checkpoints.find_model(flags.model),
        flags.index,
        read_questions(training, reading),
        flags.output,
        settings,
        held_out=read_questions(held_out, reading) if held_out else None,
        device=flags.device,
        threads=flags.threads,
        resume=flags.resume,
        overwrite=flags.overwrite,
        progress=bars,
        on_step=_Steps() if not bars else lambda step, steps: None,
        on_evaluation=_say,
    )
    left_out = f", {result.left_out:,} questions left out, whose passages hold no answer" if flags.told_only else ""
    sys.stdout.write(f"finetune: {len(result.losses)} steps{left_out}; saved to {flags.output}\n")
    return 0


class _Steps:
    """Says now and then how far the training is."""

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
            if telling.is_json():
                counts = {"done": step, "total": steps, "per_sec": round(rate, 2), "seconds_left": round(left)}
                telling.event("progress", line, counts)
            else:
                sys.stderr.write(line + "\n")
            self._said = now


def _say(figures: dict[str, float]) -> None:
    step, loss, em, f1 = (figures[name] for name in ("step", "loss", "em", "f1"))
    sys.stdout.write(f"  step {step:,}: held-out loss {loss:.4f}, EM {em:.2%}, F1 {f1:.2%}\n")
    sys.stdout.flush()


def _check(flags: argparse.Namespace) -> None:
    check_choice("--device", flags.device, ("auto", "cpu", "cuda"))
    if not storage.is_local(flags.output):
        raise InputError("--output must be on this machine", value=flags.output, expected="a local directory")
    if os.path.exists(flags.output) and not os.path.isdir(flags.output):
        raise InputError("--output is a file", value=flags.output, expected="a directory")


if __name__ == "__main__":
    from pipelines.cli import main

    sys.exit(main(["finetune", *sys.argv[1:]]))
