"""What the markup of a wiki says in its own language: a `Language` for each code, from this package's tables."""

from __future__ import annotations

import dataclasses
import functools
from collections.abc import Mapping

from rag_ops.markup import tables

ENGLISH = "en"


@dataclasses.dataclass(frozen=True)
class Language:
    """The words of a language's wikis that the rules from markup to text look for.

    Attributes:
        code: the language's own code, also where a dump calls it otherwise.
        closing_sections: headings of the sections at the end of an article that hold no prose, in lower case; English
            ones are among them, because small wikis keep what they copied.
        namespaces: names of namespaces beside those that a dump names, in lower case, and their numbers.
    """

    code: str
    closing_sections: frozenset[str]
    namespaces: Mapping[str, int]


@functools.cache
def language(code: str) -> Language:
    """The language of a code; one that no table knows has what every wiki has.

    >>> "references" in language("ltg").closing_sections
    True
    """
    return Language(
        code,
        frozenset(heading for of, heading in tables.rows("closing_sections.tsv", 2) if of in (code, ENGLISH)),
        {name: int(number) for of, number, name in tables.rows("namespaces.tsv", 3) if of in (code, "*")},
    )
