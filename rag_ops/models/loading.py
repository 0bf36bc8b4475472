"""The one place that loads models and tokenizers: as data, never as code, whole, and with one line if they are not.

Weights come from safetensors, or from torch files with weights_only=True, as transformers reads them too;
classes come from transformers itself, never from a model's own directory. Layouts of every age are read: the tokenizers
of RAG and DPR's first checkpoints have a vocab.txt, or a vocab.json and merges.txt, and do not name their class, which
only the configuration of the model that they belong to names.
"""

from __future__ import annotations

import contextlib
import fnmatch
import os
from collections.abc import Iterator, Mapping
from typing import Any

import torch
import transformers
from safetensors import safe_open
from tokenizers import normalizers
from transformers import (
    AutoConfig,
    AutoModel,
    AutoModelForCausalLM,
    AutoModelForSeq2SeqLM,
    AutoTokenizer,
    DPRContextEncoder,
    DPRQuestionEncoder,
    RagConfig,
    RagTokenizer,
)

from rag_ops import machine
from rag_ops.errors import InputError, JobError, NoMemoryError, RagbeamError
from rag_ops.models import checkpoints, dense_head, weights
from rag_ops.models.sentence_encoders import EncoderConfig

OWN_CLASSES: dict[str, Any] = {"trust_remote_code": False}  # given to whatever of transformers would take a directory's
MAX_REASON_CHARS = 160
RAG_ENCODER_PREFIX = "rag.question_encoder."
MOST_NUMBERS = 16  # configurations whose models' numbers are kept

_numbers: dict[tuple[Any, ...], weights.Numbers] = {}  # by class and configuration


def load_tokenizer(directory: str) -> Any:
    """The tokenizer of a local model directory that is no RAG model."""
    with loading("the tokenizer", directory):
        return _load_tokenizer(checkpoints.weights_directory(directory))


def load_encoder_tokenizer(directory: str) -> Any:
    """Tokenizer of an encoder's local directory or of a RAG model's question encoder, lower-casing if so configured.

    Raises:
        InputError: it cannot be loaded.
    """
    config = checkpoints.read_config(directory)
    if config["model_type"] == "rag":
        with loading("the RAG model's configuration", directory):
            return _question_tokenizer(directory, RagConfig.from_pretrained(directory))
    with loading("the encoder's tokenizer", directory):
        tokenizer = _load_tokenizer(checkpoints.weights_directory(directory))
    # A generator's directory, which says nothing of the kind, may come too.
    says = config["model_type"] != "dpr" and checkpoints.is_sentence_encoder(directory)
    return _lowering(tokenizer) if says and checkpoints.encoder_config(directory).lower_case else tokenizer


def rag_tokenizer(directory: str, config: RagConfig | None = None) -> RagTokenizer:
    """Both tokenizers of a RAG model; transformers' own loader would ask at the terminal whether to run their code.

    Args:
        directory: local; has both in their subfolders.
        config: configuration of the model; by default the one in the directory.

    Raises:
        InputError: one cannot be loaded.
    """
    if config is None:
        with loading("the RAG model's configuration", directory):
            config = RagConfig.from_pretrained(directory)
    question_encoder = _question_tokenizer(directory, config)
    with loading("the generator's tokenizer", directory):
        generator = _load_tokenizer(directory, config=config.generator, subfolder="generator_tokenizer")
    return RagTokenizer(question_encoder, generator)


def load_rag(directory: str, dtype: torch.dtype, kind: Any = transformers.RagTokenForGeneration) -> Any:
    """A RAG model from a local directory.

    Args:
        directory: see `checkpoints.find_model`.
        dtype: dtype of the weights.
        kind: transformers' class, or a subclass.

    Raises:
        InputError: it cannot be loaded, or is no RAG model.
    """
    checkpoints.check_rag(directory, directory)
    checkpoints.refuse_causal(directory, directory, "ragbeam answer takes it")
    with loading("the RAG model", directory):
        check_size("the RAG model", directory, dtype)
        return whole("the RAG model", directory, kind.from_pretrained(directory, dtype=dtype, **weights.REPORTED))


def load_generator(directory: str) -> Any:
    """A sequence-to-sequence model from a local directory, in float32.

    Raises:
        InputError: it cannot be loaded.
    """
    return load_auto("the generator", directory, torch.float32, AutoModelForSeq2SeqLM)


def load_auto(what: str, directory: str, dtype: torch.dtype, kind: Any) -> Any:
    """Loads a model by one of transformers' Auto classes, `kind`; `what` it is called in errors.

    Raises:
        InputError: it cannot be loaded, lacks weights, or asks for more than its files and memory can hold.
    """
    with loading(what, directory):
        check_size(what, directory, dtype, kind)
        return whole(what, directory, kind.from_pretrained(directory, dtype=dtype, **weights.REPORTED, **OWN_CLASSES))


def load_gguf(directory: str, name: str) -> tuple[Any, Any]:
    """The causal model in a GGUF file of a local directory, dequantised to float32, and its tokenizer.

    Raises:
        InputError: it cannot be loaded.
    """
    with loading("the GGUF model", os.path.join(directory, name)):
        tokenizer = AutoTokenizer.from_pretrained(directory, gguf_file=name, **OWN_CLASSES)
        model = AutoModelForCausalLM.from_pretrained(directory, gguf_file=name, dtype=torch.float32, **OWN_CLASSES)
    return model, tokenizer


def load_encoder(directory: str, role: str, dtype: torch.dtype = torch.float32) -> Any:
    """The bare encoder model of a local directory; of a RAG model its question encoder alone.

    Its Dense modules, if it has any, are part of it (`dense_head`), in float32.

    Args:
        directory: a DPR checkpoint, a sentence-transformers directory, or a RAG model.
        role: "context" or "question"; the side of a DPR checkpoint.
        dtype: dtype of the weights.

    Raises:
        InputError: it cannot be loaded.
    """
    folder, model_type = checkpoints.weights_directory(directory), checkpoints.read_config(directory)["model_type"]
    found: Any
    with loading("the encoder", directory):
        if model_type == "rag":
            found = _question_encoder_of_rag(directory)
            head = dense_head.take(found)
            dense_head.attach(found.to(dtype), head)
            return found
        check_size("the encoder", folder, dtype)
        if model_type == "dpr":
            kind = DPRContextEncoder if role == "context" else DPRQuestionEncoder
            found = kind.from_pretrained(folder, dtype=dtype, **weights.REPORTED)
        else:
            found = AutoModel.from_pretrained(folder, dtype=dtype, **weights.REPORTED, **OWN_CLASSES)
        encoder = whole("the encoder", folder, found)
        if model_type != "dpr":
            attach_dense(encoder, directory)
        return encoder


def attach_dense(encoder: Any, directory: str) -> None:
    """Makes the Dense modules of a sentence-transformers directory part of its model; other models have none.

    Raises:
        InputError: their weights cannot be loaded.
    """
    if checkpoints.is_sentence_encoder(directory):
        config = checkpoints.encoder_config(directory, "question")
        with loading("the encoder's Dense modules", directory):
            dense_head.attach(encoder, dense_head.read(directory, config.dense) if config.dense else None)


def load_part(side: str, directory: str, options: Mapping[str, Any]) -> Any:
    """The model of one side of a RAG model from a directory of its own, as transformers' RAG classes load it.

    Args:
        side: "question_encoder" or "generator".
        directory: local; has config.json and weights.
        options: what `from_pretrained` takes.

    Raises:
        InputError: it lacks weights, or asks for more than its files and memory can hold.
    """
    what, options = f"the {side.replace('_', ' ')}", {**options, **weights.REPORTED}
    if side == "generator":
        check_size(what, directory, kind=AutoModelForSeq2SeqLM)
        return whole(what, directory, AutoModelForSeq2SeqLM.from_pretrained(directory, **options, **OWN_CLASSES))
    check_size(what, directory)
    return whole(what, directory, AutoModel.from_pretrained(directory, **options, **OWN_CLASSES))


def whole(what: str, directory: str, found: tuple[Any, Mapping[str, Any]]) -> Any:
    """The model that `from_pretrained` returned with `weights.REPORTED`, if its files hold all of it.

    Raises:
        InputError: they do not; see `weights.check_whole`.
    """
    model, report = found
    weights.check_whole(what, directory, model, report)
    return model


def check_size(what: str, directory: str, dtype: torch.dtype = torch.float32, kind: Any = AutoModel) -> None:
    """Checks, before a model is made, that its configuration asks for no more than its files and memory can hold.

    Args:
        what: the part that is loaded, such as "the encoder".
        directory: local; has config.json and weights.
        dtype: dtype that it is to be loaded in.
        kind: transformers' class that makes it of a configuration.

    Raises:
        InputError: it asks for more, or is an adapter, for which transformers would load the model that it names.
    """
    refuse_adapter(directory)
    checkpoints.read_config(directory)  # refuses counts that a configuration alone cannot bear
    with loading(what, directory):
        config = AutoConfig.from_pretrained(directory, **OWN_CLASSES)
        if config.model_type == "rag" and checkpoints.is_causal_rag(directory):
            kind, config = AutoModel, config.question_encoder  # which alone lies beside the configuration
        weights.check_size(what, directory, _numbers_of(kind, config), dtype)


def _numbers_of(kind: Any, config: Any) -> weights.Numbers:
    """How many numbers a model has as its configuration asks for it; a configuration is looked at once.

    A job loads both parts of a RAG model by themselves, and its encoder in several dtypes.
    """
    key = (kind, type(config), config.to_json_string(use_diff=False))
    if key not in _numbers:
        with torch.device("meta"):
            rag = config.model_type == "rag"
            model = transformers.RagTokenForGeneration(config) if rag else _made(kind, config)
        if len(_numbers) >= MOST_NUMBERS:
            _numbers.clear()
        _numbers[key] = weights.Numbers.of(model)
    return _numbers[key]


def longest_input(model: torch.nn.Module, otherwise: int) -> int:
    """Number of tokens that a model has positions for.

    RoBERTa's table, and those of its descendants (XLM-R, CamemBERT, MPNet), begin with the padding's position, which
    the first token comes behind: of 514 rows 512 count.

    Args:
        model: an encoder of transformers.
        otherwise: value for a model that names none.
    """
    for name, part in model.named_modules():
        if name.endswith("position_embeddings") and isinstance(part, torch.nn.Embedding):
            return part.num_embeddings - (0 if part.padding_idx is None else part.padding_idx + 1)
    positions = getattr(model.config, "max_position_embeddings", None)
    return positions if positions and positions > 0 else otherwise


def _load_tokenizer(directory: str, **options: Any) -> Any:
    return AutoTokenizer.from_pretrained(directory, **options, **OWN_CLASSES)


def _question_tokenizer(directory: str, config: RagConfig) -> Any:
    with loading("the question encoder's tokenizer", directory):
        tokenizer = _load_tokenizer(directory, config=config.question_encoder, subfolder="question_encoder_tokenizer")
    ours = (getattr(config, checkpoints.OUR_KEY, None) or {}).get("question_encoder") or {}
    return _lowering(tokenizer) if ours.get("lower_case") else tokenizer


def _lowering(tokenizer: Any) -> Any:
    """The tokenizer, which takes capitals for small letters from now on, as sentence-transformers' do_lower_case."""
    if not getattr(tokenizer, "is_fast", False):
        raise InputError(
            "do_lower_case is asked of a slow tokenizer", value=type(tokenizer).__name__, expected="a fast tokenizer"
        )
    before = tokenizer.backend_tokenizer.normalizer
    parts = [normalizers.Lowercase(), *([before] if before is not None else [])]
    tokenizer.backend_tokenizer.normalizer = normalizers.Sequence(parts)
    return tokenizer


def refuse_adapter(directory: str) -> None:
    """Refuses a directory of PEFT's, whose weights are those of another model's with changes.

    Raises:
        InputError: it is one.
    """
    path = os.path.join(directory, checkpoints.ADAPTER_FILES[0])
    if os.path.isfile(path):
        raise InputError(
            "the model is an adapter of another one",
            value=path,
            expected="whole weights",
            remedy="merge it with PEFT's merge_and_unload and save the result",
        )


def _question_encoder_of_rag(directory: str) -> Any:
    check_size("the RAG model", directory)
    model = _made(AutoModel, AutoConfig.from_pretrained(directory, **OWN_CLASSES).question_encoder)
    state = _read_weights(directory, RAG_ENCODER_PREFIX)
    ours = checkpoints.read_config(directory).get(checkpoints.OUR_KEY, {}).get("question_encoder")
    if ours and (layers := EncoderConfig.from_dict(ours).dense):
        prefix = dense_head.HEAD + "."
        of_head = {name.removeprefix(prefix): one for name, one in state.items() if name.startswith(prefix)}
        dense_head.attach(model, dense_head.filled(layers, of_head, directory))
    shapes = {name: tensor.shape for name, tensor in model.state_dict().items()}
    wrong = [(name, one.shape, shapes[name]) for name, one in state.items() if one.shape != shapes.get(name, one.shape)]
    others = {name: tensor for name, tensor in state.items() if tensor.shape == shapes.get(name, tensor.shape)}
    missing, unexpected = model.load_state_dict(others, strict=False)
    report = {"missing_keys": {*missing} - {*state}, "unexpected_keys": unexpected, "mismatched_keys": wrong}
    return whole("the RAG model's question encoder", directory, (model, report)).float()


def _made(kind: Any, config: Any) -> Any:
    """A model as a configuration asks for it, without weights of its own."""
    return DPRQuestionEncoder(config) if config.model_type == "dpr" else kind.from_config(config, **OWN_CLASSES)


def _read_weights(directory: str, prefix: str) -> dict[str, torch.Tensor]:
    """The tensors of a checkpoint whose names begin with `prefix`, without it; no pickle of other things is read."""
    files = [os.path.join(directory, name) for name in sorted(os.listdir(directory))]
    tensors: dict[str, torch.Tensor] = {}
    for path in [path for path in files if path.endswith(".safetensors")]:
        with safe_open(path, framework="pt") as file:
            names = [key for key in file.keys() if key.startswith(prefix)]  # noqa: SIM118 (it is no dict)
            tensors |= {key: file.get_tensor(key) for key in names}
    if not tensors:
        for path in [path for path in files if fnmatch.fnmatch(os.path.basename(path), "pytorch_model*.bin")]:
            state = torch.load(path, map_location="cpu", weights_only=True)
            tensors |= {key: tensor for key, tensor in state.items() if key.startswith(prefix)}
    return {key.removeprefix(prefix): tensor for key, tensor in tensors.items()}


@contextlib.contextmanager
def loading(what: str, directory: str) -> Iterator[None]:
    """Turns whatever a damaged, foreign or hostile model file raises inside the block into one error line.

    Args:
        what: the part that is loaded, such as "the encoder".
        directory: directory that it is loaded from.

    Raises:
        InputError: the block raised something else than our own errors.
        JobError: there is no memory for it, or the disk failed.
    """
    try:
        yield
    except RagbeamError:
        raise
    except Exception as error:  # of unpickling, zip, JSON, safetensors, torch and transformers
        if isinstance(fault := machine.fault_of(error), NoMemoryError):
            raise JobError(f"there is no memory for {what}", value=directory, remedy="use a larger worker") from error
        if fault:
            raise fault from error
        lines = str(error).strip().splitlines()
        reason = lines[0][:MAX_REASON_CHARS] if lines else type(error).__name__
        if "weights_only" in str(error) or "Weights only load failed" in str(error):
            raise InputError(
                f"{what} cannot be loaded: a file of it holds more than weights, of which nothing was run",
                value=directory,
                expected="safetensors, or a torch file of tensors alone",
            ) from error
        if "trust_remote_code" in str(error):
            raise InputError(
                f"{what} cannot be loaded: it asks to run code of its own, which is off",
                value=directory,
                expected="a model that transformers has a class for",
            ) from error
        raise InputError(f"{what} cannot be loaded ({reason})", value=directory) from error
