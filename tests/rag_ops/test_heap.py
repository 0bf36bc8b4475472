"""Tests of rag_ops.heap."""

from __future__ import annotations

import os
import subprocess
import sys

import pytest

from rag_ops.compute.cores import cores

CODE = """
from rag_ops import heap

def resident_kb():
    return next(int(line.split()[1]) for line in open("/proc/self/status") if line.startswith("VmRSS"))

kept = []
for _ in range(200_000):  # small pieces, of which the last holds the heap's end
    kept.append(bytearray(400))
last = kept[-1]
before = resident_kb()
del kept
heap.trim()
print(before - resident_kb())
"""


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="reads /proc")
def test_freed_memory_goes_back_to_the_system() -> None:
    freed_kb = int(subprocess.run([sys.executable, "-c", CODE], capture_output=True, text=True, check=True).stdout)
    assert freed_kb > 60_000


def test_jobs_let_arrow_use_the_system_heap() -> None:
    code = "import pipelines.runners.counters, pyarrow; print(pyarrow.default_memory_pool().backend_name)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "system"


@pytest.mark.parametrize("given", [None, "7"])
def test_processes_that_a_job_starts_have_an_arena_for_each_core_at_most(given: str | None) -> None:
    environment = {name: value for name, value in os.environ.items() if name != "MALLOC_ARENA_MAX"}
    code = "import os, pipelines; print(os.environ['MALLOC_ARENA_MAX'])"
    environment |= {} if given is None else {"MALLOC_ARENA_MAX": given}
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, env=environment)
    assert done.stdout.strip() == (given or str(max(2, cores())))
