"""Reads how a sentence-transformers directory makes its vectors, as that library (6.2) reads it.

A directory names its modules in `modules.json`: a Transformer, a Pooling, perhaps some Dense and a Normalize, each with
the folder that holds its settings. The layouts that the library has written differ in three ways, and all are read:

- The Transformer's files lie in the directory itself, or in `0_Transformer/` as up to version 2.
- `1_Pooling/config.json` has one switch for each pooling, or since 5.4 a `pooling_mode`.
- The longest input is `max_seq_length` of `sentence_bert_config.json`, or since 5.4 the tokenizer's `model_max_length`.

A setting that would change a vector and that ragbeam does not have is refused by name.
"""

from __future__ import annotations

import dataclasses
import functools
import json
import logging
import os
import re
from collections.abc import Mapping
from pathlib import Path, PurePosixPath
from typing import Any

from rag_ops.errors import InputError
from rag_ops.models.dense_layers import DenseLayer, dimension_after

logger = logging.getLogger("ragbeam")
MODULES = "modules.json"
DEFAULT_MAX_TOKENS = 512  # if neither the model nor its tokenizer names a longest input
POOLINGS = ("pooler", "mean", "cls", "max", "mean_sqrt_len_tokens", "weightedmean", "lasttoken")
# The switches of Pooling before version 5.4. None of them on means "mean".
_SWITCHES = {
    "pooling_mode_cls_token": "cls",
    "pooling_mode_max_tokens": "max",
    "pooling_mode_mean_tokens": "mean",
    "pooling_mode_mean_sqrt_len_tokens": "mean_sqrt_len_tokens",
    "pooling_mode_weightedmean_tokens": "weightedmean",
    "pooling_mode_lasttoken": "lasttoken",
}
_TRANSFORMER_FILES = tuple(
    f"sentence_{kind}_config.json"
    for kind in ("bert", "roberta", "distilbert", "camembert", "albert", "xlm-roberta", "xlnet")
)
# Settings of a Transformer module that are read, or that change no vector of a plain text.
_KNOWN_SETTINGS = {
    "max_seq_length", "do_lower_case", "query_length", "document_length", "transformer_task", "modality_config",
    "module_output_name", "unpad_inputs",
}  # fmt: skip
_KINDS = re.compile(r"Transformer Pooling( Dense)*( Normalize)?")
_KNOWN_KINDS = ("Transformer", "Pooling", "Dense", "Normalize")
_ROLE_PROMPT = {"context": "document", "question": "query"}  # encode_document's and encode_query's


@dataclasses.dataclass(frozen=True)
class EncoderConfig:
    """The settings by which a text becomes one vector.

    Attributes:
        pooling: "pooler" (the model's own pooled output, as DPR), or over the tokens' states "mean", "cls" (the first),
            "lasttoken", "max", "mean_sqrt_len_tokens" (the sum over the root of the number) or "weightedmean" (weights
            1, 2, 3 and so on).
        normalize: whether vectors are scaled to length 1.
        max_tokens: longest input in tokens; longer ones are cut.
        zero_token_types: whether the segment ids are all 0, as DPR's encoders were trained, also for title and text.
        prompt: text put before the text, or before the title of a passage.
        lower_case: whether the tokenizer is made to lower-case its input.
        dense: modules that the pooled vector goes through.
        dimensions: the first numbers of a vector that are kept, before it is scaled (Matryoshka); None for all.
    """

    pooling: str
    normalize: bool
    max_tokens: int
    zero_token_types: bool
    prompt: str = ""
    lower_case: bool = False
    dense: tuple[DenseLayer, ...] = ()
    dimensions: int | None = None

    def __post_init__(self) -> None:
        if self.pooling not in POOLINGS:
            raise InputError("unknown pooling", value=self.pooling, expected=" or ".join(POOLINGS))

    def dimension(self, width: int) -> int:
        """The numbers of a vector.

        Args:
            width: numbers of a token's state, or of DPR's pooled output.

        Raises:
            InputError: the Dense modules take vectors of another size.
        """
        whole = dimension_after(self.dense, width)
        return whole if self.dimensions is None else min(self.dimensions, whole)

    def as_dict(self) -> dict[str, Any]:
        """The attributes, for JSON; those from `prompt` on only if they are set, so records without them stay equal."""
        found = {
            field.name: getattr(self, field.name)
            for field in dataclasses.fields(self)
            if field.default is dataclasses.MISSING or getattr(self, field.name) != field.default
        }
        return found if not self.dense else {**found, "dense": [dataclasses.asdict(layer) for layer in self.dense]}

    @classmethod
    def from_dict(cls, values: Mapping[str, Any]) -> EncoderConfig:
        """The inverse of `as_dict`.

        Raises:
            InputError: a value is missing, or is one that this version does not know.
        """
        names = {field.name for field in dataclasses.fields(cls)}
        if unknown := sorted(set(values) - names):
            raise InputError(
                "a model says more about its encoder than this version reads",
                value=unknown[0],
                expected=" ".join(sorted(names)),
                remedy="use the version of ragbeam that composed it",
            )
        try:
            layers = tuple(DenseLayer(**layer) for layer in values.get("dense", ()))
            return cls(**{**values, **({"dense": layers} if layers else {})})
        except TypeError as error:
            raise InputError(f"a model's note on its encoder is incomplete ({error})", value=dict(values)) from error


@dataclasses.dataclass(frozen=True)
class EncoderChanges:
    """What a run asks of an encoder beside what its files say.

    Attributes:
        prefix: text before each text in place of the model's own prompt, "" for none; None leaves the model's.
        dimensions: the first numbers of a vector that are kept; None for all that the model gives.
    """

    prefix: str | None = None
    dimensions: int | None = None

    def of(self, config: EncoderConfig, width: int) -> EncoderConfig:
        """The settings of an encoder, changed. As many dimensions as the model gives are no change.

        Args:
            config: settings by the model's files.
            width: see `EncoderConfig.dimension`.

        Raises:
            InputError: the model gives fewer dimensions.
        """
        own, wanted = config.dimension(width), self.dimensions
        if wanted is not None and not 0 < wanted <= own:
            raise InputError("--dimensions is more than the encoder gives", value=wanted, expected=f"1 to {own}")
        return dataclasses.replace(
            config,
            prompt=config.prompt if self.prefix is None else self.prefix,
            dimensions=config.dimensions if wanted in (None, own) else wanted,
        )


UNCHANGED = EncoderChanges()


def is_sentence_encoder(directory: str) -> bool:
    """Whether a local directory names its modules as sentence-transformers does."""
    return os.path.isfile(os.path.join(directory, MODULES))


def transformer_folder(directory: str) -> str:
    """The folder in a local model directory that holds configuration, weights and tokenizer; mostly "", itself.

    Raises:
        InputError: `modules.json` cannot be read, or names a folder outside of the directory.
    """
    if not is_sentence_encoder(directory):
        return ""
    modules = _modules(directory)
    return modules[0]["path"] if modules and _kind(modules[0]) == "Transformer" else ""


def dense_folders(directory: str) -> list[str]:
    """The folders of the Dense modules in a sentence-transformers directory, in their order."""
    return [module["path"] for module in _modules(directory) if _kind(module) == "Dense"]


def read_encoder_config(
    directory: str, model: Mapping[str, Any], role: str, changes: EncoderChanges = UNCHANGED
) -> EncoderConfig:
    """The pooling, longest input and prompt of the encoder in a sentence-transformers directory.

    Args:
        directory: local; has `modules.json`.
        model: config.json of its Transformer.
        role: "context" for what `encode_document` does, "question" for `encode_query`.
        changes: of these the prefix, which a pooling may not go with; `EncoderChanges.of` makes them.

    Raises:
        InputError: a file cannot be read, or a setting is one that ragbeam does not have.
    """
    try:
        return _read_encoder_config(directory, model, role, changes)
    except (AttributeError, TypeError, ValueError) as error:  # a number where an object should be, and the like
        raise InputError(
            f"the encoder's files are not as sentence-transformers writes them ({error})", value=directory
        ) from error


def _read_encoder_config(directory: str, model: Mapping[str, Any], role: str, changes: EncoderChanges) -> EncoderConfig:
    modules = _modules(directory)
    kinds = [_kind(module) for module in modules]
    if not _KINDS.fullmatch(" ".join(kinds)):
        strange = next((kind for kind in kinds if kind not in _KNOWN_KINDS), " ".join(kinds))
        _refuse(directory, "modules", strange, "Transformer, Pooling, perhaps Dense, and perhaps Normalize")
    if model.get("is_encoder_decoder"):
        _refuse(directory, "is_encoder_decoder", True, "a model of an encoder alone")
    library = _read_optional(os.path.join(directory, "config_sentence_transformers.json"))
    if (kind := library.get("model_type") or "SentenceTransformer") != "SentenceTransformer":
        _refuse(directory, "model_type", kind, "SentenceTransformer")
    prompt = _prompt(library.get("prompts") or {}, role, directory)
    folder = os.path.join(directory, modules[0]["path"])
    settings = _transformer_settings(folder)
    if kinds[-1] == "Normalize":
        normalize = os.path.join(directory, modules[-1]["path"])
        values = _read_optional(os.path.join(normalize, "config.json"))
        for name in ("module_input_name", "module_output_name"):
            if values.get(name, "sentence_embedding") != "sentence_embedding":
                _refuse(normalize, name, values[name], "sentence_embedding")
    dense = [os.path.join(directory, path) for path in dense_folders(directory)]
    dimensions = library.get("truncate_dim")
    if dimensions is not None and (not isinstance(dimensions, int) or isinstance(dimensions, bool) or dimensions < 1):
        _refuse(directory, "truncate_dim", dimensions, "a positive number")
    return EncoderConfig(
        _pooling(os.path.join(directory, modules[1]["path"]), prompt if changes.prefix is None else changes.prefix),
        kinds[-1] == "Normalize",
        _max_tokens(folder, settings, model, role),
        False,
        prompt,
        bool(settings.get("do_lower_case")),
        tuple(DenseLayer.of(_read_optional(os.path.join(path, "config.json")), path) for path in dense),
        dimensions,
    )


def read_json(path: str) -> Any:
    """Reads a JSON file of a model.

    Raises:
        InputError: it cannot be read.
    """
    try:
        return json.loads(Path(path).read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise InputError(f"a file of the model cannot be read ({error})", value=path) from error


def _modules(directory: str) -> list[dict[str, str]]:
    path = os.path.join(directory, MODULES)
    modules = read_json(path)
    for module in modules if isinstance(modules, list) else [modules]:
        folder = module.get("path") if isinstance(module, dict) else None
        inside = isinstance(folder, str) and not PurePosixPath(folder).is_absolute() and ".." not in Path(folder).parts
        if not inside or not isinstance(module.get("type"), str):
            raise InputError(
                "modules.json is none of sentence-transformers'",
                value=f"{path}: {module}",
                expected="a list of modules, each with its type and a path in the directory",
            )
    return modules


def _kind(module: Mapping[str, str]) -> str:
    """The class's name of a module; with its package if that is not sentence-transformers."""
    package, _, name = module["type"].rpartition(".")
    return name if package.split(".")[0] == "sentence_transformers" else module["type"]


def _refuse(where: str, setting: str, value: Any, expected: str) -> None:
    raise InputError(
        f"the encoder has a setting that ragbeam does not know: {setting}",
        value=f"{where} ({value})",
        expected=expected,
    )


def _read_optional(path: str) -> dict[str, Any]:
    values = read_json(path) if os.path.isfile(path) else {}
    if not isinstance(values, dict):
        raise InputError("a file of the model is no JSON object", value=path)
    return values


def _prompt(prompts: Any, role: str, directory: str) -> str:
    """The registered prompt that the library would use; "" if there is none.

    encode_document looks for "document", "passage" and "corpus" in this order, but "document" is always there, empty if
    a model registers none: so the library uses no other, and neither do we.
    """
    if not isinstance(prompts, dict):
        _refuse(directory, "prompts", prompts, "an object of names and texts")
    wanted = _ROLE_PROMPT[role]
    if role == "context" and wanted not in prompts and (others := {"passage", "corpus"} & set(prompts)):
        _warn_of_prompt(directory, sorted(others)[0])
    if not isinstance(prompt := prompts.get(wanted) or "", str):
        _refuse(directory, "prompts", prompt, "texts")
    return prompt


@functools.lru_cache  # computed once in a process
def _warn_of_prompt(directory: str, name: str) -> None:
    logger.warning(
        "the encoder registers a prompt %r that sentence-transformers' encode_document does not use; nor does "
        'ragbeam. Register it as "document" if the model was trained with it: %s',
        *(name, directory),
    )


def _transformer_settings(folder: str) -> dict[str, Any]:
    found = (_read_optional(os.path.join(folder, name)) for name in _TRANSFORMER_FILES)
    settings = next((values for values in found if values), {})
    for name, value in settings.items():
        # Code of the model itself is never run, so a setting that only asks for it does nothing
        counts = set(value) - {"trust_remote_code"} if isinstance(value, dict) else value
        if name not in _KNOWN_SETTINGS and counts:
            _refuse(folder, name, value, "none")
    task = settings.get("transformer_task") or "feature-extraction"
    if task != "feature-extraction":
        _refuse(folder, "transformer_task", task, "feature-extraction")
    modalities = settings.get("modality_config") or {}
    text = modalities.get("text", {})
    method = text.get("method", "forward"), text.get("method_output_name", "last_hidden_state")
    if "message" in modalities or method != ("forward", "last_hidden_state"):
        _refuse(folder, "modality_config", modalities, "text by forward and last_hidden_state")
    return settings


def _pooling(folder: str, prompt: str) -> str:
    values = _read_optional(os.path.join(folder, "config.json"))
    mode = values.get("pooling_mode")
    if mode is None and (switches := [name for name in _SWITCHES if name in values]):
        mode = [_SWITCHES[name] for name in switches if values[name]] or ["mean"]
    modes = [mode] if isinstance(mode, str) else list(mode or [])
    known = [name for name in POOLINGS if name != "pooler"]
    if len(modes) != 1 or modes[0] not in known:
        raise InputError(
            "the encoder's pooling is not one that ragbeam knows",
            value=f"{folder} ({' and '.join(map(str, modes)) or 'none'})",
            expected="one of " + ", ".join(known),
        )
    if prompt and not values.get("include_prompt", True):
        _refuse(folder, "include_prompt", False, "true, or no prompt")
    return modes[0]


def _max_tokens(folder: str, settings: Mapping[str, Any], model: Mapping[str, Any], role: str) -> int:
    if own := settings.get({"context": "document_length", "question": "query_length"}[role]):
        return int(own)
    if limit := settings.get("max_seq_length"):
        return int(limit)
    tokenizer = _read_optional(os.path.join(folder, "tokenizer_config.json"))
    limits = [tokenizer.get("model_max_length"), model.get("max_position_embeddings")]
    given = [limit for limit in limits if isinstance(limit, int | float) and limit > 0]  # -1 in XLNet: no limit
    return int(min(given, default=DEFAULT_MAX_TOKENS))
