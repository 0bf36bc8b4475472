"""`python -m pipelines.answer`."""

import sys

from pipelines.answer.command import COMMAND
from pipelines.console.command import main_of

sys.exit(main_of(COMMAND))
