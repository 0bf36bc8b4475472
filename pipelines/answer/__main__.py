"""`python -m pipelines.answer`."""

from pipelines.answer.command import COMMAND

COMMAND.main()
