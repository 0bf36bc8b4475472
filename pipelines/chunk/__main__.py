"""`python -m pipelines.chunk`."""

import sys

from pipelines.chunk.command import COMMAND
from pipelines.console.command import main_of

sys.exit(main_of(COMMAND))
