"""The same bytes on Beam's embedded job service and on Prism."""

from tests.pipelines.workspace import ragbeam
from tests.runners import programs
from tests.runners.conftest import all_digests
from tests.runners.listening import open_to_others


def test_the_embedded_job_service_gives_the_local_bytes(a_run, local, tmp_path, seen):
    ragbeam(*a_run, "--runner", "PortableRunner", "--job_endpoint", "embed")
    assert all_digests(tmp_path) == local
    assert len(seen) >= 5  # the pool, and the runner's control, data, state and logging
    assert open_to_others(seen) == []


def test_prism_gives_the_local_bytes(a_run, local, tmp_path, seen):
    ragbeam(*a_run, "--runner", "prism", "--prism_location", programs.prism())
    assert all_digests(tmp_path) == local
    assert open_to_others(seen) == []
