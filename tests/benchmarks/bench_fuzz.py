"""Random dumps and question files, sound and broken: no crash, no hang, no page and no row lost.

`RAGBEAM_FUZZ_CASES` and `RAGBEAM_FUZZ_SEED` give other numbers; a case that fails is told by its seed.
"""

from __future__ import annotations

import contextlib
import dataclasses
import logging
import os
import random
import resource
import sys
from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path

from tests.benchmarks.common import Result
from tests.fuzzing import check_dump_case, check_question_case

FIRST_SEED = int(os.environ.get("RAGBEAM_FUZZ_SEED", "1000000"))
LIMIT_SECS = 5.0  # of a processor, for a case, with the processes that it starts


@dataclasses.dataclass(frozen=True)
class Sizes:
    """Cases of both readers together."""

    cases: int = int(os.environ.get("RAGBEAM_FUZZ_CASES", "50000"))


TOY = Sizes(cases=40)


def run(directory: Path, sizes: Sizes = Sizes()) -> list[Result]:
    """Cases that failed, and the slowest case, of each reader; half of the cases are each one's."""
    results = []
    for name, check in (("question files", check_question_case), ("dumps", check_dump_case)):
        with quiet():
            failed, slowest, kinds = fuzz(check, range(FIRST_SEED, FIRST_SEED + sizes.cases // 2), directory)
        refused = sum(count for kind, count in kinds.items() if kind.endswith("refused"))
        damaged = sum(count for kind, count in kinds.items() if kind.endswith("damaged, read"))
        figures = f"{kinds.total():,} cases, {refused:,} refused in one line, {damaged:,} damaged ones read"
        results.append(Result(f"fuzz, {name}: crashed or lost", failed, "0", failed == 0, figures, failed == 0))
        figures = f"{slowest[0]:.2f} s of a processor, seed {slowest[1]}"
        results.append(Result(f"fuzz, {name}: slowest case (s)", slowest[0], "< 5", slowest[0] < LIMIT_SECS, figures))
    return results


@contextlib.contextmanager
def quiet() -> Iterator[None]:
    """Keeps the readers' warnings of thousands of broken files to themselves while the block runs."""
    before = logging.root.manager.disable
    logging.disable(logging.CRITICAL)
    try:
        yield
    finally:
        logging.disable(before)


def fuzz(
    check: Callable[[random.Random, Path], str], seeds: range, directory: Path
) -> tuple[int, tuple[float, int], Counter[str]]:
    """The number of failed cases, seconds and seed of the slowest, and how many there were of each kind."""
    failed, slowest = 0, (0.0, 0)
    kinds: Counter[str] = Counter()
    for seed in seeds:
        before = _processor_secs()
        try:
            kinds[check(random.Random(seed), directory)] += 1
        except Exception as error:
            failed += 1
            kinds["failed"] += 1
            sys.stderr.write(f"{check.__name__}, seed {seed}: {type(error).__name__}: {str(error)[:300]}\n")
        slowest = max(slowest, (_processor_secs() - before, seed))
    return failed, slowest, kinds


def _processor_secs() -> float:
    times = [resource.getrusage(who) for who in (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN)]
    return sum(used.ru_utime + used.ru_stime for used in times)
