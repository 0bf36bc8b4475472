"""Finding models, digests that follow what a model computes, and what encoder files say."""

import json
import shutil

import fsspec
import pytest

from rag_ops.errors import InputError
from rag_ops.models import checkpoints
from rag_ops.models.checkpoints import EncoderConfig


def test_the_digest_follows_weights_and_tokenizer_and_not_the_readme(tmp_path, sentence_encoder):
    copy = tmp_path / "copy"
    shutil.copytree(sentence_encoder, copy)
    before = checkpoints.model_digest(str(copy))
    assert before == checkpoints.model_digest(sentence_encoder)
    (copy / "README.md").write_text("hello")
    assert checkpoints.model_digest(str(copy)) == before
    (copy / "1_Pooling" / "config.json").write_text("{}")
    assert checkpoints.model_digest(str(copy)) != before


def test_a_sentence_encoder_tells_its_pooling(sentence_encoder):
    assert checkpoints.encoder_config(sentence_encoder) == EncoderConfig("mean", True, 48, False)
    assert checkpoints.dimension(sentence_encoder) == 16


def test_minilm_as_it_comes(minilm):
    assert checkpoints.encoder_config(minilm) == EncoderConfig("mean", True, 256, False)
    assert checkpoints.dimension(minilm) == 384


def test_a_dpr_pair_pools_itself(dpr_pair):
    assert checkpoints.encoder_config(dpr_pair[0], "context").pooling == "pooler"
    assert checkpoints.encoder_config(dpr_pair[1], "question") == EncoderConfig("pooler", False, 64, True)


def test_a_composed_model_remembers_its_context_encoder(tiny_rag, sentence_encoder):
    assert checkpoints.context_digest(tiny_rag) == checkpoints.model_digest(sentence_encoder)
    assert checkpoints.encoder_config(tiny_rag, "question") == checkpoints.encoder_config(sentence_encoder)
    assert checkpoints.dimension(tiny_rag) == 16


def test_a_module_that_we_do_not_know_is_refused(tmp_path, sentence_encoder):
    copy = tmp_path / "copy"
    shutil.copytree(sentence_encoder, copy)
    modules = json.loads((copy / "modules.json").read_text())
    (copy / "modules.json").write_text(
        json.dumps([*modules, {"path": "3_Dense", "type": "sentence_transformers.models.Dense"}])
    )
    with pytest.raises(InputError, match="Dense"):
        checkpoints.encoder_config(str(copy))


def test_two_poolings_at_once_are_refused(tmp_path, sentence_encoder):
    copy = tmp_path / "copy"
    shutil.copytree(sentence_encoder, copy)
    (copy / "1_Pooling" / "config.json").write_text(
        '{"pooling_mode_mean_tokens": true, "pooling_mode_cls_token": true}'
    )
    with pytest.raises(InputError, match="pooling"):
        checkpoints.encoder_config(str(copy))


@pytest.mark.parametrize("name", ["/no/such/dir", "no-such-org/no-such-model", "bad name with spaces"])
def test_a_model_that_is_nowhere_is_named(name):
    with pytest.raises(InputError, match="no such model"):
        checkpoints.find_model(name)


def test_a_directory_without_a_model_is_refused(tmp_path):
    with pytest.raises(InputError, match=r"config\.json"):
        checkpoints.find_model(str(tmp_path))


def test_a_remote_model_is_copied_with_its_folders(tmp_path, sentence_encoder, monkeypatch):
    monkeypatch.setenv("RAGBEAM_CACHE", str(tmp_path / "cache"))
    memory = fsspec.filesystem("memory")
    memory.put(sentence_encoder + "/", "/models/enc", recursive=True)
    found = checkpoints.find_model("memory://models/enc")
    assert checkpoints.model_digest(found) == checkpoints.model_digest(sentence_encoder)
    assert checkpoints.find_model("memory://models/enc") == found
    memory.store.clear()


def test_no_remote_directory_is_named():
    with pytest.raises(InputError, match="memory://nothing"):
        checkpoints.find_model("memory://nothing/here")
