"""Reads this package's tables of names: files of tab-separated columns, meant to be extended by hand."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path


def rows(name: str, columns: int = 1) -> Iterator[list[str]]:
    """Yields the cells of each row of a file beside this one; empty cells at the end of a line may be left out.

    Lines that begin with "#" are comments.

    Raises:
        ValueError: a line has more.

    >>> next(rows("closing_sections.tsv", 2))
    ['en', 'references']
    """
    for number, line in enumerate(Path(__file__).with_name(name).read_text(encoding="utf-8").split("\n"), 1):
        if line and not line.startswith("#"):
            cells = line.split("\t")
            if len(cells) > columns:
                raise ValueError(f"{name}, line {number}: {len(cells)} columns, expected {columns}")
            yield cells + [""] * (columns - len(cells))
