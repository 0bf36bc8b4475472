"""What `train_demo` trained, on articles that it never saw: EM with the gold passage given, and with five retrieved.

The questions are those that it held out, from the folder that RAGBEAM_QA names; passages are retrieved from all
articles of the question sets and of the demo. RAGBEAM_TRAINED names its file of weights.
"""

from __future__ import annotations

import json
import random
from collections.abc import Iterable
from pathlib import Path

import torch
from transformers import BartForConditionalGeneration

from rag_ops import composing
from rag_ops.retriever import RagTokenForGeneration
from tests.benchmarks.bench_finetune import FOLDER, SCORE_SCALE, SOURCE, TRAINED
from tests.benchmarks.common import THREADS, NotHereError, Result, encoder, excerpt, ragbeam
from tests.benchmarks.train_demo import Encoder, Sample, evaluate, real_questions, split, window

QUESTIONS = 600  # of those held out
GOLD_EM, RETRIEVED_EM = 0.40, 0.25


def run(directory: Path) -> list[Result]:
    """EM and F1 with the gold passage given, then of `ragbeam answer` with five passages.

    Raises:
        NotHereError: the questions or the weights are not here.
    """
    if TRAINED is None:
        raise NotHereError("RAGBEAM_TRAINED names no trained weights")
    if not (FOLDER / SOURCE).exists():
        raise NotHereError(f"no {SOURCE} in {FOLDER} (RAGBEAM_QA)")
    asked = list(real_questions(FOLDER))
    _, unseen = split(asked)
    sample = random.Random(2).sample(unseen, min(QUESTIONS, len(unseen)))
    model = directory / "model"
    composing.compose_warm_started(encoder(), str(model), score_scale=SCORE_SCALE, trained=TRAINED)
    gold_em, gold_f1 = with_gold_passages(model, sample)
    figures = retrieved(directory, model, asked, sample)
    text = f"F1 {gold_f1:.1%}; {len(sample)} questions"
    results = [Result("trained reader, EM with the gold passage", gold_em, ">= 0.40", gold_em >= GOLD_EM, text)]
    em, recall = figures["em"], figures["recall"]["5"]
    text = f"F1 {figures['f1']:.1%}, recall@5 {recall:.1%}"
    return [*results, Result("the same, EM with 5 retrieved passages", em, ">= 0.25", em >= RETRIEVED_EM, text)]


def with_gold_passages(model: Path, sample: list[Sample]) -> tuple[float, float]:
    """EM and F1 where each context is 100 words of the gold paragraph that hold an answer."""
    torch.set_num_threads(THREADS)
    generator: BartForConditionalGeneration = RagTokenForGeneration.from_pretrained(model).rag.generator
    draw = random.Random(3)
    given = [cut for cut in (window(one, draw) for one in sample) if cut]
    return evaluate(generator, Encoder(encoder()), given)


def retrieved(directory: Path, model: Path, asked: Iterable[Sample], sample: list[Sample]) -> dict:
    """What `ragbeam evaluate` says of the answers to the sample."""
    texts: dict[str, dict[str, None]] = {}
    for one in asked:
        texts.setdefault(one.title, {})[one.text] = None
    untitled = texts.pop("", {})
    articles = [(title, "\n".join(paragraphs)) for title, paragraphs in texts.items()]
    articles += [("", paragraph) for paragraph in untitled]
    write(directory / "articles.jsonl", [{"id": f"qa-{n}", "title": t, "text": x} for n, (t, x) in enumerate(articles)])
    write(
        directory / "questions.jsonl",
        [{"id": str(n), "question": one.question, "answer": list(one.answers)} for n, one in enumerate(sample)],
    )
    ragbeam(
        *("run", "--workspace", directory / "ws", "--input", directory / "articles.jsonl", excerpt()),
        *("--encoder", encoder(), "--model", model, "--questions", directory / "questions.jsonl"),
        *("--n_docs", 5, "--threads", THREADS),
    )
    ragbeam("evaluate", "--answers", directory / "ws" / "answers", "--output", directory / "scores.json")
    return json.loads((directory / "scores.json").read_text())["all"]


def write(path: Path, rows: Iterable[dict]) -> None:
    """Rows as JSONL."""
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
