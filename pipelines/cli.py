"""The command line, `ragbeam COMMAND`: the table of all commands."""

from __future__ import annotations

import sys
from collections.abc import Sequence

try:
    from pipelines import compose, diff, evaluate, finetune, plan, run, serve_workers, transfer, verify
    from pipelines.console import command
    from pipelines.demo.command import COMMAND as DEMO
    from pipelines.search.command import COMMAND as SEARCH
except KeyboardInterrupt:  # later ones are `interrupts`'s
    sys.stderr.write("ragbeam: interrupted\n")
    sys.exit(130)

COMMANDS = (
    *run.COMMANDS,
    SEARCH,
    evaluate.COMMAND,
    diff.COMMAND,
    run.COMMAND,
    verify.COMMAND,
    DEMO,
    compose.COMMAND,
    finetune.COMMAND,
    transfer.IMPORT,
    transfer.EXPORT,
    plan.COMMAND,
    serve_workers.COMMAND,
)


def main(arguments: Sequence[str] | None = None) -> int:
    """Runs the command that the arguments name (by default those of the process); returns its exit code."""
    if arguments is None:
        return command.main(COMMANDS, sys.argv[1:], whole_process=True)
    return command.main(COMMANDS, arguments)


if __name__ == "__main__":
    sys.exit(main())
