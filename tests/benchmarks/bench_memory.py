"""Peak memory of every stage when the passages grow tenfold and a shard stays what it is."""

from __future__ import annotations

from pathlib import Path

import torch
from transformers import AutoTokenizer

from pipelines import demo
from rag_ops import composing
from tests.benchmarks.common import Result, encoder, peak_memory_bytes, repeat_excerpt
from tests.conftest import make_sentence_encoder

SMALL, LARGE = 1, 10
SHARDS = 4  # for each copy of the excerpt


def run(directory: Path) -> list[Result]:
    """Peak of ten copies of the excerpt over the peak of one, for each stage; a small encoder will do for that."""
    tokenizer = AutoTokenizer.from_pretrained(encoder())
    torch.manual_seed(0)
    (directory / "encoder").mkdir()
    config = {"vocab_size": len(tokenizer), "hidden_size": 384, "num_hidden_layers": 1, "num_attention_heads": 6}
    small = make_sentence_encoder(directory / "encoder", tokenizer, config | {"intermediate_size": 384}, seed=0)
    composing.compose_warm_started(small, str(directory / "model"))
    peaks: dict[str, list[int]] = {}
    for times in (SMALL, LARGE):
        workspace = directory / f"x{times}"
        workspace.mkdir()
        dump = repeat_excerpt(workspace / "dump.xml", times)
        shards = SHARDS * times
        stages = {
            "chunk": ["--input", dump, "--output", workspace / "passages", "--num_shards", shards],
            "embed": ["--passages", workspace / "passages", "--encoder", small, "--output", workspace / "embeddings"],
            "index": [
                "--embeddings",
                workspace / "embeddings",
                "--output",
                workspace / "index",
                "--num_shards",
                shards,
            ],
            "answer": ["--index", workspace / "index", "--model", directory / "model", "--questions", demo.QUESTIONS],
        }
        stages["answer"] += ["--output", workspace / "answers", "--max_new_tokens", 5]
        for stage, arguments in stages.items():
            peaks.setdefault(stage, []).append(peak_memory_bytes(stage, *arguments))
    results = []
    for stage, (before, after) in peaks.items():
        ratio = after / before
        figures = f"{before / 1e6:.0f} MB for one excerpt, {after / 1e6:.0f} MB for ten"
        results.append(Result(f"{stage}: peak memory, ten excerpts / one", ratio, "< 1.10", ratio < 1.1, figures))
    return results
