"""Converts markup to text within bounds of time and memory: a hostile page is lost alone.

The parser is linear on markup whose brackets and tags pair up, and up to quadratic, or out of stack, where they don't.
So a page is looked at first; one whose parsing may take long is parsed in a process of its own, which is stopped.
"""

from __future__ import annotations

import contextlib
import dataclasses
import json
import os
import re
import signal
import subprocess
import sys
from collections import Counter
from pathlib import Path

from rag_ops import machine
from rag_ops.errors import JobError, NoMemoryError
from rag_ops.markup import parts, wikitext
from rag_ops.markup.parts import PROSE_ALONE, Part, Wanted
from rag_ops.markup.siteinfo import ENGLISH_SITE, SiteInfo

MAX_SECS = 3  # processor seconds for a page
MAX_MEMORY_BYTES = 2 << 30
SUSPECT_CHARS = 1 << 20
SUSPECT_MARKS = 25_000  # nodes of the parse: some 20 to 50 microseconds each
SUSPECT_DEPTH = 40  # the parser's own limit
SUSPECT_WORK = 4_000_000  # openings that nothing closes, times the characters that each is tried on: half a second
MAX_EQUALS = 200  # in one line that begins with one: each is a level of the parser's stack

_PAIRED = re.compile(r"\{\{|\}\}|\[\[|\]\]|</?[a-zA-Z]+")
_PARTNER = {"}}": "{{", "]]": "[["}
_VOID = frozenset("<br <hr <wbr <img <meta <link <li <dt <dd <td <th <tr <p".split())  # need no closing tag
_SINGLE_MARKS = ("&", "|", "://", "*", "#", ":", ";", "----", "[", "<")  # as many nodes at most
_LONG_TAG = re.compile(r"<[a-zA-Z][^<>]{5000}")  # thousands of attributes
_MANY_EQUALS = re.compile(rf"^=(?:[^=\n]*=){{{MAX_EQUALS}}}", re.MULTILINE)


def render(markup: str, site: SiteInfo = ENGLISH_SITE, lost: Counter[str] | None = None) -> str | None:
    """The prose of a page (`wikitext.to_text`, with its arguments); None if that takes more than the bounds.

    >>> render("The ''[[Himalaya|Himalayas]]''.")
    'The Himalayas.'
    >>> render("{{" * 100_000) is None
    True
    """
    found = render_parts(markup, site, lost=lost)
    return None if found is None else parts.prose(found)


def render_parts(
    markup: str, site: SiteInfo = ENGLISH_SITE, wanted: Wanted = PROSE_ALONE, lost: Counter[str] | None = None
) -> list[Part] | None:
    """The parts of a page (`wikitext.to_parts`, with its arguments); None if that takes more than the bounds."""
    if len(markup) > wikitext.MAX_PAGE_CHARS:
        return None
    page = wikitext.prepare(markup, site)
    if wikitext.is_broken(page.markup):
        return None
    if is_suspect(page.markup) or (wanted.tables and any(map(is_suspect, page.tables))):
        return in_child(markup, site, wanted, lost)
    return wikitext.finish(page, site, wanted, lost)


def is_suspect(markup: str) -> bool:
    """Whether the parser may take more than a moment; takes linear time, and is true of the largest real pages only."""
    if len(markup) > SUSPECT_CHARS or _MANY_EQUALS.search(markup) or _LONG_TAG.search(markup):
        return True
    found = _PAIRED.findall(markup)
    if len(found) + sum(map(markup.count, _SINGLE_MARKS)) > SUSPECT_MARKS:
        return True
    unpaired = deepest = 0
    stack: list[str] = []
    for mark in found:
        opening = _PARTNER.get(mark) or ("<" + mark[2:] if mark.startswith("</") else None)
        if opening is None:
            if mark.lower() not in _VOID:
                stack.append(mark)
        elif stack and stack[-1] == opening:
            deepest = max(deepest, len(stack))
            stack.pop()
        else:
            unpaired += 1
    external = markup.count("[") - 2 * markup.count("[[") - markup.count("]") + 2 * markup.count("]]")
    return deepest > SUSPECT_DEPTH or (unpaired + len(stack) + abs(external)) * len(markup) > SUSPECT_WORK


def in_child(markup: str, site: SiteInfo, wanted: Wanted, lost: Counter[str] | None) -> list[Part] | None:
    """Converts a page in a process of its own; None if that needs too much time or memory, or dies of itself.

    Raises:
        JobError: the system killed the process, for its own want of memory say, or could not start it.
    """
    root = str(Path(__file__).resolve().parents[2])
    paths = os.pathsep.join(part for part in (root, os.environ.get("PYTHONPATH", "")) if part)
    try:
        done = subprocess.run(
            [sys.executable, "-m", "rag_ops.markup.bounded"],
            input=f"{site.to_json()}\n{json.dumps(dataclasses.asdict(wanted))}\n{markup}".encode("utf-8", "replace"),
            capture_output=True,
            timeout=10 * MAX_SECS,  # wall clock, for a machine that has much else to do
            env={**os.environ, "PYTHONPATH": paths},
            check=False,
        )
    except subprocess.TimeoutExpired:
        return None
    except OSError as error:
        raise machine.fault_of(error) or JobError("a process cannot be started", value=str(error)) from error
    if done.returncode == -signal.SIGKILL:
        raise NoMemoryError(
            "the process that converts a page was killed", expected="it to live; the system kills for want of memory"
        )
    if done.returncode != 0:
        return None
    counts, _, found = done.stdout.decode().partition("\n")
    if lost is not None:
        lost.update(json.loads(counts))
    return parts.from_json(found)


def _limit() -> None:
    """Limits the time and memory of this process; a system without such limits leaves it to the parent's clock."""
    with contextlib.suppress(ImportError, ValueError, OSError):
        import resource

        resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
        resource.setrlimit(resource.RLIMIT_AS, (MAX_MEMORY_BYTES, MAX_MEMORY_BYTES))
        used = resource.getrusage(resource.RUSAGE_SELF)
        seconds = int(used.ru_utime + used.ru_stime) + MAX_SECS
        resource.setrlimit(resource.RLIMIT_CPU, (seconds, seconds + 1))


if __name__ == "__main__":
    _limit()
    first, given, page = sys.stdin.buffer.read().decode().split("\n", 2)
    dropped: Counter[str] = Counter()
    found = wikitext.to_parts(page, SiteInfo.from_json(first), Wanted(**json.loads(given)), dropped)
    sys.stdout.buffer.write(f"{json.dumps(dropped)}\n{parts.to_json(found)}".encode())
