"""run: all four stages in one workspace directory. What can be refused is refused before the first stage starts."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence
from typing import Any

from pipelines.answer import command as answer_command
from pipelines.answer.options import AnswerOptions, answer_flags, answer_options
from pipelines.chunk import command as chunk_command
from pipelines.chunk.options import ChunkOptions
from pipelines.console.command import Command
from pipelines.console.options import Options, Parser
from pipelines.console.options import add_flags as add_flags_of
from pipelines.embed import command as embed_command
from pipelines.embed.options import EmbedOptions
from pipelines.index import command as index_command
from pipelines.index.options import IndexOptions
from rag_ops import settings
from rag_ops.settings import setting
from rag_ops.storage import store

STAGES = (chunk_command.COMMAND, embed_command.COMMAND, index_command.COMMAND, answer_command.COMMAND)


@dataclasses.dataclass(frozen=True, kw_only=True)
class Workspace(Options):
    """The workspace directory, with a folder for each stage."""

    workspace: str = setting(..., "directory for all four stages", also=("output",), metavar="DIR")

    def folder(self, name: str) -> str:
        """The directory of a stage."""
        return store.join(self.workspace, name)


@dataclasses.dataclass(frozen=True)
class RunOptions:
    """The options of the four stages, each with its directory of one workspace."""

    workspace: Workspace
    chunk: ChunkOptions
    embed: EmbedOptions
    index: IndexOptions
    answer: AnswerOptions


def add_flags(parser: Parser) -> None:
    """Adds the flags of all stages but those that name the directories between them."""
    add_flags_of(parser, Workspace)
    add_flags_of(parser, ChunkOptions, without=("output",))
    add_flags_of(parser, EmbedOptions, without=("output", "passages"))
    add_flags_of(parser, IndexOptions, without=("output", "embeddings"))
    answer_flags(parser, without=("output", "index"))


def make_options(given: Mapping[str, Any]) -> RunOptions:
    """The options of all stages from the flags that were given: --num_shards is for chunk, --previous a workspace.

    Raises:
        InputError: a setting is out of range.
    """
    workspace = settings.make(Workspace, given)
    passages, embeddings, index, answers = map(workspace.folder, ("passages", "embeddings", "index", "answers"))
    previous = store.join(given["previous"], "embeddings") if given.get("previous") else None
    return RunOptions(
        workspace,
        settings.make(ChunkOptions, given, output=passages),
        settings.make(EmbedOptions, given, output=embeddings, passages=passages, previous=previous),
        settings.make(IndexOptions, given, output=index, embeddings=embeddings, num_shards=None),
        answer_options(given, output=answers, index=index, num_shards=None),
    )


def run(options: RunOptions, beam_arguments: Sequence[str]) -> int:
    """Runs the stages one after the other and prints a line for each.

    Raises:
        InputError: an input is missing, or parts do not go together.
        JobError: a stage failed.
    """
    from pipelines.runners import launch
    from rag_ops.retrieval.corpus import check_parts

    answer = options.answer
    models = [answer.model, options.embed.encoder]
    launch.check(beam_arguments, [options.workspace.workspace], models, answer.workers.resources)
    check_parts(answer.questions, answer.reading, answer.model, options.embed.encoder)
    for stage in STAGES:
        stage.run(getattr(options, stage.name), beam_arguments)
    return 0


COMMAND = Command(
    "run",
    "all four stages in one workspace directory",
    "chunk, embed, index and answer, into passages, embeddings, index and answers there; what is done is reused.",
    add_flags,
    make_options,
    run,
)
