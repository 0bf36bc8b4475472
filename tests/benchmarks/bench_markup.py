"""MediaWiki's own parser tests: the words of our text against those of its HTML, with mwparserfromhell beside.

A word is what stands between spaces. Recall and precision count words regardless of their order; exact is the share of
tests whose words are the same in the same order.
"""

from __future__ import annotations

import dataclasses
import gzip
import json
import os
import re
from collections import Counter
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import mwparserfromhell

from rag_ops.markup.characters import PIPE
from rag_ops.markup.expansion import Expander
from rag_ops.markup.siteinfo import SiteInfo
from rag_ops.markup.template_source import templates_of
from rag_ops.markup.wikitext import to_text
from tests.benchmarks.results import NotHereError, Result

FILE = Path(__file__).parents[3] / "shared" / "data" / "wiki" / "parsertests-half.jsonl.gz"
MEASURES = ("recall", "precision", "exact")
# What each kind of tests must reach; those of a site's own set-up show where we stand.
WANTED = {
    "plain": (0.94, 0.94, 0.92),
    "templates": (0.80, 0.92, 0.75),
    "functions": (0.85, 0.90, 0.75),
    "site": (0, 0, 0),
}
SITE = SiteInfo()
_PARTED = re.compile(r"\{ (?=\{)|\} (?=\})|\[ (?=\[)|\] (?=\])")


@dataclasses.dataclass(frozen=True)
class Sizes:
    """Tests of each kind; None for all."""

    tests: int | None = None


TOY = Sizes(25)


def run(directory: Path, sizes: Sizes = Sizes()) -> list[Result]:
    """Word recall, precision and the share of exact texts, of each kind of tests."""
    path = Path(os.environ.get("RAGBEAM_PARSER_TESTS", FILE))
    if not path.exists():
        raise NotHereError(f"{path}: MediaWiki's parser tests")
    with gzip.open(path, "rt", encoding="utf-8") as file:
        tests = [json.loads(line) for line in file]
    results = []
    for kind, wanted in WANTED.items():
        some = [test for test in tests if test["kind"] == kind][: sizes.tests]
        ours, other = measure(some, rendered), measure(some, stripped)
        figures = f"{len(some)} tests; mwparserfromhell {_shown(other)}"
        for name, value, least in zip(MEASURES, ours, wanted, strict=True):
            ok = value >= least
            result = Result(f"parser tests, {kind}: {name}", value, f">= {least:.2f}" if least else "", ok, figures)
            results.append(dataclasses.replace(result, right=ok or sizes.tests is not None))
    return results


def measure(tests: Sequence[dict[str, Any]], text_of: Callable[[dict[str, Any]], str]) -> tuple[float, float, float]:
    """Recall and precision of words over all tests, and the share of tests whose words are all right, in order."""
    matched = expected = given = exact = 0
    for test in tests:
        wanted, found = words(test["expected"]), words(text_of(test))
        matched += (Counter(wanted) & Counter(found)).total()
        expected, given, exact = expected + len(wanted), given + len(found), exact + (wanted == found)
    return matched / max(expected, 1), matched / max(given, 1), exact / max(len(tests), 1)


def words(text: str) -> list[str]:
    """The words of a text; what we write for a pipe, for pairs of brackets and for "<ref" counts as these."""
    text = text.replace(PIPE, "|").replace("< ref", "<ref")
    return _PARTED.sub(lambda match: match[0].replace(" ", ""), text).split()


def rendered(test: dict[str, Any]) -> str:
    """Our text of a test, by the templates that it brings."""
    expander = Expander(templates_of(test["templates"], SITE), SITE)
    return to_text(expander.expand(test["wikitext"], "Parser test").wikitext, SITE)


def stripped(test: dict[str, Any]) -> str:
    """The text that mwparserfromhell gives, which expands no template."""
    return str(mwparserfromhell.parse(test["wikitext"]).strip_code())


def _shown(figures: Sequence[float]) -> str:
    return "/".join(f"{100 * figure:.1f}" for figure in figures)
