"""Parses the braces of wikitext by MediaWiki's rules (https://www.mediawiki.org/wiki/Preprocessor_ABNF).

What is in three braces is an argument, what is in two is a call, the innermost pair closes first, and a link parts what
stands in it from the call around it. The content of extension tags is opaque. Comments go.
"""

from __future__ import annotations

import dataclasses
import re
from typing import TypeAlias

MAX_NESTING = 100  # brackets within brackets; a real page has a dozen
# Tags whose content MediaWiki's preprocessor does not read, among them those that this package drops whole.
OPAQUE_TAGS = frozenset(
    "nowiki pre math chem ce syntaxhighlight source ref gallery timeline imagemap score hiero graph templatestyles "
    "templatedata inputbox mapframe maplink categorytree rss listing".split()
)
# Characters of private use: around what an expansion must not change, and around the name of an argument not given.
MARK, END_MARK, UNGIVEN, END_UNGIVEN = "\ue010", "\ue011", "\ue012", "\ue013"
_MARKS = re.compile(f"[{MARK}{END_MARK}{UNGIVEN}{END_UNGIVEN}]")
_OPENING = rf"\{{\{{+|<!--|<(?P<tag>{'|'.join(sorted(OPAQUE_TAGS))})(?=[\s/>])[^<>]*?(?P<empty>/)?>"
_OUTSIDE = re.compile(_OPENING, re.IGNORECASE)
_INSIDE = re.compile(_OPENING + r"|\[\[+|\}\}+|\]\]+|\||=+", re.IGNORECASE)
_END_OF_TAG = {tag: re.compile(rf"</{tag}\s*>", re.IGNORECASE) for tag in OPAQUE_TAGS}


class Raw(str):
    """The text of an extension tag, with the tag: no braces are looked for in it."""

    __slots__ = ()


@dataclasses.dataclass(slots=True)
class Part:
    """What stands between two pipes: a name, if there is an equals sign, and a value."""

    name: Nodes | None
    value: Nodes

    def nodes(self) -> Nodes:
        """The part as it is if it has no name."""
        return self.value if self.name is None else [*self.name, "=", *self.value]


@dataclasses.dataclass(slots=True)
class Call:
    """A call of a template, a parser function or a variable.

    Attributes:
        title: what stands before the first pipe.
        parts: what stands between the other pipes.
        text, start, end: where it is written.
    """

    title: Nodes
    parts: list[Part]
    text: str = dataclasses.field(repr=False)
    start: int
    end: int

    @property
    def source(self) -> str:
        """The call as written."""
        return self.text[self.start : self.end]

    @property
    def begins_line(self) -> bool:
        """Whether nothing stands before it in its line."""
        return self.start == 0 or self.text[self.start - 1] == "\n"


@dataclasses.dataclass(slots=True)
class Argument:
    """A parameter in three braces, with what it is if the call gives none (None: nothing is said)."""

    name: Nodes
    default: Nodes | None


Node: TypeAlias = "str | Call | Argument"  # a text can be `Raw`
Nodes: TypeAlias = "list[Node]"


class TooDeepError(ValueError):
    """Brackets stand in brackets, more than `MAX_NESTING` deep."""


class _Open:
    """An opening bracket that waits for its partner: how many there are, and the parts so far."""

    __slots__ = ("count", "mark", "parts", "start")

    def __init__(self, mark: str, count: int, start: int):
        self.mark, self.count, self.start = mark, count, start
        self.parts = [Part(None, [])]

    def literal(self, count: int) -> Nodes:
        """What stands here if these brackets are none, after so many of them."""
        nodes: Nodes = [self.mark * count]
        for number, part in enumerate(self.parts):
            if number:
                nodes.append("|")
            nodes += part.nodes()
        return nodes


def parse(text: str) -> Nodes:
    """Parses wikitext into texts, calls and arguments, in linear time; without its comments and marks.

    Raises:
        TooDeepError: there are too many brackets in brackets.

    >>> parse("a {{b|c=d}}")[1].parts
    [Part(name=['c'], value=['d'])]
    >>> parse("{{{{{1}}}}}")[0].title[0].name
    ['1']
    """
    text = _MARKS.sub("", text)
    root: Nodes = []
    stack: list[_Open] = []
    unclosed: set[str] = set()  # of comments and tags: looked for once, or the scan is quadratic
    position = 0
    while match := (_INSIDE if stack else _OUTSIDE).search(text, position):
        here = stack[-1].parts[-1].value if stack else root
        start, end = match.span()
        if start > position:
            here.append(text[position:start])
        mark = text[start]
        position = end
        if mark == "<":
            position = _skip(text, match, here, unclosed)
        elif mark in "{[":
            opened = _Open(mark, end - start, start)
            if sum(one.count for one in stack) + opened.count > 2 * MAX_NESTING:
                raise TooDeepError(f"more than {MAX_NESTING} brackets in brackets")
            stack.append(opened)
        elif mark == "|":
            stack[-1].parts.append(Part(None, []))
        elif mark == "=":
            position = _equals(text, start, end, stack[-1])
        else:
            position = _close(text, start, end, stack, root)
    if position < len(text):
        (stack[-1].parts[-1].value if stack else root).append(text[position:])
    while stack:
        top = stack.pop()
        (stack[-1].parts[-1].value if stack else root).extend(top.literal(top.count))
    return root


def _skip(text: str, match: re.Match[str], here: Nodes, unclosed: set[str]) -> int:
    """Passes over a comment or an extension tag; returns where the text goes on."""
    tag = (match["tag"] or "").lower()
    if not tag:
        end = -1 if "" in unclosed else text.find("-->", match.end())
        if end >= 0:
            return _after_comment(text, match.start(), end + 3, here)
        unclosed.add("")
    elif match["empty"]:
        here.append(Raw(match[0]))
        return match.end()
    elif tag not in unclosed:
        if closing := _END_OF_TAG[tag].search(text, match.end()):
            here.append(Raw(text[match.start() : closing.end()]))
            return closing.end()
        unclosed.add(tag)
    here.append(match[0])
    return match.end()


def _after_comment(text: str, start: int, end: int, here: Nodes) -> int:
    """Where the text goes on after a comment: a line that holds nothing else goes with it."""
    before = here[-1] if here and isinstance(here[-1], str) else ""
    line = before[before.rfind("\n") + 1 :] if "\n" in before else None
    if line is not None and not line.strip(" ") and not isinstance(before, Raw):
        after = end
        while text[after : after + 1] == " ":
            after += 1
        if text[after : after + 1] == "\n":
            here[-1] = before[: len(before) - len(line)]
            return after + 1
    return end


def _equals(text: str, start: int, end: int, top: _Open) -> int:
    """Takes equals signs for the end of a part's name, if they can be that; returns where the text goes on."""
    part = top.parts[-1]
    if top.mark != "{" or len(top.parts) == 1 or part.name is not None:
        part.value.append(text[start:end])
        return end
    if end - start > 1 and text[start - 1] == "\n":  # a heading, if the line ends as it begins
        stop = text.find("\n", end)
        line = text[start : stop if stop >= 0 else len(text)]
        if line.rstrip(" \t").endswith("=") and len(line) < 1000:
            part.value.append(line)
            return start + len(line)
    part.name, part.value = part.value, []
    return start + 1


def _close(text: str, start: int, end: int, stack: list[_Open], root: Nodes) -> int:
    """Closes the innermost bracket with a run of closing ones, as far as they are its own; returns where to go on."""
    top = stack[-1]
    if text[start] != {"{": "}", "[": "]"}[top.mark]:
        top.parts[-1].value.append(text[start:end])
        return end
    count = min(end - start, top.count, 3 if top.mark == "{" else 2)
    stack.pop()
    left = top.count - count
    opened = top.start + left
    if top.mark == "[":
        nodes = [*top.literal(2), "]]"]
    elif count == 2:
        nodes = [Call(top.parts[0].value, top.parts[1:], text, opened, start + count)]
    else:
        nodes = [Argument(top.parts[0].value, top.parts[1].nodes() if len(top.parts) > 1 else None)]
    if left >= 2:
        stack.append(_Open(top.mark, left, top.start))
    outer = stack[-1].parts[-1].value if stack else root
    if left == 1:
        outer.append(top.mark)
    outer.extend(nodes)
    return start + count
