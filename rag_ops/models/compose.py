"""A RAG model composed from a question encoder and a generator, saved in Hugging Face's own layout.

It is a RAG-Token or a RAG-Sequence model by its name alone: the parts are the same.
"""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from typing import Any

import torch
from transformers import RagConfig, RagSequenceForGeneration, RagTokenForGeneration, RagTokenizer

from rag_ops.errors import InputError
from rag_ops.models import adapters, causal, checkpoints
from rag_ops.models.loading import load_encoder, load_encoder_tokenizer, load_generator, load_tokenizer, loading
from rag_ops.models.prompting import encoder_note
from rag_ops.models.warm_start import read_trained, warm_start_generator
from rag_ops.storage import store
from rag_ops.storage.places import check_empty, local_output

ARCHITECTURES: dict[str, Any] = {"token": RagTokenForGeneration, "sequence": RagSequenceForGeneration}


def compose(
    question_encoder: str,
    generator: str,
    output: str,
    *,
    context_encoder: str | None = None,
    score_scale: float = 1.0,
    architecture: str = "token",
    adapter: str | None = None,
) -> None:
    """Composes and saves a RAG model.

    Args:
        question_encoder: directory, URL or hub id of a DPR question encoder or a sentence-transformers model.
        generator: directory, URL or hub id of any `AutoModelForSeq2SeqLM` or `AutoModelForCausalLM`.
        output: local directory to save to.
        context_encoder: the encoder of the passages; its digest is kept, and `answer` refuses an index of another. A
            sentence-transformers model encodes both sides, so there it is known.
        score_scale: factor on inner products before the softmax over passages. 1 is the paper's; vectors
            of length 1 have inner products within 1, of which the softmax makes hardly a difference.
        architecture: one of `ARCHITECTURES`: what config.json says the weights are for.
        adapter: local directory of a low-rank adapter of a causal generator, as PEFT saves one.

    Raises:
        InputError: a part is missing or of the wrong kind, the adapter does not fit, or `output` holds files.
    """
    _check_scale(score_scale)
    check_empty(output)
    checkpoints.encoder_config(checkpoints.find_model(question_encoder), "question")  # refused before weights are read
    generator_directory = checkpoints.find_model(generator)
    tokenizer = load_tokenizer(generator_directory)
    is_causal = causal.is_causal(generator_directory)
    if is_causal and architecture != "token":
        raise InputError(
            f"--architecture {architecture} is for sequence-to-sequence generators",
            value=f"{generator}, which is causal",
            expected="--architecture token",
        )
    if adapter is not None and not is_causal:
        raise InputError(
            "--adapter is for causal generators",
            value=f"{generator}, which is a sequence-to-sequence model",
            remedy="merge it with PEFT's merge_and_unload, and compose a model of the result",
        )
    model = causal.load_causal(generator_directory) if is_causal else load_generator(generator_directory)
    notes = {"score_scale": score_scale}
    save(
        question_encoder,
        model,
        tokenizer,
        output,
        context_encoder=context_encoder,
        notes=notes,
        architecture=architecture,
        adapter=adapter,
    )


def compose_warm_started(
    encoder: str,
    output: str,
    *,
    decoder_layers: int | None = None,
    score_scale: float = 1.0,
    trained: Sequence[str] = (),
    architecture: str = "token",
) -> None:
    """Composes a RAG model from an encoder alone: its generator is a BART that starts from the encoder's weights.

    Such a generator is untrained: it has never learned to write, and config.json says so until it is fine-tuned. With
    `trained` it takes what training changed from there; if two files have the same weights, from the later one.

    Args:
        encoder: directory, URL or hub id of a sentence-transformers model on a BERT.
        output: local directory to save to.
        decoder_layers: see `warm_start_generator`; `trained` has its own.
        score_scale: see `compose`.
        trained: local files of trained weights for this very encoder; see `warm_start.read_trained`.
        architecture: see `compose`.

    Raises:
        InputError: the encoder is missing or no BERT, a number is out of range, or `trained` is of another encoder.
    """
    _check_scale(score_scale)
    check_empty(output)
    directory = checkpoints.find_model(encoder)
    notes: dict[str, Any] = {"score_scale": score_scale}
    learned: dict[str, torch.Tensor] = {}
    for path in trained:
        changed, decoder_layers = read_trained(path, checkpoints.model_digest(directory))
        learned |= changed
    if trained:
        notes["trained_sha256"] = [store.sha256_of(path) for path in trained]
    else:
        notes["generator"] = checkpoints.UNTRAINED
    generator = warm_start_generator(load_encoder(directory, "context"), decoder_layers)
    with loading("the trained weights", ", ".join(trained)):
        _, unknown = generator.load_state_dict(learned, strict=False)
    if unknown:
        raise InputError(
            "the trained weights hold what the generator does not have",
            value=f"{unknown[0]} ({len(unknown)} in all, in {', '.join(trained)})",
            remedy="use the version of ragbeam that trained them",
        )
    save(encoder, generator, load_encoder_tokenizer(directory), output, notes=notes, architecture=architecture)


def _check_scale(score_scale: float) -> None:
    if not 0 < score_scale < float("inf"):
        raise InputError("--score_scale is out of range", value=score_scale, expected="more than 0")


def save(
    question_encoder: str,
    generator: Any,
    generator_tokenizer: Any,
    output: str,
    *,
    context_encoder: str | None = None,
    notes: Mapping[str, Any] | None = None,
    architecture: str = "token",
    adapter: str | None = None,
) -> None:
    """Saves question encoder and generator as one RAG model, with both tokenizers in their subfolders.

    A causal generator may have an adapter, in a local directory: a copy lies beside it then.
    """
    directory = checkpoints.find_model(question_encoder)
    tokenizer = load_encoder_tokenizer(directory)
    encoder = load_encoder(directory, "question")
    config = RagConfig.from_question_encoder_generator_configs(
        encoder.config, generator.config, n_docs=5, retrieval_vector_size=checkpoints.dimension(directory)
    )
    if context_encoder is not None:
        digest = checkpoints.model_digest(checkpoints.find_model(context_encoder))
    elif checkpoints.read_config(directory)["model_type"] == "dpr":
        digest = None  # the other half of a DPR pair is another checkpoint, which nobody named
    else:
        digest = checkpoints.model_digest(directory)
    ours = encoder_note(checkpoints.encoder_config(directory, "question"), tokenizer)
    ours |= {"context_encoder_digest": digest, **(notes or {})}
    output = local_output(output)
    if adapter is not None:
        adapters.read(adapter, generator)  # refused before anything is written
        ours[checkpoints.ADAPTER] = True
    setattr(config, checkpoints.OUR_KEY, ours)
    if generator.config.is_encoder_decoder:
        model = ARCHITECTURES[architecture](config=config, question_encoder=encoder, generator=generator)
        os.makedirs(output, exist_ok=True)
        model.save_pretrained(output)
    else:
        causal.save_causal_rag(config, encoder, generator, generator_tokenizer, output)
    if adapter is not None:
        adapters.copy(adapter, os.path.join(output, checkpoints.ADAPTER))
    RagTokenizer(tokenizer, generator_tokenizer).save_pretrained(output)
