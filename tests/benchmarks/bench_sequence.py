"""Thorough decoding next to RagSequenceForGeneration.generate, of BART-base's size: 5 passages, 4 beams, fp32.

Transformers is fed as its own retriever feeds it, padded to 300 tokens, and takes one question after the other; ours
takes the contexts as they are, all questions in a block. The number of hypotheses is what each passage gives together,
and how many of them differ. Transformers 5 gives its generator no mask, and its hypotheses attend to padding; here it
is given the mask that transformers 4 made, so that both decode the same.
"""

from __future__ import annotations

import copy
import dataclasses
import statistics
import time
from pathlib import Path
from typing import Any

import numpy as np
import torch
from transformers import RagSequenceForGeneration, RagTokenizer

from rag_ops.generation.rag_token import GenerationSettings, RagTokenGenerator
from tests.benchmarks.bench_decode import (
    BASE,
    DOCS,
    NEW_TOKENS,
    PADDED,
    Size,
    make_inputs,
    random_model,
    word_tokenizer,
)
from tests.benchmarks.common import THREADS, Result

BEAMS, PAD, ROUNDS = 4, 1, 3
WANTED = {True: 3.0, False: 8.0}  # by whether transformers drops hypotheses that it has already


@dataclasses.dataclass(frozen=True)
class Sizes:
    """The model, questions, and rounds that take turns."""

    model: Size = BASE
    questions: int = 2
    rounds: int = ROUNDS


TOY = Sizes(Size(1, 32, 64, 2), 1, 1)


class Theirs:
    """Transformers' model, which counts hypotheses."""

    def __init__(self, size: Size):
        made: Any = random_model(size)
        model = RagSequenceForGeneration(
            config=made.config, question_encoder=made.rag.question_encoder, generator=made.rag.generator
        )
        self.model, self._generate = model.eval(), model.generator.generate
        self.counts = [0, 0]  # of all hypotheses, of those that differ

    def sequence(self, contexts: list, scores: np.ndarray, unique: bool) -> list[int]:
        """The best sequence of one question, without the start token."""
        ids = torch.full((DOCS, PADDED), PAD)
        for place, (tokens, _) in enumerate(contexts):
            ids[place, : len(tokens)] = torch.tensor(tokens)
        self.model.generator.generate = self._masked
        found = self.model.generate(
            context_input_ids=ids,
            context_attention_mask=ids.ne(PAD).long(),
            doc_scores=torch.from_numpy(scores)[None],
            n_docs=DOCS,
            num_beams=BEAMS,
            do_deduplication=unique,
            min_length=NEW_TOKENS + 1,
            max_length=NEW_TOKENS + 1,
            early_stopping=False,
        )
        return found[0, 1 : NEW_TOKENS + 1].tolist()

    def _masked(self, ids: torch.Tensor, **options: Any) -> torch.Tensor:
        found = self._generate(ids, **{**options, "attention_mask": ids.ne(PAD).long()})
        self.counts[0] += len(found)
        self.counts[1] += len({tuple(row) for row in found.tolist()})
        return found


def run(directory: Path, sizes: Sizes = Sizes()) -> list[Result]:
    """Transformers' time over ours, with its deduplication on and off; identical sequences are checked on the way."""
    torch.set_num_threads(THREADS)
    _, contexts, scores = make_inputs(BEAMS, sizes.questions)
    theirs = Theirs(sizes.model)
    ours = our_generator(theirs.model)
    seconds: dict[Any, list[float]] = {"ours": [], True: [], False: []}
    tokens: dict[Any, list[list[int]]] = {}
    with torch.inference_mode():
        for _ in range(sizes.rounds):
            start = time.perf_counter()
            answers = ours._answer_batch(contexts, scores)
            seconds["ours"].append(time.perf_counter() - start)
            tokens["ours"] = [list(answer.token_ids) for answer in answers]
            for unique in WANTED:
                start = time.perf_counter()
                pairs = zip(contexts, scores, strict=True)
                tokens[unique] = [theirs.sequence(*pair, unique) for pair in pairs]
                seconds[unique].append(time.perf_counter() - start)
    asked = len(WANTED) * sizes.rounds * sizes.questions
    every, different = (count / asked for count in theirs.counts)
    return [result(unique, seconds, tokens, every, different) for unique in WANTED]


def result(
    unique: bool,
    seconds: dict[Any, list[float]],
    tokens: dict[Any, list[list[int]]],
    every: float,
    different: float,
) -> Result:
    """The ratio of median times.

    Args:
        unique: whether transformers drops hypotheses that it has already.
        seconds: of each round, of ours and of transformers'.
        tokens: the sequences of the last round.
        every: hypotheses of a question.
        different: those of them that differ.
    """
    own, other = statistics.median(seconds["ours"]), statistics.median(seconds[unique])
    count, ratio, wanted = len(tokens["ours"]), other / own, WANTED[unique]
    same = sum(a == b for a, b in zip(tokens["ours"], tokens[unique], strict=True))
    scored = f"{different:.1f} of {every:.0f} hypotheses differ"
    figures = f"{count / own:.2f} questions/s, transformers {count / other:.2f}; {same} of {count} identical; {scored}"
    name = f"sequence, {BEAMS} beams, transformers padded to {PADDED}, deduplication {'on' if unique else 'off'}"
    right = same == count
    return Result(name, ratio, f">= {wanted:.1f}", ratio >= wanted and right, figures, right)


def our_generator(model: RagSequenceForGeneration) -> RagTokenGenerator:
    """Our decoder over a copy of the model, for exactly NEW_TOKENS tokens."""
    lengths = {"min_length": NEW_TOKENS + 1, "max_new_tokens": NEW_TOKENS}
    settings = GenerationSettings(num_beams=BEAMS, **lengths, decoding="sequence")
    words = word_tokenizer()
    return RagTokenGenerator(copy.deepcopy(model), RagTokenizer(words, words), settings, "cpu", THREADS)
