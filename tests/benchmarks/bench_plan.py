"""What `ragbeam plan` foretells next to what a run takes: disk and peak memory of each stage, for three sizes."""

from __future__ import annotations

import dataclasses
from pathlib import Path

from rag_ops import planning
from rag_ops.storage.manifests import read_manifest
from schemas.layout import OUTPUTS
from tests.benchmarks.bench_memory import SHARDS
from tests.benchmarks.common import Result, beside_peaks, small_models, stage_peaks

WITHIN = 0.15
SIZED = ("chunk", "embed", "index", "bm25")  # what is found is the larger the less alike the passages are


@dataclasses.dataclass(frozen=True)
class Sizes:
    """Copies of the excerpt, of each run."""

    times: tuple[int, ...] = (1, 2, 4)


TOY = Sizes((1,))


def run(directory: Path, sizes: Sizes = Sizes()) -> list[Result]:
    """The measured over the foretold figure that is farthest from 1, of each stage, for disk and for memory."""
    small, model = small_models(directory)
    ratios: dict[tuple[str, str], list[float]] = {}
    for times in sizes.times:
        place = directory / f"x{times}"
        shards = SHARDS * times
        peaks = stage_peaks(place, times, small, model, shards, SHARDS) | beside_peaks(place, small)
        rows = read_manifest(str(place / "passages"), "chunk").rows
        job = planning.Job(
            rows,
            384,
            passage_shards=shards,
            index_shards=SHARDS,
            normalize=True,
            questions=48,
            encoder=planning.Model.of(small),
            model=planning.Model.of(model),
        )
        foretold = planning.plan(job)
        for stage, peak in peaks.items():
            needs = foretold.stage(stage)
            if stage in SIZED:
                manifest = read_manifest(str(place / OUTPUTS[stage].folder), stage)
                disk = sum(shard.bytes for shard in manifest.shards)
                ratios.setdefault((stage, "disk"), []).append(disk / needs.disk_bytes)
            ratios.setdefault((stage, "memory"), []).append(peak / needs.memory_bytes)
    results = []
    for (stage, what), found in ratios.items():
        worst = max(found, key=lambda ratio: abs(ratio - 1))
        figures = f"{', '.join(f'{ratio:.2f}' for ratio in found)} for {', '.join(map(str, sizes.times))} excerpts"
        ok = abs(worst - 1) <= WITHIN
        results.append(Result(f"{what} of {stage}, measured / planned", worst, "0.85 to 1.15", ok, figures))
    return results
