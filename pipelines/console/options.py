"""The options of every command, and the flags that are made from their declarations.

A setting stands here once, or in the dataclass of rag_ops that uses it: as a field with its default, its help text and
its check (`rag_ops.settings`). `add_flags` makes a command's flags from the fields, `settings.make` the options from
the flags that were given.
"""

from __future__ import annotations

import argparse
import dataclasses
import typing
from collections.abc import Container, Sequence
from functools import partial
from typing import Any

from rag_ops import defaults, settings
from rag_ops.errors import InputError
from rag_ops.settings import setting
from rag_ops.storage import places

VECTOR_DTYPES = ("float16", "float32")
# Settings that several dataclasses have. Each use makes a field of its own, for a dataclass writes its name into it.
output_setting = partial(setting, ..., "directory or fsspec URL to write to", metavar="DIR", writes=True)
local_output_setting = partial(setting, ..., "local directory to save to", metavar="DIR", writes=True)
num_shards_setting = partial(
    setting, None, "files to write; by default from the size of the input", at_least=1, at_most=defaults.MAX_SHARDS
)
n_docs_setting = partial(
    setting, 5, "passages for a question", group="answers", at_least=1, at_most=defaults.MAX_DOCS, memory=True
)
overwrite_setting = partial(setting, False, "replace an output of another configuration")
shard_memory_setting = partial(
    setting, defaults.SHARD_MEMORY, "memory for an index shard; one is open at a time", group="index", memory=True
)
compute_dtype_setting = partial(
    setting,
    "auto",
    "arithmetic of the models: auto, float32, bfloat16 or float16; auto is bfloat16 on a GPU, and on a CPU that has "
    "instructions for it, else float32; on a CPU logits and the mixture are in float32 always",
    group="workers",
    choices=("auto", "float32", "bfloat16", "float16"),
)
embed_dtype_setting = partial(
    setting,
    "auto",
    "arithmetic of the encoder: auto, float32, bfloat16, float16 or, on a CPU, int8; auto is bfloat16 on a GPU, and "
    "on a CPU that has instructions for it, else float32",
    group="workers",
    choices=("auto", "float32", "bfloat16", "float16", "int8"),
)
query_prefix_setting = partial(
    setting,
    None,
    "put before each question for its vector, '' for nothing; by default the encoder's own prompt for questions",
    group="questions",
    metavar="TEXT",
)
block_questions_setting = partial(
    setting, 256, "questions that travel and are worked on together", at_least=1, at_most=100_000
)
rescore_setting = partial(
    setting,
    None,
    "take so many candidates from --index and score them exactly from the stored vectors",
    metavar="N",
    at_least=1,
    at_most=100_000,
)
embeddings_setting = partial(
    setting,
    None,
    "the embeddings of --index, for --rescore, if the place in its manifest cannot be read: moved, or secured",
    metavar="DIR",
)
keep_going_setting = partial(
    setting, False, "write the rows even if over half of 20 or more questions fail in the model in the same way"
)
spec_setting = partial(
    setting,
    "auto",
    "any FAISS factory string (Flat is exact search), or auto: by number of vectors, memory and recall",
    group="index",
)


class _Once(argparse.Action):
    """Stores the value of a flag, and refuses another one."""

    def __call__(self, parser: Any, namespace: Any, values: Any, option_string: str | None = None) -> None:
        before = getattr(namespace, self.dest, values)  # there are no defaults
        if before is not values and before != values:  # one NaN is not equal to itself
            raise InputError(f"{option_string} is given twice", value=[before, values], remedy="give it once")
        setattr(namespace, self.dest, values)


class Parser(argparse.ArgumentParser):
    """Argparse whose errors are ours, and which neither guesses a flag from its beginning nor drops a value."""

    def __init__(self, **arguments: Any):
        super().__init__(allow_abbrev=False, argument_default=argparse.SUPPRESS, **arguments)
        self.register("action", None, _Once)
        self._headings: dict[str | None, Any] = {None: self}
        self._flags: set[str] = set()

    def error(self, message: str) -> typing.NoReturn:
        """Raises instead of printing the usage."""
        raise InputError(message, remedy=f"see {self.prog} --help")

    @property
    def flags(self) -> set[str]:
        """All flags, as they are given."""
        return {*self._option_string_actions}

    def add_setting(self, cls: type, field: dataclasses.Field, one: settings.Setting, needed: bool = True) -> None:
        """Adds the flag of a setting, unless it is there; one without a default must be given if `needed`."""
        flag = one.flag or field.name
        if flag in self._flags:
            return
        self._flags.add(flag)
        if one.group not in self._headings:
            self._headings[one.group] = self.add_argument_group(one.group)
        kind, many = settings.kind_of(cls, field.name)
        required = field.default is dataclasses.MISSING
        hidden = required or field.default is None or field.default is False or field.default == ()
        default = "" if hidden else f" (default: {field.default})"
        arguments: dict[str, Any] = {"help": (one.help + default).replace("%", "%%")}
        if one.positional:
            self.add_argument(flag, metavar=one.metavar, **arguments)
            return
        if kind is bool:
            arguments["action"] = "store_true"
        else:
            arguments |= {"type": kind, "metavar": one.metavar, "required": required and needed, "dest": flag}
            arguments |= {"nargs": "+", "action": "extend"} if many else {}  # given twice, it takes all values
        self._headings[one.group].add_argument(*("--" + name for name in (flag, *one.also)), **arguments)


def add_flags(parser: Parser, cls: type, without: Container[str] = (), optional: Container[str] = ()) -> None:
    """Adds the flags of a dataclass of settings, and of the dataclasses of settings that are its fields.

    Args:
        parser: parser to extend; a flag that it has already is left as it is.
        cls: dataclass of settings.
        without: fields that no flag gives.
        optional: fields without a default whose flags need not be given all the same.
    """
    declared, hints = settings.declared(cls), settings.hints_of(cls)
    for field in dataclasses.fields(cls):
        if field.name in without:
            continue
        if field.name in declared:
            parser.add_setting(cls, field, declared[field.name], field.name not in optional)
        elif dataclasses.is_dataclass(hints[field.name]):
            add_flags(parser, hints[field.name], without, optional)


@dataclasses.dataclass(frozen=True, kw_only=True)
class Options:
    """Options that check themselves when they are made: each value, and that no output overlaps an input."""

    def __post_init__(self) -> None:
        settings.check(self)
        places.check_options(self, self.written)

    @property
    def written(self) -> Sequence[str] | None:
        """URLs that the command writes; None if they are those of the settings that say so."""
        return None


@dataclasses.dataclass(frozen=True, kw_only=True)
class StageOptions(Options):
    """Options of every stage: where it writes, and what it may replace."""

    output: str = output_setting()
    overwrite: bool = overwrite_setting()
    verify: bool = setting(
        False, "check the SHA-256 of all shards that are read or reused; a damaged one of the output is made again"
    )
