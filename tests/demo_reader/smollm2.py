"""Tunes a low-rank adapter of SmolLM2-135M-Instruct to read for the demo, by `ragbeam finetune`.

    python -m tests.demo_reader.smollm2 --output DIR --qa ../shared/data/qa --hours 2.5
    python -m tests.demo_reader.readers --output ELSEWHERE --qa ../shared/data/qa --model DIR/mixing

Two parts, the second from the adapter that the first made:

    reading     one passage, the best found for a question, of questions whose best passage holds an answer
    mixing      the marginal loss over several retrieved passages, of questions that have one with an answer

The questions are those of `tests.demo_reader.train`: none about a held-out article, none of the demo's 48. Passages are
found among the texts of the questions that are trained on, by the demo's encoder, which stays as it is. How many steps
fit into the hours is measured at first, and kept. The same command goes on where a run ended; what comes out is
DIR/mixing, a model, and DIR/mixing/adapter.
"""

from __future__ import annotations

import argparse
import dataclasses
import json
import random
import shutil
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from pipelines.demo import command
from rag_ops.models import compose
from rag_ops.models.gguf import read_gguf
from rag_ops.questions.reading import Question
from rag_ops.training.finetune import finetune
from rag_ops.training.settings import FinetuneSettings
from tests.benchmarks.bench_reader import write_articles
from tests.benchmarks.common import encoder, indexed
from tests.demo_reader.finding import found_in
from tests.demo_reader.reading import MAX_ANSWER_TOKENS, MAX_QUESTION_TOKENS, Sample, real_questions, split
from tests.demo_reader.train import say

RANK = 16  # 4.9 million numbers, 20 MB
CHECKED = 48  # questions of each evaluation in training
SEARCHED_TIMES = 3  # questions as people ask a search engine are few, and the demo's are of their kind
LOWERED = 0.5  # share of the others that are written as those are
TRIAL_STEPS = 4
CHECKPOINTS = 3  # of each part, at most: answering takes as long as some steps
QUESTIONS_PER_ONE = 1.6  # drawn for each that a step needs: others have no passage with an answer


@dataclasses.dataclass(frozen=True)
class Part:
    """One training: passages of a question, questions of a batch and batches of a step, peak rate, share of hours."""

    name: str
    docs: int
    batch: int
    accumulation: int
    rate: float
    share: float

    def settings(self, steps: int, every: int, rank: int) -> FinetuneSettings:
        """Its settings, with a checkpoint every so many steps."""
        return FinetuneSettings(
            max_steps=steps,
            eval_steps=every,
            n_docs=self.docs,
            batch_size=self.batch,
            accumulation=self.accumulation,
            learning_rate=self.rate,
            label_smoothing=0.0,
            max_answer_tokens=MAX_ANSWER_TOKENS,
            max_question_tokens=MAX_QUESTION_TOKENS,
            freeze=("rag.question_encoder",),
            told_only=True,
            adapter_rank=rank,
            compute_dtype="bfloat16",
            template=Path(command.PROMPT).read_text(),
        )


PARTS = (Part("reading", 1, 8, 2, 4e-4, 0.45), Part("mixing", 4, 2, 8, 2e-4, 0.55))


def lowered(question: str) -> str:
    """A question as people type it."""
    return question.lower().rstrip("? ")


def drawn(training: Sequence[Sample], seed: int) -> list[Question]:
    """Questions in the order that they are taken in."""
    draw = random.Random(seed)
    chosen = [one for one in training for _ in range(SEARCHED_TIMES if one.searched else 1)]
    draw.shuffle(chosen)
    texts = [lowered(one.question) if draw.random() < LOWERED else one.question for one in chosen]
    return [
        Question(str(n), text, one.answers, None, "qa") for n, (text, one) in enumerate(zip(texts, chosen, strict=True))
    ]


def untuned(path: Path) -> Path:
    """SmolLM2 as it comes, as a RAG-Token model with the demo's encoder, in a directory: composed once."""
    if not (path / "config.json").exists():
        shutil.rmtree(path, ignore_errors=True)
        model, tokenizer = read_gguf(command.package_path(*command.SMOLLM2, command.SMOLLM2_REMEDY))
        compose.save(encoder(), model, tokenizer, str(path), notes={"score_scale": command.SCORE_SCALE})
    return path


class Tuning:
    """The model, what it learns from, and both parts."""

    def __init__(self, flags: argparse.Namespace):
        self._flags, self._folder = flags, Path(flags.output)
        self._folder.mkdir(parents=True, exist_ok=True)
        training, unseen = split(list(real_questions(Path(flags.qa))))
        found = list(found_in(Path(flags.found))) if flags.found else []
        self._training = [*training, *found]
        draw = random.Random(5)
        draw.shuffle(self._training)
        self._checked = drawn(self._training[:CHECKED], 0)[:CHECKED]
        say(f"{len(self._training)} questions to train on, {len(unseen)} about held-out articles")

    def index(self) -> Path:
        """An index of the texts of all questions that are trained on."""
        write_articles(self._folder / "articles.jsonl", self._training)
        return indexed(self._folder, self._folder / "articles.jsonl")

    def run(self) -> None:
        """Both parts; what is done already is left out."""
        model, index = untuned(self._folder / "base"), self.index()
        for part in PARTS:
            output = self._folder / part.name
            if not (output / "config.json").exists():
                self._part(part, model, index, output)
            model = output
        files = sorted((model / "adapter").iterdir())
        say(f"{model / 'adapter'}: {sum(file.stat().st_size for file in files) / 1e6:.1f} MB")

    def _part(self, part: Part, model: Path, index: Path, output: Path) -> None:
        steps = self._steps(part, model, index)
        questions = drawn(self._training[CHECKED:], len(part.name))
        wanted = int(steps * part.batch * part.accumulation * QUESTIONS_PER_ONE)
        settings = part.settings(steps, max(1, steps // CHECKPOINTS), self._flags.rank)
        say(f"{part.name}: {steps} steps of {part.batch * part.accumulation} questions, {part.docs} passages")
        finetune(
            *(str(model), str(index), questions[:wanted], str(output), settings),
            held_out=self._checked,
            threads=self._flags.threads,
            resume=True,
            on_step=self._told(part.name),
            on_evaluation=lambda found: say(f"{part.name}: " + json.dumps(found)),
        )

    @staticmethod
    def _told(name: str) -> Any:
        started: list[float] = []

        def on_step(step: int, steps: int) -> None:
            started.append(time.monotonic())
            if len(started) % 20 == 0:
                say(f"{name} {step}/{steps}: {(started[-1] - started[0]) / (len(started) - 1):.1f} s/step")

        return on_step

    def _steps(self, part: Part, model: Path, index: Path) -> int:
        """How many steps fit into the part's share of the hours: as many as flags say, or as a trial finds."""
        if self._flags.steps:
            return self._flags.steps
        plan = self._folder / f"{part.name}.json"
        if plan.exists():
            return json.loads(plan.read_text())["steps"]
        times: list[float] = []
        trial = self._folder / "trial"
        finetune(
            *(str(model), str(index), drawn(self._training[CHECKED:], 7)[: 8 * TRIAL_STEPS * 16], str(trial)),
            part.settings(TRIAL_STEPS, TRIAL_STEPS, self._flags.rank),
            held_out=self._checked[:1],
            threads=self._flags.threads,
            overwrite=True,
            on_step=lambda step, steps: times.append(time.monotonic()),
        )
        shutil.rmtree(trial)
        seconds = (times[-1] - times[0]) / (len(times) - 1)
        steps = max(1, int(self._flags.hours * 3600 * part.share / seconds))
        plan.write_text(json.dumps({"steps": steps, "seconds": seconds}))
        return steps


def main(arguments: Sequence[str]) -> int:
    """Tunes."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--output", required=True)
    parser.add_argument("--qa", default="../shared/data/qa")
    parser.add_argument("--found", default=None, help="what `finding` wrote")
    parser.add_argument("--hours", type=float, default=2.5, help="of training on this machine as it is now")
    parser.add_argument("--steps", type=int, default=None, help="of each part, in place of hours")
    parser.add_argument("--rank", type=int, default=RANK)
    parser.add_argument("--threads", type=int, default=2)
    Tuning(parser.parse_args(arguments)).run()
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
