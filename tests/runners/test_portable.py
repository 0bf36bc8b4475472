"""The same bytes on Beam's embedded job service and on Prism."""

import os
import shutil
import subprocess

import pytest

from tests.pipelines.workspace import ragbeam
from tests.runners.conftest import all_digests, run_arguments
from tests.runners.flink import cache

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


def test_the_embedded_job_service_gives_the_local_bytes(inputs, local, tmp_path, sentence_encoder, tiny_rag):
    more = ["--runner", "PortableRunner", "--job_endpoint", "embed"]
    ragbeam(*run_arguments(inputs, tmp_path, sentence_encoder, tiny_rag), *more)
    assert all_digests(tmp_path) == local


def test_prism_gives_the_local_bytes(inputs, local, tmp_path, sentence_encoder, tiny_rag, prism):
    more = ["--runner", "prism", "--prism_location", prism]
    ragbeam(*run_arguments(inputs, tmp_path, sentence_encoder, tiny_rag), *more)
    assert all_digests(tmp_path) == local
