"""Peak memory of every stage behind chunk when the passages grow tenfold and a shard stays what it is.

Chunk fills a buffer of 32 MB before it writes, which one excerpt does not: benchmark `dump` measures where it does.
"""

from __future__ import annotations

import dataclasses
from pathlib import Path

from tests.benchmarks.common import Result, small_models, stage_peaks

SHARDS = 4  # for each copy of the excerpt


@dataclasses.dataclass(frozen=True)
class Sizes:
    """Copies of the excerpt, in each run."""

    times: tuple[int, ...] = (1, 10)


TOY = Sizes((1,))


def run(directory: Path, sizes: Sizes = Sizes()) -> list[Result]:
    """Peak of many copies of the excerpt over the peak of one, for each stage; a small encoder will do for that."""
    encoder, model = small_models(directory)
    peaks: dict[str, list[int]] = {}
    for times in sizes.times:
        shards = SHARDS * times
        for stage, peak in stage_peaks(directory / f"x{times}", times, encoder, model, shards, shards).items():
            if stage != "chunk":
                peaks.setdefault(stage, []).append(peak)
    results = []
    first, last = sizes.times[0], sizes.times[-1]
    for stage, found in peaks.items():
        ratio = found[-1] / found[0]
        figures = f"{found[0] / 1e6:.0f} MB for {first} excerpt, {found[-1] / 1e6:.0f} MB for {last}"
        name = f"{stage}: peak memory, {last} excerpts / {first}"
        results.append(Result(name, ratio, "< 1.10", ratio < 1.1, figures))
    return results
