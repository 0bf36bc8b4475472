"""A passage that was found for a question elsewhere: by another search, and in its order."""

from __future__ import annotations

import dataclasses

from schemas.passages import Passage


@dataclasses.dataclass(frozen=True, slots=True)
class Found:
    """A passage found for a question.

    Attributes:
        passage_id: its id, as the file has it.
        score: score of its search, on any scale; 0 if there is none.
        title, section, text: what models read; the text is None if it is still to be read from `row`.
        row: its row in the passages; -1 if the text is here.
    """

    passage_id: str
    score: float
    title: str = ""
    section: str = ""
    text: str | None = None
    row: int = -1

    @property
    def passage(self) -> Passage:
        """The passage as models read it; its text must be here."""
        assert self.text is not None
        return Passage(self.passage_id, self.title, self.text, self.section)
