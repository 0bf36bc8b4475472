"""The index command: its options by --kind, its run and what it prints."""

from __future__ import annotations

import dataclasses
from collections.abc import Container, Mapping, Sequence
from typing import Any

from pipelines.console.command import Command, say
from pipelines.console.options import Options, Parser, add_flags
from pipelines.index.bm25_options import Bm25Options
from pipelines.index.options import IndexOptions
from rag_ops import settings
from rag_ops.errors import InputError
from rag_ops.settings import setting

KINDS: dict[str, type[IndexOptions] | type[Bm25Options]] = {"vectors": IndexOptions, "bm25": Bm25Options}


@dataclasses.dataclass(frozen=True, kw_only=True)
class Kind(Options):
    """What is indexed."""

    kind: str = setting(
        "vectors", "what is indexed: vectors, of --embeddings; or bm25, words of --passages", choices=tuple(KINDS)
    )


def add_kinds_flags(parser: Parser, without: Container[str] = ()) -> None:
    """Adds --kind and the flags of all kinds; those of vectors alone if --passages is among the fields `without`."""
    if "passages" in without:
        add_flags(parser, IndexOptions, without)
        return
    add_flags(parser, Kind)
    for options in KINDS.values():
        add_flags(parser, options, without, optional=("embeddings", "passages"))


def make(given: Mapping[str, Any], **fixed: Any) -> IndexOptions | Bm25Options:
    """The options of the kind that --kind names; with fields `fixed` from elsewhere, those of vectors.

    Raises:
        InputError: a flag of the other kind is given, or the one that names the input is not.
    """
    if fixed:
        return settings.make(IndexOptions, given, **fixed)
    kind = settings.make(Kind, given).kind
    flags = {name: settings.declared(options) for name, options in KINDS.items()}
    for name in given:
        if name not in flags[kind] and (other := next((one for one in flags if name in flags[one]), None)):
            raise InputError(f"--{name} is of --kind {other}", value=f"--kind {kind}", remedy="leave one of them out")
    needed = "embeddings" if kind == "vectors" else "passages"
    if needed not in given:
        raise InputError(f"the following arguments are required: --{needed}", remedy="see ragbeam index --help")
    return settings.make(KINDS[kind], given)


def run(options: IndexOptions | Bm25Options, beam_arguments: Sequence[str]) -> None:
    """Runs the job and prints a summary of its result."""
    if isinstance(options, Bm25Options):
        from pipelines.index import bm25_job  # with Beam

        done = bm25_job.run(options, beam_arguments)
        described = bm25_job.describe(done.manifest)
    else:
        from pipelines.index import job  # likewise

        done = job.run(options, beam_arguments)
        described = job.describe(done.manifest)
    say(done.summary())
    say(f"  {described}")


COMMAND = Command(
    "index",
    "vectors into a FAISS index, or words into one by BM25",
    "Trains a FAISS index once and fills it shard by shard, by inner product; or counts passages' words, for BM25.",
    add_kinds_flags,
    make,
    run,
)
