"""Fine-tuning on real questions: EM and F1 on articles that were not trained on, before and after.

The questions are SQuADShifts' over new Wikipedia articles (SQuAD's schema), in the folder that RAGBEAM_QA names; one
article in ten is held out. The generator is a BART that is warm-started from the demo's encoder, with what training
changed where RAGBEAM_TRAINED names such a file: `train_demo` leaves one, of a generator that has learned to read one
passage, and now learns to answer from a mixture. Retrieval is over all the articles' passages.
"""

from __future__ import annotations

import json
import os
from pathlib import Path

from rag_ops import composing
from tests.benchmarks.common import THREADS, NotHereError, Result, encoder, ragbeam
from tests.benchmarks.train_demo import held_out

FOLDER = Path(os.environ.get("RAGBEAM_QA", Path(__file__).parents[3] / "shared" / "data" / "qa"))
TRAINED = os.environ.get("RAGBEAM_TRAINED")
SCORE_SCALE = 20.0  # the encoder's vectors have length 1
SOURCE = "squadshifts-new_wiki_v1.0.json"
HELD_OUT_QUESTIONS = 200
LOWER_LAYERS = [f"rag.generator.model.encoder.layers.{n}." for n in range(3)]
EMBEDDINGS = ["rag.generator.model.shared", "rag.generator.model.encoder.embed"]
TRAINING = {"n_docs": 2, "batch_size": 8, "learning_rate": 2e-4, "max_steps": 300, "eval_steps": 100}
TRAINING |= {"max_answer_tokens": 16, "label_smoothing": 0.05}


def run(directory: Path) -> list[Result]:
    """EM after over EM before, at the least that one answer can make of it.

    Raises:
        NotHereError: the questions are not here.
    """
    if not (FOLDER / SOURCE).exists():
        raise NotHereError(f"no {SOURCE} in {FOLDER} (RAGBEAM_QA)")
    write_inputs(FOLDER / SOURCE, directory)
    for stage in (
        ["chunk", "--input", directory / "articles.jsonl", "--output", directory / "passages"],
        ["embed", "--passages", directory / "passages", "--encoder", encoder(), "--output", directory / "embeddings"],
        ["index", "--embeddings", directory / "embeddings", "--output", directory / "index"],
    ):
        ragbeam(*stage)
    composing.compose_warm_started(encoder(), str(directory / "m"), score_scale=SCORE_SCALE, trained=TRAINED)
    ragbeam(
        *("finetune", "--model", directory / "m", "--index", directory / "index", "--output", directory / "trained"),
        *("--train", directory / "train.jsonl", "--eval", directory / "held_out.jsonl", "--threads", THREADS),
        *(part for name, value in TRAINING.items() for part in (f"--{name}", value)),
        *("--freeze", "rag.question_encoder", *EMBEDDINGS, *LOWER_LAYERS),
    )
    history = json.loads((directory / "trained" / "training.json").read_text())
    curve = history["evaluations"]
    figures = ", ".join(f"step {e['step']:.0f}: loss {e['loss']:.2f} EM {e['em']:.1%} F1 {e['f1']:.1%}" for e in curve)
    rise = curve[-1]["em"] - curve[0]["em"]
    return [Result("finetune, EM gained on unseen articles", rise, "over 0", rise > 0, figures)]


def write_inputs(source: Path, directory: Path) -> None:
    """Articles, training questions and held-out questions, of a file in SQuAD's schema."""
    articles = json.loads(source.read_text())["data"]
    parts: dict[str, list[dict]] = {"train": [], "held_out": []}
    with (directory / "articles.jsonl").open("w") as file:
        for number, article in enumerate(articles):
            paragraphs = [paragraph["context"] for paragraph in article["paragraphs"]]
            title = article["title"].replace("_", " ")
            file.write(json.dumps({"id": number, "title": title, "text": "\n".join(paragraphs)}) + "\n")
            part = parts["held_out" if held_out(title) else "train"]
            for paragraph in article["paragraphs"]:
                for row in paragraph["qas"]:
                    gold = sorted({answer["text"] for answer in row["answers"]}, key=len)
                    part.append({"id": row["id"], "question": row["question"], "answer": gold})
    step = max(1, len(parts["held_out"]) // HELD_OUT_QUESTIONS)
    parts["held_out"] = parts["held_out"][::step][:HELD_OUT_QUESTIONS]
    for name, rows in parts.items():
        (directory / f"{name}.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows if row["answer"]))
