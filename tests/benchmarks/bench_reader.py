"""The demo's reader on articles that it never saw: EM with the gold passage given, and with five retrieved.

With the gold passage it writes what it likes; with retrieved ones its answers are extractive, as the demo's are.

The questions are those that `tests.demo_reader.train` held out, from the folder that RAGBEAM_QA names; passages are
retrieved from all articles of the question sets and of the demo. RAGBEAM_TRAINED names other files of weights than
those that ship, with colons between them.
"""

from __future__ import annotations

import dataclasses
import json
import os
import random
from collections.abc import Iterable, Sequence
from pathlib import Path

import torch
from transformers import BartForConditionalGeneration

from pipelines.demo import command
from rag_ops.interop.model_card import RagTokenForGeneration
from rag_ops.models import compose as compose_model
from tests.benchmarks.common import THREADS, NotHereError, Result, encoder, excerpt, ragbeam
from tests.demo_reader.reading import Encoder, Sample, real_questions, split, window
from tests.demo_reader.train import evaluate

FOLDER = Path(os.environ.get("RAGBEAM_QA", Path(__file__).parents[3] / "shared" / "data" / "qa"))
TRAINED = os.environ["RAGBEAM_TRAINED"].split(":") if "RAGBEAM_TRAINED" in os.environ else command.TRAINED
GOLD_EM, RETRIEVED_EM = 0.40, 0.25


@dataclasses.dataclass(frozen=True)
class Sizes:
    """Held-out questions, and whether all articles of the question sets and the demo are searched, or only theirs."""

    questions: int = 600
    all_articles: bool = True


TOY = Sizes(4, all_articles=False)


def run(directory: Path, sizes: Sizes = Sizes()) -> list[Result]:
    """EM and F1 with the gold passage given, then of `ragbeam answer` with five passages.

    Raises:
        NotHereError: the questions are not here.
    """
    asked, _, sample = questions(sizes.questions)
    model = compose(directory, TRAINED)
    gold_em, gold_f1 = with_gold_passages(model, sample)
    searched, dumps = (asked, [excerpt()]) if sizes.all_articles else (sample, [])
    figures = retrieved(directory, model, searched, sample, dumps)
    text = f"F1 {gold_f1:.1%}; {len(sample)} questions"
    results = [Result("the demo's reader, EM with the gold passage", gold_em, ">= 0.40", gold_em >= GOLD_EM, text)]
    em, recall = figures["em"], figures["recall"]["5"]
    text = f"F1 {figures['f1']:.1%}, recall@5 {recall:.1%}"
    return [*results, Result("the same, EM with 5 retrieved passages", em, ">= 0.25", em >= RETRIEVED_EM, text)]


def questions(held_out: int = 600) -> tuple[list[Sample], list[Sample], list[Sample]]:
    """All questions, those to train on, and some of the held-out ones.

    Raises:
        NotHereError: there are none.
    """
    if not FOLDER.is_dir():
        raise NotHereError(f"no question sets in {FOLDER} (RAGBEAM_QA)")
    asked = list(real_questions(FOLDER))
    training, unseen = split(asked)
    return asked, training, random.Random(2).sample(unseen, min(held_out, len(unseen)))


def compose(directory: Path, trained: Sequence[str]) -> Path:
    """A reader as a RAG-Token model."""
    compose_model.compose_warm_started(
        encoder(), str(directory / "model"), score_scale=command.SCORE_SCALE, trained=trained
    )
    return directory / "model"


def with_gold_passages(model: Path, sample: list[Sample]) -> tuple[float, float]:
    """EM and F1 where each context is 100 words of the gold paragraph that hold an answer."""
    torch.set_num_threads(THREADS)
    generator: BartForConditionalGeneration = RagTokenForGeneration.from_pretrained(model).rag.generator
    draw = random.Random(3)
    given = [cut for cut in (window(one, draw) for one in sample) if cut]
    return evaluate(generator, Encoder(encoder()), given)


def retrieved(
    directory: Path, model: Path, asked: Iterable[Sample], sample: list[Sample], dumps: Sequence[str]
) -> dict:
    """What `ragbeam evaluate` says of the answers to the sample."""
    write_articles(directory / "articles.jsonl", asked)
    write_questions(directory / "questions.jsonl", sample)
    ragbeam(
        *("run", "--workspace", directory / "ws", "--input", directory / "articles.jsonl", *dumps),
        *("--encoder", encoder(), "--model", model, "--questions", directory / "questions.jsonl"),
        *("--n_docs", 5, "--extractive", "--threads", THREADS),
    )
    ragbeam("evaluate", "--answers", directory / "ws" / "answers", "--output", directory / "scores.json")
    return json.loads((directory / "scores.json").read_text())["all"]


def write_articles(path: Path, asked: Iterable[Sample]) -> None:
    """The texts of questions as articles; each text without a title is one."""
    texts: dict[str, dict[str, None]] = {}
    for one in asked:
        texts.setdefault(one.title, {})[one.text] = None
    untitled = texts.pop("", {})
    articles = [(title, "\n".join(paragraphs)) for title, paragraphs in texts.items()]
    articles += [("", paragraph) for paragraph in untitled]
    write(path, [{"id": f"qa-{n}", "title": title, "text": text} for n, (title, text) in enumerate(articles)])


def write_questions(path: Path, sample: Sequence[Sample]) -> None:
    """Questions with their gold answers."""
    rows = [{"id": str(n), "question": one.question, "answer": list(one.answers)} for n, one in enumerate(sample)]
    write(path, rows)


def write(path: Path, rows: Iterable[dict]) -> None:
    """Rows as JSONL."""
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
