"""Counts pages that become no article, by reason, and names those that are at fault themselves."""

from __future__ import annotations

import logging
from collections import Counter
from collections.abc import Mapping, Sequence

logger = logging.getLogger(__name__)
TOO_LONG, TOO_COMPLEX = NAMED = "too_long", "too_complex"  # reasons for which a page is named
NAMED_TITLES = 100  # titles kept for each reason; the counts are complete
SHOWN_CHARS = 200
MOST_TEMPLATES = 20_000  # names that are counted; Wikipedia's articles call more, but few often
SPLIT_TEMPLATES = 1000  # names that are kept of a split
NAMED_TEMPLATES = 50  # that a run reports


def most_common(counts: Mapping[str, int], number: int) -> dict[str, int]:
    """The greatest counts, greatest first; of equal ones the first by name.

    >>> most_common({"b": 2, "a": 2, "c": 3}, 2)
    {'c': 3, 'a': 2}
    """
    return dict(sorted(counts.items(), key=lambda item: (-item[1], item[0]))[:number])


class Dropped(Counter[str]):
    """Counts by reason; `titles` has the first pages of each reason that names them.

    `templates` counts calls that are dropped from pages that are kept, by the template's name.

    >>> dropped = Dropped()
    >>> dropped["redirect"] += 1
    >>> dropped.name(TOO_LONG, "A page of 10 MB")
    >>> dict(dropped), dropped.titles
    ({'redirect': 1, 'too_long': 1}, {'too_long': ['A page of 10 MB']})
    """

    def __init__(self) -> None:
        super().__init__()
        self.titles: dict[str, list[str]] = {}
        self.templates: Counter[str] = Counter()

    def name(self, reason: str, title: str) -> None:
        """Counts a page that cannot be read within the bounds, keeps its title, and says so in a line of the log."""
        logger.warning("page %r is dropped: %s", title[:SHOWN_CHARS], reason.replace("_", " "))
        self[reason] += 1
        titles = self.titles.setdefault(reason, [])
        if len(titles) < NAMED_TITLES:
            titles.append(title[:SHOWN_CHARS])

    def count(self, reason: str, title: str) -> None:
        """Counts a page; it is named if it cannot be read within the bounds."""
        if reason in NAMED:
            self.name(reason, title)
        else:
            self[reason] += 1

    def lose(self, templates: Mapping[str, int]) -> None:
        """Counts calls of templates; if there are too many names, the rarest are forgotten."""
        self.templates.update(templates)
        if len(self.templates) > MOST_TEMPLATES:
            self.templates = Counter(most_common(self.templates, MOST_TEMPLATES // 2))

    def add(self, counts: Mapping[str, int], titles: Mapping[str, Sequence[str]]) -> None:
        """Adds what was counted before, in another step."""
        self.update(counts)
        for reason, found in titles.items():
            self.titles[reason] = [*self.titles.get(reason, ()), *found][:NAMED_TITLES]
