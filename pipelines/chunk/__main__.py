"""`python -m pipelines.chunk`."""

import sys

from pipelines import commands
from pipelines.console import command

sys.exit(command.main_of(commands.CHUNK))
