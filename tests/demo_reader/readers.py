"""Measures the readers that the demo can have: the table in its model card.

    python -m tests.demo_reader.readers --output DIR --qa ../shared/data/qa

Of each reader the EM:

    gold        in float32, given 100 words that hold an answer, of articles that no reader was trained on
    retrieved   over five passages that are retrieved from all articles of the question sets and the demo, for other
                questions about such articles, and seconds a question of `ragbeam answer`, its start and end included
    demo        over five passages, of the demo's own questions

Passages, vectors and indexes that DIR has already are used again. `--model` is a tuned SmolLM2 that does not ship yet.
"""

from __future__ import annotations

import argparse
import dataclasses
import json
import random
import sys
import time
from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np

from pipelines.demo import command
from rag_ops.evaluation.metrics import exact_match
from rag_ops.generation.rag_token import RagTokenGenerator
from rag_ops.generation.settings import GenerationSettings
from schemas.passages import Passage
from tests.benchmarks.bench_reader import write_articles, write_questions
from tests.benchmarks.common import THREADS, encoder, excerpt, indexed, ragbeam
from tests.demo_reader.reading import Sample, real_questions, split, window
from tests.demo_reader.smollm2 import untuned
from tests.demo_reader.train import say

PROMPTED = Path(__file__).with_name("prompted.jinja")
GOLD, RETRIEVED = 200, 600  # questions
LONGEST = 20  # tokens of an answer
STOP = ("\n",)


@dataclasses.dataclass(frozen=True)
class Reader:
    """A reader by name: what composes its model in a directory, whether it is extractive, its prompt if not its own.

    Of a `prompt` the end of a line ends the answer.
    """

    name: str
    model: Callable[[Path], object]
    extractive: bool
    prompt: Path | None = None


def own(directory: Path) -> str:
    """The demo's own reader."""
    return command.composed(encoder(), str(directory))


def tuned(directory: Path) -> str:
    """SmolLM2 with the adapter that ships."""
    return command.composed(encoder(), str(directory), "smollm2")


READERS = (
    Reader("own", own, extractive=True),
    Reader("smollm2 prompted", untuned, extractive=False, prompt=PROMPTED),
    Reader("smollm2 tuned", tuned, extractive=False),
    Reader("smollm2 tuned, extractive", tuned, extractive=True),
)


class Table:
    """What is measured of readers, in a directory.

    Args:
        directory: where all is written.
        asked: all questions of the sets.
        gold, retrieved: numbers of questions.
        dumps: what the demo searches, and the other questions besides the articles of the question sets.
        threads: threads of a reader.
    """

    def __init__(
        self,
        directory: Path,
        asked: Sequence[Sample],
        gold: int,
        retrieved: int,
        dumps: Sequence[str],
        threads: int = THREADS,
    ):
        self._directory, self._threads = directory, threads
        directory.mkdir(parents=True, exist_ok=True)
        _, unseen = split(asked)
        draw = random.Random(3)
        cuts = [cut for one in unseen[: 4 * gold] if (cut := window(one, draw))]
        self._gold = random.Random(2).sample(cuts, min(gold, len(cuts)))
        write_articles(directory / "articles.jsonl", asked)
        sample = random.Random(2).sample(unseen, min(retrieved, len(unseen)))
        write_questions(directory / "questions.jsonl", sample)
        self._asked = len(sample)
        searched = indexed(directory / "retrieved", directory / "articles.jsonl", *dumps)
        self._asking = {
            "retrieved": ("--questions", directory / "questions.jsonl", "--index", searched),
            "demo": ("--questions", command.QUESTIONS, "--index", indexed(directory / "demo", *dumps)),
        }

    def row(self, reader: Reader, given: Path | None = None) -> dict[str, float]:
        """Figures of a reader; `given` is its model where it is made already."""
        place = self._directory / "readers" / reader.name.replace(" ", "_").replace(",", "")
        place.mkdir(parents=True, exist_ok=True)
        model = str(given or reader.model(place / "reader"))
        figures = {"gold": self._on_gold(reader, model)}
        for name in self._asking:
            em, seconds = self._on_retrieved(reader, model, name, place)
            figures[name] = em
            if name == "retrieved":
                figures["seconds"] = seconds / self._asked
        return figures

    def _on_gold(self, reader: Reader, model: str) -> float:
        template = reader.prompt.read_text() if reader.prompt else None
        settings = GenerationSettings(
            max_new_tokens=LONGEST, extractive=reader.extractive, template=template, stop=STOP if template else ()
        )
        generator = RagTokenGenerator.load(model, settings, threads=self._threads)
        passages = [[Passage("", one.title, one.text)] for one in self._gold]
        scores = np.zeros((len(self._gold), 1), np.float32)
        found = generator.answer([one.question for one in self._gold], passages, scores)
        right = [exact_match(answer.text, one.answers) for answer, one in zip(found, self._gold, strict=True)]
        return float(np.mean(right))

    def _on_retrieved(self, reader: Reader, model: str, name: str, place: Path) -> tuple[float, float]:
        """EM, and seconds of answering."""
        flags: list[object] = ["--extractive"] if reader.extractive else []
        flags += ["--prompt", reader.prompt, "--stop", *STOP] if reader.prompt else []
        start = time.perf_counter()
        ragbeam(
            *("answer", *self._asking[name], "--model", model, "--output", place / name),
            *("--n_docs", 5, "--max_new_tokens", LONGEST, "--threads", self._threads, "--overwrite", *flags),
        )
        seconds = time.perf_counter() - start
        ragbeam("evaluate", "--answers", place / name, "--output", place / f"{name}.json")
        return json.loads((place / f"{name}.json").read_text())["all"]["em"], seconds


def main(arguments: Sequence[str]) -> int:
    """Measures, and prints a line for each reader."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--output", required=True)
    parser.add_argument("--qa", default="../shared/data/qa")
    parser.add_argument("--readers", nargs="+", default=[one.name for one in READERS], metavar="NAME")
    parser.add_argument("--model", default=None, help="directory of a tuned SmolLM2, in place of the one that ships")
    parser.add_argument("--gold", type=int, default=GOLD, help="questions with gold passages")
    parser.add_argument("--retrieved", type=int, default=RETRIEVED, help="questions with retrieved passages")
    parser.add_argument("--threads", type=int, default=THREADS)
    flags = parser.parse_args(arguments)
    asked = list(real_questions(Path(flags.qa)))
    table = Table(Path(flags.output), asked, flags.gold, flags.retrieved, [excerpt()], flags.threads)
    for reader in READERS:
        if reader.name in flags.readers:
            given = Path(flags.model) if flags.model and reader.model is tuned else None
            say(json.dumps({"reader": reader.name, **table.row(reader, given)}))
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
