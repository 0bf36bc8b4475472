"""Fine-tuning on real questions: EM and F1 on articles that were not trained on, before and after.

The generator, of whose weights RAGBEAM_UNFINISHED is the file, is made as the demo's reader, but from cloze alone, for
the shipped one has learned from these very questions:

    python -m tests.demo_reader.train --output DIR --cloze_only --reading_steps 450 --copying_steps 300 \\
        --answering_steps 0 --telling_steps 350 --widening_steps 0 --bfloat16

The whole generator learns here, over passages that the question encoder, which stays, retrieves. Questions and articles
are those of `bench_reader`.
"""

from __future__ import annotations

import dataclasses
import json
import os
import random
from collections.abc import Sequence
from pathlib import Path

from pipelines.demo import command
from tests.benchmarks import bench_reader
from tests.benchmarks.common import THREADS, NotHereError, Result, encoder, ragbeam

FROZEN = ["rag.question_encoder", "rag.generator.model.shared"]
UNFINISHED = os.environ.get("RAGBEAM_UNFINISHED")
TRAINING = {"n_docs": 2, "batch_size": 8, "learning_rate": 2e-4, "max_answer_tokens": 16, "label_smoothing": 0.05}


@dataclasses.dataclass(frozen=True)
class Sizes:
    """How long is trained on how much.

    Attributes:
        weights: files of the generator's weights; none for the file that RAGBEAM_UNFINISHED names.
        held_out: questions.
        trained_on: questions.
        steps: of training.
        articles_of: questions whose articles are searched; None for all.
    """

    weights: Sequence[str] = ()
    held_out: int = 400
    trained_on: int = 4000
    steps: int = 400
    articles_of: int | None = None


TOY = Sizes(tuple(map(str, command.TRAINED)), held_out=2, trained_on=6, steps=2, articles_of=6)


def run(directory: Path, sizes: Sizes = Sizes()) -> list[Result]:
    """EM after less EM before.

    Raises:
        NotHereError: the questions or the weights are not here.
    """
    if not sizes.weights and UNFINISHED is None:
        raise NotHereError("RAGBEAM_UNFINISHED names no weights")
    asked, training, unseen = bench_reader.questions()
    trained_on = random.Random(5).sample(training, sizes.trained_on)
    held_out = unseen[: sizes.held_out]
    searched = asked if sizes.articles_of is None else [*trained_on, *held_out][: sizes.articles_of]
    bench_reader.write_articles(directory / "articles.jsonl", searched)
    bench_reader.write_questions(directory / "train.jsonl", trained_on)
    bench_reader.write_questions(directory / "held_out.jsonl", held_out)
    model = bench_reader.compose(directory, sizes.weights or [str(UNFINISHED)])
    for stage in (
        ["chunk", "--input", directory / "articles.jsonl", "--output", directory / "passages"],
        ["embed", "--passages", directory / "passages", "--encoder", encoder(), "--output", directory / "embeddings"],
        ["index", "--embeddings", directory / "embeddings", "--output", directory / "index"],
    ):
        ragbeam(*stage)
    ragbeam(
        *("finetune", "--model", model, "--index", directory / "index", "--output", directory / "trained"),
        *("--train", directory / "train.jsonl", "--eval", directory / "held_out.jsonl", "--threads", THREADS),
        *("--max_steps", sizes.steps, "--eval_steps", sizes.steps // 2),
        *(part for name, value in TRAINING.items() for part in (f"--{name}", value)),
        *("--freeze", *FROZEN, "--answerable_only"),
    )
    history = json.loads((directory / "trained" / "training.json").read_text())
    curve = history["evaluations"]
    figures = ", ".join(f"step {e['step']:.0f}: loss {e['loss']:.2f} EM {e['em']:.1%} F1 {e['f1']:.1%}" for e in curve)
    rise = curve[-1]["em"] - curve[0]["em"]
    return [Result("finetune, EM gained on unseen articles", rise, "over 0", rise > 0, figures)]
