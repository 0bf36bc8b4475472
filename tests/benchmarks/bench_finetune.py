"""Fine-tuning on real questions: EM and F1 on articles that were not trained on, before and after.

The generator, of whose weights RAGBEAM_UNFINISHED is the file, is made as the demo's reader, but from cloze alone, for
the shipped one has learned from these very questions:

    python -m tests.benchmarks.train_demo --output DIR --cloze_only --reading_steps 450 --copying_steps 300 \\
        --answering_steps 0 --telling_steps 350 --widening_steps 0 --bfloat16

The whole generator learns here, over passages that the question encoder, which stays, retrieves. Questions and articles
are those of `bench_reader`.
"""

from __future__ import annotations

import json
import os
import random
from pathlib import Path

from tests.benchmarks import bench_reader
from tests.benchmarks.common import THREADS, NotHereError, Result, encoder, ragbeam

HELD_OUT, TRAINED_ON = 400, 4000  # questions
FROZEN = ["rag.question_encoder", "rag.generator.model.shared"]
UNFINISHED = os.environ.get("RAGBEAM_UNFINISHED")
TRAINING = {"n_docs": 2, "batch_size": 8, "learning_rate": 2e-4, "max_steps": 400, "eval_steps": 200}
TRAINING |= {"max_answer_tokens": 16, "label_smoothing": 0.05}


def run(directory: Path) -> list[Result]:
    """EM after less EM before.

    Raises:
        NotHereError: the questions or the weights are not here.
    """
    if UNFINISHED is None:
        raise NotHereError("RAGBEAM_UNFINISHED names no weights")
    asked, training, unseen = bench_reader.questions()
    bench_reader.write_articles(directory / "articles.jsonl", asked)
    bench_reader.write_questions(directory / "train.jsonl", random.Random(5).sample(training, TRAINED_ON))
    bench_reader.write_questions(directory / "held_out.jsonl", unseen[:HELD_OUT])
    model = bench_reader.compose(directory, [UNFINISHED])
    for stage in (
        ["chunk", "--input", directory / "articles.jsonl", "--output", directory / "passages"],
        ["embed", "--passages", directory / "passages", "--encoder", encoder(), "--output", directory / "embeddings"],
        ["index", "--embeddings", directory / "embeddings", "--output", directory / "index"],
    ):
        ragbeam(*stage)
    ragbeam(
        *("finetune", "--model", model, "--index", directory / "index", "--output", directory / "trained"),
        *("--train", directory / "train.jsonl", "--eval", directory / "held_out.jsonl", "--threads", THREADS),
        *(part for name, value in TRAINING.items() for part in (f"--{name}", value)),
        *("--freeze", *FROZEN, "--told_only"),
    )
    history = json.loads((directory / "trained" / "training.json").read_text())
    curve = history["evaluations"]
    figures = ", ".join(f"step {e['step']:.0f}: loss {e['loss']:.2f} EM {e['em']:.1%} F1 {e['f1']:.1%}" for e in curve)
    rise = curve[-1]["em"] - curve[0]["em"]
    return [Result("finetune, EM gained on unseen articles", rise, "over 0", rise > 0, figures)]
