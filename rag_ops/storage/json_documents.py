"""JSON files that are one document: the objects of an array, or of a member `data`, one by one, in bounded memory.

Or an object of columns, as pandas writes it by default and MS MARCO 2.1 is: {"query": {"0": ..., "1": ...}, ...}.
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Iterator
from typing import IO, Any

from rag_ops.errors import InputError

LIST_MEMBERS = ("data", "Data")  # SQuAD's and TriviaQA's
CHUNK_CHARS = 1 << 20
MAX_ELEMENT_CHARS = 64 << 20  # an article of SQuAD's has a hundred thousand
_SPACE = re.compile(r"[ \t\r\n]*")
_SCALAR = r'(?:"(?:[^"\\]|\\.)*"|-?[\d.eE+-]+|true|false|null)'
_LIST_MEMBER = re.compile(rf'\{{\s*(?:"[^"]*"\s*:\s*{_SCALAR}\s*,\s*)*"(?:{"|".join(LIST_MEMBERS)})"\s*:\s*\[\s*\{{')
_OF_COLUMNS = re.compile(r'\{\s*"[^"]*"\s*:\s*\{\s*"0"\s*:')
_DECODER = json.JSONDecoder(strict=False)  # control characters in a string are the question's affair


def is_document(head: str) -> bool:
    """Whether a file that begins with `head` is one JSON document, and not an object a line."""
    head = head.lstrip()
    if _is_a_line_of_many(head):
        return False
    return head.startswith("[") or _LIST_MEMBER.match(head) is not None


def is_of_columns(head: str) -> bool:
    """Whether a file that begins with `head` is one object of columns, as pandas and MS MARCO 2.1 write it."""
    head = head.lstrip()
    return not _is_a_line_of_many(head) and _OF_COLUMNS.match(head) is not None


def _is_a_line_of_many(head: str) -> bool:
    first, _, rest = head.partition("\n")
    if not rest.strip():
        return False
    try:
        json.loads(first, strict=False)
    except (ValueError, RecursionError):
        return False
    return True


def elements(text: IO[str], url: str) -> Iterator[Any]:
    """Yields the elements of the document's array, or of its member `data` or `Data` if it is an object.

    Raises:
        InputError: it is no JSON, is cut, or has an element longer than `MAX_ELEMENT_CHARS`.
    """
    document = _Document(text, url)
    if document.next_is("["):
        yield from _items(document)
    else:
        document.expect("{")
        while not document.next_is("}"):
            name = document.value()
            document.expect(":")
            if name in LIST_MEMBERS and document.next_is("["):
                yield from _items(document)
            else:
                document.value()
            if not document.next_is(","):
                document.expect("}")
                break
    document.expect_end()


def members(text: IO[str], url: str) -> Iterator[tuple[str, Any]]:
    """Yields name and value of each member of the one object that a document is.

    Raises:
        InputError: as `elements`.
    """
    document = _Document(text, url)
    document.expect("{")
    while not document.next_is("}"):
        name = document.value()
        document.expect(":")
        yield str(name), document.value()
        if not document.next_is(","):
            document.expect("}")
            break
    document.expect_end()


def columns(text: IO[str], url: str, wanted: Callable[[str], bool]) -> tuple[list[str], dict[str, dict[str, Any]]]:
    """The names of the columns of a document of columns, and the values of those that are wanted.

    Memory is that of the wanted columns: a passage or another value that nobody wants is not kept.

    Args:
        text: the document.
        url: its URL, for messages.
        wanted: whether a column of this name is to be kept.

    Returns:
        All names, in order; by name the values of a column by their row's key, in order.

    Raises:
        InputError: it is no JSON, is cut, or is no object of objects.
    """
    document = _Document(text, url)
    names: list[str] = []
    kept: dict[str, dict[str, Any]] = {}
    document.expect("{")
    while not document.next_is("}"):
        name = document.value()
        document.expect(":")
        names.append(name)
        values: dict[str, Any] = {}
        for key, value in _members(document):
            if wanted(name):
                values[key] = value
        if wanted(name):
            kept[name] = values
        if not document.next_is(","):
            document.expect("}")
            break
    document.expect_end()
    return names, kept


def _members(document: _Document) -> Iterator[tuple[str, Any]]:
    """Yields the members of an object that comes next."""
    document.expect("{")
    if document.next_is("}"):
        return
    while True:
        key = document.value()
        document.expect(":")
        yield str(key), document.value()
        if not document.next_is(","):
            break
    document.expect("}")


def _items(document: _Document) -> Iterator[Any]:
    """Yields the values of an array whose "[" is behind, and goes past its "]"."""
    if document.next_is("]"):
        return
    yield document.value()
    while document.next_is(","):
        yield document.value()
    document.expect("]")


class _Document:
    """A place in a stream of JSON."""

    def __init__(self, text: IO[str], url: str):
        self._text, self._url = text, url
        self._buffer, self._position, self._ended = "", 0, False
        self._values = 0

    def next_is(self, character: str) -> bool:
        """Whether the next character that is no space is this one; if so, goes past it."""
        found = self._peek() == character
        self._position += found
        return found

    def expect(self, character: str) -> None:
        """Goes past this character; raises if it is not the next that is no space."""
        if not self.next_is(character):
            raise self._broken(f"{character!r} expected, {self._peek() or 'the end'!r} found")

    def expect_end(self) -> None:
        """Raises if anything but spaces follows."""
        if self._peek():
            raise self._broken("there is something after its end")

    def value(self) -> Any:
        """The next value, whole."""
        self._peek()
        while True:
            try:
                value, end = _DECODER.raw_decode(self._buffer, self._position)
            except RecursionError as error:
                raise self._broken("nested too deeply") from error
            except ValueError as error:
                if len(self._buffer) - self._position > MAX_ELEMENT_CHARS or not self._read():
                    raise self._broken(getattr(error, "msg", str(error))) from error
            else:
                self._position = end
                self._values += 1
                return value

    def _peek(self) -> str:
        """The next character that is no space, or "" at the end."""
        while True:
            self._position = _SPACE.match(self._buffer, self._position).end()  # type: ignore[union-attr]
            if self._position < len(self._buffer):
                return self._buffer[self._position]
            if not self._read():
                return ""

    def _read(self) -> bool:
        """Reads as much again as is held, so that a long value is not decoded from its beginning too often."""
        if self._ended:
            return False
        held = self._buffer[self._position :]
        more = self._text.read(max(CHUNK_CHARS, len(held)))
        self._buffer, self._position, self._ended = held + more, 0, not more
        return bool(more)

    def _broken(self, reason: str) -> InputError:
        return InputError(
            f"a JSON document is broken or cut ({reason})",
            value=f"{self._url}, after value {self._values}",
            expected="one array of objects, or one JSON object a line",
            remedy="check the file, or download it again",
        )
