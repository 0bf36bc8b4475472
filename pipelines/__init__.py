"""Where it runs: Beam transforms, jobs, options and the command line. Imports no model library at module level."""

import os

# Arrow's own memory pool keeps what is freed, and a worker grows with every shard; the C heap can be shrunk between two
# (rag_ops/heap.py). Arrow asks once, when it is first imported.
os.environ.setdefault("ARROW_DEFAULT_MEMORY_POOL", "system")
