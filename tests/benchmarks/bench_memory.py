"""Peak memory of every stage when the passages grow tenfold and a shard stays what it is."""

from __future__ import annotations

from pathlib import Path

from tests.benchmarks.common import Result, small_models, stage_peaks

SMALL, LARGE = 1, 10
SHARDS = 4  # for each copy of the excerpt


def run(directory: Path) -> list[Result]:
    """Peak of ten copies of the excerpt over the peak of one, for each stage; a small encoder will do for that."""
    encoder, model = small_models(directory)
    peaks: dict[str, list[int]] = {}
    for times in (SMALL, LARGE):
        shards = SHARDS * times
        for stage, peak in stage_peaks(directory / f"x{times}", times, encoder, model, shards, shards).items():
            peaks.setdefault(stage, []).append(peak)
    results = []
    for stage, (before, after) in peaks.items():
        ratio = after / before
        figures = f"{before / 1e6:.0f} MB for one excerpt, {after / 1e6:.0f} MB for ten"
        results.append(Result(f"{stage}: peak memory, ten excerpts / one", ratio, "< 1.10", ratio < 1.1, figures))
    return results
