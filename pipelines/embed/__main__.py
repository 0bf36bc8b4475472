"""`python -m pipelines.embed`."""

import sys

from pipelines.console.command import main_of
from pipelines.embed.command import COMMAND

sys.exit(main_of(COMMAND))
