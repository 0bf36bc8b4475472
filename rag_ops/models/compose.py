"""A RAG-Token model composed from a question encoder and a generator, saved in Hugging Face's own layout."""

from __future__ import annotations

import dataclasses
import os
from collections.abc import Mapping, Sequence
from typing import Any

import safetensors
import safetensors.torch
import torch
from transformers import (
    BartConfig,
    BartForConditionalGeneration,
    RagConfig,
    RagTokenForGeneration,
    RagTokenizer,
)

from rag_ops.errors import InputError
from rag_ops.models import checkpoints
from rag_ops.models.loading import load_encoder, load_encoder_tokenizer, load_generator, load_tokenizer
from rag_ops.models.prompting import PROMPT_IDS, QuestionPrompt
from rag_ops.storage import store

BART_POSITION_OFFSET = 2  # BART's position table begins with two rows that it never uses
DECODER_LAYERS = 2
LAST_NORM_GAIN = 3.0
SEED = 20201
INT8_MAX = 127
SCALES = ".scales"  # suffix of the name of an int8 matrix's scales
SMALLEST_SCALE = 1e-7  # scale of a row of zeros; float16 can hold it


def compose(
    question_encoder: str,
    generator: str,
    output: str,
    *,
    context_encoder: str | None = None,
    score_scale: float = 1.0,
) -> None:
    """Composes and saves a RAG-Token model.

    Args:
        question_encoder: directory, URL or hub id of a DPR question encoder or a sentence-transformers model.
        generator: directory, URL or hub id of any `AutoModelForSeq2SeqLM`.
        output: local directory to save to.
        context_encoder: the encoder of the passages; its digest is kept, and `answer` refuses an index of another. A
            sentence-transformers model encodes both sides, so there it is known.
        score_scale: factor on inner products before the softmax over passages. 1 is the paper's; vectors
            of length 1 have inner products within 1, of which the softmax makes hardly a difference.

    Raises:
        InputError: a part is missing or of the wrong kind.
    """
    _check_scale(score_scale)
    checkpoints.encoder_config(checkpoints.find_model(question_encoder), "question")  # refused before weights are read
    generator_directory = checkpoints.find_model(generator)
    tokenizer = load_tokenizer(generator_directory)
    model = load_generator(generator_directory)
    notes = {"score_scale": score_scale}
    save(question_encoder, model, tokenizer, output, context_encoder=context_encoder, notes=notes)


def compose_warm_started(
    encoder: str,
    output: str,
    *,
    decoder_layers: int | None = None,
    score_scale: float = 1.0,
    trained: Sequence[str] = (),
) -> None:
    """Composes a RAG-Token model from an encoder alone: its generator is a BART that starts from the encoder's weights.

    Such a generator is untrained: it has never learned to write, and config.json says so until it is fine-tuned. With
    `trained` it takes what training changed from there, where two files have the same from the later one.

    Args:
        encoder: directory, URL or hub id of a sentence-transformers model on a BERT.
        output: local directory to save to.
        decoder_layers: see `warm_start_generator`; `trained` has its own.
        score_scale: see `compose`.
        trained: local files that `save_trained` wrote, for this very encoder.

    Raises:
        InputError: the encoder is missing or no BERT, a number is out of range, or `trained` is of another encoder.
    """
    _check_scale(score_scale)
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
    generator.load_state_dict(learned, strict=False)
    save(encoder, generator, load_encoder_tokenizer(directory), output, notes=notes)


def save_trained(generator: BartForConditionalGeneration, encoder: str, path: str) -> None:
    """Saves the weights of a warm-started generator that training could change; the encoder has the rest.

    Matrices are int8 with a float16 scale for each row, a quarter of their size; vectors are float16.

    Args:
        generator: made by `warm_start_generator`; what stayed as it was has requires_grad False.
        encoder: local directory of the encoder that it was made from.
        path: local file to write.
    """
    stored: dict[str, torch.Tensor] = {}
    for name, parameter in generator.named_parameters():
        if not parameter.requires_grad:
            continue
        weights = parameter.detach()
        if weights.ndim == 1:
            stored[name] = weights.half()
        else:
            scales = (weights.abs().amax(1, keepdim=True) / INT8_MAX).clamp_min(SMALLEST_SCALE).half()
            stored[name] = (weights / scales.float()).round().clamp(-INT8_MAX, INT8_MAX).to(torch.int8)
            stored[name + SCALES] = scales
    layers = str(generator.config.decoder_layers)
    metadata = {"encoder_digest": checkpoints.model_digest(encoder), "decoder_layers": layers}
    safetensors.torch.save_file(stored, path, metadata=metadata)


def read_trained(path: str, encoder_digest: str) -> tuple[dict[str, torch.Tensor], int]:
    """Reads what `save_trained` wrote: tensors in float32, and the number of decoder layers.

    Args:
        path: file to read.
        encoder_digest: `checkpoints.model_digest` of the encoder that it goes with.

    Raises:
        InputError: it cannot be read, or belongs to another encoder.
    """
    try:
        with safetensors.safe_open(path, "pt") as file:
            metadata = file.metadata() or {}
            stored = {name: file.get_tensor(name).float() for name in file.keys()}  # noqa: SIM118 (it is no dict)
    except (OSError, safetensors.SafetensorError) as error:
        raise InputError(f"the trained weights cannot be read ({error})", value=path) from error
    if metadata.get("encoder_digest") != encoder_digest:
        raise InputError(
            "the trained weights belong to another encoder",
            value=f"encoder of digest {encoder_digest}",
            expected=f"digest {metadata.get('encoder_digest')}",
            remedy="install the version of the encoder that they were trained with",
        )
    scales = {name.removesuffix(SCALES): stored.pop(name) for name in list(stored) if name.endswith(SCALES)}
    return {name: tensor * scales.get(name, 1.0) for name, tensor in stored.items()}, int(metadata["decoder_layers"])


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
) -> None:
    """Saves question encoder and generator as one RAG-Token model, with both tokenizers in their subfolders."""
    directory = checkpoints.find_model(question_encoder)
    encoding = checkpoints.encoder_config(directory, "question")
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
    ours = {"question_encoder": encoding.as_dict(), "context_encoder_digest": digest, **(notes or {})}
    if encoding.prompt:
        prompt = QuestionPrompt.of(tokenizer, encoding.prompt)
        ours[PROMPT_IDS] = dataclasses.asdict(prompt) if prompt else None
    setattr(config, checkpoints.OUR_KEY, ours)
    model = RagTokenForGeneration(config=config, question_encoder=encoder, generator=generator)
    os.makedirs(output, exist_ok=True)
    model.save_pretrained(output)
    RagTokenizer(tokenizer, generator_tokenizer).save_pretrained(output)


def warm_start_generator(encoder: Any, decoder_layers: int | None = None) -> BartForConditionalGeneration:
    """A BART whose encoder computes what a BERT encoder does, and whose decoder starts from its last layers.

    BART and BERT share the post-norm layer, so embeddings, self-attention, feed-forward and norms are copied; the
    decoder's cross-attention starts from the same layer's self-attention. BERT's segment-0 embedding is folded into the
    positions. The decoder's last norm is widened, or the words' scores would differ by hardly more than 1 at first: in
    a trial of 2,200 samples that and the choice of layers brought the loss from 5.8 to 5.4. Weights that have no source
    are drawn with a fixed seed. The encoder's states match BERT's to about 2e-3:
    BART's layer norms add 1e-5 to the variance where BERT's add 1e-12, and BartConfig has no field for it.

    Args:
        encoder: a `BertModel`.
        decoder_layers: number of encoder layers that the decoder takes; by default 2, if there are so many.

    Raises:
        InputError: the encoder is no BERT, or has fewer layers.
    """
    bert = encoder.config
    if bert.model_type != "bert":
        raise InputError("only a BERT encoder can warm-start a BART", value=bert.model_type, expected="model_type bert")
    if decoder_layers is None:
        decoder_layers = min(DECODER_LAYERS, bert.num_hidden_layers)
    if not 1 <= decoder_layers <= bert.num_hidden_layers:
        raise InputError(
            "--decoder_layers is out of range", value=decoder_layers, expected=f"1 to {bert.num_hidden_layers}"
        )
    config = BartConfig(
        vocab_size=bert.vocab_size,
        d_model=bert.hidden_size,
        encoder_layers=bert.num_hidden_layers,
        decoder_layers=decoder_layers,
        encoder_attention_heads=bert.num_attention_heads,
        decoder_attention_heads=bert.num_attention_heads,
        encoder_ffn_dim=bert.intermediate_size,
        decoder_ffn_dim=bert.intermediate_size,
        max_position_embeddings=bert.max_position_embeddings,
        activation_function="gelu",
        pad_token_id=0,
        bos_token_id=101,  # [CLS] and [SEP] of BERT's vocabulary
        eos_token_id=102,
        decoder_start_token_id=102,
        forced_eos_token_id=None,
    )
    torch.manual_seed(SEED)
    model = BartForConditionalGeneration(config)
    with torch.no_grad():
        for part in (model.model.encoder, model.model.decoder):
            _copy_embeddings(encoder.embeddings, part)
            for source, target in zip(encoder.encoder.layer[-len(part.layers) :], part.layers, strict=True):
                _copy_layer(source, target)
        for parameter in model.model.decoder.layers[-1].final_layer_norm.parameters():
            parameter *= LAST_NORM_GAIN
    return model.eval()


def _copy_embeddings(source: Any, target: Any) -> None:
    target.embed_tokens.weight.copy_(source.word_embeddings.weight)
    positions = source.position_embeddings.weight + source.token_type_embeddings.weight[0]
    target.embed_positions.weight[BART_POSITION_OFFSET:].copy_(positions)
    _copy(source.LayerNorm, target.layernorm_embedding)


def _copy_layer(source: Any, target: Any) -> None:
    attentions = [(target.self_attn, target.self_attn_layer_norm)]
    if hasattr(target, "encoder_attn"):
        attentions.append((target.encoder_attn, target.encoder_attn_layer_norm))
    for attention, norm in attentions:
        _copy(source.attention.self.query, attention.q_proj)
        _copy(source.attention.self.key, attention.k_proj)
        _copy(source.attention.self.value, attention.v_proj)
        _copy(source.attention.output.dense, attention.out_proj)
        _copy(source.attention.output.LayerNorm, norm)
    _copy(source.intermediate.dense, target.fc1)
    _copy(source.output.dense, target.fc2)
    _copy(source.output.LayerNorm, target.final_layer_norm)


def _copy(source: Any, target: Any) -> None:
    target.weight.copy_(source.weight)
    target.bias.copy_(source.bias)
