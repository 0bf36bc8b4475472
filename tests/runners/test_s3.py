"""The whole workspace on S3: a moto server on this machine, told by the environment alone, as a user's own would be."""

import re
import subprocess
import sys
import time
from collections import Counter

import pytest

from rag_ops.errors import JobError
from rag_ops.storage import store as storage
from rag_ops.storage.stages import write_shard
from tests.pipelines.workspace import fails, instead, ragbeam
from tests.runners.conftest import MODELS, STAGES, all_digests, kill_when, left_over, run_arguments
from tests.runners.flink import listens, wait_until
from tests.runners.listening import free_port

pytest.importorskip("moto", reason="moto is not installed: pip install '.[test]'")
pytest.importorskip("flask_cors", reason="moto's server is not installed: pip install '.[test]'")
s3fs = pytest.importorskip("s3fs", reason="s3fs is not installed: pip install '.[aws]'")

BUCKET = "s3://bucket"
REQUEST = re.compile(r"(GET|PUT|POST|HEAD|DELETE) (\S+) HTTP")


@pytest.fixture(scope="module")
def requests(tmp_path_factory):
    """A server of its own process, with its log of requests; endpoint and keys go into the environment."""
    directory, port = tmp_path_factory.mktemp("s3"), free_port()
    settings = {
        "AWS_ENDPOINT_URL": f"http://127.0.0.1:{port}",
        "AWS_ACCESS_KEY_ID": "key",
        "AWS_SECRET_ACCESS_KEY": "secret",
        "AWS_DEFAULT_REGION": "us-east-1",
        "RAGBEAM_CACHE": str(directory / "cache"),
    }
    command = [sys.executable, "-m", "moto.server", "-H", "127.0.0.1", "-p", str(port)]
    with pytest.MonkeyPatch.context() as patch, (directory / "requests.log").open("ab") as log:
        for name, value in settings.items():
            patch.setenv(name, value)
        process = subprocess.Popen(command, stdout=log, stderr=log)
        try:
            wait_until(lambda: listens(port), "the S3 server", directory)
            s3fs.S3FileSystem.clear_instance_cache()  # of another endpoint, by tests of other files
            s3fs.S3FileSystem().mkdir("bucket")
            yield directory / "requests.log"
        finally:
            process.kill()
            process.wait()
            s3fs.S3FileSystem.clear_instance_cache()


@pytest.fixture(scope="module")
def store(requests):
    """The file system as a test looks at it."""
    return s3fs.S3FileSystem(use_listings_cache=False)


@pytest.fixture(scope="module")
def done(there, requests):
    """A finished workspace on S3, and the requests that it took."""
    before = len(requests.read_text().splitlines())
    ragbeam(*there(f"{BUCKET}/whole"))
    lines = requests.read_text().splitlines()[before:]
    return [found.groups() for found in map(REQUEST.search, lines) if found]


def test_a_workspace_on_s3_has_the_local_bytes_and_nothing_else(done, store, local):
    assert all_digests(f"{BUCKET}/whole") == local
    assert left_over(store, "bucket/whole") == []


def test_requests_are_by_file_never_by_row(done):
    """120 passages in 4 shards; 9 questions, of which 2 are not answered, in 3 blocks and as many shards."""
    paths = Counter((verb, url.partition("?")[0]) for verb, url in done if "?" not in url)
    shards = 4
    assert max(count for (verb, _), count in paths.items() if verb in ("GET", "HEAD")) <= 8 * shards
    puts = {path: count for (verb, path), count in paths.items() if verb == "PUT"}
    assert set(puts.values()) == {1}  # each object is written once,
    assert not [path for path in puts if path.endswith(".tmp")]  # under its own name, without a copy
    for name in ("encoder/model.safetensors", "rag/model.safetensors", "whole/index/index-00000-of-00001.faiss"):
        assert paths["GET", f"/bucket/{name}"] == 1, name  # cached on this machine's disk


def test_a_second_run_reuses_all_and_writes_nothing(done, there, requests, capsys):
    before = len(requests.read_text().splitlines())
    ragbeam(*there(f"{BUCKET}/whole"))
    assert capsys.readouterr().out.count("all reused, nothing to do") == len(STAGES)
    assert not re.findall(r"(?:PUT|POST|DELETE) \S+", "\n".join(requests.read_text().splitlines()[before:]))


@pytest.mark.usefixtures("warm_workers")
def test_worker_processes_each_with_its_own_connection_give_the_same_bytes(done, there, store, local):
    workers = ["--direct_running_mode=multi_processing", "--direct_num_workers=2"]
    more = ["--passages", f"{BUCKET}/whole/passages", "--encoder", f"{BUCKET}/encoder", "--threads", 1]
    ragbeam("embed", *more, "--output", f"{BUCKET}/processes", *workers)
    found = [store.cat_file(f"bucket/processes/{name}") for name, _ in local["embeddings"]]
    assert found == [store.cat_file(f"bucket/whole/embeddings/{name}") for name, _ in local["embeddings"]]
    assert left_over(store, "bucket/processes") == []


def test_killed_in_the_middle_and_run_again_gives_the_same_bytes(
    server, there, requests, store, inputs, tmp_path, request
):
    cut = ["--num_shards", 16]  # so that embed is long enough to be met in its middle
    models = [request.getfixturevalue(fixture) for fixture in MODELS.values()]
    ragbeam(*instead(run_arguments(inputs, tmp_path / "local", *models), cut))
    command = [str(part) for part in there(f"{BUCKET}/killed", *cut)]
    written = re.compile(r"PUT /bucket/killed/embeddings/embeddings-\S+")
    kill_when(lambda: len(written.findall(requests.read_text())) >= 3, server, command, tmp_path / "run.log")
    kept = store.glob("bucket/killed/embeddings/*.parquet")
    assert 3 <= len(kept) < 16
    stamps = {path: store.info(path)["LastModified"] for path in kept[:2]}
    time.sleep(1.1)  # S3's times are whole seconds
    ragbeam(*command)
    assert all_digests(f"{BUCKET}/killed") == all_digests(tmp_path / "local")
    assert left_over(store, "bucket/killed") == []
    assert {path: store.info(path)["LastModified"] for path in stamps} == stamps


@pytest.mark.parametrize("size", [10, 60 << 20], ids=["one request", "an upload of parts"])
def test_a_write_that_fails_leaves_no_object_and_no_upload(store, size):
    def write(file):
        file.write(bytes(size))
        raise OSError("the worker's disk is full")

    with pytest.raises(JobError, match="disk is full"):
        write_shard(f"{BUCKET}/failed", "a.parquet", "f" * 32, write)
    assert store.find("bucket/failed") == []
    assert not store.call_s3("list_multipart_uploads", Bucket="bucket").get("Uploads")


def test_an_object_appears_when_it_is_whole(store):
    with storage.atomic_write(f"{BUCKET}/large", "a.bin") as file:
        for _ in range(3):
            file.write(bytes(40 << 20))
            assert not storage.exists(f"{BUCKET}/large/a.bin")
    assert storage.size_bytes(f"{BUCKET}/large/a.bin") == 120 << 20
    assert storage.sha256_of(f"{BUCKET}/large/a.bin") == file.sha256


def test_another_process_objects_are_seen_at_once(store):
    """A listing that was remembered would be out of date: workers write what the launcher looks for."""
    store.pipe_file("bucket/seen/one", b"1")
    assert storage.names_in(f"{BUCKET}/seen") == ["one"]
    assert not storage.exists(f"{BUCKET}/seen/two")
    store.pipe_file("bucket/seen/two", b"2")
    assert storage.exists(f"{BUCKET}/seen/two")
    store.pipe_file("bucket/seen/one", b"one")
    assert storage.size_bytes(f"{BUCKET}/seen/one") == 3


def test_no_credentials_and_no_bucket_are_one_line(inputs, requests, tmp_path, capsys, monkeypatch):
    job = ["chunk", "--input", inputs / "articles.jsonl", "--output"]
    code, line = fails(capsys, *job, "s3://no-such-bucket/out")
    assert (code, "bucket does not exist" in line) == (1, True), line
    for name in ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY"):
        monkeypatch.delenv(name)
    monkeypatch.setenv("AWS_EC2_METADATA_DISABLED", "true")
    monkeypatch.setenv("HOME", str(tmp_path))
    s3fs.S3FileSystem.clear_instance_cache()
    code, line = fails(capsys, *job, f"{BUCKET}/out")
    assert (code, "Unable to locate credentials" in line) == (1, True), line
    s3fs.S3FileSystem.clear_instance_cache()
