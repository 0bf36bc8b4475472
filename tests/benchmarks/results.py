"""What a benchmark gives."""

from __future__ import annotations

import dataclasses


@dataclasses.dataclass(frozen=True)
class Result:
    """One line of the report.

    Attributes:
        name: of what is measured.
        ratio: the measured number.
        wanted: what it must be.
        ok: whether it is.
        figures: what it comes from.
        right: whether what no machine's speed decides holds: same tokens, same rows, nothing lost.
    """

    name: str
    ratio: float
    wanted: str
    ok: bool
    figures: str
    right: bool = True


class NotHereError(Exception):
    """What a benchmark needs is not here."""
