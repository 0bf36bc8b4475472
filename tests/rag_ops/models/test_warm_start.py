"""Tests of rag_ops.models.warm_start: it computes what the encoder computes, and keeps what training changed."""

from pathlib import Path

import pytest
import safetensors.torch
import torch
from transformers import AutoModel, AutoTokenizer, RagTokenForGeneration

from rag_ops.errors import InputError
from rag_ops.models import checkpoints, compose
from rag_ops.models.loading import load_encoder
from rag_ops.models.warm_start import warm_start_generator
from rag_ops.storage import store
from tests.demo_reader.weights import save_trained


def test_a_warm_started_generator_encodes_as_minilm_does(minilm):
    bert = AutoModel.from_pretrained(minilm).eval()
    bart = warm_start_generator(bert)
    inputs = AutoTokenizer.from_pretrained(minilm)(
        ["who wrote animal farm", "the moon"], padding=True, return_tensors="pt"
    )
    with torch.inference_mode():
        ours = bart.model.encoder(inputs["input_ids"], inputs["attention_mask"]).last_hidden_state
        theirs = bert(**inputs).last_hidden_state
    real = inputs["attention_mask"].bool()
    assert (ours - theirs)[real].abs().max() < 5e-3
    assert torch.equal(bart.get_output_embeddings().weight, bart.model.shared.weight)


@pytest.fixture
def trained(tmp_path, sentence_encoder):
    """A generator whose encoder stayed and whose decoder learned something, and the file of what it learned."""
    generator = warm_start_generator(load_encoder(sentence_encoder, "context"), 1)
    generator.model.encoder.requires_grad_(False)
    torch.manual_seed(3)
    with torch.no_grad():
        for parameter in (p for p in generator.parameters() if p.requires_grad):
            parameter += 0.1 * torch.randn_like(parameter)
    save_trained(generator, sentence_encoder, str(tmp_path / "trained.safetensors"))
    return generator, str(tmp_path / "trained.safetensors")


def test_what_training_changed_and_the_encoder_make_the_trained_model(tmp_path, sentence_encoder, trained):
    generator, file = trained
    directory = str(tmp_path / "rag")
    compose.compose_warm_started(sentence_encoder, directory, score_scale=20, trained=[file])
    loaded = RagTokenForGeneration.from_pretrained(directory).rag.generator.state_dict()
    for name, tensor in generator.state_dict().items():
        step = tensor.abs().amax(-1, keepdim=True) / 127  # of int8, where a matrix learned; half of it is the most
        assert ((loaded[name] - tensor).abs() <= 0.51 * step + 1e-6).all(), name
    assert not checkpoints.is_untrained(directory)
    assert checkpoints.trained_sha256(directory) == [store.sha256_of(file)]
    assert checkpoints.score_scale(RagTokenForGeneration.from_pretrained(directory).config) == 20
    stored = safetensors.torch.load_file(file)
    assert all(
        tensor.dtype == (torch.int8 if tensor.shape[-1] > 1 and tensor.ndim > 1 else torch.float16)
        for tensor in stored.values()
    )
    assert not any("encoder.layers" in name for name in stored)


def test_of_two_files_of_trained_weights_the_later_one_counts(tmp_path, sentence_encoder, trained):
    generator, file = trained
    generator.requires_grad_(False)
    biases = generator.model.decoder.layers[0].fc1.bias
    biases.fill_(3.0).requires_grad_(True)
    save_trained(generator, sentence_encoder, str(tmp_path / "later.safetensors"))
    compose.compose_warm_started(
        sentence_encoder, str(tmp_path / "rag"), trained=[file, str(tmp_path / "later.safetensors")]
    )
    compose.compose_warm_started(sentence_encoder, str(tmp_path / "first"), trained=[file])
    both = RagTokenForGeneration.from_pretrained(tmp_path / "rag").rag.generator.state_dict()
    first = RagTokenForGeneration.from_pretrained(tmp_path / "first").rag.generator.state_dict()
    assert [name for name in both if not torch.equal(both[name], first[name])] == ["model.decoder.layers.0.fc1.bias"]
    assert (both["model.decoder.layers.0.fc1.bias"] == 3.0).all()


def test_trained_weights_of_another_encoder_are_refused(tmp_path, sentence_encoder, minilm, trained):
    with pytest.raises(InputError, match="belong to another encoder"):
        compose.compose_warm_started(minilm, str(tmp_path / "rag"), trained=trained[1:])
    Path(trained[1]).write_bytes(b"no tensors")
    with pytest.raises(InputError, match="cannot be read"):
        compose.compose_warm_started(sentence_encoder, str(tmp_path / "rag"), trained=trained[1:])


def test_only_bert_warm_starts_a_bart(tiny_bart):
    with pytest.raises(InputError, match="bart"):
        warm_start_generator(AutoModel.from_pretrained(tiny_bart))


@pytest.mark.parametrize(
    ("name", "says"),
    [
        ("model.decoder.layers.7.fc1.bias", "what the generator does not have"),
        ("model.decoder.layers.0.fc1.bias", None),
    ],
)
def test_trained_weights_of_another_generator_are_refused(tmp_path, sentence_encoder, trained, name, says):
    with safetensors.safe_open(trained[1], "pt") as file:
        state, metadata = {key: file.get_tensor(key) for key in file.keys()}, file.metadata()  # noqa: SIM118
    safetensors.torch.save_file(state | {name: torch.ones(3)}, tmp_path / "other.safetensors", metadata=metadata)
    with pytest.raises(InputError, match=says or "the trained weights cannot be loaded"):
        compose.compose_warm_started(
            sentence_encoder, str(tmp_path / "rag"), trained=[str(tmp_path / "other.safetensors")]
        )
    assert not (tmp_path / "rag").exists()
