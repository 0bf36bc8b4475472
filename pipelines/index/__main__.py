"""`python -m pipelines.index`."""

import sys

from pipelines.console.command import main_of
from pipelines.index.command import COMMAND

sys.exit(main_of(COMMAND))
