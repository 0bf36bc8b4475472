"""Counts pages that become no article, by reason, and names those that are at fault themselves."""

from __future__ import annotations

import logging
from collections import Counter
from collections.abc import Mapping, Sequence

logger = logging.getLogger(__name__)
TOO_LONG, TOO_COMPLEX = "too_long", "too_complex"
NAMED_TITLES = 100  # titles kept for each reason; the counts are complete
SHOWN_CHARS = 200


class Dropped(Counter[str]):
    """Counts by reason; `titles` has the first pages of each reason that names them.

    >>> dropped = Dropped()
    >>> dropped["redirect"] += 1
    >>> dropped.name(TOO_LONG, "A page of 10 MB")
    >>> dict(dropped), dropped.titles
    ({'redirect': 1, 'too_long': 1}, {'too_long': ['A page of 10 MB']})
    """

    def __init__(self) -> None:
        super().__init__()
        self.titles: dict[str, list[str]] = {}

    def name(self, reason: str, title: str) -> None:
        """Counts a page that cannot be read within the bounds, keeps its title, and says so in a line of the log."""
        logger.warning("page %r is dropped: %s", title[:SHOWN_CHARS], reason.replace("_", " "))
        self[reason] += 1
        titles = self.titles.setdefault(reason, [])
        if len(titles) < NAMED_TITLES:
            titles.append(title[:SHOWN_CHARS])

    def add(self, counts: Mapping[str, int], titles: Mapping[str, Sequence[str]]) -> None:
        """Adds what was counted before, in another step."""
        self.update(counts)
        for reason, found in titles.items():
            self.titles[reason] = [*self.titles.get(reason, ()), *found][:NAMED_TITLES]
