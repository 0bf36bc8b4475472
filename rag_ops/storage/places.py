"""Where a command writes, apart from what it reads and from what is not ours: checked before anything is written.

Two rules. No output may lie in what the same command reads, or hold it. And a directory that a command fills holds
nothing but what a manifest or a record of ours names; files whose names begin with a dot are left alone.
"""

from __future__ import annotations

import dataclasses
import itertools
import os
import posixpath
import re
import typing
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from rag_ops import settings
from rag_ops.errors import InputError
from rag_ops.storage import store
from schemas.manifest import FILE_NAME

READ_ONLY = ("http", "https", "data", "github", "git", "hf", "zip", "tar", "libarchive")  # kinds of URLs
SHOWN = 3  # names of foreign files in an error line


def location(url: str) -> str:
    """The place that a URL names, the same for every way to write it: links followed, no slash at the end.

    >>> location("gs://bucket//run/passages/") == location("gcs://bucket/run/passages")
    True
    """
    if store.is_local(url):
        return os.path.realpath(store.filesystem(url)[1])
    scheme, path = url.split("?", 1)[0].rsplit("://", 1)
    scheme = {"s3a": "s3", "gcs": "gs"}.get(scheme, scheme)
    return f"{scheme}://{posixpath.normpath(path).lstrip('/')}"


def holds(directory: str, place: str) -> bool:
    """Whether one location is the other or lies below it.

    >>> holds("/data/run", "/data/run/passages"), holds("/data/run", "/data/run2")
    (True, False)
    """
    return place == directory or place.startswith(directory.rstrip("/") + "/")


def check_apart(
    outputs: Mapping[str, Sequence[str]], inputs: Mapping[str, Sequence[str]], folders: Sequence[str]
) -> None:
    """Checks that no output overlaps an input.

    An output may lie below a directory of input files, because only its own files are read; below a stage's or a
    model's directory it may not.

    Args:
        outputs: URLs of files and directories that are written, by flag.
        inputs: URLs of files, globs and directories that are read, by flag.
        folders: the flags among `inputs` that name a whole directory, a stage's output or a model.

    Raises:
        InputError: one does; the line names both flags.
    """
    written = [(flag, url, location(url)) for flag, urls in outputs.items() for url in urls]
    if not written:
        return
    for read, other in ((flag, url) for flag, urls in inputs.items() for url in urls):
        found = [*_meant(other, whole=read in folders)]
        for flag, url, place in written:
            if any(holds(place, one) for one in found) or (read in folders and holds(found[0], place)):
                raise InputError(
                    f"--{flag} overlaps --{read}, which it would damage",
                    value=url,
                    expected=f"a place apart from {other!r}",
                    remedy=f"give another --{flag}",
                )


def _meant(pattern: str, whole: bool) -> Iterator[str]:
    """The locations of what an input stands for: itself, and the files of a directory or a glob on this machine."""
    url = pattern
    if store.has_magic(url) and not store.exists(url):  # a glob: from the first pattern on its names vary
        url = posixpath.dirname(re.split(r"[*?[]", url)[0]) or "."
    yield location(url)
    if not whole and store.is_local(pattern) and not os.path.isfile(pattern):
        try:
            yield from {location(file) for file in store.expand(pattern, "file")}
        except InputError:
            return  # there are none, which the job itself says better


def check_options(options: Any, writes: Sequence[str] | None = None) -> None:
    """Checks a command's options: no setting that is written overlaps one that is read.

    Args:
        options: dataclass of settings; those of its fields that are such dataclasses count too.
        writes: URLs that are written, if they are not those of the settings that say so.

    Raises:
        InputError: one does.
    """
    outputs: dict[str, Sequence[str]] = {}
    inputs: dict[str, Sequence[str]] = {}
    folders: list[str] = []
    for flag, one, urls in _places(options):
        if one.writes:
            check_writable(urls[0], flag)
            outputs[flag] = urls if writes is None else writes
        else:
            inputs[flag] = urls
            folders += [flag] if one.reads == "directory" else []
    check_apart(outputs, inputs, folders)
    if writes is None:
        _check_outputs(outputs)


def _check_outputs(outputs: Mapping[str, Sequence[str]]) -> None:
    """Checks that no output is another one, or lies in it.

    Args:
        outputs: URLs of files and directories that one command writes, by flag.

    Raises:
        InputError: one does; the line names both flags.
    """
    for (first, [one, *_]), (second, [other, *_]) in itertools.combinations(outputs.items(), 2):
        if holds(location(one), location(other)) or holds(location(other), location(one)):
            raise InputError(
                f"--{second} overlaps --{first}, and the same command writes both",
                value=other,
                expected=f"a place apart from {one!r}",
                remedy=f"give another --{second}",
            )


def _places(options: Any) -> Iterator[tuple[str, settings.Setting, list[str]]]:
    declared = settings.declared(type(options))
    for field in dataclasses.fields(options):
        value, one = getattr(options, field.name), declared.get(field.name)
        if one is None and dataclasses.is_dataclass(value):
            yield from _places(typing.cast(Any, value))
        elif one is not None and value and (one.reads or one.writes):
            yield one.flag or field.name, one, [value] if isinstance(value, str) else list(value)


def check_writable(url: str, flag: str = "output") -> None:
    """Checks that a URL is of a kind that can be written to.

    Raises:
        InputError: it is not.
    """
    if store.protocol(url) in READ_ONLY:
        raise InputError(f"--{flag} cannot be written to", value=url, expected="a path or an object store")


def check_lasting(options: Any) -> None:
    """Checks that what a command writes is still there when its process has ended.

    Raises:
        InputError: it would be in the process's own memory.
    """
    for flag, one, urls in _places(options):
        if one.writes and store.protocol(urls[0]) == "memory":
            raise InputError(
                f"--{flag} is gone when the command ends", value=urls[0], expected="a path or an object store"
            )


def local_output(url: str, flag: str = "output") -> str:
    """The path of an output that is written by path, on this machine.

    Raises:
        InputError: it is on another machine.
    """
    if not store.is_local(url):
        raise InputError(f"--{flag} must be on this machine", value=url, expected="a local directory")
    return store.filesystem(url)[1]


def check_directory(url: str, flag: str) -> None:
    """Checks that what is to be a directory is one, or is not there yet.

    Raises:
        InputError: it is a file.
    """
    if store.exists(url) and not store.is_directory(url):
        raise InputError(f"--{flag} is a file", value=url, expected="a directory")


def check_workspace(url: str, flag: str = "workspace") -> None:
    """Checks that a workspace, which gets a directory for each stage, is not itself the directory of one, or a file.

    Raises:
        InputError: it is.
    """
    check_directory(url, flag)
    if any(store.exists(store.join(url, name)) for name in (FILE_NAME, store.INCOMPLETE)):
        raise InputError(f"--{flag} is the directory of a stage", value=url, expected="the one above, or a new one")


def check_empty(directory: str, flag: str = "output") -> None:
    """Checks that a directory to be filled does not exist yet, or holds nothing but names that begin with a dot.

    Raises:
        InputError: it holds files, or it is a file.
    """
    check_directory(directory, flag)
    check_ours(directory, (), flag)


def check_ours(directory: str, ours: typing.Container[str], flag: str = "output") -> None:
    """Checks that a directory holds nothing but what is ours.

    Args:
        directory: URL of the directory; it need not exist.
        ours: names that may be there; those that begin with a dot may always.
        flag: flag that named it.

    Raises:
        InputError: it holds something else.
    """
    foreign = [name for name in store.names_in(directory) if name and name[0] != "." and name not in ours]
    if foreign:
        more = f" and {len(foreign) - SHOWN} more" if len(foreign) > SHOWN else ""
        raise InputError(
            f"--{flag} holds files that are not its own ({', '.join(map(repr, foreign[:SHOWN]))}{more})",
            value=directory,
            expected="a new or empty directory, or one that the same command wrote",
            remedy=f"give another --{flag}, or move them away",
        )
