"""The whole workspace on Google's storage: a fake-gcs-server on this machine, told by the environment alone."""

import os
import subprocess

import fsspec
import pytest

from tests.pipelines.workspace import fails, instead, ragbeam
from tests.runners import programs
from tests.runners.conftest import MODELS, STAGES, all_digests, kill_when, left_over, run_arguments
from tests.runners.flink import listens, wait_until
from tests.runners.listening import free_port

os.environ["GCSFS_EXPERIMENTAL_ZB_HNS_SUPPORT"] = "false"  # it asks a gRPC service that the server has not
gcsfs = pytest.importorskip("gcsfs", reason="gcsfs is not installed: pip install '.[gcp]'")

BUCKET = "gs://bucket"


@pytest.fixture(scope="module")
def store(tmp_path_factory):
    """A server of its own process, and the file system as a test looks at it."""
    directory, port = tmp_path_factory.mktemp("gs"), free_port()
    url = f"http://127.0.0.1:{port}"
    command = [
        programs.google_storage(),
        "-scheme",
        "http",
        "-host",
        "127.0.0.1",
        "-port",
        str(port),
        "-backend",
        "memory",
    ]
    command += ["-public-host", f"127.0.0.1:{port}", "-external-url", url, "-log-level", "warn"]
    with pytest.MonkeyPatch.context() as patch, (directory / "server.log").open("ab") as log:
        for name, value in {"STORAGE_EMULATOR_HOST": url, "RAGBEAM_CACHE": str(directory / "cache")}.items():
            patch.setenv(name, value)
        patch.setenv("FSSPEC_GCS_TOKEN", "anon")  # of processes; fsspec reads it when it is imported,
        patch.setitem(fsspec.config.conf, "gcs", {"token": "anon"})  # which it is here
        process = subprocess.Popen(command, stdout=log, stderr=log)
        try:
            wait_until(lambda: listens(port), "the server of Google's storage", directory)
            gcsfs.GCSFileSystem.clear_instance_cache()
            found = gcsfs.GCSFileSystem(use_listings_cache=False)
            found.mkdir("bucket")
            yield found
        finally:
            process.kill()
            process.wait()
            gcsfs.GCSFileSystem.clear_instance_cache()


def generations(store, workspace: str) -> dict[str, str]:
    """Every object's generation, which changes when it is written again."""
    return {path: info["generation"] for path, info in store.find(workspace, detail=True).items()}


def test_a_workspace_there_has_the_local_bytes_and_nothing_else_and_is_reused(there, store, local, capsys):
    ragbeam(*there(f"{BUCKET}/whole"))
    assert all_digests(f"{BUCKET}/whole") == local
    assert left_over(store, "bucket/whole") == []
    before = generations(store, "bucket/whole")
    capsys.readouterr()
    ragbeam(*there(f"{BUCKET}/whole"))
    assert capsys.readouterr().out.count("all reused, nothing to do") == len(STAGES)
    assert generations(store, "bucket/whole") == before


def test_killed_in_the_middle_and_run_again_gives_the_same_bytes(server, there, store, inputs, tmp_path, request):
    cut = ["--num_shards", 16]  # so that embed is long enough to be met in its middle
    models = [request.getfixturevalue(fixture) for fixture in MODELS.values()]
    ragbeam(*instead(run_arguments(inputs, tmp_path / "local", *models), cut))
    command = there(f"{BUCKET}/killed", *cut)

    def written() -> list[str]:
        return store.glob("bucket/killed/embeddings/*.parquet")

    kill_when(lambda: len(written()) >= 3, server, command, tmp_path / "run.log")
    kept = {path: store.info(path)["generation"] for path in written()}
    assert 3 <= len(kept) < 16
    ragbeam(*command)
    assert all_digests(f"{BUCKET}/killed") == all_digests(tmp_path / "local")
    assert left_over(store, "bucket/killed") == []
    # The last one may have been whole without its record.
    assert sum(store.info(path)["generation"] == one for path, one in kept.items()) >= len(kept) - 1


def test_a_bucket_that_is_not_there_is_one_line(there, inputs, capsys):
    job = ["chunk", "--input", inputs / "articles.jsonl", "--output", "gs://no-such-bucket/out"]
    code, line = fails(capsys, *job)
    assert code == 1, line
