"""verify: checks that stage outputs are whole and belong together."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence

from pipelines.console.command import Command, say
from pipelines.console.options import Options
from rag_ops.settings import setting
from rag_ops.storage import verify


@dataclasses.dataclass(frozen=True, kw_only=True)
class VerifyOptions(Options):
    """verify: a `directory` that stages wrote."""

    directory: str = setting(..., "a stage's output, or a workspace of ragbeam run", positional=True, metavar="DIR")


def run(options: VerifyOptions, beam_arguments: Sequence[str] = ()) -> int:
    """Prints a line for each stage; returns 1 if one has a problem.

    Raises:
        InputError: there is no stage in the directory.
    """
    found = verify.verify(options.directory)
    for finding in found:
        say(finding.line())
    return 1 if any(finding.problems for finding in found) else 0


COMMAND = Command.of(
    "verify",
    "whether what stages wrote is whole and goes together",
    "Checks sizes, SHA-256 digests, rows, and which stage was made from which; exit code 1 where one is not well.",
    VerifyOptions,
    run,
    takes_beam_flags=False,
)
