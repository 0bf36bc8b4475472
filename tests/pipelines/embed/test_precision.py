"""What embed computes in: settled once, measured against float32, kept by what goes on from it."""

import dataclasses
import json

import pytest

from pipelines.embed import precision
from pipelines.embed.options import EmbedOptions
from pipelines.transforms.model_workers import WorkerOptions
from rag_ops.compute import devices, processor
from rag_ops.errors import InputError, JobError
from rag_ops.models import calibration, fidelity, quantisation
from rag_ops.models.encoder import Encoder
from rag_ops.models.loading import load_encoder
from rag_ops.storage import store
from rag_ops.storage.manifests import read_manifest
from tests.pipelines.workspace import chunked, digests, fails, ragbeam

narrow = pytest.mark.skipif(
    not (processor.computes("bfloat16") and processor.computes("int8")),
    reason="the processor has no instructions for bfloat16 and int8",
)
LOW = {"cosine": 0.9, "recall_at_20": 0.5, "queries": 5, "among": 6}


@pytest.fixture(scope="module")
def passages(tmp_path_factory):
    return chunked(tmp_path_factory.mktemp("passages"), count=6, num_shards=2)


@pytest.fixture
def command(passages, sentence_encoder):
    return ["embed", "--passages", passages, "--encoder", sentence_encoder, "--device", "cpu"]


@pytest.mark.parametrize(
    ("device", "gpu_here", "runner", "wanted", "expected"),
    [
        ("auto", False, "direct", "auto", "bfloat16"),
        ("auto", True, "direct", "auto", "bfloat16"),
        ("cpu", True, "direct", "auto", "bfloat16"),
        ("cpu", False, "flink", "auto", "bfloat16"),
        ("cuda", False, "flink", "auto", "bfloat16"),
        ("auto", True, "flink", "auto", "bfloat16"),
        ("auto", True, "flink", "bfloat16", "bfloat16"),
        ("cuda", True, "direct", "float32", "float32"),
        ("cuda", True, "direct", "float16", "float16"),
    ],
)
def test_one_dtype_for_all_workers(device, gpu_here, runner, wanted, expected, monkeypatch, tmp_path):
    monkeypatch.setattr(devices.torch.cuda, "is_available", lambda: gpu_here)
    monkeypatch.setattr(processor, "flags", lambda: frozenset({"avx512_bf16"}))
    workers = WorkerOptions(device=device)
    options = EmbedOptions(passages="p", encoder="e", output=str(tmp_path), compute_dtype=wanted, workers=workers)
    found = precision.settle(options, ["--runner", runner], {})
    assert (found.dtype, found.settled) == (expected, wanted != "auto")
    if wanted == "auto" and expected == "bfloat16" and not gpu_here and device != "cuda":
        monkeypatch.setattr(processor, "flags", lambda: frozenset({"avx2"}))
        assert precision.settle(options, ["--runner", runner], {}).dtype == "float32"
        with pytest.raises(JobError, match="no instructions for bfloat16"):
            precision.settle(dataclasses.replace(options, compute_dtype="bfloat16"), ["--runner", runner], {})


def test_gpus_that_are_asked_of_dataflow_compute_in_bfloat16_and_never_in_int8(tmp_path):
    workers = WorkerOptions(accelerator="type:nvidia-l4;count:1;install-nvidia-driver")
    options = EmbedOptions(passages="p", encoder="e", output=str(tmp_path), workers=workers)
    assert precision.settle(options, ["--runner", "dataflow"], {}).dtype == "bfloat16"
    with pytest.raises(InputError, match="int8 is for CPUs"):
        precision.settle(dataclasses.replace(options, compute_dtype="int8"), ["--runner", "dataflow"], {})


def test_a_worker_without_the_instructions_ends_the_job_in_one_line(sentence_encoder, monkeypatch):
    monkeypatch.setattr(processor, "flags", frozenset)
    for dtype in ("bfloat16", "int8"):
        with pytest.raises(JobError, match=f"this machine's processor has no instructions for {dtype}"):
            Encoder.load(sentence_encoder, role="context", device="cpu", dtype=dtype)


@narrow
def test_auto_is_bfloat16_with_what_was_measured_and_goes_on_so(command, tmp_path, monkeypatch):
    ragbeam(*command, "--output", tmp_path / "a")
    info = read_manifest(str(tmp_path / "a"), "embed").info
    assert (info["compute_dtype"], info["engine"]) == ("bfloat16", "onednn")
    assert info["fidelity"].keys() == {"cosine", "recall_at_20", "queries", "among"}
    assert info["fidelity"]["cosine"] > 0.999
    assert info["fidelity"]["among"] == read_manifest(str(tmp_path / "a"), "embed").rows
    before = digests(tmp_path / "a", "embed")
    monkeypatch.setattr(processor, "best_dtype", lambda: "float32")  # launched from another machine
    ragbeam(*command, "--output", tmp_path / "a")
    (tmp_path / "a" / "embeddings-00001-of-00002.parquet").unlink()  # and is made again
    ragbeam(*command, "--output", tmp_path / "a")
    ragbeam(*command, "--output", tmp_path / "b", "--previous", tmp_path / "a", "--threads", 1)
    assert before == digests(tmp_path / "a", "embed") == digests(tmp_path / "b", "embed")


@narrow
def test_auto_is_float32_where_bfloat16_falls_short_and_a_named_dtype_is_refused(
    command, tmp_path, monkeypatch, capsys, caplog
):
    monkeypatch.setattr(fidelity, "fidelity", lambda *_: LOW)
    ragbeam(*command, "--output", tmp_path / "a")
    manifest = read_manifest(str(tmp_path / "a"), "embed")
    assert manifest.info["compute_dtype"] == "float32"
    assert "compute_dtype" not in manifest.config
    assert "--compute_dtype auto is float32 here" in caplog.text
    code, line = fails(capsys, *command, "--output", tmp_path / "b", "--compute_dtype", "bfloat16")
    assert code == 1
    assert "recall@20 0.5, cosine 0.9, of 6 passages" in line
    assert "--min_fidelity" in line
    assert not (tmp_path / "b").exists()
    ragbeam(*command, "--output", tmp_path / "b", "--compute_dtype", "bfloat16", "--min_fidelity", 0.4)
    assert read_manifest(str(tmp_path / "b"), "embed").info["fidelity"] == LOW
    monkeypatch.undo()
    ragbeam(*command, "--output", tmp_path / "a")  # as the output's settings say
    assert read_manifest(str(tmp_path / "a"), "embed") == manifest


@narrow
def test_an_int8_model_is_made_once_and_goes_with_the_vectors(command, tmp_path, monkeypatch, capsys):
    narrow_command = [*command, "--compute_dtype", "int8", "--min_fidelity", 0.01]
    ragbeam(*narrow_command, "--output", tmp_path / "a")
    manifest = read_manifest(str(tmp_path / "a"), "embed")
    file = tmp_path / "a" / "quantised.safetensors"
    assert manifest.config["compute_dtype"] == "int8"
    assert manifest.config["quantised_sha256"] == manifest.info["quantised_sha256"] == store.sha256_of(str(file))
    assert quantisation.read(str(file))  # some matrices are in int8
    before, data = digests(tmp_path / "a", "embed"), file.read_bytes()

    def fail(*_):
        raise AssertionError("it is there")

    monkeypatch.setattr(calibration, "quantise", fail)
    precision._made.cache_clear()
    capsys.readouterr()
    ragbeam(*narrow_command, "--output", tmp_path / "a")
    assert "all reused" in capsys.readouterr().out
    ragbeam(*narrow_command, "--output", tmp_path / "b", "--previous", tmp_path / "a", "--threads", 1)
    assert digests(tmp_path / "b", "embed") == before
    assert (tmp_path / "b" / "quantised.safetensors").read_bytes() == data
    ragbeam("verify", tmp_path / "b")
    monkeypatch.undo()
    ragbeam("embed", *narrow_command[1:], "--output", tmp_path / "c", "--overwrite")
    assert json.loads((tmp_path / "c" / "manifest.json").read_text())["config"].keys() == manifest.config.keys()


@narrow
def test_the_less_recall_is_wanted_the_more_matrices_are_in_8_bits(sentence_encoder):
    counts = [
        len(quantisation.from_bytes(calibration.quantise(sentence_encoder, recall=recall), "int8"))
        for recall in (1.0, 0.95, 0.0)
    ]
    layers = len(quantisation.trials(load_encoder(sentence_encoder, "context"), sentence_encoder))
    assert counts == sorted(counts)
    assert (counts[0], counts[-1]) == (0, layers)


def test_int8_of_layers_that_have_none_is_refused(passages, tmp_path, capsys, monkeypatch, tokenizer):
    if not processor.computes("int8") or not processor.computes("bfloat16"):
        monkeypatch.setattr(processor, "flags", lambda: frozenset({"avx512_vnni", "avx512_bf16"}))
    from transformers import DistilBertConfig, DistilBertModel

    model = DistilBertModel(DistilBertConfig(vocab_size=len(tokenizer), dim=16, n_layers=1, n_heads=2, hidden_dim=16))
    model.save_pretrained(tmp_path / "e")
    tokenizer.save_pretrained(tmp_path / "e")
    (tmp_path / "e" / "modules.json").write_text(
        json.dumps(
            [
                {"idx": 0, "name": "0", "path": "", "type": "sentence_transformers.models.Transformer"},
                {"idx": 1, "name": "1", "path": "1_Pooling", "type": "sentence_transformers.models.Pooling"},
            ]
        )
    )
    (tmp_path / "e" / "1_Pooling").mkdir()
    (tmp_path / "e" / "1_Pooling" / "config.json").write_text('{"pooling_mode_mean_tokens": true}')
    command = ["embed", "--passages", passages, "--encoder", tmp_path / "e", "--device", "cpu"]
    code, line = fails(capsys, *command, "--output", tmp_path / "o", "--compute_dtype", "int8")
    assert code == 2
    assert "this encoder cannot compute in int8" in line
