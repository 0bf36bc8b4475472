"""Recall of search by vectors, by words and by both, on question sets whose paragraphs are the corpus.

A question is right at k if its own paragraph is among the first k passages. How the two searches are fused is chosen on
one half of the questions, by recall at 5, and measured on the other, with bootstrap intervals. The question sets are
those of the folder that RAGBEAM_QA names; RAGBEAM_BENCH_QUESTIONS says how many questions are drawn.
"""

from __future__ import annotations

import dataclasses
import os
import random
from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np

from rag_ops.evaluation.resampling import bootstrap_interval, paired_bootstrap
from rag_ops.retrieval.fusion import FusionSettings, fuse
from rag_ops.retrieval.topk import TopK
from rag_ops.storage.manifests import read_manifest
from rag_ops.storage.parquet import read_parquet
from tests.benchmarks.bench_reader import FOLDER, write
from tests.benchmarks.common import THREADS, NotHereError, Result, encoder, ragbeam
from tests.demo_reader.reading import Sample, real_questions

DEPTHS = (5, 20)
KEPT = 100  # passages of each search
WAYS = [FusionSettings(), *(FusionSettings(fusion="weighted", dense_weight=share / 10) for share in range(1, 10))]


@dataclasses.dataclass(frozen=True)
class Sizes:
    """Questions that are asked, and paragraphs that are searched: theirs, and others up to so many."""

    questions: int = int(os.environ.get("RAGBEAM_BENCH_QUESTIONS", 3000))
    paragraphs: int = 1_000_000


TOY = Sizes(12, 24)


def run(directory: Path, sizes: Sizes = Sizes()) -> list[Result]:
    """Recall at 5 and 20 of the three searches.

    Raises:
        NotHereError: the question sets are not here.
    """
    if not FOLDER.is_dir():
        raise NotHereError(f"no question sets in {FOLDER} (RAGBEAM_QA)")
    asked = list(real_questions(FOLDER))
    sample = random.Random(4).sample(asked, min(sizes.questions, len(asked)))
    numbers = prepare(directory, sample, asked, sizes.paragraphs)
    dense = ["--index", directory / "index", "--question_encoder", encoder()]
    words = ["--bm25", directory / "bm25"]
    found = {"vectors": search(directory, "vectors", dense), "words": search(directory, "words", words)}
    gold = {str(number): str(numbers[one.text]) for number, one in enumerate(sample)}
    chosen = set(random.Random(5).sample(sorted(gold), len(gold) // 2))
    how = max(WAYS, key=lambda way: np.mean(right(fused(found, way, chosen), gold, 5)))
    flags = ["--fusion", how.fusion, "--dense_weight", how.dense_weight, "--candidates", KEPT]
    found["both"] = search(directory, "both", [*dense, *words, *flags])
    measured = sorted(gold.keys() - chosen)
    by_hand = fused(found, how, set(measured))
    same = all(texts_of(by_hand, name) == texts_of(found["both"], name) for name in measured)
    return [result(found, gold, measured, depth, how, same) for depth in DEPTHS]


Ranked = Mapping[str, list[dict]]  # rows of a search by question id, best first


def prepare(directory: Path, sample: Sequence[Sample], asked: Sequence[Sample], paragraphs: int) -> dict[str, int]:
    """Writes the questions, and both indexes of the paragraphs, each of which is one passage; gives their numbers."""
    titles = {one.text: one.title for one in (*sample, *asked)}
    texts = list(titles)[: max(paragraphs, len({one.text for one in sample}))]
    write(
        directory / "paragraphs.jsonl", [{"id": n, "title": titles[text], "text": text} for n, text in enumerate(texts)]
    )
    write(directory / "questions.jsonl", [{"id": str(n), "question": one.question} for n, one in enumerate(sample)])
    passages, embeddings = directory / "passages", directory / "embeddings"
    cut = ["--passage_words", 10_000, "--num_shards", 4]
    ragbeam("chunk", "--input", directory / "paragraphs.jsonl", "--output", passages, *cut)
    ragbeam("embed", "--passages", passages, "--encoder", encoder(), "--output", embeddings, "--threads", THREADS)
    ragbeam(
        "index", "--embeddings", embeddings, "--output", directory / "index", "--spec", "Flat", "--threads", THREADS
    )
    ragbeam("index", "--kind", "bm25", "--passages", passages, "--output", directory / "bm25")
    return {text: number for number, text in enumerate(texts)}


def search(directory: Path, name: str, flags: Sequence[object]) -> Ranked:
    """The rows of a search, by question."""
    output = directory / "hits" / name
    command = ["search", "--questions", directory / "questions.jsonl", "--output", output, "--n_docs", KEPT]
    ragbeam(*command, "--threads", THREADS, *flags)
    rows: dict[str, list[dict]] = {}
    for shard in read_manifest(str(output), "search").shards:
        table = read_parquet(str(output / shard.path), ["question_id", "row", "passage_id", "score", "error"])
        for row in table.to_pylist():
            rows.setdefault(row["question_id"], []).extend([row] if row["error"] is None else [])
    return rows


def fused(found: Mapping[str, Ranked], how: FusionSettings, names: set[str]) -> Ranked:
    """What a way of fusion makes of the two searches, for some questions."""
    ordered, texts = (
        sorted(names),
        {row["row"]: row["passage_id"] for side in found.values() for rows in side.values() for row in rows},
    )
    sides = [topk([found[side][name] for name in ordered]) for side in ("vectors", "words")]
    rows = fuse(*sides, how, KEPT).hits.rows.tolist()
    return {
        name: [{"row": row, "passage_id": texts[row]} for row in best if row >= 0]
        for name, best in zip(ordered, rows, strict=True)
    }


def topk(ranked: Sequence[list[dict]]) -> TopK:
    """Rows of questions as arrays."""
    hits = TopK.empty(len(ranked), KEPT)
    for number, rows in enumerate(ranked):
        hits.rows[number, : len(rows)] = [row["row"] for row in rows]
        hits.scores[number, : len(rows)] = [row["score"] for row in rows]
    return hits


def texts_of(ranked: Ranked, name: str) -> list[str]:
    """The paragraphs of a question by number: chunk may write their texts otherwise."""
    return [row["passage_id"].rpartition(":")[0] for row in ranked[name]]


def right(ranked: Ranked, gold: Mapping[str, str], depth: int, names: Sequence[str] | None = None) -> np.ndarray:
    """Whether the paragraph of each question is among its first passages, 0 or 1."""
    names = sorted(ranked) if names is None else names
    return np.array([float(gold[name] in texts_of(ranked, name)[:depth]) for name in names])


def result(
    found: Mapping[str, Ranked],
    gold: Mapping[str, str],
    measured: Sequence[str],
    depth: int,
    how: FusionSettings,
    same: bool,
) -> Result:
    """Recall of both over the better of either, with the figures of all three."""
    scores = {name: right(ranked, gold, depth, measured) for name, ranked in found.items()}
    better = max(("vectors", "words"), key=lambda name: scores[name].mean())
    gain = paired_bootstrap(scores["both"], scores[better]) or (0.0, 0.0)
    parts = []
    for name, values in scores.items():
        low, high = bootstrap_interval(values) or (0.0, 0.0)
        parts.append(f"{name} {values.mean():.3f} ({low:.3f} to {high:.3f})")
    way = how.fusion if how.fusion == "rrf" else f"weighted, {how.dense_weight} of vectors"
    figures = (
        f"{', '.join(parts)}; both less {better} {gain[0]:+.3f} to {gain[1]:+.3f}; {way}; {len(measured)} questions, "
        f"{len({row['row'] for rows in found['vectors'].values() for row in rows}):,} paragraphs found"
    )
    ratio = float(scores["both"].mean() / max(scores[better].mean(), 1e-9))
    name = f"search: recall@{depth} by both / by the better of vectors and words"
    return Result(name, ratio, "> 1, interval of the difference above 0", gain[0] > 0, figures, right=same)
