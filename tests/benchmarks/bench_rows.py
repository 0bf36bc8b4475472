"""answer over many rows with every kind of bad row among them: each comes out, and memory stays small.

`RAGBEAM_ROWS` gives another number of rows.
"""

from __future__ import annotations

import dataclasses
import os
import time
from pathlib import Path

import pyarrow.dataset
from transformers import AutoTokenizer

from rag_ops.models import compose
from rag_ops.storage.manifests import read_manifest
from tests.benchmarks.common import Result, peak_memory_bytes, ragbeam
from tests.conftest import bert_config, make_bart, make_sentence_encoder, make_tokenizer
from tests.mixed_rows import differences, write
from tests.pipelines.workspace import write_articles

LIMIT_BYTES = 2 << 30


@dataclasses.dataclass(frozen=True)
class Sizes:
    """Rows of the question file."""

    rows: int = int(os.environ.get("RAGBEAM_ROWS", "30000"))


TOY = Sizes(60)  # every kind of row


def run(directory: Path, sizes: Sizes = Sizes()) -> list[Result]:
    """Rows out over rows in, rows that are not as they must be, and the peak memory of the job's process."""
    model, index = small_stage(directory)
    questions, answers = directory / "questions.jsonl", directory / "answers"
    expected = write(questions, sizes.rows)
    started = time.perf_counter()
    command = ["answer", "--questions", questions, "--index", index, "--model", model, "--output", answers]
    command += ["--threads", 1]  # so small a model gains nothing by a second one
    peak = peak_memory_bytes(*command, "--n_docs", 2, "--max_new_tokens", 3, "--max_combined_length", 48)
    seconds = time.perf_counter() - started
    columns = ["question_id", "question", "answer", "error"]
    table = pyarrow.dataset.dataset(answers, format="parquet", exclude_invalid_files=True).to_table(columns)
    problems = differences(table.to_pylist(), expected)
    info = read_manifest(str(answers), "answer").info
    failed = sum(info["errors"].values())
    told = ", ".join(f"{count:,} {reason}" for reason, count in info["errors"].items())
    figures = f"{table.num_rows:,} rows, {failed:,} with an error ({told}); {seconds:.0f} s, {peak / 1e6:.0f} MB"
    whole, wrong = table.num_rows == sizes.rows, "; ".join(problems[:3]) or "none"
    return [
        Result("rows out / rows in", table.num_rows / sizes.rows, "1", whole, figures, whole),
        Result("rows that are not as they must be", len(problems), "0", not problems, wrong, not problems),
        Result("answer's peak memory / 2 GiB", peak / LIMIT_BYTES, "< 1", peak < LIMIT_BYTES, f"{peak / 1e6:.0f} MB"),
    ]


def small_stage(directory: Path) -> tuple[Path, Path]:
    """A tiny RAG-Token model of random weights, and an index of some short passages."""
    tokenizer = AutoTokenizer.from_pretrained(make_tokenizer(directory / "tokenizer"))
    encoder = make_sentence_encoder(directory / "encoder", tokenizer, bert_config(len(tokenizer)), seed=1)
    bart = make_bart(directory / "bart", tokenizer, seed=3, layers=1, width=16, init_std=0.5)
    compose.compose(encoder, bart, str(directory / "model"))
    write_articles(directory / "articles.jsonl", words=7)
    passages, embeddings = directory / "passages", directory / "embeddings"
    ragbeam("chunk", "--input", directory / "articles.jsonl", "--output", passages, "--passage_words", 8)
    ragbeam("embed", "--passages", passages, "--encoder", encoder, "--output", embeddings)
    ragbeam("index", "--embeddings", embeddings, "--output", directory / "index")
    return directory / "model", directory / "index"
