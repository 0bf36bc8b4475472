"""Composed models: Hugging Face's own classes load them."""

import pytest
import torch
from transformers import (
    RagTokenForGeneration,
    RagTokenizer,
    T5Config,
    T5ForConditionalGeneration,
)

from rag_ops.errors import InputError
from rag_ops.models import checkpoints, compose
from rag_ops.models.loading import load_encoder


def test_transformers_loads_what_we_save(tmp_path, dpr_pair, tiny_bart):
    compose.compose(dpr_pair[1], tiny_bart, str(tmp_path), context_encoder=dpr_pair[0])
    model, tokenizer = RagTokenForGeneration.from_pretrained(tmp_path), RagTokenizer.from_pretrained(tmp_path)
    question_encoder = load_encoder(dpr_pair[1], "question")
    for name, tensor in question_encoder.state_dict().items():
        assert torch.equal(model.rag.question_encoder.state_dict()[name], tensor), name
    assert tokenizer.question_encoder("the moon")["input_ids"] == tokenizer.generator("the moon")["input_ids"]
    assert checkpoints.context_digest(str(tmp_path)) == checkpoints.model_digest(dpr_pair[0])
    assert model.config.n_docs == 5


def test_a_dpr_question_encoder_alone_does_not_know_its_other_half(tmp_path, dpr_pair, tiny_bart):
    compose.compose(dpr_pair[1], tiny_bart, str(tmp_path))
    assert checkpoints.context_digest(str(tmp_path)) is None


def test_t5_can_be_the_generator(tmp_path, sentence_encoder, tokenizer):
    torch.manual_seed(0)
    sizes = {"d_model": 16, "d_kv": 8, "d_ff": 32, "num_layers": 2, "num_heads": 2}
    config = T5Config(vocab_size=len(tokenizer), **sizes, decoder_start_token_id=0, eos_token_id=3, pad_token_id=0)
    T5ForConditionalGeneration(config).save_pretrained(tmp_path / "t5")
    tokenizer.save_pretrained(tmp_path / "t5")
    compose.compose(sentence_encoder, str(tmp_path / "t5"), str(tmp_path / "rag"))
    assert RagTokenForGeneration.from_pretrained(tmp_path / "rag").rag.generator.config.model_type == "t5"


def test_a_warm_started_model_says_that_it_is_untrained_and_is_the_same_each_time(tmp_path, sentence_encoder):
    for name in ("a", "b"):
        compose.compose_warm_started(sentence_encoder, str(tmp_path / name))
    assert checkpoints.read_config(str(tmp_path / "a"))["ragbeam"]["generator"] == "untrained"
    assert checkpoints.model_digest(str(tmp_path / "a")) == checkpoints.model_digest(str(tmp_path / "b"))


def test_a_generator_that_is_none_is_refused(tmp_path, sentence_encoder):
    with pytest.raises(InputError, match="generator cannot be loaded"):
        compose.compose(sentence_encoder, sentence_encoder, str(tmp_path))
