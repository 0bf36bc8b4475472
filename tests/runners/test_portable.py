"""The same bytes on Beam's embedded job service and on Prism."""

import os
import shutil
import subprocess

import pytest

from tests.pipelines.workspace import ragbeam
from tests.runners.conftest import all_digests
from tests.runners.flink import cache
from tests.runners.listening import open_to_others

PRISM = "github.com/apache/beam/sdks/v2/go/cmd/prism@v2.77.0"


@pytest.fixture(scope="module")
def prism() -> str:
    """Prism's binary, built once by go install; skips the test where Go is missing."""
    binary = cache() / "prism-2.77.0" / "prism"
    if not binary.exists():
        if shutil.which("go") is None:
            pytest.skip("no go here: Prism is built by it")
        environment = os.environ | {"GOBIN": str(binary.parent)}
        done = subprocess.run(["go", "install", PRISM], capture_output=True, text=True, env=environment)
        if done.returncode:
            pytest.skip(f"Prism cannot be built here: {done.stderr[-300:]}")
    return str(binary)


def test_the_embedded_job_service_gives_the_local_bytes(a_run, local, tmp_path, seen):
    ragbeam(*a_run, "--runner", "PortableRunner", "--job_endpoint", "embed")
    assert all_digests(tmp_path) == local
    assert len(seen) >= 5  # the pool, and the runner's control, data, state and logging
    assert open_to_others(seen) == []


def test_prism_gives_the_local_bytes(a_run, local, tmp_path, seen, prism):
    ragbeam(*a_run, "--runner", "prism", "--prism_location", prism)
    assert all_digests(tmp_path) == local
    assert open_to_others(seen) == []
