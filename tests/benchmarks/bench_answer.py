"""answer next to a bare loop of RagTokenForGeneration.generate over the same questions and passages."""

from __future__ import annotations

import dataclasses
import json
import shutil
from pathlib import Path

import torch
from transformers import RagTokenForGeneration, RagTokenizer

from pipelines.demo import command as demo
from rag_ops.models import compose
from rag_ops.storage.parquet import read_parquet
from tests.benchmarks.common import THREADS, Result, batches, encoder, ragbeam, side_by_side, some_passages

N_DOCS = 5
NEW_TOKENS = 10
BATCH = 8


@dataclasses.dataclass(frozen=True)
class Sizes:
    """How much is asked of how much.

    Attributes:
        questions: of the demo's 48.
        endings: of each question's copies: a job of some size, as batch jobs are.
        parts: of the excerpt, of which one is searched.
        rounds: of each side.
    """

    questions: int = 48
    endings: tuple[str, ...] = ("", ", please")
    parts: int = 10
    rounds: int = 2


TOY = Sizes(questions=2, endings=("",), parts=6, rounds=1)


def run(directory: Path, sizes: Sizes = Sizes()) -> list[Result]:
    """Questions per second of the whole job, retrieval and marginals included, as a ratio."""
    model_directory = str(directory / "model")
    compose.compose_warm_started(encoder(), model_directory)
    questions = directory / "questions.jsonl"
    with open(demo.QUESTIONS, encoding="utf-8") as file:
        asked = [json.loads(line)["question"] for line in file][: sizes.questions]
    questions.write_text("".join(json.dumps({"question": q + end}) + "\n" for end in sizes.endings for q in asked))
    some_passages(directory, sizes.parts, num_shards=1)
    ragbeam("embed", "--passages", directory / "passages", "--encoder", encoder(), "--output", directory / "embeddings")
    ragbeam("index", "--embeddings", directory / "embeddings", "--output", directory / "index")

    def ours() -> None:
        shutil.rmtree(directory / "answers", ignore_errors=True)
        command = ["answer", "--questions", questions, "--index", directory / "index", "--model", model_directory]
        command += ["--n_docs", N_DOCS, "--max_new_tokens", NEW_TOKENS, "--min_length", NEW_TOKENS + 1]
        ragbeam(*command, "--threads", THREADS, "--output", directory / "answers")

    ours()
    found = read_parquet(str(directory / "answers" / "answers-00000-of-00001.parquet")).to_pylist()
    model, tokenizer = (
        RagTokenForGeneration.from_pretrained(model_directory).eval(),
        RagTokenizer.from_pretrained(model_directory),
    )

    def bare() -> None:
        torch.set_num_threads(THREADS)
        ordered = sorted(found, key=lambda row: max(len(p["text"]) for p in row["passages"]))
        for batch in batches(ordered, BATCH):
            texts = [f"{p['title']} / {p['text']} // {row['question']}" for row in batch for p in row["passages"]]
            encoded = tokenizer.generator(texts, padding=True, truncation=True, max_length=300, return_tensors="pt")
            model.generate(
                context_input_ids=encoded["input_ids"],
                context_attention_mask=encoded["attention_mask"],
                doc_scores=torch.tensor([[p["score"] for p in row["passages"]] for row in batch]),
                n_docs=N_DOCS,
                num_beams=1,
                max_length=NEW_TOKENS + 1,
                min_length=NEW_TOKENS + 1,
            )

    seconds, bare_seconds = side_by_side(ours, bare, sizes.rounds)
    ratio = bare_seconds / seconds
    count = len(found)
    figures = (
        f"{count / seconds:.2f} questions/s, bare loop {count / bare_seconds:.2f}; {N_DOCS} docs, {NEW_TOKENS} tokens"
    )
    return [Result("answer / bare loop of generate, questions per second", ratio, ">= 0.90", ratio >= 0.9, figures)]
