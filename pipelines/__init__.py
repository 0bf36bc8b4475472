"""Where it runs: Beam transforms, jobs, options and the command line. Imports no model library at module level."""

import os

from rag_ops.compute.cores import cores

# Arrow's own memory pool keeps what is freed, and a worker grows with every shard; the C heap can be shrunk between two
# (rag_ops/heap.py). Arrow asks once, when it is first imported.
os.environ.setdefault("ARROW_DEFAULT_MEMORY_POOL", "system")

# glibc gives up to eight arenas a core to the threads of a process, and each keeps pieces of what a shard took, so that
# a worker grew by 20 MB a shard until all had some. It asks when a process starts: this is for those that this one
# starts. One for a core takes no more time than eight.
os.environ.setdefault("MALLOC_ARENA_MAX", str(max(2, cores())))
