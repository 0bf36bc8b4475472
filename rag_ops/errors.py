"""Errors that a user sees, each as one line: what is wrong, the value, what was expected, how to mend it."""

from __future__ import annotations

import difflib
from collections.abc import Iterable
from typing import Any

from rag_ops.redaction import public, public_text

MAX_VALUE_CHARS = 200  # a longer value is cut in the middle: an error stays one readable line


class RagbeamError(Exception):
    """Base of every error that ragbeam raises on purpose; its line holds no secrets of URLs.

    Args:
        what: what is wrong, as a clause: "the dump is cut".
        value: the offending value, shown with `repr`; omitted when None.
        expected: what would have been right.
        remedy: what to do about it, as an imperative: "download it again".
        row: number of the faulty row within a unit of work; the caller knows which file that is.

    >>> str(InputError("unknown format", value="docx", expected="mediawiki or jsonl", remedy="give --format"))
    "unknown format: 'docx'; expected mediawiki or jsonl; give --format"
    """

    exit_code = 1

    def __init__(
        self,
        what: str,
        *,
        value: Any = None,
        expected: str | None = None,
        remedy: str | None = None,
        row: int | None = None,
    ):
        self.row = row
        line = what if value is None else f"{what}: {_shorten(value)}"
        if expected:
            line += f"; expected {expected}"
        if remedy:
            line += f"; {remedy}"
        super().__init__(printable(public_text(" ".join(line.split()))))


class InputError(RagbeamError):
    """Bad usage or bad input: the user's files, flags or models. Exit code 2."""

    exit_code = 2


class UnknownArgumentError(InputError):
    """An argument of the command line that nobody knows; it names the flag that it is most like.

    Args:
        argument: the argument, without a value.
        flags: all flags that it could have been.
        remedy: what to do, as an imperative.

    >>> str(UnknownArgumentError("--num_shard", ["--num_shards", "--input"], "see --help"))
    "unknown flag: '--num_shard'; did you mean --num_shards? see --help"
    >>> str(UnknownArgumentError("b.jsonl", ["--input"], "see --help"))
    "an argument belongs to no flag: 'b.jsonl'; see --help"
    """

    def __init__(self, argument: str, flags: Iterable[str], remedy: str):
        self.argument, self.flags = argument, list(flags)
        is_flag = argument.startswith("-")
        likely = 0.6 if is_flag else 0.9  # a file or a number is no misspelt flag
        close = difflib.get_close_matches("--" + argument.lstrip("-"), self.flags, n=1, cutoff=likely)
        super().__init__(
            "unknown flag" if is_flag else "an argument belongs to no flag",
            value=argument,
            remedy=f"did you mean {close[0]}? {remedy}" if close else remedy,
        )


class JobError(RagbeamError):
    """The job itself failed: a worker, a device, a disk. Exit code 1."""


class NoMemoryError(JobError):
    """There is no memory for work that cannot be cut smaller; the command adds the flags that lower its need."""


def printable(text: str) -> str:
    r"""Returns `text` with what a terminal would obey (escape sequences, line ends) written as escapes.

    >>> printable("a\x1b[2Jb\n")
    'a\\x1b[2Jb\\n'
    """
    return "".join(character if character.isprintable() else repr(character)[1:-1] for character in text)


def _shorten(value: Any) -> str:
    text = repr(public(value))  # before it is cut: a part of a URL would not be known for one
    if len(text) <= MAX_VALUE_CHARS:
        return text
    half = MAX_VALUE_CHARS // 2
    return f"{text[:half]}...{text[-half:]}"
