"""A causal generator's mixture beside the same mixture in transformers' `generate`, as REPLUG mixes: full prompts.

The peer reads 8 questions with 5 passages each at once, sorted by length, padded to their longest; a logits processor
gives the five rows of a question the mixture of their probabilities. The generator is random, of the shape of
SmolLM2-135M (30 layers, 576 wide, 9 heads that share 3), with the demo's tokenizer; passages are the excerpt's. The
limit is the ratio of the tokens that each side has to compute. That counts a token of a prompt and one of an answer
alike, though the latter takes the output layer and the mixture too, which nobody computes once for several questions.
In a model of 6 layers, 256 wide, with this vocabulary the output layer takes more than all layers: 40 questions over 60
and 10 passages took 2.31 and 3.85 times less processor time than the peer, 95% and 78% of the limits. Here the output
layer takes a sixth of what the layers take, in SmolLM2 (49,152 tokens) a quarter.
"""

from __future__ import annotations

import copy
import dataclasses
import json
from collections.abc import Sequence
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import torch
from transformers import AutoTokenizer, BertConfig, GenerationConfig, LlamaConfig, LlamaForCausalLM, RagConfig
from transformers.generation import LogitsProcessorList

from rag_ops.generation.answer import Answer
from rag_ops.generation.rag_token import GenerationSettings, RagTokenGenerator
from rag_ops.models.causal import CausalRag
from schemas.passages import Passage
from tests.benchmarks.common import THREADS, Result, batches, encoder, side_by_side, some_passages

BATCH, DOCS, NEW_TOKENS = 8, 5, 10
WORDS, QUESTION_WORDS = 100, 10
SHARE = 0.85  # of the ratio of tokens
NEAR = 1e-4  # between the logarithms of two tokens' probabilities: a near tie


@dataclasses.dataclass(frozen=True)
class Sizes:
    """Questions, distinct passages with the ratio wanted, threads, the generator's layers and width, rounds."""

    questions: int = 40
    passages: tuple[tuple[int, float], ...] = ((60, 2.0), (10, 4.0))  # as 300 and 50 for 200 questions
    parts: int = 2  # of the excerpt's articles one
    threads: int = THREADS
    layers: int = 30
    width: int = 576
    rounds: int = 2


TOY = Sizes(9, ((6, 2.0),), 2, 1, 2, 36, 1)


def run(directory: Path, sizes: Sizes = Sizes()) -> list[Result]:
    """Seconds of transformers over ours, by number of distinct passages."""
    torch.set_num_threads(sizes.threads)
    tokenizer = AutoTokenizer.from_pretrained(encoder())
    corpus = passages(directory, sizes)
    model = generator(len(tokenizer), sizes)
    found = []
    for count, wanted in sizes.passages:
        questions, given, scores = asked(sizes.questions, corpus[:count])
        ours = Ours(copy.deepcopy(model), tokenizer, sizes.threads)
        peer = Peer(model, tokenizer)
        longest = max(len(ids) for own in prompts(tokenizer, questions, given) for ids in own)
        both: dict[str, Any] = {}
        times = side_by_side(
            lambda: both.update(ours=ours.answer(questions, given, scores, longest)),  # noqa: B023 (called at once)
            lambda: both.update(theirs=peer.answer(questions, given, scores)),  # noqa: B023
            sizes.rounds,
        )
        answers, expected = both["ours"], both["theirs"]
        apart = [
            (
                number,
                gaps[next(n for n, pair in enumerate(zip(one.token_ids, tokens, strict=True)) if len({*pair}) > 1)],
            )
            for number, (one, (tokens, gaps)) in enumerate(zip(answers, expected, strict=True))
            if list(one.token_ids) != tokens
        ]
        distinct = len({passage.passage_id for own in given for passage in own})
        computed = ours.generator.passages_computed
        right = all(gap < NEAR for _, gap in apart) and computed == (distinct, 0)
        limit = peer.tokens / sizes.rounds / ours.tokens(questions, given)
        ratio = times[1] / times[0]
        text = (
            f"{len(questions) / times[0]:.2f} questions/s, {len(questions) / times[1]:.2f} in transformers; "
            f"{limit:.2f} times the tokens there, of whose ratio this is {ratio / limit:.0%}; {distinct} passages, "
            f"read {computed[0]} times; {len(questions) - len(apart)} of {len(questions)} identical, within rounding: "
            f"{json.dumps(apart)}"
        )
        ok = right and ratio >= max(wanted, SHARE * limit)
        named = f"causal, {DOCS} of {distinct} passages / full prompts in transformers"
        found.append(Result(named, ratio, f">= {wanted}, and {SHARE} of the tokens' ratio", ok, text, right))
    return found


def passages(directory: Path, sizes: Sizes) -> list[Passage]:
    """Distinct passages of 80 to 100 words from the excerpt; titles without quotation marks, which prompts drop."""
    words = " ".join(text for _, text in some_passages(directory, sizes.parts, 1)).split()
    random = np.random.default_rng(3)
    cuts = [words[start : start + int(random.integers(80, WORDS + 1))] for start in range(0, len(words) - WORDS, WORDS)]
    return [Passage(str(number), " ".join(cut[:2]).strip('"'), " ".join(cut)) for number, cut in enumerate(cuts)]


def asked(count: int, corpus: Sequence[Passage]) -> tuple[list[str], list[list[Passage]], np.ndarray]:
    """Questions of 6 to 14 words, 5 passages for each, which all come up about as often, and scores."""
    random = np.random.default_rng(4)
    order = np.concatenate([random.permutation(len(corpus)) for _ in range(1 + count * DOCS // len(corpus))])
    given, place = [], 0
    for _ in range(count):
        own = dict[int, None]()
        while len(own) < DOCS:
            own[int(order[place % len(order)])] = None
            place += 1
        given.append([corpus[number] for number in own])
    words = [passage.text.split() for passage in corpus]
    questions = [
        "what " + " ".join(words[random.integers(len(corpus))][: random.integers(6, 14)]) for _ in range(count)
    ]
    return questions, given, random.normal(0, 1, (count, DOCS)).astype(np.float32)


def generator(vocabulary: int, sizes: Sizes) -> LlamaForCausalLM:
    """A random model of Llama's kind, of SmolLM2's proportions."""
    torch.manual_seed(0)
    config = LlamaConfig(
        vocab_size=vocabulary,
        hidden_size=sizes.width,
        intermediate_size=sizes.width * 8 // 3,
        num_hidden_layers=sizes.layers,
        num_attention_heads=9,
        num_key_value_heads=3,
        max_position_embeddings=1024,
        initializer_range=0.06,
        tie_word_embeddings=True,
        bos_token_id=101,
        eos_token_id=102,
        pad_token_id=0,
    )
    return LlamaForCausalLM(config).eval()


class Ours:
    """Ours; answers are NEW_TOKENS long.

    Attributes:
        generator: generator of answers.
    """

    def __init__(self, model: Any, tokenizer: Any, threads: int):
        small = BertConfig(hidden_size=8, num_hidden_layers=1, num_attention_heads=1, intermediate_size=8)
        config = RagConfig.from_question_encoder_generator_configs(small, model.config, max_combined_length=900)
        rag = CausalRag(config, GenerationConfig(eos_token_id=102, pad_token_id=0), model)
        settings = GenerationSettings(
            max_new_tokens=NEW_TOKENS, min_length=NEW_TOKENS + 1, spelling="tokens", stop=["[unused7]"]
        )
        pair = SimpleNamespace(question_encoder=tokenizer, generator=tokenizer)
        self._tokenizer, self.generator = tokenizer, RagTokenGenerator(rag, pair, settings, "cpu", threads)

    def answer(
        self, questions: list[str], given: list[list[Passage]], scores: np.ndarray, longest: int
    ) -> list[Answer]:
        """Answers, in batches of as many questions as the peer's; `longest` is the length of the longest prompt."""
        return self.generator.answer(questions, given, scores, batch_tokens=BATCH * DOCS * longest)

    def tokens(self, questions: list[str], given: list[list[Passage]]) -> int:
        """Tokens that are to be computed: each passage once, and each question and answer for each of its passages."""
        whole, passages = 0, dict[str, int]()
        for question, own in zip(questions, given, strict=True):
            for passage, ids in zip(own, prompts(self._tokenizer, [question], [own])[0], strict=True):
                tail = self._tokenizer(question + "\nAnswer:", add_special_tokens=False)["input_ids"]
                passages[passage.passage_id] = len(ids) - len(tail)
                whole += len(tail) + NEW_TOKENS - 1
        return whole + sum(passages.values())


def prompts(tokenizer: Any, questions: Sequence[str], given: Sequence[Sequence[Passage]]) -> list[list[list[int]]]:
    """Token ids of all prompts: [CLS] and the text, of which nothing follows."""
    return [
        [tokenizer(f"{one.title}\n{one.text}\n\nQuestion: {question}\nAnswer:")["input_ids"][:-1] for one in own]
        for question, own in zip(questions, given, strict=True)
    ]


class Mixing:
    """A logits processor: the rows of a question get the logarithms of the mixture of their probabilities."""

    def __init__(self, log_prior: torch.Tensor):
        self._log_prior = log_prior

    def __call__(self, ids: torch.Tensor, logits: torch.Tensor) -> torch.Tensor:
        """Scores of next tokens, (rows, vocabulary); an answer does not end."""
        joint = logits.log_softmax(-1).unflatten(0, self._log_prior.shape) + self._log_prior[..., None]
        mixed = joint.logsumexp(1)
        mixed[:, 102] = -torch.inf
        return mixed.repeat_interleave(DOCS, 0)


class Peer:
    """transformers.

    Attributes:
        tokens: tokens that it computed, padding left out.
    """

    def __init__(self, model: Any, tokenizer: Any):
        self._model, self._tokenizer, self.tokens = model, tokenizer, 0

    @torch.inference_mode()
    def answer(
        self, questions: list[str], given: list[list[Passage]], scores: np.ndarray
    ) -> list[tuple[list[int], list[float]]]:
        """Tokens of each answer, and how far the next likeliest one was from each."""
        whole = prompts(self._tokenizer, questions, given)
        order = sorted(range(len(questions)), key=lambda number: max(map(len, whole[number])))
        answers: dict[int, tuple[list[int], list[float]]] = {}
        for numbers in batches(order, BATCH):
            rows = [ids for number in numbers for ids in whole[number]]
            longest = max(map(len, rows))
            self.tokens += sum(map(len, rows)) + len(rows) * (NEW_TOKENS - 1)
            log_prior = torch.from_numpy(scores[numbers]).log_softmax(-1)
            output = self._model.generate(
                input_ids=torch.tensor([[0] * (longest - len(ids)) + ids for ids in rows]),
                attention_mask=torch.tensor([[0] * (longest - len(ids)) + [1] * len(ids) for ids in rows]),
                max_new_tokens=NEW_TOKENS,
                do_sample=False,
                logits_processor=LogitsProcessorList([Mixing(log_prior)]),
                return_dict_in_generate=True,
                output_scores=True,
            )
            new = output.sequences[::DOCS, longest:]
            steps = torch.stack([step[::DOCS] for step in output.scores], 1)
            first, second = steps.topk(2).values.unbind(-1)
            answers |= dict(zip(numbers, zip(new.tolist(), (first - second).tolist(), strict=True), strict=True))
        return [answers[number] for number in range(len(questions))]
