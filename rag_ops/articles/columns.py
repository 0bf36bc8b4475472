"""Which columns of a corpus hold an article's id, title and text: those that flags name, else names in common use."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Iterable, Sequence
from typing import Any

from rag_ops.errors import InputError
from schemas.passages import content_hash

# The first of each is the flag's default, the others what is looked for where that is missing: BEIR has _id, Pyserini
# contents, KILT _id and wikipedia_title, MS MARCO pid, docid, passage, body and segment.
KNOWN: dict[str, tuple[str, ...]] = {
    "id": ("id", "_id", "docid", "doc_id", "pid", "passage_id", "kilt_id", "wikipedia_id", "page_id", "pageid"),
    "title": ("title", "wikipedia_title", "page_title", "doc_title", "article_title"),
    "text": ("text", "contents", "content", "passage", "body", "segment"),
}


SECTION = "section"  # taken over wherever a corpus has it


@dataclasses.dataclass(frozen=True)
class Columns:
    """The names of columns; a corpus can do without ids, titles and sections."""

    text: str
    title: str | None = None
    id: str | None = None
    section: str | None = None

    def present(self) -> list[str]:
        """The names of the columns, each once."""
        return list(dict.fromkeys(name for name in (self.id, self.title, self.text, self.section) if name is not None))


def find_columns(names: Iterable[Any], wanted: Columns, source: Callable[[], str], what: str = "an article") -> Columns:
    """Finds the columns to read: those that flags name, else the first name in common use that is there.

    Args:
        wanted: names that the flags give. A flag's default stands for any name in `KNOWN`; another name must be there.
        source, what: file and place, and owner of the columns, for the message.

    Raises:
        InputError: there is no text, or a column is missing that a flag names.

    >>> find_columns(["_id", "text", "metadata"], Columns("text", "title", "id"), str)
    Columns(text='text', title=None, id='_id', section=None)
    """
    names = list(names)
    found: dict[str, str | None] = {}
    for field, known in KNOWN.items():
        name = getattr(wanted, field) or known[0]
        usual = known if name == known[0] else (name,)
        found[field] = next((one for one in usual if one in names), None)
        if found[field] is None and (field == "text" or name != known[0]):
            raise InputError(
                f"{what} has no {name}",
                value=f"{source()} has {', '.join(map(str, names)) or 'nothing'}",
                expected=f"a value for {name!r}",
                remedy=f"name the column with --{field}_column",
            )
    if SECTION in names and SECTION not in found.values():
        found[SECTION] = SECTION
    return Columns(**found)  # type: ignore[arg-type]


def made_id(title: str, text: str) -> str:
    """Makes the id of an article that has none, from its content, so it is the same wherever the article is.

    >>> made_id("", "The ampere is a unit.")
    'f3f1cfd718bad4860c5979a80f3ef88a'
    """
    return content_hash(title, text).hex()


def joined_text(value: Any) -> Any:
    r"""Joins paragraphs if a text is a list of them (KILT), or holds such a list; else the value itself.

    >>> joined_text(["Ampere\n", "A unit.\n"])
    'Ampere\nA unit.'
    """
    if isinstance(value, dict):
        value = value.get("paragraph", value)
    if isinstance(value, Sequence) and not isinstance(value, (str, bytes)):
        parts = [part for part in value if part is not None]
        if all(isinstance(part, str) for part in parts):
            return "\n".join(part.removesuffix("\n") for part in parts)
    return value
