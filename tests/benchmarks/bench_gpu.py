"""What a GPU gives: embed next to sentence-transformers, exact search next to its copies, decoding next to generate.

All weights are random. Shares are of the rate that a large bfloat16 matrix product reaches on the same card in the same
run, counting what the real tokens need: padding and repeated work count for nothing. Sentence-transformers has float16
and torch's SDPA; transformers decodes batches of 8 questions padded to 300 tokens, as its own retriever feeds it.
"""

from __future__ import annotations

import copy
import dataclasses
import json
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch
from transformers import AutoTokenizer

from rag_ops.compute.batching import token_batches
from rag_ops.defaults import ANSWER_BATCH_TOKENS
from rag_ops.models.encoder import Encoder
from rag_ops.retrieval import exact
from tests.benchmarks.bench_decode import (
    BATCH,
    LARGE,
    Size,
    make_inputs,
    needed_operations,
    our_generator,
    random_model,
    their_tokens,
)
from tests.benchmarks.common import NotHereError, Result, encoder
from tests.conftest import make_sentence_encoder

BERT_BASE = Size(12, 768, 3072, 12)
WORDS, WORDS_SPREAD, LONGEST = 140, 15, 256  # of a passage: mean and deviation; tokens that it is cut to
THEIR_BATCH = 256  # texts of a batch of sentence-transformers
K, CHECKED, MADE_ROWS = 20, 4, 65_536
SHARE, OVER_THEIRS, OF_COPIES, DECODED = 0.5, 1.2, 0.5, 5.0  # what must be reached


@dataclasses.dataclass(frozen=True)
class Sizes:
    """The machine, and what is computed on it.

    Attributes:
        device: "cuda", or "cpu" for a run that only shows that all of this works.
        threads: CPU threads of ours.
        matrix: rows, columns and inner size of the product that is the measure.
        encoder: size of the encoder.
        passages: how many are encoded.
        vectors: rows and numbers of what is searched, float16: 32 GB of the machine's memory.
        searched: questions of the search.
        generator: size of the generator.
        questions: by number of beams.
        theirs: how many of them transformers answers: the first.
    """

    device: str = "cuda"
    threads: int = 16
    matrix: int = 8192
    encoder: Size = BERT_BASE
    passages: int = 50_000
    vectors: tuple[int, int] = (21_000_000, 768)
    searched: int = 4096
    generator: Size = LARGE
    questions: tuple[tuple[int, int], ...] = ((1, 1024), (4, 512))
    theirs: int = 64


TOY = Sizes("cpu", 1, 256, Size(1, 32, 64, 2), 12, (3000, 32), 5, Size(1, 32, 64, 2), ((1, 2), (4, 2)), 2)


def run(directory: Path, sizes: Sizes = Sizes()) -> list[Result]:
    """Passages, vectors and questions per second, as ratios.

    Raises:
        NotHereError: there is no GPU.
    """
    if sizes.device == "cuda" and not torch.cuda.is_available():
        raise NotHereError("no GPU that torch can use")
    best_rate = matrix_rate(sizes)
    model = random_model(sizes.generator)
    theirs = copy.deepcopy(model).to(sizes.device, torch.bfloat16)
    decoded = [_decode(model, theirs, beams, count, best_rate, sizes) for beams, count in sizes.questions]
    del model, theirs
    return [*_embed(directory, best_rate, sizes), _search(sizes), *decoded]


def matrix_rate(sizes: Sizes) -> float:
    """Multiplications and additions a second of a large matrix product in bfloat16."""
    x = torch.randn(sizes.matrix, sizes.matrix, device=sizes.device, dtype=torch.bfloat16)
    return max(2 * sizes.matrix**3 / seconds(lambda: x @ x) for _ in range(10))


def seconds(work: Callable[[], Any]) -> float:
    """How long some work takes, with what it has queued on a GPU."""
    _finish()
    start = time.perf_counter()
    work()
    _finish()
    return time.perf_counter() - start


def _finish() -> None:
    if torch.cuda.is_available():
        torch.cuda.synchronize()


def _machine(sizes: Sizes) -> str:
    return torch.cuda.get_device_name() if sizes.device == "cuda" else "a CPU"


def _embed(directory: Path, best_rate: float, sizes: Sizes) -> list[Result]:
    from sentence_transformers import SentenceTransformer

    found, texts = _random_encoder(directory, sizes.encoder), _random_texts(sizes.passages)
    ours = Encoder.load(found, role="context", device=sizes.device, threads=sizes.threads, dtype="bfloat16")
    dtype = torch.float16 if sizes.device == "cuda" else torch.float32  # float16 takes a CPU for ever
    options = {"dtype": dtype, "attn_implementation": "sdpa"}
    theirs = SentenceTransformer(found, device=sizes.device, model_kwargs=options)
    some = texts[: max(1, len(texts) // 10)]
    vectors, _ = ours.encode(some)  # the first of each is not counted: it sets up
    expected = theirs.encode(some, batch_size=THEIR_BATCH, show_progress_bar=False).astype(np.float32)
    closeness = float(((vectors * expected).sum(1) / np.linalg.norm(expected, axis=1)).min())
    own = seconds(lambda: ours.encode(texts, dtype=np.dtype("float16")))
    other = seconds(lambda: theirs.encode(texts, batch_size=THEIR_BATCH, show_progress_bar=False))
    lengths = np.array([len(row.ids) for row in ours.tokenize(texts)])
    share, ratio, right = encoding_operations(sizes.encoder, lengths) / own / best_rate, other / own, closeness > 0.99
    rates = f"{len(texts) / own:,.0f} passages/s of {lengths.mean():.0f} tokens"
    measure = f"the {best_rate / 1e12:.1f} TFLOP/s of a matrix product on {_machine(sizes)}"
    return [
        Result("embed on a GPU / matrix product", share, f">= {SHARE}", share >= SHARE, f"{rates}; {measure}"),
        Result(
            "embed on a GPU / sentence-transformers",
            ratio,
            f">= {OVER_THEIRS}",
            ratio >= OVER_THEIRS and right,
            f"{rates}, sentence-transformers {len(texts) / other:,.0f}; smallest cosine {closeness:.4f}",
            right,
        ),
    ]


def _random_encoder(directory: Path, size: Size) -> str:
    """Writes a sentence-transformers directory of a random BERT with the demo's tokenizer; returns its path."""
    tokenizer = AutoTokenizer.from_pretrained(encoder())
    config = {"vocab_size": len(tokenizer), "hidden_size": size.width, "intermediate_size": size.feed_forward}
    config |= {"num_hidden_layers": size.layers, "num_attention_heads": size.heads}
    place = directory / "encoder"
    place.mkdir()
    made = make_sentence_encoder(place, tokenizer, config, seed=0)
    (place / "sentence_bert_config.json").write_text(json.dumps({"max_seq_length": LONGEST}))
    pooling = {"word_embedding_dimension": size.width, "pooling_mode_mean_tokens": True}
    (place / "1_Pooling" / "config.json").write_text(json.dumps(pooling))
    return made


def _random_texts(count: int) -> list[str]:
    """Texts of random words, as long as passages are."""
    generator = np.random.default_rng(0)
    words = np.array(sorted(word for word in AutoTokenizer.from_pretrained(encoder()).get_vocab() if word.isalpha()))
    lengths = generator.normal(WORDS, WORDS_SPREAD, count).clip(20, 200).astype(int)
    return [" ".join(generator.choice(words, length)) for length in lengths]


def encoding_operations(size: Size, lengths: np.ndarray) -> float:
    """Multiplications and additions of the matrix products that encoding texts of so many tokens takes."""
    per_token = 2 * (4 * size.width**2 + 2 * size.width * size.feed_forward)
    return size.layers * (per_token * float(lengths.sum()) + 4 * size.width * float((lengths.astype(float) ** 2).sum()))


def _search(sizes: Sizes) -> Result:
    rows, dimension = sizes.vectors
    torch.manual_seed(0)
    asked = torch.randn(sizes.searched, dimension)
    vectors = np.empty(sizes.vectors, np.float16)
    best = torch.full((CHECKED, 0), 0.0, device=sizes.device)
    found_rows = torch.zeros((CHECKED, 0), dtype=torch.long, device=sizes.device)
    some = asked[:CHECKED].to(sizes.device)
    for start in range(0, rows, MADE_ROWS):  # brute force for some questions on the way, in float32
        block = torch.randn(min(MADE_ROWS, rows - start), dimension, device=sizes.device).half()
        vectors[start : start + len(block)] = block.cpu().numpy()
        scores = torch.cat([best, some @ block.float().T], 1)
        places = torch.arange(start, start + len(block), device=sizes.device).expand(CHECKED, -1)
        best, chosen = scores.topk(min(K, scores.shape[1]))
        found_rows = torch.cat([found_rows, places], 1).gather(1, chosen)
    questions = asked.numpy()

    def search(number: int) -> Any:
        return exact.search(questions[:number], vectors, K, device=sizes.device, threads=sizes.threads)

    found = search(CHECKED)
    same = sum(set(a) == set(b) for a, b in zip(found.rows.tolist(), found_rows.tolist(), strict=True))
    taken, copies = seconds(lambda: search(len(questions))), _copying(vectors, sizes)
    ratio = copies / taken
    figures = (
        f"{rows:,} x {dimension}: {len(questions):,} questions in {taken:.1f} s, "
        f"{2 * rows * dimension * len(questions) / taken / 1e12:.1f} TFLOP/s; its bytes alone take {copies:.1f} s from "
        f"page-locked memory to {_machine(sizes)}; {same} of {CHECKED} with brute force's rows"
    )
    right = same == CHECKED
    return Result("exact search / its copies", ratio, f">= {OF_COPIES}", ratio >= OF_COPIES and right, figures, right)


def _copying(vectors: np.ndarray, sizes: Sizes) -> float:
    """Seconds that as many bytes take from page-locked memory to the device."""
    part = torch.from_numpy(vectors[:MADE_ROWS])
    locked = part.pin_memory() if sizes.device == "cuda" else part
    there = torch.empty_like(part, device=sizes.device)
    return min(seconds(lambda: there.copy_(locked)) for _ in range(5)) * len(vectors) / len(part)


def _decode(model: Any, theirs: Any, beams: int, count: int, best_rate: float, sizes: Sizes) -> Result:
    lengths, contexts, scores = make_inputs(beams, count)
    ours = our_generator(model, beams, sizes.device, "bfloat16")
    padded = [len(row) * max(len(ids) for ids, _ in row) for row in contexts]

    def answer() -> None:
        for batch in token_batches(padded, ANSWER_BATCH_TOKENS[sizes.device]):
            ours._answer_batch([contexts[n] for n in batch], scores[batch])

    def generate(questions: int) -> None:
        for start in range(0, questions, BATCH):
            part = slice(start, min(start + BATCH, questions))
            their_tokens(theirs, contexts[part], scores[part], beams, "padded to 300")

    with torch.inference_mode():
        answer()  # the first of each is not counted: it sets up
        own_rate = count / seconds(answer)
        generate(min(BATCH, sizes.theirs))
        their_rate = sizes.theirs / seconds(lambda: generate(sizes.theirs))
    share = needed_operations(sizes.generator, lengths, beams) / count * own_rate / best_rate
    figures = (
        f"{own_rate:.1f} questions/s, transformers {their_rate:.1f}; {share:.0%} of the {best_rate / 1e12:.1f} TFLOP/s "
        f"that a matrix product reaches on {_machine(sizes)}"
    )
    label = "greedy" if beams == 1 else f"{beams} beams"
    ratio = own_rate / their_rate
    return Result(f"decode on a GPU, {label}", ratio, f">= {DECODED:.0f}", ratio >= DECODED, figures)
