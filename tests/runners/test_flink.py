"""All four stages on a real Flink session cluster give the local run's bytes; minutes, so only with RAGBEAM_FLINK=1."""

import os

import pytest

from tests.pipelines.workspace import ragbeam
from tests.runners import flink
from tests.runners.conftest import all_digests, run_arguments

pytestmark = pytest.mark.skipif(not os.environ.get("RAGBEAM_FLINK"), reason="RAGBEAM_FLINK=1 runs the tests on Flink")


@pytest.fixture(scope="module")
def cluster(tmp_path_factory):
    """Two task managers of one slot each."""
    with flink.cluster(tmp_path_factory.mktemp("flink") / "cluster") as running:
        yield running


def on_flink(cluster) -> list[object]:
    return [
        *("--runner", "FlinkRunner", "--flink_master", cluster.master, "--flink_version", "1.19"),
        *("--flink_job_server_jar", cluster.job_server_jar, "--parallelism", 2),
    ]


def test_workers_in_the_launcher_give_the_local_bytes(cluster, inputs, local, tmp_path, sentence_encoder, tiny_rag):
    ragbeam(*run_arguments(inputs, tmp_path, sentence_encoder, tiny_rag), *on_flink(cluster))
    assert all_digests(tmp_path) == local
