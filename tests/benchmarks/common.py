"""What the benchmarks share: inputs, the demo's encoder, side-by-side timing, and peak memory of a command."""

from __future__ import annotations

import bz2
import contextlib
import io
import json
import os
import re
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import torch
from transformers import AutoTokenizer

from pipelines.cli import main
from pipelines.demo import command as demo
from rag_ops import planning
from rag_ops.models import compose
from rag_ops.storage.manifests import read_manifest
from rag_ops.storage.parquet import read_parquet
from tests.benchmarks.results import NotHereError, Result
from tests.conftest import make_sentence_encoder

__all__ = ["NotHereError", "Result"]

THREADS = 2


def excerpt() -> str:
    """The Wikipedia excerpt of the demo, or the dump that RAGBEAM_BENCH_DUMP names: bz2."""
    return os.environ.get("RAGBEAM_BENCH_DUMP") or demo.package_path(*demo.EXCERPT)


def encoder() -> str:
    """The encoder of the demo."""
    return demo.package_path(*demo.ENCODER)


def indexed(directory: Path, *inputs: object) -> Path:
    """An index of inputs by the demo's encoder, beside its passages and vectors in a directory; made once."""
    passages, embeddings, index = (directory / name for name in ("passages", "embeddings", "index"))
    ragbeam("chunk", "--input", *inputs, "--output", passages)
    ragbeam("embed", "--passages", passages, "--encoder", encoder(), "--output", embeddings)
    ragbeam("index", "--embeddings", embeddings, "--output", index)
    return index


def some_passages(directory: Path, parts: int, num_shards: int, copies: int = 1) -> list[tuple[str, str]]:
    """Writes about one of so many parts of the excerpt's passages to `directory/passages`, so many times.

    Returns titles and texts, once.
    """
    ragbeam("chunk", "--input", excerpt(), "--output", directory / "all", "--num_shards", parts)
    shards = read_manifest(str(directory / "all"), "chunk").shards
    middle = sorted(shards, key=lambda shard: shard.rows)[parts // 2]
    rows = read_parquet(str(directory / "all" / middle.path)).select(["id", "title", "text"]).to_pandas()
    source = directory / "some.jsonl"
    with source.open("w", encoding="utf-8") as file:
        for copy in range(copies):
            numbered = rows.assign(id=rows["id"] + f"-{copy}") if copy else rows
            numbered.to_json(file, orient="records", lines=True, force_ascii=False)
    command = ["chunk", "--input", source, "--output", directory / "passages", "--passage_words", 1000]
    ragbeam(*command, "--num_shards", num_shards)
    return list(zip(rows["title"], rows["text"], strict=True))


def repeat_excerpt(path: Path, times: int) -> Path:
    """Writes a plain XML dump with the excerpt's pages `times` over, each copy with page ids and titles of its own."""
    text = bz2.BZ2File(excerpt()).read().decode()
    start, end = text.index("  <page>"), text.rindex("</mediawiki>")
    pages = text[start:end]
    with path.open("w") as file:
        file.write(text[:start])
        for copy in range(times):
            numbered = re.sub(r"(<ns>\d+</ns>\s*<id>)(\d+)", rf"\g<1>{copy}0\g<2>", pages)
            file.write(re.sub(r"(<title>)([^<]*)", rf"\g<1>\g<2> {copy}" if copy else r"\g<1>\g<2>", numbered))
        file.write(text[end:])
    return path


def small_encoder(directory: Path) -> str:
    """A random encoder of one layer with the demo's tokenizer."""
    tokenizer = AutoTokenizer.from_pretrained(encoder())
    torch.manual_seed(0)
    (directory / "encoder").mkdir()
    config = {"vocab_size": len(tokenizer), "hidden_size": 384, "num_hidden_layers": 1, "num_attention_heads": 6}
    small = make_sentence_encoder(directory / "encoder", tokenizer, config | {"intermediate_size": 384}, seed=0)
    pooling = Path(small) / "1_Pooling" / "config.json"
    settings = json.loads(pooling.read_text()) | {"word_embedding_dimension": 384}  # which the library asks for
    pooling.write_text(json.dumps(settings))
    return small


def small_models(directory: Path) -> tuple[str, str]:
    """A random encoder of one layer with the demo's tokenizer, and a RAG-Token model of it: enough for memory."""
    small = small_encoder(directory)
    compose.compose_warm_started(small, str(directory / "model"))
    return small, str(directory / "model")


def stage_peaks(place: Path, times: int, encoder: str, model: str, shards: int, index_shards: int) -> dict[str, int]:
    """Peak memory in bytes of each stage over `times` copies of the excerpt, in a new directory `place`."""
    place.mkdir()
    dump = repeat_excerpt(place / "dump.xml", times)
    passages, embeddings, index = (place / name for name in ("passages", "embeddings", "index"))
    stages: dict[str, list[object]] = {
        "chunk": ["--input", dump, "--output", passages, "--num_shards", shards, "--direct_num_workers", 1],
        "embed": ["--passages", passages, "--encoder", encoder, "--output", embeddings],
        "index": ["--embeddings", embeddings, "--output", index, "--num_shards", index_shards],
        "answer": ["--index", index, "--model", model, "--questions", demo.QUESTIONS, "--output", place / "answers"],
    }
    stages["answer"] += ["--max_new_tokens", 5]
    return {stage: peak_memory_bytes(stage, *arguments) for stage, arguments in stages.items()}


def beside_peaks(place: Path, encoder: str) -> dict[str, int]:
    """Peak memory in bytes of an index of words and of search by either index, in a directory of `stage_peaks`."""
    search = ["search", "--questions", demo.QUESTIONS, "--output"]
    dense = [place / "hits", "--index", place / "index", "--question_encoder", encoder]
    commands = {
        "bm25": ["index", "--kind", "bm25", "--passages", place / "passages", "--output", place / "bm25"],
        "search": [*search, *dense, "--compute_dtype", "float32"],
        planning.WORD_SEARCH: [*search, place / "word_hits", "--bm25", place / "bm25"],
    }
    return {name: peak_memory_bytes(*arguments) for name, arguments in commands.items()}


def ragbeam(*arguments: object) -> None:
    """Runs a command in this process, its output kept from the report.

    Raises:
        RuntimeError: it failed.
    """
    with contextlib.redirect_stdout(io.StringIO()), contextlib.redirect_stderr(io.StringIO()) as errors:
        code = main([str(argument) for argument in arguments])
    if code:
        raise RuntimeError(errors.getvalue())


def side_by_side(ours: Callable[[], None], theirs: Callable[[], None], rounds: int = 2) -> tuple[float, float]:
    """Seconds of the best of some rounds of each, run in turn so that the machine's moods touch both."""
    times: dict[str, list[float]] = {"ours": [], "theirs": []}
    for _ in range(rounds):
        for name, work in (("theirs", theirs), ("ours", ours)):
            start = time.perf_counter()
            work()
            times[name].append(time.perf_counter() - start)
    return min(times["ours"]), min(times["theirs"])


def peak_memory_bytes(*arguments: object) -> int:
    """The peak resident memory of a command in a process of its own.

    Raises:
        RuntimeError: it failed.
    """
    return peak_bytes_of("from pipelines.cli import main; code = main(sys.argv[1:])", *arguments)


def peak_bytes_of(code: str, *arguments: object) -> int:
    """The peak resident memory of Python code in a process of its own: it reads `sys.argv`, and sets `code`.

    Raises:
        RuntimeError: it failed, or `code` is not 0.
    """
    # Not getrusage: its peak is inherited from the process that forked.
    peak = "print('PEAK', next(l.split()[1] for l in open('/proc/self/status') if l.startswith('VmHWM')))"
    command = [sys.executable, "-c", f"import sys; {code}; {peak}; sys.exit(code)", *map(str, arguments)]
    done = subprocess.run(command, capture_output=True, text=True, cwd=Path(__file__).parents[2], env=os.environ)
    if done.returncode:
        raise RuntimeError(done.stderr)
    return int(next(line for line in done.stdout.splitlines() if line.startswith("PEAK")).split()[1]) * 1024


def batches(items: list, size: int) -> Iterator[list]:
    """Consecutive parts of a list."""
    return (items[start : start + size] for start in range(0, len(items), size))
