"""`python -m pipelines.search`."""

from pipelines.search.command import COMMAND

COMMAND.main()
