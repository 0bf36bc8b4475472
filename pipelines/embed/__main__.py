"""`python -m pipelines.embed`."""

from pipelines.embed.command import COMMAND

COMMAND.main()
