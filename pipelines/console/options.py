"""The options of every command, and the flags that are made from their declarations.

A setting stands here once, or in the dataclass of rag_ops that uses it: as a field with its default, its help text and
its check (`rag_ops.settings`). `add_flags` makes a command's flags from the fields, `settings.make` the options from
the flags that were given.
"""

from __future__ import annotations

import argparse
import dataclasses
import typing
from collections.abc import Container, Mapping, Sequence
from functools import partial
from typing import Any

from pipelines.runners.resources import Resources
from rag_ops import defaults, settings
from rag_ops.articles.formats import InputOptions
from rag_ops.articles.splitting import check_lengths
from rag_ops.errors import InputError
from rag_ops.generation.settings import GenerationSettings
from rag_ops.questions.reading import QuestionOptions
from rag_ops.settings import setting

VECTOR_DTYPES = ("float16", "float32")
PRESETS: dict[str, dict[str, Any]] = {  # of answer's flags; a flag that is given overrules them
    "paper": {"n_docs": 15, "num_beams": 1},  # Lewis et al. 2020, appendix A: 15 documents, greedy decoding
    # RagConfig's and its evaluation script's settings; a length of 50 counts the start token
    "hf": {"n_docs": 5, "num_beams": 4, "min_length": 1, "max_new_tokens": 49},
}
# Settings that several dataclasses have. Each use makes a field of its own, for a dataclass writes its name into it.
device_setting = partial(
    setting,
    "auto",
    "auto, cpu or cuda; one that is asked for and absent is an error",
    group="workers",
    choices=("auto", "cpu", "cuda"),
)
output_setting = partial(setting, ..., "directory or fsspec URL to write to", metavar="DIR")
local_output_setting = partial(setting, ..., "local directory to save to", metavar="DIR")
num_shards_setting = partial(setting, None, "files to write; by default from the size of the input", at_least=1)
n_docs_setting = partial(setting, 5, "passages for a question", group="answers", at_least=1)
overwrite_setting = partial(setting, False, "replace an output of another configuration")
shard_memory_setting = partial(
    setting, defaults.SHARD_MEMORY, "memory for an index shard; one is open at a time", group="index"
)
spec_setting = partial(
    setting,
    "auto",
    "any FAISS factory string (Flat is exact search), or auto: by number of vectors, memory and recall",
    group="index",
)


class Parser(argparse.ArgumentParser):
    """Argparse whose errors are ours, and which never guesses a flag from its beginning."""

    def __init__(self, **arguments: Any):
        super().__init__(allow_abbrev=False, argument_default=argparse.SUPPRESS, **arguments)
        self._headings: dict[str | None, Any] = {None: self}
        self._flags: set[str] = set()

    def error(self, message: str) -> typing.NoReturn:
        """Raises instead of printing the usage."""
        raise InputError(message, remedy=f"see {self.prog} --help")

    def add_setting(self, cls: type, field: dataclasses.Field, one: settings.Setting) -> None:
        """Adds the flag of a setting, unless the parser has it already."""
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
            arguments |= {"type": kind, "metavar": one.metavar, "required": required, "dest": flag}
            arguments |= {"nargs": "+"} if many else {}
        self._headings[one.group].add_argument(*("--" + name for name in (flag, *one.also)), **arguments)


def add_flags(parser: Parser, cls: type, without: Container[str] = ()) -> None:
    """Adds the flags of a dataclass of settings, and of the dataclasses of settings that are its fields.

    Args:
        parser: gets the flags; one that it has already is left as it is.
        cls: the dataclass.
        without: fields that no flag gives.
    """
    declared, hints = settings.declared(cls), typing.get_type_hints(cls)
    for field in dataclasses.fields(cls):
        if field.name in without:
            continue
        if field.name in declared:
            parser.add_setting(cls, field, declared[field.name])
        elif dataclasses.is_dataclass(hints[field.name]):
            add_flags(parser, hints[field.name], without)


@dataclasses.dataclass(frozen=True, kw_only=True)
class Options:
    """Options that check themselves when they are made."""

    def __post_init__(self) -> None:
        settings.check(self)


@dataclasses.dataclass(frozen=True, kw_only=True)
class DeviceOptions(Options):
    """Where a model runs."""

    device: str = device_setting()
    threads: int = setting(
        defaults.THREADS,
        "CPU threads of a model; results are the same for the same number",
        group="workers",
        at_least=1,
    )


@dataclasses.dataclass(frozen=True, kw_only=True)
class WorkerOptions(DeviceOptions):
    """Where a job's models run, and what their workers must have."""

    batch_tokens: int | None = setting(
        None, "tokens of a batch; by default what suits the device", group="workers", at_least=1
    )
    accelerator: str | None = setting(
        None,
        "on Dataflow, for the model's steps: type:nvidia-l4;count:1;install-nvidia-driver",
        group="workers",
        metavar="GPU",
    )
    worker_memory: str | None = setting(
        None, "memory of a worker of the model's steps, as 16GiB", group="workers", metavar="SIZE"
    )

    def __post_init__(self) -> None:
        super().__post_init__()
        _ = self.resources

    @property
    def resources(self) -> Resources:
        """What the workers must have."""
        return Resources.of(self.accelerator, self.worker_memory, self.device)

    @property
    def worker_device(self) -> str:
        """The device that workers use: a GPU where one is asked of Dataflow."""
        return self.resources.device(self.device)

    @property
    def execution(self) -> dict[str, Any]:
        """What a manifest says of how the models ran."""
        return {"device": self.worker_device, "threads": self.threads, "batch_tokens": self.batch_tokens}


@dataclasses.dataclass(frozen=True, kw_only=True)
class StageOptions(Options):
    """Where a stage writes."""

    output: str = output_setting()
    overwrite: bool = overwrite_setting()
    verify: bool = setting(
        False, "check the SHA-256 of all shards that are read or reused; a damaged one of the output is made again"
    )


@dataclasses.dataclass(frozen=True, kw_only=True)
class ChunkOptions(StageOptions):
    """chunk: `input` to passages in `output`."""

    input: Sequence[str] = setting(
        ..., "files, globs, or dataset names with --format hf", group="articles", metavar="URL"
    )
    reading: InputOptions = dataclasses.field(default_factory=InputOptions)
    passage_words: int = setting(100, "words of a passage", group="articles")
    passage_overlap: int = setting(0, "words that a passage repeats from the one before", group="articles")
    num_shards: int | None = num_shards_setting()

    def __post_init__(self) -> None:
        super().__post_init__()
        check_lengths(self.passage_words, self.passage_overlap)


@dataclasses.dataclass(frozen=True, kw_only=True)
class EmbedOptions(StageOptions):
    """embed: `passages` to vectors of the context encoder in `output`."""

    passages: str = setting(..., "output of ragbeam chunk", metavar="DIR")
    encoder: str = setting(..., "context encoder: directory, URL or hub id", metavar="MODEL")
    dtype: str = setting("float16", "of the vectors on disk: float16 or float32", choices=VECTOR_DTYPES)
    max_tokens: int | None = setting(None, "cut passages to this many tokens; by default the model's limit", at_least=1)
    previous: str | None = setting(
        None, "earlier output of ragbeam embed: take the vectors of unchanged passages", metavar="DIR"
    )
    workers: WorkerOptions = dataclasses.field(default_factory=WorkerOptions)


@dataclasses.dataclass(frozen=True, kw_only=True)
class IndexOptions(StageOptions):
    """index: `embeddings` to a FAISS index in `output`."""

    embeddings: str = setting(..., "output of ragbeam embed", metavar="DIR")
    spec: str = spec_setting()
    shard_memory: str = shard_memory_setting()
    target_recall: float | None = setting(
        None,
        "recall@1, 5, 20 and 100 that the search must reach, with the least effort that does; auto takes 0.95",
        group="index",
        within=(0, 1),
    )
    queries: str | None = setting(
        None, "query vectors to measure with (.npy, .parquet); else passages", group="index", metavar="URL"
    )
    recall_queries: int = setting(512, "passages to measure recall with; 0 for none", group="index", at_least=0)
    trained_from: str | None = setting(None, "earlier output of ragbeam index: keep what was trained", metavar="DIR")
    num_shards: int | None = num_shards_setting()
    threads: int = setting(defaults.THREADS, "CPU threads of FAISS", group="workers", at_least=1)


@dataclasses.dataclass(frozen=True, kw_only=True)
class AnswerOptions(StageOptions):
    """answer: `questions` to answers in `output`, by `index` and `model`."""

    questions: Sequence[str] = setting(..., "question files or globs", group="questions", metavar="URL")
    reading: QuestionOptions = dataclasses.field(default_factory=QuestionOptions)
    index: str = setting(..., "output of ragbeam index", metavar="DIR")
    model: str = setting(..., "RAG-Token model: directory, URL or hub id")
    n_docs: int = n_docs_setting()
    generation: GenerationSettings = dataclasses.field(default_factory=GenerationSettings)
    retrieve: int | None = setting(
        None,
        "keep so many passages of a question, for ragbeam evaluate; it is answered from the first --n_docs",
        group="answers",
        metavar="N",
        at_least=1,
    )
    compute_dtype: str = setting(
        "auto",
        "of the generator: auto, float32, bfloat16, float16; auto is by device",
        group="answers",
        choices=("auto", "float32", "bfloat16", "float16"),
    )
    block_questions: int = setting(256, "questions that travel and are answered together", group="answers", at_least=1)
    nprobe: int | None = setting(
        None, "lists that a search visits; by default what index found", group="answers", at_least=1
    )
    ef_search: int | None = setting(
        None, "places of a graph that a search keeps; by default what index found", group="answers", at_least=1
    )
    rescore: int | None = setting(
        None,
        "take so many candidates from the index and score them exactly from the stored vectors",
        group="answers",
        metavar="N",
        at_least=1,
    )
    keep_going: bool = setting(
        False,
        "write the answers even if over half of 20 or more questions fail in the model in the same way",
        group="answers",
    )
    num_shards: int | None = num_shards_setting()
    workers: WorkerOptions = dataclasses.field(default_factory=WorkerOptions)

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.retrieve is not None and self.retrieve < self.n_docs:
            raise InputError(
                "--retrieve is less than --n_docs", value=self.retrieve, expected=f"at least {self.n_docs} passages"
            )
        if self.rescore is not None and self.rescore < self.kept:
            which = "--retrieve" if self.retrieve else "--n_docs"
            raise InputError(
                f"--rescore is less than {which}", value=self.rescore, expected=f"at least {self.kept} candidates"
            )

    @property
    def kept(self) -> int:
        """How many passages of a question are kept with its answer."""
        return self.retrieve or self.n_docs


@dataclasses.dataclass(frozen=True, kw_only=True)
class Preset(Options):
    """A name for several of answer's settings; a flag that is given overrules it."""

    preset: str | None = setting(
        None,
        "paper: 15 passages, greedy; hf: 5 passages, 4 beams, lengths 1 to 50 with the start token counted",
        group="answers",
        choices=tuple(PRESETS),
    )

    def over(self, given: Mapping[str, Any]) -> dict[str, Any]:
        """The values of flags that were given, beside those of the preset for flags that were not."""
        return {**PRESETS.get(self.preset or "", {}), **given}


def answer_flags(parser: Parser, without: Container[str] = ()) -> None:
    """Adds the flags of answer, --preset among them."""
    add_flags(parser, Preset)
    add_flags(parser, AnswerOptions, without)


def answer_options(given: Mapping[str, Any], **fixed: Any) -> AnswerOptions:
    """The options of answer from the flags that were given; `fixed` overrules, by the fields' names."""
    return settings.make(AnswerOptions, settings.make(Preset, given).over(given), **fixed)
