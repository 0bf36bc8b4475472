"""`python -m pipelines.index`."""

from pipelines.index.command import COMMAND

COMMAND.main()
