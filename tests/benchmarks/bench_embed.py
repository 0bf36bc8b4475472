"""embed next to a bare length-sorted loop over the same model: what someone who knows how would write in a notebook."""

from __future__ import annotations

import dataclasses
import shutil
from pathlib import Path

import torch
from transformers import AutoModel, AutoTokenizer

from tests.benchmarks.common import THREADS, Result, batches, encoder, ragbeam, side_by_side, some_passages

BATCH = 32


@dataclasses.dataclass(frozen=True)
class Sizes:
    """Of so many parts of the excerpt one is encoded, in so many rounds: 5 give about 900 passages."""

    parts: int = 5
    rounds: int = 2


TOY = Sizes(parts=6, rounds=1)


def run(directory: Path, sizes: Sizes = Sizes()) -> list[Result]:
    """Passages per second of the whole job, reading to writing, as a ratio."""
    pairs = some_passages(directory, sizes.parts, num_shards=2)
    model, tokenizer = AutoModel.from_pretrained(encoder()).eval(), AutoTokenizer.from_pretrained(encoder())

    def bare() -> None:
        torch.set_num_threads(THREADS)
        with torch.inference_mode():
            for batch in batches(sorted(pairs, key=lambda pair: len(pair[1])), BATCH):
                titles, texts = zip(*batch, strict=True)
                encoded = tokenizer(
                    list(titles), list(texts), truncation=True, max_length=256, padding=True, return_tensors="pt"
                )
                states = model(**encoded).last_hidden_state
                mask = encoded["attention_mask"].unsqueeze(-1)
                torch.nn.functional.normalize((states * mask).sum(1) / mask.sum(1), dim=-1).numpy()

    def ours() -> None:
        shutil.rmtree(directory / "embeddings", ignore_errors=True)
        command = ["embed", "--passages", directory / "passages", "--encoder", encoder(), "--threads", THREADS]
        ragbeam(*command, "--output", directory / "embeddings")

    seconds, bare_seconds = side_by_side(ours, bare, sizes.rounds)
    ratio = bare_seconds / seconds
    figures = f"{len(pairs) / seconds:.1f} passages/s, bare loop {len(pairs) / bare_seconds:.1f}, {THREADS} threads"
    return [Result("embed / bare length-sorted loop, passages per second", ratio, ">= 0.90", ratio >= 0.9, figures)]
