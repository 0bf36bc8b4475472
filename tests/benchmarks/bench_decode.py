"""Our decoder next to RagTokenForGeneration.generate on a model of BART-base's size: 5 passages, 10 new tokens, fp32.

Transformers stands twice: fed as its own retriever feeds it (padded to 300 tokens) and with padding to the longest.
Both sides get batches of 8 questions, RagConfig's own retrieval_batch_size. The share of the arithmetic limit is the
time that the needed multiplications would take at the rate of the machine's best matrix product, over the time that we
take.
"""

from __future__ import annotations

import copy
import dataclasses
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import tokenizers
import torch
from transformers import (
    BartConfig,
    BartForConditionalGeneration,
    DPRConfig,
    DPRQuestionEncoder,
    PreTrainedTokenizerFast,
    RagConfig,
    RagTokenizer,
)
from transformers import RagTokenForGeneration as Rag

from rag_ops.compute.packed_linear import PackedLinear
from rag_ops.generation.rag_token import GenerationSettings, RagTokenGenerator
from tests.benchmarks.common import THREADS, Result

DOCS, NEW_TOKENS, PADDED, BATCH = 5, 10, 300, 8
WANTED = {
    (1, "padded to 300"): 2.1,
    (1, "dynamic padding"): 1.3,
    (4, "padded to 300"): 10.0,
    (4, "dynamic padding"): 7.5,
}
PADDINGS = ("padded to 300", "dynamic padding")
VOCABULARY = 50_265


@dataclasses.dataclass(frozen=True)
class Size:
    """Of encoder and of decoder: layers, width, inner width of the feed-forward part, attention heads."""

    layers: int
    width: int
    feed_forward: int
    heads: int


BASE, LARGE = Size(6, 768, 3072, 12), Size(12, 1024, 4096, 16)


@dataclasses.dataclass(frozen=True)
class Sizes:
    """The model, and questions by number of beams: some tens of seconds for the slowest."""

    model: Size = BASE
    questions: tuple[tuple[int, int], ...] = ((1, 16), (4, 8))


TOY = Sizes(Size(1, 32, 64, 2), ((1, 3), (4, 2)))


def run(directory: Path, sizes: Sizes = Sizes()) -> list[Result]:
    """Questions per second as ratios; identical tokens are checked on the way."""
    torch.set_num_threads(THREADS)
    model = random_model(sizes.model)
    best_rate = matrix_rate()
    inputs = {beams: make_inputs(beams, count) for beams, count in sizes.questions}
    # All of transformers' runs come first: our generator changes how the process's heap works, which speeds both up.
    theirs = {
        (beams, padding): timed(lambda part, b=beams, p=padding: their_tokens(model, *part, b, p), contexts, scores)
        for beams, (_, contexts, scores) in inputs.items()
        for padding in PADDINGS
    }
    results = []
    for beams, (lengths, contexts, scores) in inputs.items():
        generator = our_generator(model, beams, "cpu")
        seconds, found = timed(lambda part, g=generator: g._answer_batch(*part), contexts, scores)
        share = needed_operations(sizes.model, lengths, beams) / best_rate / seconds
        tokens = [list(answer.token_ids) for answer in found]
        limit = f"{share:.0%} of the limit at {best_rate / 1e9:.0f} GFLOP/s"
        results += [_result(beams, padding, (seconds, tokens), theirs[beams, padding], limit) for padding in PADDINGS]
    return results


def timed(work: Callable[[tuple], Any], contexts: list, scores: np.ndarray) -> tuple[float, list]:
    """Seconds for all questions in batches, and what came out; the first call, which sets up, is not counted."""
    with torch.inference_mode():
        work((contexts[:1], scores[:1]))
        start = time.perf_counter()
        found = [
            row
            for part in range(0, len(contexts), BATCH)
            for row in work((contexts[part : part + BATCH], scores[part : part + BATCH]))
        ]
        return time.perf_counter() - start, found


def _result(beams: int, padding: str, ours: tuple[float, list], theirs: tuple[float, list], limit: str) -> Result:
    count, ratio, wanted = len(ours[1]), theirs[0] / ours[0], WANTED[beams, padding]
    pairs = zip(ours[1], theirs[1], strict=True)
    same = sum(own == row[1 : NEW_TOKENS + 1].tolist() for own, row in pairs)
    figures = (
        f"{count / ours[0]:.2f} questions/s, transformers {count / theirs[0]:.2f}; {same} of {count} identical; {limit}"
    )
    label = "greedy" if beams == 1 else f"{beams} beams"
    right = same == count
    ok = ratio >= wanted and right
    return Result(f"decode, {label}, transformers {padding}", ratio, f">= {wanted:.1f}", ok, figures, right)


def random_model(size: Size) -> Rag:
    """A RAG-Token model with a random BART of that size; its weights are large enough that tokens differ."""
    torch.manual_seed(0)
    parts = {"layers": size.layers, "ffn_dim": size.feed_forward, "attention_heads": size.heads}
    sizes = {f"{side}_{name}": value for side in ("encoder", "decoder") for name, value in parts.items()}
    bart = BartForConditionalGeneration(
        BartConfig(**sizes, d_model=size.width, vocab_size=VOCABULARY, init_std=0.1, forced_eos_token_id=None)
    )
    question_encoder = DPRQuestionEncoder(DPRConfig(num_hidden_layers=1, hidden_size=64, num_attention_heads=2))
    config = RagConfig.from_question_encoder_generator_configs(question_encoder.config, bart.config)
    return Rag(config=config, question_encoder=question_encoder, generator=bart).eval()


def matrix_rate() -> float:
    """Multiplications and additions a second of the best matrix product that torch or NumPy reach here."""
    rows, inner, columns = 2048, BASE.feed_forward, BASE.width
    x, weight = torch.randn(rows, inner), torch.randn(columns, inner)
    layer, x_array, weight_array = PackedLinear(weight, None), x.numpy(), weight.numpy()
    rates = []
    with torch.inference_mode():
        for work in (lambda: layer(x), lambda: x @ weight.T, lambda: x_array @ weight_array.T):
            for _ in range(5):
                start = time.perf_counter()
                work()
                rates.append(2 * rows * inner * columns / (time.perf_counter() - start))
    return max(rates)


def needed_operations(size: Size, lengths: np.ndarray, beams: int) -> float:
    """Multiplications and additions of the matrix products that the answers take, each computed once."""
    layers, width, inner = size.layers, size.width, size.feed_forward
    tokens, squares = float(lengths.sum()), float((lengths.astype(float) ** 2).sum())
    encoder = layers * (2 * tokens * (4 * width**2 + 2 * width * inner) + 4 * squares * width)
    keys_and_values = layers * 2 * tokens * 2 * width**2
    steps = lengths.size * (1 + (NEW_TOKENS - 1) * beams)  # the first step is the same for all beams
    looking = layers * 4 * tokens * width * (1 + (NEW_TOKENS - 1) * beams)
    decoder = layers * 2 * steps * (6 * width**2 + 2 * width * inner) + looking
    return encoder + keys_and_values + decoder + 2 * steps * width * VOCABULARY


def make_inputs(beams: int, count: int) -> tuple[np.ndarray, list, np.ndarray]:
    """Lengths in tokens, (questions, docs); contexts of random tokens; and inner products, (questions, docs)."""
    generator = np.random.default_rng(beams)
    lengths = generator.normal(165, 25, (count, DOCS)).clip(60, 290).astype(int)
    contexts = [[(generator.integers(4, 50_000, n).tolist(), False) for n in row] for row in lengths]
    return lengths, contexts, generator.standard_normal((count, DOCS)).astype(np.float32) * 2


def our_generator(model: Rag, beams: int, device: str, dtype: str = "float32") -> RagTokenGenerator:
    """Our decoder over a copy of the model, for exactly NEW_TOKENS tokens."""
    settings = GenerationSettings(num_beams=beams, min_length=NEW_TOKENS + 1, max_new_tokens=NEW_TOKENS)
    words = word_tokenizer()
    return RagTokenGenerator(copy.deepcopy(model), RagTokenizer(words, words), settings, device, THREADS, dtype)


def word_tokenizer() -> PreTrainedTokenizerFast:
    """A tokenizer of as many words as the vocabulary has, BART's special tokens the first of them."""
    special = {"bos_token": "<s>", "pad_token": "<pad>", "eos_token": "</s>", "unk_token": "<unk>"}
    words = [*special.values(), *(f"w{number}" for number in range(len(special), VOCABULARY))]
    model = tokenizers.models.WordLevel({word: place for place, word in enumerate(words)}, unk_token="<unk>")
    tokenizer = tokenizers.Tokenizer(model)
    tokenizer.pre_tokenizer = tokenizers.pre_tokenizers.Whitespace()
    return PreTrainedTokenizerFast(tokenizer_object=tokenizer, **special)


def their_tokens(model: Rag, contexts: list, scores: np.ndarray, beams: int, padding: str) -> torch.Tensor:
    """What transformers' generate gives for a batch, int64 (questions, 1 + tokens), on the model's device."""
    length = PADDED if padding == "padded to 300" else max(len(ids) for row in contexts for ids, _ in row)
    ids = torch.full((len(contexts) * DOCS, length), 1)
    mask = torch.zeros_like(ids)
    for place, (tokens, _) in enumerate(context for row in contexts for context in row):
        ids[place, : len(tokens)] = torch.tensor(tokens)
        mask[place, : len(tokens)] = 1
    return model.generate(
        context_input_ids=ids.to(model.device),
        context_attention_mask=mask.to(model.device),
        doc_scores=torch.from_numpy(scores).to(model.device, model.dtype),
        n_docs=DOCS,
        num_beams=beams,
        min_length=NEW_TOKENS + 1,
        max_length=NEW_TOKENS + 1,
        early_stopping=False,
    )
