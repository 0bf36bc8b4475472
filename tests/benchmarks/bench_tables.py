"""Questions that only a table or an infobox answers: how many find its passage, without and with --tables rows.

The questions were written from the pages' markup before there were such passages. A passage is right if it is of the
right page and holds an answer by DPR's has_answer.
"""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path

import numpy as np
import pyarrow as pa

from rag_ops.evaluation.metrics import has_answer
from rag_ops.models.encoder import Encoder
from rag_ops.storage.manifests import read_manifest
from rag_ops.storage.parquet import read_parquet
from rag_ops.storage.rows import as_matrix
from schemas.passages import PROSE
from tests.benchmarks.common import Result, encoder, excerpt, ragbeam

QUESTIONS = Path(__file__).with_name("table_questions.jsonl")
FOUND = 20  # passages of a question
WANTED = 0.8


@dataclasses.dataclass(frozen=True)
class Sizes:
    """Pages to search; questions about others are left out. None for all of the excerpt."""

    pages: tuple[str, ...] | None = None


TOY = Sizes(("Albedo", "Actrius"))


def run(directory: Path, sizes: Sizes = Sizes()) -> list[Result]:
    """Recall at 20 over passages of prose alone, and over all."""
    ragbeam("chunk", "--input", excerpt(), "--output", directory / "passages", "--num_shards", 4)
    table = _read(directory / "passages", "chunk", ["title", "text", "kind"])
    model = Encoder.load(encoder(), role="context", device="cpu")
    if sizes.pages is None:
        ragbeam(
            "embed", "--passages", directory / "passages", "--encoder", encoder(), "--output", directory / "vectors"
        )
        vectors = as_matrix(_read(directory / "vectors", "embed", ["vector"])["vector"]).astype(np.float32)
    else:
        table = table.filter(pa.array([title in sizes.pages for title in table["title"].to_pylist()]))
        vectors, _ = model.encode(table["title"].to_pylist(), table["text"].to_pylist())
    passages = table.to_pylist()
    questions = [json.loads(line) for line in QUESTIONS.read_text(encoding="utf-8").splitlines()]
    pages = {passage["title"] for passage in passages}
    questions = [question for question in questions if question["title"] in pages]
    asked, _ = Encoder.load(encoder(), role="question", device="cpu").encode([one["question"] for one in questions])
    scores = asked.astype(np.float32) @ vectors.T
    prose = np.array([passage["kind"] == PROSE for passage in passages])
    before = _recall(questions, passages, np.where(prose, scores, -np.inf))
    after = _recall(questions, passages, scores)
    cells = int((~prose).sum())
    figures = f"{len(questions)} questions, {len(passages):,} passages, of which {cells} of tables and infoboxes"
    return [
        Result(f"recall@{FOUND} of cells, prose alone", before, "near 0", before <= 0.1, figures),
        Result(
            f"recall@{FOUND} of cells, --tables rows", after, f">= {WANTED}", after >= WANTED, figures, after > before
        ),
    ]


def _recall(questions: list[dict], passages: list[dict], scores: np.ndarray) -> float:
    """The share of the questions with a right passage among the best."""
    best = np.argsort(-scores, axis=1, kind="stable")[:, :FOUND]
    right = [
        any(
            _is_right(question, passages[row])
            for row, score in zip(rows, given[rows], strict=True)
            if np.isfinite(score)
        )
        for question, rows, given in zip(questions, best, scores, strict=True)
    ]
    return float(np.mean(right))


def _is_right(question: dict, passage: dict) -> bool:
    return passage["title"] == question["title"] and has_answer(passage["text"], question["answers"])


def _read(directory: Path, stage: str, columns: list[str]) -> pa.Table:
    shards = read_manifest(str(directory), stage).shards
    return pa.concat_tables([read_parquet(str(directory / shard.path), columns) for shard in shards])
