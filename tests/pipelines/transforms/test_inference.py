"""Models on workers: one copy a process, shared by its threads; loads are counted; a promised GPU must be there."""

import json

import apache_beam as beam
import pytest
import torch
from apache_beam.ml.inference.base import RunInference

from pipelines.runners import launch
from pipelines.runners.resources import Resources
from pipelines.transforms.inference import EncoderHandler, GeneratorHandler, ModelSettings, TextUnit
from pipelines.transforms.model_workers import WorkerOptions
from rag_ops.errors import JobError
from rag_ops.generation.settings import GenerationSettings
from tests.pipelines.workspace import chunked, ragbeam

GPU = Resources("type:nvidia-l4;count:1;install-nvidia-driver")


@pytest.fixture(scope="module")
def passages(tmp_path_factory):
    return chunked(tmp_path_factory.mktemp("passages"), count=40, num_shards=8)


@pytest.mark.parametrize("threads", [1, 3])
def test_a_process_loads_its_model_once_and_counts_it(passages, tmp_path, sentence_encoder, threads):
    workers = ["--direct_running_mode=multi_threading", f"--direct_num_workers={threads}"]
    ragbeam("embed", "--passages", passages, "--encoder", sentence_encoder, "--output", tmp_path / "out", *workers)
    counters = json.loads((tmp_path / "out" / "run.json").read_text())["steps"]["Encode"]
    assert counters["model_loads"] == 1
    assert counters["load_millis"] > 0
    assert counters["rows_out"] == counters["rows_in"] == 40


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is a GPU here")
@pytest.mark.parametrize("kind", ["encoder", "generator"])
def test_a_worker_that_was_promised_a_gpu_and_has_none_fails(kind, sentence_encoder, tiny_rag):
    """The very steps of a job with --accelerator, which says nothing of --device, on a worker without a GPU."""
    model = sentence_encoder if kind == "encoder" else tiny_rag
    settings = ModelSettings(model, WorkerOptions(accelerator=GPU.accelerator, threads=1))
    if kind == "encoder":
        handler = EncoderHandler("Encode", settings, "context", ("text",), "float16")
    else:
        handler = GeneratorHandler("Generate", settings, GenerationSettings(), 1)

    def build(pipeline):
        _ = pipeline | beam.Create([TextUnit(0, None)]) | RunInference(handler)

    with pytest.raises(JobError, match="no CUDA device on this worker: 'cuda'; give the worker a GPU and its driver"):
        launch.run(build, [])
