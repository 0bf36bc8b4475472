"""RAG-Token models with a causal generator: how they are saved and loaded.

transformers' RagConfig takes any generator, but its models only sequence-to-sequence ones. So `architectures` in
config.json names a class of ours, the weights beside it are the question encoder's alone, under the names that they
have in a RAG model, and the generator is a model of its own in the folder `generator`. One that was trained through a
low-rank adapter has that beside it in the folder `adapter`, as config.json says; loading merges the two.
"""

from __future__ import annotations

import os
from types import SimpleNamespace
from typing import Any

import torch
from safetensors.torch import save_file
from transformers import AutoModelForCausalLM, GenerationConfig, RagConfig
from transformers.models.auto import modeling_auto

from rag_ops.errors import InputError
from rag_ops.models import adapters, checkpoints
from rag_ops.models.loading import RAG_ENCODER_PREFIX, load_auto, loading

MAX_PROMPT_TOKENS = 1024  # of a prompt, as config.json says it from composing on


class CausalRag:
    """A RAG-Token model with a causal generator, as far as answering needs it; attributes as in transformers' class.

    Args:
        config: RagConfig of the model.
        generation_config: its special tokens.
        generator: the generator.
    """

    def __init__(self, config: Any, generation_config: Any, generator: Any):
        self.config, self.generation_config = config, generation_config
        self.rag = SimpleNamespace(generator=generator)


def is_causal(directory: str) -> bool:
    """Whether a local directory holds a causal model: one that neither has an encoder nor is one."""
    kind = checkpoints.read_config(directory)["model_type"]
    others = (
        modeling_auto.MODEL_FOR_SEQ_TO_SEQ_CAUSAL_LM_MAPPING_NAMES,
        modeling_auto.MODEL_FOR_MASKED_LM_MAPPING_NAMES,
    )
    return kind in modeling_auto.MODEL_FOR_CAUSAL_LM_MAPPING_NAMES and not any(kind in names for names in others)


def load_causal(directory: str, dtype: torch.dtype = torch.float32) -> Any:
    """A causal model from a local directory.

    Raises:
        InputError: it cannot be loaded.
    """
    return load_auto("the generator", directory, dtype, AutoModelForCausalLM)


def load_causal_rag(directory: str, dtype: torch.dtype, merged: bool = True) -> CausalRag:
    """A RAG-Token model with a causal generator from a local directory, without the weights of its question encoder.

    Args:
        directory: see `checkpoints.find_model`.
        dtype: dtype of the weights.
        merged: whether its adapter, if it has one, is merged into the generator; else it is left aside.

    Raises:
        InputError: it cannot be loaded, or its adapter is missing or of another model.
    """
    with loading("the RAG model's configuration", directory):
        config, generation = RagConfig.from_pretrained(directory), GenerationConfig.from_pretrained(directory)
    has_adapter = checkpoints.check_adapter(directory)
    generator = load_causal(os.path.join(directory, checkpoints.GENERATOR), dtype)
    if has_adapter and merged:
        adapters.merge(generator, adapters.read(os.path.join(directory, checkpoints.ADAPTER), generator))
    return CausalRag(config, generation, generator)


def save_causal_rag(config: Any, encoder: Any, generator: Any, tokenizer: Any, output: str) -> None:
    """Saves such a model, without its tokenizers.

    Args:
        config: RagConfig of the model.
        encoder: question encoder.
        generator: causal model.
        tokenizer: its tokenizer, asked for an end token that no configuration names.
        output: local directory.

    Raises:
        InputError: the generator has no end token.
    """
    ends = _named("eos_token_id", generator, tokenizer)
    if ends is None:
        raise InputError(
            "the generator names no end token",
            value=generator.config.model_type,
            expected="eos_token_id in its configuration or its tokenizer",
        )
    pad, start = _named("pad_token_id", generator, tokenizer), _named("bos_token_id", generator, tokenizer)
    config.architectures = [checkpoints.RAG_CAUSAL]
    config.max_combined_length = MAX_PROMPT_TOKENS
    generation = GenerationConfig(eos_token_id=ends, pad_token_id=pad, bos_token_id=start)
    write_causal_rag(config, generation, encoder, generator, output)


def write_causal_rag(config: Any, generation: Any, encoder: Any, generator: Any, output: str) -> None:
    """Writes the parts of such a model, but for tokenizers and adapter.

    Args:
        config: RagConfig of the model.
        generation: generation configuration of the model.
        encoder: question encoder.
        generator: causal model.
        output: local directory.
    """
    os.makedirs(output, exist_ok=True)
    config.save_pretrained(output)
    generation.save_pretrained(output)
    state = {RAG_ENCODER_PREFIX + name: tensor.clone() for name, tensor in encoder.state_dict().items()}
    save_file(state, os.path.join(output, "model.safetensors"), {"format": "pt"})
    generator.save_pretrained(os.path.join(output, checkpoints.GENERATOR))


def _named(name: str, generator: Any, tokenizer: Any) -> Any:
    levels = (generator.generation_config, generator.config.get_text_config(), tokenizer)
    return next((found for level in levels if (found := getattr(level, name, None)) is not None), None)
