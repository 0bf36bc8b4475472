"""FineWiki: Wikipedia's articles as Markdown, one a row, with their infoboxes beside.

https://huggingface.co/datasets/HuggingFaceFW/finewiki
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from typing import Any

from rag_ops.articles.dropped import TOO_LONG
from rag_ops.articles.options import InputOptions
from rag_ops.articles.wiki_format import EMPTY, Head, WikiFormat, head_of, unpacked, with_infoboxes
from rag_ops.markup import markdown
from rag_ops.markup.cleaning import clean
from rag_ops.markup.parts import Part
from rag_ops.markup.siteinfo import SiteInfo

MAX_FACTS = 2000  # of an article's infoboxes


class Finewiki(WikiFormat):
    """Parquet, or JSON by the same names."""

    name, needs = "finewiki", ("text", "title", "page_id", "wikiname")
    keys = frozenset(needs)
    columns = ("in_language", "date_modified", "version", "infoboxes")

    def head(self, row: dict[str, Any], source: Callable[[], str]) -> Head:
        moment = row.get("date_modified"), row.get("version")
        code, wiki = row.get("in_language"), row.get("wikiname")
        return head_of(source, row.get("page_id"), row.get("title"), moment=moment, code=code, wiki=wiki)

    def parts(self, row: dict[str, Any], head: Head, site: SiteInfo, options: InputOptions) -> Sequence[Part] | str:
        text = row.get("text")
        if not isinstance(text, str) or not text.strip():
            return EMPTY
        found = markdown.render(text, site, options.parts)
        if found is None:
            return TOO_LONG
        return with_infoboxes(found, _boxes(row.get("infoboxes"))) if options.parts.tables else found


def _boxes(value: Any) -> Iterator[list[str]]:
    """The facts of each infobox: an object of labels and values, or one that has it under "data"."""
    value = unpacked(value)
    for box in value if isinstance(value, list) else [value]:
        facts = box.get("data", box) if isinstance(box, dict) else None
        if isinstance(facts, str):
            facts = unpacked(facts)
        pairs = [(str(name), one) for name, one in facts.items()] if isinstance(facts, dict) else []
        lines = (fact(name, one) for name, one in pairs[:MAX_FACTS] if not (facts is box and name == "title"))
        yield list(dict.fromkeys(filter(None, lines)))


def fact(name: str, value: Any) -> str:
    """One line of an infobox; empty if it says nothing.

    >>> fact("Rivers:", ["Danube", "Blau"]), fact("Website", None)
    ('Rivers: Danube, Blau', '')
    """
    values = value if isinstance(value, list) else [value]
    if isinstance(value, dict):
        values = [f"{key}: {one}" for key, one in value.items() if isinstance(one, (str, int, float))]
    texts = (clean(str(one), []).replace("\n", ", ") for one in values if isinstance(one, (str, int, float)))
    shown, label = ", ".join(filter(None, texts)), clean(name, []).replace("\n", " ").strip(" :")
    return f"{label}: {shown}" if shown and label else ""
