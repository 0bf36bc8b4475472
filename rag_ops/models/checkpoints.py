"""Finds models on disk by directory, URL or hub id, identifies them by digest, and reads their configuration.

The layout is Hugging Face's own for RAG: `config.json` (RagConfig), weights in safetensors, and both tokenizers in
`question_encoder_tokenizer/` and `generator_tokenizer/`. What transformers has no field for stands in config.json under
the key `ragbeam`, which transformers keeps and ignores.
"""

from __future__ import annotations

import fnmatch
import hashlib
import json
import os
import posixpath
import re
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from rag_ops import machine
from rag_ops.errors import InputError
from rag_ops.models import dpr_checkpoints
from rag_ops.models.sentence_encoders import (
    UNCHANGED,
    EncoderChanges,
    EncoderConfig,
    is_sentence_encoder,
    read_encoder_config,
    transformer_folder,
)
from rag_ops.redaction import public_url
from rag_ops.storage import store
from schemas.layout import MAX_DIMENSION

OUR_KEY = "ragbeam"
# Names that model families have for the width of a state: BERT and most; DistilBERT; T5; XLM; GPT-2.
WIDTHS = ("projection_dim", "hidden_size", "dim", "d_model", "emb_dim", "n_embd")
RAG_TOKEN = "RagTokenForGeneration"  # the name in config.json's `architectures`
RAG_SEQUENCE = "RagSequenceForGeneration"
RAG_CAUSAL = "RagTokenCausalLM"  # the same of a model with a causal generator, which is ours: see models/causal.py
# What weights of each architecture were trained for
DECODINGS = {RAG_TOKEN: "token", RAG_SEQUENCE: "sequence", RAG_CAUSAL: "token"}
GENERATOR = "generator"  # folder of a causal generator in a RAG model
# Folder of its low-rank adapter beside it, if config.json says under this name that it has one: see models/adapters.py
ADAPTER = "adapter"
ADAPTER_FILES = ("adapter_config.json", "adapter_model.safetensors")  # PEFT's
PROMPT = "prompt"  # in config.json: the template that a causal generator was trained with
UNTRAINED = "untrained"  # mark in config.json of a generator that was never trained
# The files that decide what a model computes. READMEs and other formats of the same weights don't.
MODEL_FILES = "*.json *.safetensors pytorch_model*.bin vocab* merges.txt *.model *.spm *.codes".split()
CHAT_TEMPLATE = "generator_tokenizer/chat_template.jinja"  # which decides what a causal generator reads
# Keys of config.json that say how many modules or names are made one by one, which takes memory however small each is.
_COUNTS = re.compile(r"(layers?|blocks|experts|groups|networks|labels)$")
MAX_COUNT = 1000
WHOLE = "get the model again, or mend its config.json"
PARTS = ("question_encoder", "generator", OUR_KEY)
IGNORED_FILES = ("data_config.json", "trainer_state.json", "generation_config.json")


def find_model(name: str) -> str:
    """The local directory of a model, given as a directory, an fsspec URL, or a hub id such as facebook/rag-token-nq.

    A remote directory is copied to the cache; a hub id is downloaded by `huggingface_hub`, into its own cache.

    Raises:
        InputError: there is no such directory and the hub does not have it, or cannot be reached.
    """
    if "://" in name and not store.is_local(name):
        return _download(name)
    path = store.filesystem(name)[1] if "://" in name else os.path.expanduser(name)
    if os.path.isdir(path):
        if not os.path.isfile(os.path.join(weights_directory(path), "config.json")):
            if found := dpr_checkpoints.find_in(path):
                dpr_checkpoints.refuse_file(found, found)
            raise InputError(
                "the model directory has no config.json", value=name, expected="a Hugging Face model directory"
            )
        return path
    if os.path.isfile(path):
        dpr_checkpoints.refuse_file(path, name)
    from huggingface_hub import snapshot_download
    from huggingface_hub.errors import HFValidationError

    files = [*MODEL_FILES, "*.jinja"]
    patterns = [*files, *(f"*/{pattern}" for pattern in files)]
    try:
        return snapshot_download(name, allow_patterns=patterns)
    except HFValidationError as error:
        raise InputError("no such model directory", value=name, expected="a directory or a hub id") from error
    except Exception as error:  # the hub client raises its own, requests' and the operating system's errors
        machine.check(error)
        raise InputError(
            f"no such model directory, and the hub does not give it ({type(error).__name__})",
            value=name,
            expected="a directory with config.json, an fsspec URL, or a hub id",
            remedy="check the name, the network and HF_TOKEN",
        ) from error


def model_digest(directory: str, subfolder: str = "") -> str:
    """Digest (32 hex digits) of the weights, tokenizer and configuration files of a local model directory."""
    digest = hashlib.sha256()
    for name, path in _model_files(Path(directory, subfolder)):
        digest.update(f"{name}\0{store.sha256_of(str(path))}\n".encode())
    return digest.hexdigest()[:32]


def local_files(model: str) -> list[str]:
    """Paths of the files that decide what a model computes, if it is a directory on this machine; else none."""
    path = store.filesystem(model)[1] if store.is_local(model) else ""
    return [str(file) for _, file in _model_files(Path(path))] if os.path.isdir(path) else []


def _model_files(root: Path) -> Iterator[tuple[str, Path]]:
    """The files of a model that decide what it computes, sorted: name below `root` with forward slashes, and path."""
    for path in sorted(root.rglob("*")):
        name = path.relative_to(root).as_posix()
        hidden = any(part.startswith(".") for part in name.split("/"))
        wanted = any(fnmatch.fnmatch(path.name, pattern) for pattern in MODEL_FILES) or name == CHAT_TEMPLATE
        if path.is_file() and wanted and not hidden and path.name not in IGNORED_FILES:
            yield name, path


def weights_directory(directory: str) -> str:
    """The directory with config.json, weights and tokenizer in a local model directory: mostly the directory itself."""
    return os.path.join(directory, transformer_folder(directory)).rstrip(os.sep)


def read_config(directory: str) -> dict[str, Any]:
    """Returns config.json of a local model directory.

    Raises:
        InputError: it cannot be read, or asks for more layers than can be made.
    """
    try:
        config = json.loads(Path(weights_directory(directory), "config.json").read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise InputError(
            f"config.json cannot be read ({error})", value=directory, expected="a model directory"
        ) from error
    if not isinstance(config, dict) or "model_type" not in config:
        raise InputError("config.json names no model_type", value=directory, expected="a Hugging Face model directory")
    if odd := [name for name in PARTS if not isinstance(config.get(name, {}), dict)]:
        raise InputError(f"config.json has a {odd[0]} that is no object", value=directory, remedy=WHOLE)
    for key, value in _numbers(config):
        if _COUNTS.search(key) and value > MAX_COUNT:
            raise InputError(
                f"config.json asks for too many: {key} {value}",
                value=directory,
                expected=f"at most {MAX_COUNT:,}",
                remedy=WHOLE,
            )
    return config


def encoder_config(directory: str, role: str = "context", changes: EncoderChanges = UNCHANGED) -> EncoderConfig:
    """The pooling, longest input and prompt of the encoder in a local directory, as its files give them.

    Args:
        directory: a DPR checkpoint, a sentence-transformers directory, or a RAG model (its question encoder).
        role: "context" or "question"; the side of a DPR checkpoint that is wanted.
        changes: prefix and dimensions that a run asks for.

    Raises:
        InputError: a DPR checkpoint of the other side, a model whose files don't name the pooling, or more dimensions
            than it gives.
    """
    found = _encoder_config(directory, role, changes)
    return found if changes == UNCHANGED else changes.of(found, _width(directory))


def _encoder_config(directory: str, role: str, changes: EncoderChanges) -> EncoderConfig:
    config = read_config(directory)
    if config["model_type"] == "dpr":
        wanted = {"context": "DPRContextEncoder", "question": "DPRQuestionEncoder"}[role]
        found = (config.get("architectures") or [wanted])[0]
        if found != wanted:
            raise InputError(f"the checkpoint is no {role} encoder", value=f"{directory} ({found})", expected=wanted)
    elif config["model_type"] == "rag":
        if ours := config.get(OUR_KEY, {}).get("question_encoder"):
            return EncoderConfig.from_dict(ours)
        config = config.get("question_encoder", {})
        if config.get("model_type") != "dpr":
            raise InputError(
                "the RAG model does not tell how its question encoder pools",
                value=config.get("model_type"),
                expected="a DPR question encoder, or a model made by ragbeam compose",
            )
    if config["model_type"] == "dpr":
        return EncoderConfig("pooler", False, config.get("max_position_embeddings", 512), True)
    if is_sentence_encoder(directory):
        return read_encoder_config(directory, config, role, changes)
    raise InputError(
        "the encoder's files don't tell how its vectors are pooled",
        value=f"{directory} (model_type {config['model_type']})",
        expected="a DPR checkpoint or a sentence-transformers directory with modules.json",
    )


def check_rag(directory: str, name: str) -> dict[str, Any]:
    """Returns config.json of a local directory with a RAG model, whatever its architecture.

    Args:
        directory: see `find_model`.
        name: the model's name as the user gave it, for the error.

    Raises:
        InputError: it is no RAG model.
    """
    config = read_config(directory)
    kind = config["model_type"]
    if kind != "rag":
        raise InputError(
            "--model is no RAG model",
            value=f"{name} ({kind})",
            expected="model_type rag",
            remedy="ragbeam compose makes one",
        )
    return config


def read_decoding(directory: str, name: str, wanted: str | None = None, any_architecture: bool = False) -> str:
    """How the answers of the RAG model in a local directory are decoded, from config.json alone; see `decoding_of`.

    Raises:
        InputError: it is no RAG model, or its weights are not for this decoding.
    """
    return decoding_of(check_rag(directory, name).get("architectures"), name, wanted, any_architecture)


def decoding_of(architectures: Any, name: str, wanted: str | None = None, any_architecture: bool = False) -> str:
    """How the answers of a RAG model are decoded: "token", "sequence" or "sequence-fast".

    Args:
        architectures: those that its configuration names; None or empty if it names none, which allows any decoding.
        name: the model's name as the user gave it, for the error.
        wanted: the decoding that is asked for; None for the model's own.
        any_architecture: whether weights that were trained for another decoding will do.

    Raises:
        InputError: they were trained for another one, or by a rule that is not known here.
    """
    named = [str(one) for one in architectures or ()]
    own = [DECODINGS[one] for one in named if one in DECODINGS]
    if named and not own and not (wanted and any_architecture):
        raise InputError(
            "--model is a RAG model of another kind: it was trained to choose its answers by another rule",
            value=f"{name} ({' '.join(named)})",
            expected=" or ".join(DECODINGS),
            remedy="use such a model, or give --decoding and --any_architecture",
        )
    if wanted is None:
        return own[0] if own else "token"
    if own and wanted.split("-")[0] not in own and not any_architecture:
        raise InputError(
            f"--decoding {wanted} is another rule than the model was trained to choose its answers by",
            value=f"{name} ({' '.join(named)})",
            expected=f"--decoding {own[0]}",
            remedy="leave out --decoding, or give --any_architecture",
        )
    return wanted


def is_causal_rag(directory: str) -> bool:
    """Whether a local directory holds a RAG-Token model with a causal generator."""
    return RAG_CAUSAL in (read_config(directory).get("architectures") or ())


def check_adapter(directory: str) -> bool:
    """Whether the generator of the RAG model in a local directory is changed by an adapter beside it.

    Raises:
        InputError: it is, and a file of the adapter is missing.
    """
    if not read_config(directory).get(OUR_KEY, {}).get(ADAPTER):
        return False
    for name in ADAPTER_FILES:
        path = os.path.join(directory, ADAPTER, name)
        if not os.path.isfile(path):
            raise InputError(
                "the model's adapter is not there",
                value=path,
                expected="a file that ragbeam finetune wrote: the generator was trained through it alone",
                remedy="copy the model's directory whole",
            )
    return True


def prompt_template(config: Any) -> str | None:
    """The prompt template that a RAG model's causal generator was trained with; None for its tokenizer's own.

    Args:
        config: a RagConfig.
    """
    return (getattr(config, OUR_KEY, None) or {}).get(PROMPT)


def refuse_causal(directory: str, name: str, remedy: str) -> None:
    """Refuses a RAG model with a causal generator for what takes transformers' own RAG models alone.

    Args:
        directory: see `find_model`.
        name: the model's name as the user gave it, for the error.
        remedy: what to do instead.

    Raises:
        InputError: it is one.
    """
    if is_causal_rag(directory):
        raise InputError(
            "the model has a causal generator, which transformers' RAG models have not",
            value=f"{name} ({RAG_CAUSAL})",
            expected="a sequence-to-sequence generator",
            remedy=remedy,
        )


def dimension(directory: str) -> int:
    """Dimension of the vectors of the encoder (in a RAG model: the question encoder) in a local directory.

    Raises:
        InputError: config.json gives none.
    """
    config, width = read_config(directory), _width(directory)
    if config["model_type"] == "rag":
        ours = config.get(OUR_KEY, {}).get("question_encoder")
        return EncoderConfig.from_dict(ours).dimension(width) if ours else width
    if config["model_type"] != "dpr" and is_sentence_encoder(directory):
        return read_encoder_config(directory, config, "question").dimension(width)
    return width


def _width(directory: str) -> int:
    """Numbers of a token's state, or of DPR's pooled output, in the encoder of a local directory."""
    config = read_config(directory)
    config = config.get("question_encoder", config) if config["model_type"] == "rag" else config
    return number_in(config, WIDTHS, MAX_DIMENSION, directory)


def number_in(config: Mapping[str, Any], keys: Sequence[str], most: int, directory: str) -> int:
    """The first number that a configuration gives under one of some keys, 1 to `most`.

    Args:
        config: config.json of the model in `directory`, or the part of it for an encoder or a generator.
        keys: the keys, of which those without a value are passed over.
        most: the largest number that makes sense.
        directory: local directory, for the error line.

    Raises:
        InputError: it gives another one, or none.
    """
    value = next((config[key] for key in keys if config.get(key)), None)
    if not isinstance(value, int) or isinstance(value, bool) or not 0 < value <= most:
        what = f"config.json gives no {' or '.join(keys)} from 1 to {most:,}"
        raise InputError(what, value=directory, remedy=WHOLE)
    return value


def context_digest(directory: str) -> str | None:
    """Digest of the context encoder that a RAG model's question encoder was made to go with; None if unrecorded."""
    return read_config(directory).get(OUR_KEY, {}).get("context_encoder_digest")


def score_scale(config: Any) -> float:
    """The factor on inner products before a RAG model's softmax over passages; 1, as in the paper, if unrecorded.

    Args:
        config: a RagConfig.
    """
    return float((getattr(config, OUR_KEY, None) or {}).get("score_scale", 1.0))


def is_untrained(directory: str) -> bool:
    """Whether the configuration of a local model says that its generator has never been trained."""
    return read_config(directory).get(OUR_KEY, {}).get("generator") == UNTRAINED


def trained_sha256(directory: str) -> list[str]:
    """Digests of the files of trained weights that a model in a local directory was composed with, in their order."""
    return read_config(directory).get(OUR_KEY, {}).get("trained_sha256", [])


def _numbers(value: Any, key: str = "") -> Iterator[tuple[str, float]]:
    """Every number in a JSON value, with the key that it stands under."""
    if isinstance(value, Mapping):
        for name, one in value.items():
            yield from _numbers(one, name)
    elif isinstance(value, list):
        for one in value:
            yield from _numbers(one, key)
    elif isinstance(value, (int, float)):
        yield key, value


def _download(url: str) -> str:
    """Copies a remote model directory to the local cache, where it is found again by names, sizes and ETags."""
    fs, root = store.filesystem(url)
    files = {path: info for path, info in fs.find(root, detail=True).items() if info["type"] == "file"}
    if not files:
        raise InputError(
            "no such model directory", value=url, expected="an fsspec URL of a Hugging Face model directory"
        )
    identity = [
        [public_url(path), info.get("size"), str(info.get("ETag") or info.get("etag") or info.get("md5Hash"))]
        for path, info in sorted(files.items())
    ]
    digest = hashlib.sha256(f"{public_url(url)}\0{json.dumps(identity)}".encode()).hexdigest()[:32]
    copies = []
    for path in sorted(files):
        relative = posixpath.relpath(path, root.rstrip("/"))
        copies.append(
            store.local_copy(store.join(url, relative), digest, posixpath.dirname(relative))[: -len(relative)]
        )
    return copies[0].rstrip("/")
