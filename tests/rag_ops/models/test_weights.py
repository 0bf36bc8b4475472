"""Weights that a model's files lack are missed by whatever loads it, and what transformers leaves out is not."""

import json
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
import transformers
from safetensors.torch import load_file, save_file

from rag_ops import RagTokenForGeneration
from rag_ops.errors import InputError
from rag_ops.models import checkpoints, loading, weights
from rag_ops.models.compose import compose

SEQ2SEQ = {
    "vocab_size": 60, "d_model": 16, "encoder_layers": 2, "decoder_layers": 2, "encoder_attention_heads": 2,
    "decoder_attention_heads": 2, "encoder_ffn_dim": 32, "decoder_ffn_dim": 32, "max_position_embeddings": 32,
    "pad_token_id": 0, "bos_token_id": 1, "eos_token_id": 2, "decoder_start_token_id": 2,
}  # fmt: skip
T5 = {
    "vocab_size": 60, "d_model": 16, "d_kv": 8, "d_ff": 32, "num_layers": 2, "num_decoder_layers": 2, "num_heads": 2,
    "pad_token_id": 0, "eos_token_id": 2, "decoder_start_token_id": 0,
}  # fmt: skip
LED = {**SEQ2SEQ, "attention_window": 4, "max_encoder_position_embeddings": 32, "max_decoder_position_embeddings": 32}
PROPHET = {
    "vocab_size": 60, "hidden_size": 16, "encoder_ffn_dim": 32, "decoder_ffn_dim": 32, "num_encoder_layers": 2,
    "num_decoder_layers": 2, "num_encoder_attention_heads": 2, "num_decoder_attention_heads": 2,
    "max_position_embeddings": 32, "decoder_start_token_id": 2,
}  # fmt: skip
GENERATORS = {
    "Bart": SEQ2SEQ, "MBart": SEQ2SEQ, "Pegasus": SEQ2SEQ, "Blenderbot": SEQ2SEQ, "BlenderbotSmall": SEQ2SEQ,
    "PLBart": SEQ2SEQ, "M2M100": SEQ2SEQ, "Mvp": SEQ2SEQ, "BigBirdPegasus": SEQ2SEQ, "LED": LED, "T5": T5, "MT5": T5,
    "UMT5": T5, "LongT5": T5, "SwitchTransformers": {**T5, "num_experts": 2, "num_sparse_encoder_layers": 1},
    "ProphetNet": PROPHET, "Marian": SEQ2SEQ,
}  # fmt: skip
LAST = {"Marian": "MarianMTModel"}  # the class that is no ...ForConditionalGeneration
BERT = {
    "vocab_size": 60, "hidden_size": 16, "num_hidden_layers": 2, "num_attention_heads": 2, "intermediate_size": 32,
    "max_position_embeddings": 34,
}  # fmt: skip
ENCODERS = {
    "Bert": BERT, "Roberta": BERT, "XLMRoberta": BERT, "Camembert": BERT, "MPNet": BERT, "Electra": BERT,
    "Albert": {**BERT, "embedding_size": 8},
    "DistilBert": {"vocab_size": 60, "dim": 16, "n_layers": 2, "n_heads": 2, "hidden_dim": 32},
}  # fmt: skip


def generator_of(family: str) -> torch.nn.Module:
    torch.manual_seed(5)
    config = getattr(transformers, f"{family}Config")(**GENERATORS[family])
    return getattr(transformers, LAST.get(family, f"{family}ForConditionalGeneration"))(config).eval()


def write(directory: Path, model: torch.nn.Module, form: str, change: Callable = lambda name, tensor: tensor) -> str:
    """A model's files as transformers saves them, or its torch file as it was saved before; without what is None."""
    model.save_pretrained(directory)
    if form == "safetensors":
        state = load_file(directory / "model.safetensors")
    else:
        state = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    state = {name: change(name, tensor) for name, tensor in state.items()}
    state = {name: tensor for name, tensor in state.items() if tensor is not None}
    (directory / "model.safetensors").unlink()
    if form == "safetensors":
        save_file(state, directory / "model.safetensors", metadata={"format": "pt"})
    else:
        torch.save(state, directory / "pytorch_model.bin")
    return str(directory)


def same(found: torch.nn.Module, expected: torch.nn.Module) -> None:
    state = found.state_dict()
    assert {*state} == {*expected.state_dict()}
    for name, tensor in expected.state_dict().items():
        torch.testing.assert_close(state[name], tensor, rtol=0, atol=0)


@pytest.mark.parametrize("form", ["safetensors", "torch"])
@pytest.mark.parametrize("family", GENERATORS)
def test_a_whole_generator_of_any_family_loads_with_its_own_weights(family, form, tmp_path):
    expected = generator_of(family)
    directory = write(tmp_path, expected, form)
    same(loading.load_generator(directory), expected)


@pytest.mark.parametrize("family", GENERATORS)
def test_a_generator_loads_without_what_is_tied_or_computed(family, tmp_path):
    """As checkpoints of before: no copy of the embeddings under another name, no bias that is all zeros."""
    expected = generator_of(family)
    tied = {*expected.all_tied_weights_keys} if hasattr(expected, "all_tied_weights_keys") else set()
    left_out = [name for name in expected.state_dict() if name in tied or name == "final_logits_bias"]
    directory = write(tmp_path, expected, "torch", lambda name, tensor: None if name in left_out else tensor)
    same(loading.load_generator(directory), expected)


@pytest.mark.parametrize("family", GENERATORS)
def test_a_generator_of_any_family_inside_a_rag_model_loads(family, tmp_path):
    torch.manual_seed(6)
    question_encoder = transformers.DPRQuestionEncoder(transformers.DPRConfig(**BERT))
    generator = generator_of(family)
    config = transformers.RagConfig.from_question_encoder_generator_configs(
        question_encoder.config, generator.config, retrieval_vector_size=16
    )
    rag = transformers.RagTokenForGeneration(config=config, question_encoder=question_encoder, generator=generator)
    directory = write(tmp_path, rag, "safetensors")
    same(loading.load_rag(directory, torch.float32), rag)
    found = loading.load_encoder(directory, "question").state_dict()
    for name, tensor in question_encoder.state_dict().items():
        assert torch.equal(found[name], tensor)
    dropped = next(name for name in load_file(tmp_path / "model.safetensors") if ".layers.1." in name or ".1." in name)
    shutil.rmtree(tmp_path)
    write(tmp_path, rag, "safetensors", lambda name, tensor: None if name == dropped else tensor)
    with pytest.raises(InputError, match="the RAG model lacks weights") as caught:
        loading.load_rag(directory, torch.float32)
    assert dropped in str(caught.value)


@pytest.mark.parametrize("form", ["safetensors", "torch"])
@pytest.mark.parametrize("family", ENCODERS)
def test_an_encoder_of_any_family_loads_without_the_pooler_that_nobody_uses(family, form, tmp_path):
    torch.manual_seed(7)
    expected = getattr(transformers, f"{family}Model")(getattr(transformers, f"{family}Config")(**ENCODERS[family]))
    directory = write(tmp_path, expected, form, lambda name, tensor: None if "pooler" in name else tensor)
    found = [loading.load_encoder(directory, "context").state_dict() for _ in range(2)]
    for name, tensor in expected.state_dict().items():
        assert torch.equal(found[0][name], tensor) == ("pooler" not in name or not tensor.any())
        assert torch.equal(found[0][name], found[1][name])  # nothing is drawn


@pytest.mark.parametrize("family", ENCODERS)
def test_an_encoder_loads_from_a_checkpoint_of_another_head(family, tmp_path):
    torch.manual_seed(8)
    trained = getattr(transformers, f"{family}ForMaskedLM")(
        getattr(transformers, f"{family}Config")(**ENCODERS[family])
    )
    found = loading.load_encoder(write(tmp_path, trained, "safetensors"), "context").state_dict()
    for name, tensor in trained.base_model.state_dict().items():
        assert torch.equal(found[name], tensor)


def test_a_dpr_checkpoint_of_any_age_loads(tmp_path):
    torch.manual_seed(9)
    for kind, role in ((transformers.DPRContextEncoder, "context"), (transformers.DPRQuestionEncoder, "question")):
        expected = kind(transformers.DPRConfig(**BERT, projection_dim=8))
        directory = write(tmp_path / role, expected, "torch")
        state = torch.load(tmp_path / role / "pytorch_model.bin")
        prefix = kind.base_model_prefix + ".bert_model."
        state[prefix + "pooler.dense.weight"] = torch.ones(16, 16)  # as in 2020
        state[prefix + "embeddings.position_ids"] = torch.arange(34)[None]
        torch.save(state, tmp_path / role / "pytorch_model.bin")
        same(loading.load_encoder(directory, role), expected)


@pytest.fixture(scope="module")
def parts(tmp_path_factory) -> dict[str, torch.nn.Module]:
    """A model for each loader."""
    torch.manual_seed(10)
    dpr = transformers.DPRConfig(**BERT)
    question_encoder, bart = transformers.DPRQuestionEncoder(dpr), generator_of("Bart")
    config = transformers.RagConfig.from_question_encoder_generator_configs(dpr, bart.config, retrieval_vector_size=16)
    rag = transformers.RagTokenForGeneration(config=config, question_encoder=question_encoder, generator=bart)
    context_encoder = transformers.DPRContextEncoder(dpr)
    bert = transformers.BertModel(transformers.BertConfig(**BERT))
    return {"bert": bert, "context": context_encoder, "question": question_encoder, "bart": bart, "rag": rag}


def card_part(side: str) -> Callable[[str], torch.nn.Module]:
    def load(directory: str) -> torch.nn.Module:
        other = {"generator": "question_encoder", "question_encoder": "generator"}[side]
        model = {
            "generator": transformers.BartForConditionalGeneration,
            "question_encoder": transformers.DPRQuestionEncoder,
        }
        config = {"generator": transformers.BartConfig(**SEQ2SEQ), "question_encoder": transformers.DPRConfig(**BERT)}
        given = {f"{side}_pretrained_model_name_or_path": directory, f"{other}_model": model[other](config[other])}
        return RagTokenForGeneration.from_pretrained_question_encoder_generator(**given)

    return load


LOADERS = {
    "an encoder": ("bert", lambda d: loading.load_encoder(d, "context"), "encoder.layer.1.output.dense.weight"),
    "DPR, context": (
        "context",
        lambda d: loading.load_encoder(d, "context"),
        "ctx_encoder.bert_model.encoder.layer.1.output.dense.weight",
    ),
    "DPR, question": (
        "question",
        lambda d: loading.load_encoder(d, "question"),
        "question_encoder.bert_model.encoder.layer.1.output.dense.weight",
    ),
    "a RAG model's encoder": (
        "rag",
        lambda d: loading.load_encoder(d, "question"),
        "rag.question_encoder.question_encoder.bert_model.encoder.layer.1.output.dense.weight",
    ),
    "a generator": ("bart", loading.load_generator, "model.decoder.layers.1.fc1.weight"),
    "a RAG model": (
        "rag",
        lambda d: loading.load_rag(d, torch.float32),
        "rag.generator.model.decoder.layers.1.fc1.weight",
    ),
    "the card's class": ("rag", RagTokenForGeneration.from_pretrained, "rag.generator.model.encoder.layers.1.fc1.bias"),
    "the card's encoder": (
        "question",
        card_part("question_encoder"),
        "question_encoder.bert_model.encoder.layer.1.output.dense.weight",
    ),
    "the card's generator": ("bart", card_part("generator"), "model.decoder.layers.1.fc1.weight"),
}


def broken(directory: Path, model: torch.nn.Module, form: str, name: str, how: str) -> str:
    def change(key: str, tensor: torch.Tensor) -> torch.Tensor | None:
        if key != name:
            return tensor
        return None if how == "dropped" else torch.cat([tensor, tensor])

    if how in ("dropped", "reshaped"):
        return write(directory, model, form, change)
    written = write(directory, model, form)
    path = directory / ("model.safetensors" if form == "safetensors" else "pytorch_model.bin")
    state = load_file(path) if form == "safetensors" else torch.load(path)
    key = name.replace(".1.", ".2.") if how == "a layer more" else "a_head.of_a_training.weight"
    state[key] = state[name].clone()
    if form == "safetensors":
        save_file(state, path, metadata={"format": "pt"})
    else:
        torch.save(state, path)
    return written


@pytest.mark.parametrize("form", ["safetensors", "torch"])
@pytest.mark.parametrize(
    ("how", "says"),
    [("dropped", "lacks weights"), ("reshaped", "of another shape"), ("a layer more", "more layers"), ("a head", None)],
)
@pytest.mark.parametrize("loader", LOADERS)
def test_what_a_file_lacks_or_has_otherwise_is_refused_by_every_loader(loader, how, says, form, parts, tmp_path):
    part, load, name = LOADERS[loader]
    directory = broken(tmp_path, parts[part], form, name, how)
    if says is None:
        load(directory)
        return
    with pytest.raises(InputError, match=says) as caught:
        load(directory)
    line = str(caught.value)
    named = name.replace(".1.", ".2.") if how == "a layer more" else name
    assert (named.removeprefix("rag.question_encoder.") if loader.endswith("model's encoder") else named) in line
    assert "1 in all" in line
    assert directory[-20:] in line
    assert "config.json" in line
    if how == "reshaped":
        shape = tuple(parts[part].state_dict()[name].shape)
        assert str(shape) in line
        assert str((2 * shape[0], *shape[1:])) in line


def test_all_missing_weights_are_counted_and_the_first_of_the_model_is_named(parts, tmp_path):
    gone = [name for name in parts["bert"].state_dict() if ".layer.1." in name]
    directory = write(tmp_path, parts["bert"], "safetensors", lambda name, tensor: None if name in gone else tensor)
    with pytest.raises(InputError) as caught:
        loading.load_encoder(directory, "context")
    assert f"{gone[0]} ({len(gone)} in all" in str(caught.value)


def test_embeddings_that_are_gone_under_both_names_are_missed(parts, tmp_path):
    directory = write(
        tmp_path, parts["bart"], "torch", lambda name, tensor: tensor if "layers" in name or "pos" in name else None
    )
    with pytest.raises(InputError, match=r"the generator lacks weights: 'model\.shared\.weight"):
        loading.load_generator(directory)


def test_other_shapes_load_where_transformers_is_asked_to(parts, tmp_path):
    _, _, name = LOADERS["a RAG model"]
    directory = broken(tmp_path, parts["rag"], "safetensors", name, "reshaped")
    model, report = RagTokenForGeneration.from_pretrained(
        directory, ignore_mismatched_sizes=True, output_loading_info=True
    )
    assert [one[0] for one in report["mismatched_keys"]] == [name]
    assert isinstance(model, RagTokenForGeneration)


def configured(directory: Path, model: torch.nn.Module, part: str | None, **config) -> str:
    written = write(directory, model, "safetensors")
    values = json.loads((directory / "config.json").read_text())
    (values if part is None else values[part]).update(config)
    (directory / "config.json").write_text(json.dumps(values))
    return written


HUGE = [
    ("an encoder", None, {"num_hidden_layers": 10**9}, "num_hidden_layers 1000000000"),
    ("an encoder", None, {"hidden_size": 10**7, "num_attention_heads": 10}, "lacks weights: its config.json asks for"),
    ("an encoder", None, {"hidden_size": 10**20, "num_attention_heads": 10}, "the encoder cannot be loaded"),
    ("an encoder", None, {"vocab_size": 10**12}, "lacks weights: its config.json asks for"),
    ("an encoder", None, {"num_labels": 10**9}, "num_labels 1000000000"),
    ("DPR, context", None, {"num_hidden_layers": 10**9}, "num_hidden_layers 1000000000"),
    ("DPR, question", None, {"intermediate_size": 10**9}, "lacks weights: its config.json asks for"),
    ("a RAG model's encoder", "question_encoder", {"num_hidden_layers": 10**9}, "num_hidden_layers 1000000000"),
    ("a RAG model's encoder", "question_encoder", {"vocab_size": 10**11}, "lacks weights: its config.json asks for"),
    ("a generator", None, {"decoder_layers": 10**9}, "decoder_layers 1000000000"),
    ("a generator", None, {"max_position_embeddings": 10**12}, "lacks weights: its config.json asks for"),
    ("a RAG model", "generator", {"encoder_layers": 10**9}, "encoder_layers 1000000000"),
    ("a RAG model", "generator", {"d_model": 10**7}, "lacks weights: its config.json asks for"),
    ("the card's class", "generator", {"encoder_ffn_dim": 10**10}, "lacks weights: its config.json asks for"),
    ("the card's class", "question_encoder", {"num_hidden_layers": 10**9}, "num_hidden_layers 1000000000"),
    ("the card's encoder", None, {"num_hidden_layers": 10**9}, "num_hidden_layers 1000000000"),
    ("the card's generator", None, {"vocab_size": 10**12}, "lacks weights: its config.json asks for"),
]


@pytest.mark.parametrize(("loader", "part", "config", "says"), HUGE)
def test_a_configuration_that_asks_for_too_much_is_refused_before_it_is_built(
    loader, part, config, says, parts, tmp_path, monkeypatch
):
    kind, load, _ = LOADERS[loader]
    directory = configured(tmp_path, parts[kind], part, **config)
    make = transformers.PreTrainedModel.from_pretrained.__func__
    built = []
    monkeypatch.setattr(
        transformers.PreTrainedModel,
        "from_pretrained",
        classmethod(lambda cls, *inputs, **kwargs: built.append(cls) or make(cls, *inputs, **kwargs)),
    )
    with pytest.raises(InputError, match=says):
        load(directory)
    assert not built


def test_a_model_that_the_machine_has_no_memory_for_is_refused_from_its_configuration(parts, tmp_path, monkeypatch):
    directory = write(tmp_path, parts["bert"], "safetensors")
    monkeypatch.setattr(weights, "memory_bytes", lambda: 10_000)
    with pytest.raises(InputError, match=r"more memory than there is: .*; expected at most 9.77 KiB, this machine's"):
        loading.load_encoder(directory, "context")
    monkeypatch.setattr(weights, "memory_bytes", lambda: None)
    loading.load_encoder(directory, "context")


def test_the_memory_of_this_machine_is_known():
    total = next(line for line in Path("/proc/meminfo").read_text().splitlines() if line.startswith("MemTotal"))
    assert 0 < weights.memory_bytes() <= int(total.split()[1]) * 1024


@pytest.mark.parametrize("layers", [checkpoints.MAX_COUNT, checkpoints.MAX_COUNT + 1])
def test_the_most_layers_are_bounded(layers, parts, tmp_path):
    directory = configured(tmp_path, parts["bert"], None, num_hidden_layers=layers)
    if layers <= checkpoints.MAX_COUNT:
        assert checkpoints.read_config(directory)["num_hidden_layers"] == layers
        return
    with pytest.raises(InputError, match="expected at most 1,000"):
        checkpoints.read_config(directory)


def test_an_encoder_without_a_pooler_composes_to_the_same_bytes_each_time(sentence_encoder, tiny_bart, tmp_path):
    encoder = tmp_path / "encoder"
    shutil.copytree(sentence_encoder, encoder)
    state = load_file(encoder / "model.safetensors")
    kept = {name: tensor for name, tensor in state.items() if "pooler" not in name}
    assert len(kept) < len(state)
    save_file(kept, encoder / "model.safetensors", metadata={"format": "pt"})
    for name in "ab":
        compose(str(encoder), tiny_bart, str(tmp_path / name))
    assert (tmp_path / "a/model.safetensors").read_bytes() == (tmp_path / "b/model.safetensors").read_bytes()
