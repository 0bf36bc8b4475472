"""run: all stages in one workspace directory. What can be refused is refused before the first stage starts."""

from __future__ import annotations

import dataclasses
import importlib
from collections.abc import Mapping, Sequence
from typing import Any

from pipelines.console.command import Command
from pipelines.console.options import Options, Parser
from pipelines.console.options import add_flags as add_flags_of
from rag_ops import settings
from rag_ops.settings import setting
from rag_ops.storage import store
from rag_ops.storage.places import check_workspace
from schemas.layout import STAGES

# The stages' commands, in their order: a stage's folder in pipelines/ has its name.
COMMANDS: list[Command] = [importlib.import_module(f"pipelines.{name}.command").COMMAND for name in STAGES]

NOT_OF_RUN = ("retrieved", "prior")  # of answer, without an index


@dataclasses.dataclass(frozen=True, kw_only=True)
class Workspace(Options):
    """The workspace directory, with a folder for each stage; and what no stage asks for that can do without."""

    workspace: str = setting(..., "directory for all stages", also=("output",), metavar="DIR", writes=True)
    questions: Sequence[str] = setting(..., "question files or globs", group="questions", metavar="URL")

    def __post_init__(self) -> None:
        super().__post_init__()
        check_workspace(self.workspace)


@dataclasses.dataclass(frozen=True)
class RunOptions:
    """The options of the stages, by name, each with its directory of one workspace."""

    workspace: Workspace
    stages: Mapping[str, Any]


def add_flags(parser: Parser) -> None:
    """Adds the flags of all stages but those that name the directories between them."""
    add_flags_of(parser, Workspace)
    for command in COMMANDS:
        command.add_flags(parser, without=("output", *NOT_OF_RUN, *(stage.folder for stage in STAGES.values())))


def make_options(given: Mapping[str, Any]) -> RunOptions:
    """The options of all stages from the flags that were given: --num_shards is for chunk, --previous a workspace.

    Raises:
        InputError: a setting is out of range.
    """
    workspace = settings.make(Workspace, given)
    options = {}
    for command, stage in zip(COMMANDS, STAGES.values(), strict=True):
        fixed: dict[str, Any] = {"output": store.join(workspace.workspace, stage.folder)}
        if stage.source:
            fixed |= {stage.source.folder: store.join(workspace.workspace, stage.source.folder), "num_shards": None}
        if given.get("previous"):
            fixed["previous"] = store.join(given["previous"], stage.folder)
        narrow = stage.name == "answer" and given.get("compute_dtype") == "int8"  # which is for passages alone
        options[stage.name] = command.make({**given, "compute_dtype": "auto"} if narrow else given, **fixed)
    return RunOptions(workspace, options)


def run(options: RunOptions, beam_arguments: Sequence[str]) -> None:
    """Runs the stages one after the other and prints a line for each.

    Raises:
        InputError: an input is missing, or parts do not go together.
        JobError: a stage failed.
    """
    known: Mapping[str, Any] = {}
    for name, stage in options.stages.items():  # each says what the next one will find
        known = importlib.import_module(f"pipelines.{name}.job").check(stage, beam_arguments, known)
    for command in COMMANDS:
        command.execute(options.stages[command.name], beam_arguments)


COMMAND = Command(
    "run",
    "all stages in one workspace directory",
    f"{', '.join(STAGES)}, into {', '.join(stage.folder for stage in STAGES.values())} there; what is done is reused.",
    add_flags,
    make_options,
    run,
)
