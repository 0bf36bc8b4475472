"""workers: serves a pool of Python workers for a Flink cluster."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence

from pipelines.console.command import Command
from pipelines.console.options import Options
from pipelines.runners import listening
from rag_ops.settings import setting


@dataclasses.dataclass(frozen=True, kw_only=True)
class WorkersOptions(Options):
    """workers: a pool on `port`."""

    port: int = setting(50000, "port to listen on", at_least=0, at_most=65_535)
    host: str = setting(
        listening.LOOPBACK, "address to listen on; whoever reaches it runs any code as you", metavar="ADDRESS"
    )


def run(options: WorkersOptions, beam_arguments: Sequence[str] = ()) -> None:
    """Serves until the process is ended.

    Raises:
        JobError: the port is taken, or the address is not this machine's.
    """
    from pipelines.runners import worker_pool

    worker_pool.serve(options.port, options.host)


COMMAND = Command.of(
    "workers",
    "a pool of Python workers for a Flink cluster",
    "Serves --environment_type EXTERNAL, for all task managers of this machine, until it is told to end.",
    WorkersOptions,
    run,
    takes_beam_flags=False,
)
