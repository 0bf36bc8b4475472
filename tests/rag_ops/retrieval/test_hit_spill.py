"""Hits grouped by question through files: the same as grouped in memory, in any order of arrival."""

import random
from pathlib import Path

import pytest

from rag_ops.retrieval import hit_spill
from rag_ops.retrieval.hit_spill import HitSpill, best
from rag_ops.retrieval.retrieved_files import Hit

KEPT = 4


def some_hits(questions: int, seed: int) -> list[tuple[int, Hit]]:
    """Up to nine hits for each question, with ties of rank and of score, in random order."""
    chance = random.Random(seed)
    hits = []
    for ordinal in range(questions):
        for number in range(chance.randrange(10)):
            texts = {
                "title": f"t{number}",
                "text": None if number % 3 else "of it",
                "problem": "bad" if number == 8 else None,
            }
            rank, score = chance.randrange(1, 5), chance.choice([None, 0.5, 1.0, 1 / 3])
            hits.append((ordinal, Hit(f"q{ordinal}", rank, len(hits), f"p{number}", score, **texts)))
    chance.shuffle(hits)
    return hits


@pytest.mark.parametrize(("limit", "files"), [("SPILL_HITS", 3), ("SPILL_CHARS", 2)])
def test_spilt_hits_are_those_that_a_sort_in_memory_gives(limit, files, tmp_path: Path, monkeypatch):
    monkeypatch.setattr(hit_spill, limit, 15)
    monkeypatch.setattr(hit_spill, "PART_QUESTIONS", 3)
    hits, spill = some_hits(20, seed=1), HitSpill(str(tmp_path), KEPT)
    for ordinal, hit in hits:
        spill.add(ordinal, hit)
    for ordinal in [*range(20), 3, 19, 0]:
        own = [hit for number, hit in hits if number == ordinal]
        own.sort(key=lambda hit: hit.line)
        own.sort(key=lambda hit: -float("inf") if hit.score is None else hit.score, reverse=True)
        own.sort(key=lambda hit: hit.rank)
        assert spill.of(ordinal) == own[:KEPT]
    assert len(list(tmp_path.glob("hits-*.arrow"))) >= files


def test_few_hits_are_never_written(tmp_path):
    spill = HitSpill(str(tmp_path), KEPT)
    for ordinal, hit in some_hits(3, seed=2):
        spill.add(ordinal, hit)
    assert spill.of(7) == []
    assert any(spill.of(ordinal) for ordinal in range(3))
    assert list(tmp_path.iterdir()) == []


def test_a_line_that_says_the_same_again_counts_once_and_one_that_says_otherwise_stays():
    first, again, other = (Hit("q", rank, line, "p", 2.0) for line, rank in enumerate((1, 1, 2)))
    assert best([again, other, first], 5) == [first, other]
