"""The tokens that a search begins, ends and is forced with, as transformers' `generate` takes them from a RAG model.

`generate` asks the generation configuration of the RAG model as a whole, not the generator's. That is the directory's
generation_config.json; without one it is made of config.json, where RagConfig's own ids come before its generator's.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from typing import Any

from transformers import GenerationConfig, RagConfig

from rag_ops.errors import InputError
from rag_ops.models import checkpoints
from rag_ops.models.loading import loading

NO_TOKEN = -1  # stands for the start token of a causal generator, whose prompt comes before its answer


@dataclasses.dataclass(frozen=True)
class SpecialTokens:
    """The token ids that decoding needs.

    Attributes:
        pad: filler of contexts, which the mask hides.
        start: first input of the decoder; `NO_TOKEN` for a causal generator.
        ends: tokens of which each ends an answer.
        first: the token that every answer has to begin with (`forced_bos_token_id`); None if there is none.
        last: tokens of which one has to end an answer that reaches the length limit (`forced_eos_token_id`); may be
            empty.
    """

    pad: int
    start: int
    ends: tuple[int, ...]
    first: int | None = None
    last: tuple[int, ...] = ()

    def unforced(self) -> SpecialTokens:
        """The same without forced tokens."""
        return dataclasses.replace(self, first=None, last=())


def special_tokens(generation: Any, config: Any) -> SpecialTokens:
    """The special tokens of a loaded model.

    Args:
        generation: `generation_config` of the model.
        config: RagConfig of the model; asked for start and end tokens that the generation configuration lacks, its
            own before the generator's. There `generate` would raise an error, or never end an answer.

    Raises:
        InputError: neither names a start token or an end token.
    """
    causal = checkpoints.RAG_CAUSAL in (getattr(config, "architectures", None) or ())
    return _named(generation, (generation, config, config.generator), NO_TOKEN if causal else None)


def sequence_tokens(generation: Any, generator: Any) -> SpecialTokens:
    """The special tokens of RAG-Sequence: there transformers asks the generator, not the RAG model.

    Args:
        generation: `generation_config` of the generator.
        generator: configuration of the generator.

    Raises:
        InputError: neither names a start token or an end token.
    """
    return _named(generation, (generation, generator))


def _named(generation: Any, levels: Sequence[Any], start: int | None = None) -> SpecialTokens:
    """The special tokens; start, if it is not given, and end from the first level that names them."""

    def named(name: str) -> Any:
        return next((found for level in levels if (found := getattr(level, name, None)) is not None), None)

    for name in ("decoder_start_token_id", "bos_token_id"):
        start = named(name) if start is None else start
    ends, pad = _several(named("eos_token_id")), getattr(generation, "pad_token_id", None)
    if start is None or not ends:
        raise InputError(
            "the model's configuration lacks a token", value=f"start {start}, end {ends}", expected="both as token ids"
        )
    first, last = getattr(generation, "forced_bos_token_id", None), getattr(generation, "forced_eos_token_id", None)
    return SpecialTokens(ends[0] if pad is None else pad, start, ends, first, _several(last))


def read_special_tokens(directory: str, decoding: str = "token") -> SpecialTokens:
    """The special tokens of the model in a local directory, without loading its weights.

    Args:
        directory: local directory of the model.
        decoding: how answers are decoded; by sequences, the generator alone is asked.

    Raises:
        InputError: its configuration cannot be read, or names no start or end token.
    """
    with loading("the RAG model's configuration", directory):
        config = RagConfig.from_pretrained(directory)
        if decoding != "token":
            inner: Any = config.generator
            return sequence_tokens(GenerationConfig.from_model_config(inner), inner)
        try:
            generation = GenerationConfig.from_pretrained(directory)
        except OSError:  # no such file: as transformers does when it loads the model
            generation = GenerationConfig.from_pretrained(
                directory, config_file_name="config.json", _from_model_config=True
            )
    return special_tokens(generation, config)


def _several(ids: int | Sequence[int] | None) -> tuple[int, ...]:
    if ids is None:
        return ()
    return (ids,) if isinstance(ids, int) else tuple(ids)
