"""`python -m pipelines.chunk`."""

from pipelines.chunk.command import COMMAND

COMMAND.main()
