"""The options of answer, and its presets."""

from __future__ import annotations

import dataclasses
from collections.abc import Container, Mapping, Sequence
from typing import Any

from pipelines.console.options import (
    Options,
    Parser,
    StageOptions,
    add_flags,
    block_questions_setting,
    compute_dtype_setting,
    embeddings_setting,
    keep_going_setting,
    n_docs_setting,
    num_shards_setting,
    query_prefix_setting,
    rescore_setting,
)
from pipelines.transforms.model_workers import WorkerOptions
from rag_ops import defaults, settings
from rag_ops.defaults import CONTEXTS, TITLE
from rag_ops.errors import InputError
from rag_ops.generation.settings import GenerationSettings
from rag_ops.questions.columns import QuestionOptions
from rag_ops.retrieval.kinds import SearchSettings
from rag_ops.settings import setting
from rag_ops.storage import store

MAX_PROMPT_BYTES = 1 << 16
PRESETS: dict[str, dict[str, Any]] = {  # of answer's flags; a flag that is given overrules them
    "paper": {"n_docs": 15, "num_beams": 1},  # Lewis et al. 2020, appendix A: 15 documents, greedy decoding
    # RagConfig's and its evaluation script's settings; a length of 50 counts the start token
    "hf": {"n_docs": 5, "num_beams": 4, "min_length": 1, "max_new_tokens": 49},
}


@dataclasses.dataclass(frozen=True, kw_only=True)
class AnswerOptions(StageOptions):
    """answer: `questions` to answers in `output`, by `index` and `model`, or from passages `retrieved` elsewhere."""

    questions: Sequence[str] = setting(
        (),
        "question files or globs; --retrieved needs them for a TREC run, and for files without the questions' texts",
        group="questions",
        metavar="URL",
    )
    reading: QuestionOptions = dataclasses.field(default_factory=QuestionOptions)
    query_prefix: str | None = query_prefix_setting()
    index: str | None = setting(None, "output of ragbeam index", metavar="DIR")
    retrieved: Sequence[str] = setting(
        (),
        "instead of --index, passages found elsewhere: output of ragbeam search, TREC runs, or JSON as DPR and "
        "Pyserini write it",
        group="retrieved",
        metavar="URL",
    )
    passages: str | None = setting(
        None,
        "the passages of --index, if the place in its manifest cannot be read: moved, or secured; or those that the "
        "passage ids of --retrieved name, which a TREC run needs",
        metavar="DIR",
    )
    prior: str | None = setting(
        None,
        "how much passages of --retrieved count: scores, by scores of the model's own search; uniform, all alike; "
        "by default scores if --score_scale is given or the file says that they are the model's, else uniform",
        group="retrieved",
        choices=("scores", "uniform"),
    )
    contexts: str = setting(
        TITLE,
        "what stands before each text for the generator, if --retrieved takes its texts from --passages",
        group="retrieved",
        choices=CONTEXTS,
    )
    embeddings: str | None = embeddings_setting()
    model: str = setting(..., "RAG model: directory, URL or hub id", metavar="MODEL")
    n_docs: int = n_docs_setting()
    prompt: str | None = setting(
        None,
        "file with the prompt of a causal generator, a Jinja template of title, text and question, in this order; by "
        "default its tokenizer's chat template",
        group="answers",
        metavar="URL",
    )
    generation: GenerationSettings = dataclasses.field(default_factory=GenerationSettings)
    retrieve: int | None = setting(
        None,
        "keep so many passages of a question, for ragbeam evaluate; it is answered from the first --n_docs",
        group="answers",
        metavar="N",
        at_least=1,
        at_most=defaults.MAX_DOCS,
    )
    compute_dtype: str = compute_dtype_setting()
    block_questions: int = block_questions_setting(group="answers")
    search: SearchSettings = dataclasses.field(default_factory=SearchSettings)
    rescore: int | None = rescore_setting(group="answers")
    keep_going: bool = keep_going_setting(group="answers")
    max_error: float | None = setting(
        None,
        "give only answers of which at most this share is wrong: those whose score reaches the threshold that "
        "--calibration has for it",
        group="answers",
        metavar="SHARE",
        within=(0, 1),
    )
    calibration: str | None = setting(
        None, "with --max_error: the file that ragbeam evaluate --calibrate wrote", group="answers", metavar="URL"
    )
    num_shards: int | None = num_shards_setting()
    workers: WorkerOptions = dataclasses.field(default_factory=WorkerOptions)

    def __post_init__(self) -> None:
        super().__post_init__()
        self._check_source()
        if (self.max_error is None) != (self.calibration is None):
            raise InputError("--max_error and --calibration go together", expected="both or neither")
        if self.retrieve is not None and self.retrieve < self.n_docs:
            raise InputError(
                "--retrieve is less than --n_docs", value=self.retrieve, expected=f"at least {self.n_docs} passages"
            )
        if self.rescore is not None and self.rescore < self.kept:
            which = "--retrieve" if self.retrieve else "--n_docs"
            raise InputError(
                f"--rescore is less than {which}", value=self.rescore, expected=f"at least {self.kept} candidates"
            )

        self.generation.dtype(self.compute_dtype)

    def _check_source(self) -> None:
        """Checks that passages come from one place, and that no flag is of the other."""
        if bool(self.index) == bool(self.retrieved):
            raise InputError(
                "either --index or --retrieved", value="both" if self.index else "neither", expected="one of them"
            )
        if self.index and not self.questions:
            raise InputError("--questions is missing", expected="question files, which --index is searched for")
        of_index = {"--rescore": self.rescore, "--embeddings": self.embeddings, "--query_prefix": self.query_prefix}
        of_index |= {f"--{name}": value for name, value in dataclasses.asdict(self.search).items()}
        of_other = of_index if self.retrieved else {"--prior": self.prior}
        if given := [flag for flag, value in of_other.items() if value is not None]:
            belongs, has = ("--index", "--retrieved") if self.retrieved else ("--retrieved", "--index")
            raise InputError(f"{given[0]} belongs to {belongs}", value=has, remedy="leave one of the two out")
        if self.prior == "uniform" and self.generation.score_scale is not None:
            raise InputError(
                "--score_scale has no meaning with --prior uniform",
                value=self.generation.score_scale,
                remedy="leave one of the two out",
            )

    def prompted(self) -> AnswerOptions:
        """These options, with the text of the file that --prompt names.

        Raises:
            InputError: it cannot be read, or is no text.
        """
        if self.prompt is None:
            return self
        generation = dataclasses.replace(self.generation, template=read_prompt(self.prompt))
        return dataclasses.replace(self, generation=generation)

    @property
    def kept(self) -> int:
        """How many passages of a question are kept with its answer."""
        return self.retrieve or self.n_docs


def read_prompt(url: str) -> str:
    """The text of the file that --prompt names.

    Raises:
        InputError: it cannot be read, or is no text.
    """
    expected = f"a UTF-8 text of at most {MAX_PROMPT_BYTES:,} bytes"
    try:
        with store.open_read(url) as file:
            found = file.read(MAX_PROMPT_BYTES + 1)
        text = found.decode()
    except (OSError, UnicodeDecodeError) as error:
        raise InputError(f"--prompt cannot be read ({type(error).__name__})", value=url, expected=expected) from error
    if len(found) > MAX_PROMPT_BYTES or not text.strip():
        wrong = "is too long" if text.strip() else "is empty"
        raise InputError(f"--prompt {wrong}", value=url, expected=expected)
    return text


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
