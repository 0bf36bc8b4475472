"""Tests of rag_ops.heap."""

from __future__ import annotations

import subprocess
import sys

import pytest

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
