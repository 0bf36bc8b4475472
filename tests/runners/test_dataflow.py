"""Each job is sent to a fake of Dataflow and of Google's storage; what it got is looked at. Nothing runs there."""

from __future__ import annotations

import io
import os
import subprocess
import sys
import time
import venv
import zipfile
from pathlib import Path

import apache_beam as beam
import fsspec
import pytest

from tests.pipelines import crossings
from tests.pipelines.workspace import fails, instead
from tests.runners.google import Google

os.environ["GCSFS_EXPERIMENTAL_ZB_HNS_SUPPORT"] = "false"  # it asks a gRPC service that the fake has not
pytest.importorskip("google.cloud.dataflow", reason="apache-beam[gcp] is not installed: pip install '.[gcp]'")
pytest.importorskip("gcsfs", reason="gcsfs is not installed: pip install '.[gcp]'")

GPU = "type:nvidia-l4;count:1;install-nvidia-driver"
SECRET = "a-secret-that-nobody-may-read"
MODEL_STEPS = {"embed": ("Embed/",), "answer": ("EncodeQuestions/", "Answer/")}  # what reads and writes is with them


class Hurried:
    """The time module for Dataflow's runner, which asks after a job every five seconds."""

    time = time.time

    @staticmethod
    def sleep(secs: float) -> None:
        time.sleep(secs / 50)


@pytest.fixture
def google(monkeypatch, tmp_path):
    from apache_beam.internal.gcp import auth
    from apache_beam.runners.dataflow import dataflow_runner

    fake = Google()
    monkeypatch.setenv("STORAGE_EMULATOR_HOST", fake.url)
    monkeypatch.setenv("RAGBEAM_CACHE", str(tmp_path / "cache"))  # another fake's objects have the same names and times
    for name in ("HF_TOKEN", "AWS_SECRET_ACCESS_KEY", "GOOGLE_API_KEY"):
        monkeypatch.setenv(name, SECRET)
    monkeypatch.setattr(auth._Credentials, "_credentials_init", True)
    monkeypatch.setattr(dataflow_runner, "time", Hurried)
    settings = {"token": "anon", "endpoint_url": fake.url, "use_listings_cache": False, "skip_instance_cache": True}
    for scheme in ("gs", "gcs"):
        monkeypatch.setitem(fsspec.config.conf, scheme, settings)
    yield fake
    fake.server.shutdown()


@pytest.fixture
def filled(google, inputs, local_workspace, sentence_encoder, tiny_rag):
    """The fake, with what the jobs read."""
    google.put(Path(local_workspace), "gs://b/done")
    google.put(Path(sentence_encoder), "gs://b/encoder")
    google.put(Path(tiny_rag), "gs://b/rag")
    google.put(Path(inputs) / "articles.jsonl", "gs://b/articles.jsonl")
    google.put(Path(inputs) / "questions.jsonl", "gs://b/questions.jsonl")
    return google


def on_dataflow(google: Google) -> list[str]:
    flags = ["--runner", "DataflowRunner", "--project", "p", "--region", "europe-west4", "--no_auth"]
    return [*flags, "--temp_location", "gs://b/tmp", "--dataflow_endpoint", google.url]


JOBS = {
    "chunk": ["--input", "gs://b/articles.jsonl"],
    "embed": ["--passages", "gs://b/done/passages", "--encoder", "gs://b/encoder", "--accelerator", GPU],
    "index": ["--embeddings", "gs://b/done/embeddings"],
    "answer": [
        *("--questions", "gs://b/questions.jsonl", "--index", "gs://b/done/index", "--model", "gs://b/rag"),
        *("--accelerator", GPU, "--worker_memory", "16GiB"),
    ],
}


def pipeline_of(google: Google):
    from apache_beam.portability.api import beam_runner_api_pb2

    url = google.jobs[-1]["environment"]["sdkPipelineOptions"]["options"]["pipelineUrl"]
    return beam_runner_api_pb2.Pipeline.FromString(google.objects[url.removeprefix("gs://")])


@pytest.mark.parametrize("job", JOBS)
def test_each_job_is_submitted_as_it_should_be(filled, job, capsys):
    code, line = fails(capsys, job, *JOBS[job], "--output", f"gs://b/out/{job}", *on_dataflow(filled))
    assert (code, "ended without a shard" in line) == (1, True), line  # the fake says DONE, and ran nothing
    (sent,) = filled.jobs
    environment = sent["environment"]
    stages = crossings.stages_of(pipeline_of(filled))
    assert crossings.passed_on(stages) == []
    assert sum("BeamML_RunInference" in str(stage.steps) for stage in stages) == len(MODEL_STEPS.get(job, []))
    for stage in stages:
        of_model = any(step.startswith(MODEL_STEPS.get(job, ())) for step in stage.steps)
        assert stage.hints.get("accelerator") == (GPU if of_model else None), stage.steps
        assert ("min_ram_bytes" in stage.hints) == (of_model and job == "answer"), stage.steps
    assert ("no_use_multiple_sdk_containers" in environment["experiments"]) == (job in MODEL_STEPS)
    (pool,) = environment["workerPools"]
    assert pool["numThreadsPerWorker"] == (2 if job in MODEL_STEPS else 1)
    images = {image["containerImage"] for image in pool["sdkHarnessContainerImages"]}
    assert [image.rpartition("_")[2] for image in images] == [f"sdk:{beam.__version__}"]
    names = {key.rpartition("/")[2] for key in filled.objects if key.startswith("b/tmp/")}
    assert {"requirements.txt", "ragbeam-0.1.0-py3-none-any.whl"} <= names
    assert SECRET not in str(sent)
    assert not [key for key, data in filled.objects.items() if SECRET.encode() in data]


def test_a_workers_error_comes_back_as_it_said_it(filled, capsys):
    filled.state = "JOB_STATE_FAILED"
    text = 'Traceback (most recent call last):\nrag_ops.errors.JobError: no CUDA device on this worker: "cuda"'
    time = "2026-01-01T00:00:00Z"
    filled.messages = [{"id": "1", "time": time, "messageText": text, "messageImportance": "JOB_MESSAGE_ERROR"}]
    code, line = fails(capsys, "chunk", *JOBS["chunk"], "--output", "gs://b/out", *on_dataflow(filled))
    assert code == 1
    assert "no CUDA device on this worker" in line


def test_an_image_takes_the_place_of_the_package(filled, capsys):
    image = "europe-docker.pkg.dev/p/r/ragbeam:1"
    more = ["--output", "gs://b/out", *on_dataflow(filled), "--sdk_container_image", image]
    fails(capsys, "chunk", *JOBS["chunk"], *more)
    assert filled.jobs[0]["environment"]["workerPools"][0]["workerHarnessContainerImage"] == image
    assert not [key for key in filled.objects if key.endswith((".whl", "requirements.txt"))]


def test_the_staged_package_installs_and_imports(tmp_path):
    from pipelines.runners import staging

    wheel = staging.write_wheel(str(tmp_path))
    venv.create(tmp_path / "venv", with_pip=False)
    python = tmp_path / "venv" / "bin" / "python"
    site = subprocess.run(
        [python, "-c", "import sysconfig; print(sysconfig.get_path('purelib'))"], capture_output=True, text=True
    ).stdout.strip()
    install = [sys.executable, "-m", "pip", "--python", python, "install", "--quiet", "--no-deps", "--no-index", wheel]
    here = {name: value for name, value in os.environ.items() if name != "PYTHONPATH"}  # may name this very package
    subprocess.run(install, check=True, capture_output=True, env=here)
    shared = os.pathsep.join(path for path in sys.path if path.endswith("site-packages"))
    environment = {"PYTHONPATH": f"{site}:{shared}"}  # the package from the wheel, its dependencies from here
    code = "import pipelines, rag_ops, schemas, pipelines.answer.job; print(pipelines.__file__)"
    found = subprocess.run([python, "-c", code], capture_output=True, text=True, env=environment, cwd=tmp_path)
    assert found.stdout.strip().startswith(site), found.stderr
    script = [tmp_path / "venv" / "bin" / "ragbeam", "--help"]
    shown = subprocess.run(script, capture_output=True, text=True, env=environment, cwd=tmp_path)
    assert "answer" in shown.stdout, shown.stderr


def test_the_staged_package_is_the_same_each_time_and_leaves_the_demo_out(tmp_path):
    from pipelines.runners import staging

    (tmp_path / "again").mkdir()
    first, again = (Path(staging.write_wheel(str(tmp_path / name))).read_bytes() for name in ("", "again"))
    assert first == again
    assert not [name for name in zipfile.ZipFile(io.BytesIO(first)).namelist() if "demo/data" in name]


@pytest.mark.parametrize(
    ("more", "said"),
    [
        (["--project="], "needs --project"),
        (["--region="], "needs --region"),
        (["--temp_location", "/tmp"], "--temp_location is not on Google's storage"),
        (["--output", "/tmp/out"], "don't reach this machine"),
        (["--save_main_session"], "--save_main_session"),
        (["--s3_secret_access_key", SECRET], "--s3_secret_access_key would stand in the job"),
        (["--flexrs_goal", "COST_OPTIMIZED"], "--flexrs_goal"),
        (["--dataflow_service_options", "worker_accelerator=type:x"], "worker_accelerator"),
        (["--device", "cpu"], "contradict"),
        (["--accelerator", "l4"], "malformed"),
        (["--accelerator", "type:nvidia-l4;count:2;install-nvidia-driver"], "several GPUs"),
        (["--accelerator", "type:nvidia-l4;count:1"], "driver"),
        (["--runner", "FlinkRunner"], "--device cuda"),
        (["--runner", "DirectRunner"], "--device cuda"),
    ],
)
def test_what_cannot_work_is_refused_before_anything_is_sent(google, capsys, more, said):
    flags = [*JOBS["embed"], "--output", "gs://b/out", *on_dataflow(google)]
    code, line = fails(capsys, "embed", *instead(flags, more))
    assert (code, said in line) == (2, True), line
    assert SECRET not in line
    assert not google.requests


def test_a_model_on_this_machine_is_refused(google, capsys, sentence_encoder):
    flags = ["--passages", "gs://b/p", "--encoder", sentence_encoder, "--output", "gs://b/out", *on_dataflow(google)]
    code, line = fails(capsys, "embed", *flags)
    assert (code, "don't see it" in line) == (2, True), line
