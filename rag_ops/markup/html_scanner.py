"""Scans HTML: texts and tags in order, in linear time whatever it is.

The standard library's parser is quadratic on tags that nothing ends ("<a<a<a..."), and keeps what it could not read for
another try. Here what nothing ends takes the rest of the page with it, as in a browser.
"""

from __future__ import annotations

import itertools
import re
from collections.abc import Iterator
from typing import NamedTuple

from rag_ops.markup.characters import unescape

MAX_ATTRIBUTES = 64  # of a tag; what follows is not looked at
_OPENING = re.compile(r"<(?:(?P<comment>!--)|[!?]|(?P<closing>/?)(?P<name>[a-zA-Z][^\s/>]*))")
_TAG_PART = re.compile(r"=\s*([\"'])|>")
_ATTRIBUTE = re.compile(r"([^\s\"'>/=]+)(?:\s*=\s*(?:\"([^\"]*)\"|'([^']*)'|([^\s\"'=<>`]+)))?")


class Text(NamedTuple):
    """What stands between two tags, with its entities."""

    text: str


class Tag(NamedTuple):
    """A tag: its name in lower case, and its attributes as they are written."""

    name: str
    closing: bool
    written: str

    def attributes(self) -> dict[str, str]:
        """Names, in lower case, and values.

        >>> Tag("a", False, " href='x&amp;y' HIDDEN").attributes()
        {'href': 'x&y', 'hidden': ''}
        """
        found: dict[str, str] = {}
        for match in itertools.islice(_ATTRIBUTE.finditer(self.written), MAX_ATTRIBUTES):
            found.setdefault(match[1].lower(), unescape(match[2] or match[3] or match[4] or ""))
        return found


def scan(html: str, raw: frozenset[str]) -> Iterator[Text | Tag]:
    """Yields the texts and tags of a page; comments, declarations and what is in the elements `raw` are left out.

    >>> [part.text if isinstance(part, Text) else part.name for part in scan("<p>a<br/>b<!-- c --></p>", frozenset())]
    ['p', 'a', 'br', 'b', 'p']
    """
    position = 0
    while match := _OPENING.search(html, position):
        if match.start() > position:
            yield Text(html[position : match.start()])
        name = match["name"]
        if match["comment"]:
            end = html.find("-->", match.end())
            position = end + 3
        elif not name:
            end = html.find(">", match.end())
            position = end + 1
        else:
            end = _tag_end(html, match.end())
            position = end + 1
            if end >= 0:
                tag = Tag(name.lower(), match["closing"] == "/", html[match.end() : end])
                yield tag
                if tag.name in raw and not tag.closing:
                    closed = re.compile(rf"</{re.escape(tag.name)}(?=[\s/>])", re.IGNORECASE).search(html, position)
                    end = position = closed.start() if closed else -1
        if end < 0:
            return
    if position < len(html):
        yield Text(html[position:])


def _tag_end(html: str, start: int) -> int:
    """The place of the bracket that ends a tag, which is none in a quoted value; -1 if there is none."""
    end = html.find(">", start)
    if end < 0 or (html.count('"', start, end) % 2 == 0 and html.find("'", start, end) < 0):
        return end
    position = start
    while match := _TAG_PART.search(html, position):
        if match[1] is None:
            return match.start()
        position = html.find(match[1], match.end()) + 1
        if not position:
            return -1
    return -1
