"""Adapters: merged as PEFT merges them, written to the same bytes, and refused where they do not fit."""

import copy
import json
import shutil
from pathlib import Path

import peft
import pytest
import torch
from safetensors.torch import load_file, save_file

from rag_ops.errors import InputError
from rag_ops.models import adapters, causal, checkpoints
from rag_ops.models.checkpoints import ADAPTER, ADAPTER_FILES, OUR_KEY
from tests.pipelines.workspace import fails, ragbeam
from tests.rag_ops.generation import causal_models

SETTINGS, WEIGHTS = ADAPTER_FILES
IDS = torch.arange(3, 30)[None]


def made(family: str, directory: Path) -> tuple[torch.nn.Module, torch.nn.Module]:
    """A tiny model and the same with a random adapter, which `directory` gets."""
    config, kind, sizes, _, _ = causal_models.FAMILIES[family]
    base = causal_models.causal(config, kind, sizes, 340)
    return base, random_adapter(base, directory, fan_in_fan_out=family == "gpt2")


def random_adapter(base: torch.nn.Module, directory: Path, fan_in_fan_out: bool = False) -> torch.nn.Module:
    """A copy of a model with a random adapter, which `directory` gets."""
    wanted = peft.LoraConfig(
        r=3, lora_alpha=5, target_modules="all-linear", init_lora_weights=False, fan_in_fan_out=fan_in_fan_out
    )
    adapted = peft.get_peft_model(copy.deepcopy(base), wanted).eval()
    adapters.write(adapted.peft_config["default"].to_dict(), peft.get_peft_model_state_dict(adapted), str(directory))
    return adapted


@pytest.mark.parametrize("family", ["llama", "gpt2"])
def test_merged_it_computes_what_it_did_apart_and_pefts_own_reader_reads_it(family, tmp_path):
    base, adapted = made(family, tmp_path)
    plain = copy.deepcopy(base)
    adapters.merge(base, adapters.read(str(tmp_path), base))
    with torch.inference_mode():
        logits, apart = base(IDS).logits, adapted(IDS).logits
        assert torch.allclose(logits, apart, atol=1e-4)
        assert not torch.allclose(logits, plain(IDS).logits, atol=1e-1)
    theirs = peft.PeftModel.from_pretrained(plain, tmp_path).merge_and_unload().state_dict()
    assert all(torch.allclose(one, theirs[name], atol=1e-6) for name, one in base.state_dict().items())


def test_it_is_merged_in_float32_and_written_to_the_same_bytes(tmp_path):
    base, adapted = made("llama", tmp_path / "a")
    narrow = copy.deepcopy(base).to(torch.bfloat16)
    wide = copy.deepcopy(narrow).float()
    for model in (narrow, wide):
        adapters.merge(model, adapters.read(str(tmp_path / "a"), model))
    assert all(torch.equal(one, wide.state_dict()[name].bfloat16()) for name, one in narrow.state_dict().items())
    config = adapted.peft_config["default"].to_dict()
    config["target_modules"] = sorted(config["target_modules"], reverse=True)
    weights = dict(reversed(peft.get_peft_model_state_dict(adapted).items()))
    adapters.write({**config, "base_model_name_or_path": "/home/me"}, weights, str(tmp_path / "b"))
    for name in ADAPTER_FILES:
        assert (tmp_path / "a" / name).read_bytes() == (tmp_path / "b" / name).read_bytes()


def spoilt(directory: Path, how: str) -> None:
    """Changes an adapter so that it does not fit."""
    settings, weights = json.loads((directory / SETTINGS).read_text()), load_file(directory / WEIGHTS)
    name = sorted(weights)[0]
    if how == "lacks":
        del weights[name]
    elif how == "more":
        weights[adapters.PREFIX + "model.norm.lora_A.weight"] = torch.ones(1)
    elif how == "shape":
        weights[name] = weights[name][:, :-1].contiguous()
    elif how == "rank":
        settings["r"] = 4
    elif how == "none":
        settings["target_modules"] = ["elsewhere"]
    elif how == "half":
        (directory / WEIGHTS).write_bytes((directory / WEIGHTS).read_bytes()[:100])
        return
    else:
        settings |= json.loads(how)
    (directory / SETTINGS).write_text(json.dumps(settings))
    save_file(weights, directory / WEIGHTS)


@pytest.mark.parametrize(
    ("how", "message"),
    [
        ("lacks", "the adapter lacks a weight: base_model.model.model.layers.0"),
        ("more", "the adapter has a weight of no matrix that it names: base_model.model.model.norm"),
        ("shape", "the adapter does not fit the generator: model.layers.0"),
        ("rank", "the adapter does not fit the generator: model.layers.0"),
        ("none", "the adapter names no matrix"),
        ("half", "the adapter cannot be loaded"),
        ('{"use_dora": true}', "of a kind that is not known here: use_dora True"),
        ('{"peft_type": "IA3"}', "not known here: peft_type 'IA3'"),
        ('{"target_modules": ".*"}', "not known here: target_modules"),
        ('{"r": 0}', "not known here: r 0"),
        ('{"bias": "all"}', "not known here: bias 'all'"),
        ('{"init_lora_weights": "pissa"}', "not known here: init_lora_weights 'pissa'"),
        ('{"lora_alpha": "x"}', "the adapter cannot be loaded"),
    ],
)
def test_one_that_does_not_fit_is_refused_by_name(tmp_path, how, message):
    base, _ = made("llama", tmp_path)
    spoilt(tmp_path, how)
    before = copy.deepcopy(base.state_dict())
    with pytest.raises(InputError, match=message):
        adapters.merge(base, adapters.read(str(tmp_path), base))
    assert all(torch.equal(one, before[name]) for name, one in base.state_dict().items())


def test_a_model_whose_adapter_is_missing_or_foreign_is_refused_before_it_answers(
    searchable, sentence_encoder, tmp_path, capsys
):
    generator, model = causal_models.save(tmp_path / "g", "llama"), tmp_path / "m"
    ragbeam("compose", "--question_encoder", sentence_encoder, "--generator", generator, "--output", model)
    config = json.loads((model / "config.json").read_text())
    (model / "config.json").write_text(json.dumps({**config, OUR_KEY: {**config[OUR_KEY], ADAPTER: True}}))
    asking = ["answer", "--questions", searchable / "questions.jsonl", "--index", searchable / "index"]
    asking += ["--model", model, "--output", tmp_path / "o"]
    code, line = fails(capsys, *asking)
    assert (code, "the model's adapter is not there" in line, SETTINGS in line) == (2, True, True)
    assert not (tmp_path / "o").exists()
    made("gpt2", model / ADAPTER)
    code, line = fails(capsys, *asking)
    assert (code, "the adapter names no matrix of the generator" in line) == (2, True)
    shutil.rmtree(model / ADAPTER)
    made("llama", model / ADAPTER)
    merged = causal.load_causal_rag(str(model), torch.float32).rag.generator.state_dict()
    assert checkpoints.check_adapter(str(model))
    before = causal.load_causal(str(model / "generator")).state_dict()
    assert not torch.equal(merged["model.layers.0.mlp.up_proj.weight"], before["model.layers.0.mlp.up_proj.weight"])


def test_compose_takes_an_adapter_that_fits_and_writes_nothing_with_another(
    sentence_encoder, tiny_bart, tmp_path, capsys
):
    generator = causal_models.save(tmp_path / "g", "llama")
    base, adapted = made("llama", tmp_path / "a")
    made("gpt2", tmp_path / "foreign")
    given = ["compose", "--question_encoder", sentence_encoder, "--generator", generator]
    code, line = fails(capsys, *given, "--adapter", tmp_path / "foreign", "--output", tmp_path / "m")
    assert (code, "the adapter names no matrix of the generator" in line) == (2, True)
    assert not (tmp_path / "m").exists()
    code, line = fails(capsys, *given, "--adapter", tmp_path / "none", "--output", tmp_path / "m")
    assert (code, "the adapter cannot be loaded" in line) == (2, True)
    ragbeam(*given, "--adapter", tmp_path / "a", "--output", tmp_path / "m")
    found = causal.load_causal_rag(str(tmp_path / "m"), torch.float32).rag.generator
    with torch.inference_mode():
        assert torch.allclose(found(IDS).logits, adapted(IDS).logits, atol=1e-4)
        assert not torch.allclose(found(IDS).logits, base(IDS).logits, atol=1e-1)
    given[-1] = tiny_bart
    code, line = fails(capsys, *given, "--adapter", tmp_path / "a", "--output", tmp_path / "b")
    assert (code, "--adapter is for causal generators" in line) == (2, True)
    given[-2:] = ["--warm_start"]
    code, line = fails(capsys, *given, "--adapter", tmp_path / "a", "--output", tmp_path / "b")
    assert (code, "--adapter is for a causal --generator" in line) == (2, True)
