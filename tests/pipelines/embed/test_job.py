"""The arithmetic of the encoder: what is computed in, what the output says of it, and what can be reused."""

import dataclasses

import numpy as np
import pytest

from pipelines.embed import job
from pipelines.embed.options import EmbedOptions
from pipelines.transforms.model_workers import WorkerOptions
from rag_ops.compute import devices
from rag_ops.models.encoder import Encoder
from rag_ops.storage.manifests import read_manifest
from rag_ops.storage.parquet import read_parquet
from rag_ops.storage.rows import as_matrix
from tests.pipelines.workspace import digests, fails, ragbeam, write_articles


@pytest.fixture(scope="module")
def passages(tmp_path_factory):
    directory = tmp_path_factory.mktemp("passages")
    write_articles(directory / "articles.jsonl", count=6)
    ragbeam("chunk", "--input", directory / "articles.jsonl", "--output", directory / "p", "--num_shards", 1)
    return directory / "p"


def test_bfloat16_is_the_users_choice_on_a_cpu_and_another_configuration(passages, sentence_encoder, tmp_path, capsys):
    command = ["embed", "--passages", passages, "--encoder", sentence_encoder, "--dtype", "float32", "--device", "cpu"]
    ragbeam(*command, "--output", tmp_path / "wide")
    ragbeam(*command, "--output", tmp_path / "narrow", "--compute_dtype", "bfloat16")
    wide, narrow = (read_manifest(str(tmp_path / name), "embed") for name in ("wide", "narrow"))
    # Without the choice there were these names alone: such an output is reused.
    assert wide.config.keys() == {"encoder_digest", "encoder", "max_tokens", "dtype"}
    assert narrow.config == {**wide.config, "compute_dtype": "bfloat16"}
    assert (wide.info["compute_dtype"], narrow.info["compute_dtype"]) == ("float32", "bfloat16")
    before = digests(tmp_path / "wide", "embed")
    capsys.readouterr()
    for same in ("auto", "float32"):
        ragbeam(*command, "--output", tmp_path / "wide", "--compute_dtype", same)
        assert "all reused" in capsys.readouterr().out
    code, line = fails(capsys, *command, "--output", tmp_path / "wide", "--compute_dtype", "bfloat16")
    assert code == 2
    assert "another configuration" in line
    assert "compute_dtype" in line
    assert digests(tmp_path / "wide", "embed") == before

    table = read_parquet(f"{passages}/{read_manifest(str(passages), 'chunk').shards[0].path}", ["title", "text"])
    texts = [table[name].to_pylist() for name in ("title", "text")]
    for name, dtype in (("wide", "float32"), ("narrow", "bfloat16")):
        expected, _ = Encoder.load(sentence_encoder, role="context", device="cpu", dtype=dtype).encode(*texts)
        manifest = read_manifest(str(tmp_path / name), "embed")
        vectors = as_matrix(read_parquet(f"{tmp_path / name}/{manifest.shards[0].path}", ["vector"])["vector"])
        assert np.array_equal(vectors, expected)


@pytest.mark.parametrize(
    ("device", "gpu_here", "runner", "wanted", "expected"),
    [
        ("auto", False, "direct", "auto", "float32"),
        ("auto", True, "direct", "auto", "bfloat16"),
        ("cpu", True, "direct", "auto", "float32"),
        ("cuda", False, "flink", "auto", "bfloat16"),
        ("auto", True, "flink", "auto", "float32"),
        ("auto", True, "flink", "bfloat16", "bfloat16"),
        ("cuda", True, "direct", "float32", "float32"),
    ],
)
def test_one_dtype_for_all_workers(device, gpu_here, runner, wanted, expected, monkeypatch):
    monkeypatch.setattr(devices.torch.cuda, "is_available", lambda: gpu_here)
    options = EmbedOptions(
        passages="p", encoder="e", output="o", compute_dtype=wanted, workers=WorkerOptions(device=device)
    )
    assert job.compute_dtype(options, ["--runner", runner]) == expected


def test_gpus_that_are_asked_of_dataflow_compute_in_bfloat16():
    workers = WorkerOptions(accelerator="type:nvidia-l4;count:1;install-nvidia-driver")
    options = EmbedOptions(passages="p", encoder="e", output="o", workers=workers)
    assert job.compute_dtype(options, ["--runner", "dataflow"]) == "bfloat16"
    assert job.compute_dtype(dataclasses.replace(options, compute_dtype="float16"), []) == "float16"


@pytest.mark.parametrize(("max_tokens", "warns"), [(8, True), (None, False)])
def test_passages_that_the_encoder_cuts_are_warned_of(passages, sentence_encoder, tmp_path, caplog, max_tokens, warns):
    command = ["embed", "--passages", passages, "--encoder", sentence_encoder, "--output", tmp_path / "out"]
    ragbeam(*command, *(["--max_tokens", max_tokens] if max_tokens else []))
    rows = read_manifest(str(tmp_path / "out"), "embed").rows
    assert (f"{rows} of {rows} passages (100.0%) are longer than the encoder's limit" in caplog.text) is warns


@pytest.mark.parametrize(("cut", "warns"), [(10, False), (11, True)])
def test_one_passage_in_a_hundred_may_be_cut(cut, warns):
    assert bool(list(job.warnings({"Encode": {"rows_in": 1000, "truncated": cut}}))) is warns
    assert not list(job.warnings({}))
