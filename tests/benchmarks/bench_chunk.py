"""chunk next to a bare loop of mwparserfromhell's strip_code over the same pages."""

from __future__ import annotations

import bz2
import dataclasses
import shutil
import xml.etree.ElementTree as ElementTree
from pathlib import Path

import mwparserfromhell

from tests.benchmarks.common import Result, excerpt, ragbeam, side_by_side


@dataclasses.dataclass(frozen=True)
class Sizes:
    """Rounds of each."""

    rounds: int = 3


TOY = Sizes(rounds=1)


def run(directory: Path, sizes: Sizes = Sizes()) -> list[Result]:
    """Pages per second of the whole job, reading to writing, as a ratio."""
    count = 0

    def bare() -> None:
        nonlocal count
        count = 0
        for _, element in ElementTree.iterparse(bz2.BZ2File(excerpt())):
            if element.tag.endswith("}page"):
                namespace = element.tag[: element.tag.index("}") + 1]
                if element.find(f"{namespace}redirect") is None:
                    mwparserfromhell.parse(element.findtext(f"{namespace}revision/{namespace}text")).strip_code()
                count += 1
                element.clear()

    def ours() -> None:
        shutil.rmtree(directory / "passages", ignore_errors=True)
        ragbeam("chunk", "--input", excerpt(), "--output", directory / "passages")

    seconds, bare_seconds = side_by_side(ours, bare, rounds=sizes.rounds)
    ratio = bare_seconds / seconds
    figures = f"{count / seconds:.0f} pages/s, bare loop {count / bare_seconds:.0f}"
    return [Result("chunk / bare strip_code loop, pages per second", ratio, ">= 0.80", ratio >= 0.8, figures)]
