"""What the markup of a wiki says in its own language: a `Language` for each code, from this package's tables."""

from __future__ import annotations

import dataclasses
import functools
from collections.abc import Mapping

from rag_ops.markup import tables

ENGLISH = "en"
LEAST_GROUPED = 4  # digits of a whole number from which its thousands are parted


@dataclasses.dataclass(frozen=True)
class Language:
    """The words of a language's wikis that the rules from markup to text look for, and how they write numbers.

    Attributes:
        code: the language's own code, also where a dump calls it otherwise.
        separator, decimal: between thousands, and before decimals.
        least_grouped: digits of a whole number from which its thousands are parted.
        variants: codes of the scripts and countries into which its wikis convert text, the one to be kept first.
        closing_sections: headings of the sections at the end of an article that hold no prose, in lower case; English
            ones are among them, as in the two that follow, because wikis keep what they copied.
        disambiguation, disambiguation_titles, disambiguation_descriptions: templates that say that a page lists what
            its title may mean, words in brackets at the end of its title, and what Wikidata calls it; in lower case.
        redirects: what begins a redirect behind a "#", in lower case.
        namespaces: names of namespaces beside those that a dump names, in lower case, and their numbers.
    """

    code: str
    separator: str = ","
    decimal: str = "."
    least_grouped: int = LEAST_GROUPED
    variants: tuple[str, ...] = ()
    closing_sections: frozenset[str] = frozenset()
    disambiguation: frozenset[str] = frozenset()
    disambiguation_titles: frozenset[str] = frozenset()
    disambiguation_descriptions: frozenset[str] = frozenset()
    redirects: frozenset[str] = frozenset()
    namespaces: Mapping[str, int] = dataclasses.field(default_factory=dict, hash=False)

    def format_number(self, text: str) -> str:
        """Groups a number's thousands as the language's wikis do; a text that is no number stays as it is.

        The number is written with a point before its decimals, and may have commas between thousands.

        >>> [language(code).format_number("-51234.25") for code in ("en", "de", "fr")]
        ['−51,234.25', '−51.234,25', '−51 234,25']
        >>> language("pl").format_number("5000"), language("pl").format_number("n/a")
        ('5000', 'n/a')
        """
        digits = text.strip().replace(",", "").replace("−", "-")
        whole, point, decimals = digits.removeprefix("-").partition(".")
        if not (whole.isascii() and whole.isdigit()) or (point and not (decimals.isascii() and decimals.isdigit())):
            return text.strip()
        grouped = f"{int(whole):,}".replace(",", self.separator) if len(whole) >= self.least_grouped else whole
        return "−" * digits.startswith("-") + grouped + (self.decimal + decimals if point else "")


@functools.cache
def language(code: str) -> Language:
    """The language of a code; one that no table knows has what every wiki has.

    >>> language("nb").code, "references" in language("ltg").closing_sections
    ('no', True)
    """
    own, separator, decimal, least, variants = _written().get(code, (code, ",", ".", "", ""))
    codes = {code, own, ENGLISH}
    return Language(
        own,
        separator.replace("_", " "),
        decimal,
        int(least or LEAST_GROUPED),
        tuple(variants.split()),
        _words("closing_sections.tsv", codes),
        _words("disambiguation.tsv", codes, "template"),
        _words("disambiguation.tsv", codes, "title"),
        _words("disambiguation.tsv", codes, "description"),
        _words("redirects.tsv", codes),
        {name: int(number) for of, number, name in tables.rows("namespaces.tsv", 3) if of in ("*", own)},
    )


@functools.cache
def _written() -> Mapping[str, tuple[str, ...]]:
    """By each code the language's own code, and how its wikis write."""
    found: dict[str, tuple[str, ...]] = {}
    for own, others, alike, separator, decimal, least, variants in tables.rows("languages.tsv", 7):
        found.update((code, (own, separator, decimal, least, variants)) for code in [own, *others.split()])
        found.update((code, (code, separator, decimal, least, variants)) for code in alike.split())
    return found


def _words(name: str, codes: set[str], kind: str | None = None) -> frozenset[str]:
    """The words of a table in these languages; `kind` is what its second column must say, if it has three."""
    rows = tables.rows(name, 2 if kind is None else 3)
    return frozenset(row[-1] for row in rows if row[0] in codes and kind in (None, row[1]))
