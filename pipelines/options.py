"""What each job is told, as dataclasses that check themselves when they are made, and the flags that fill them."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence

from pipelines.resources import Resources
from rag_ops import defaults
from rag_ops.checks import check_choice, check_count
from rag_ops.errors import InputError
from rag_ops.generation_settings import GenerationSettings
from rag_ops.inputs import InputOptions
from rag_ops.questions import QuestionOptions
from rag_ops.splitting import check_lengths

GENERATION_FIELDS = tuple(GenerationSettings.__dataclass_fields__)


@dataclasses.dataclass(frozen=True)
class ChunkOptions:
    """chunk: `inputs` to passages in `output`."""

    inputs: Sequence[str]
    output: str
    reading: InputOptions = dataclasses.field(default_factory=InputOptions)
    passage_words: int = 100
    passage_overlap: int = 0
    num_shards: int | None = None
    overwrite: bool = False
    verify: bool = False

    def __post_init__(self) -> None:
        check_lengths(self.passage_words, self.passage_overlap)
        check_count("--num_shards", self.num_shards)


@dataclasses.dataclass(frozen=True)
class EmbedOptions:
    """embed: `passages` to vectors of the context encoder in `output`."""

    passages: str
    encoder: str
    output: str
    dtype: str = "float16"
    device: str = "auto"
    threads: int = defaults.THREADS
    batch_tokens: int | None = None
    max_tokens: int | None = None
    accelerator: str | None = None
    worker_memory: str | None = None
    overwrite: bool = False
    previous: str | None = None
    verify: bool = False

    def __post_init__(self) -> None:
        check_choice("--dtype", self.dtype, ("float16", "float32"))
        check_choice("--device", self.device, ("auto", "cpu", "cuda"))
        check_count("--threads", self.threads)
        check_count("--batch_tokens", self.batch_tokens)
        check_count("--max_tokens", self.max_tokens)
        _ = self.resources

    @property
    def resources(self) -> Resources:
        """What the workers must have."""
        return Resources.of(self.accelerator, self.worker_memory, self.device)


@dataclasses.dataclass(frozen=True)
class IndexOptions:
    """index: `embeddings` to a FAISS index in `output`."""

    embeddings: str
    output: str
    spec: str = "auto"
    num_shards: int | None = None
    shard_memory: str = defaults.SHARD_MEMORY
    target_recall: float | None = None
    queries: str | None = None
    recall_queries: int = 512
    threads: int = defaults.THREADS
    overwrite: bool = False
    trained_from: str | None = None
    verify: bool = False

    def __post_init__(self) -> None:
        check_count("--num_shards", self.num_shards)
        check_count("--threads", self.threads)
        if self.target_recall is not None and not 0 < self.target_recall <= 1:
            raise InputError("--target_recall is out of range", value=self.target_recall, expected="over 0, to 1")
        if self.recall_queries < 0:
            raise InputError("--recall_queries is negative", value=self.recall_queries, expected="0 or more")


PRESETS = {  # of answer's flags; a flag that is given overrules them
    "paper": {"n_docs": 15, "num_beams": 1},  # Lewis et al. 2020, appendix A: 15 documents, greedy decoding
    # RagConfig's and its evaluation script's settings; a length of 50 counts the start token
    "hf": {"n_docs": 5, "num_beams": 4, "min_length": 1, "max_new_tokens": 49},
}


@dataclasses.dataclass(frozen=True)
class AnswerOptions:
    """answer: `questions` to answers in `output`, by `index` and `model`."""

    questions: Sequence[str]
    index: str
    model: str
    output: str
    reading: QuestionOptions = dataclasses.field(default_factory=QuestionOptions)
    n_docs: int = 5
    retrieve: int | None = None
    num_beams: int = 1
    min_length: int = 1
    max_new_tokens: int = 50
    length_penalty: float = 1.0
    no_repeat_ngram_size: int = 0
    early_stopping: bool = False
    n_best: int = 1
    forbidden_words: Sequence[str] = ()
    forced_tokens: str = "model"
    truncation: str = "question"
    rescore: int | None = None
    score_scale: float | None = None
    spelling: str = "auto"
    extractive: bool = False
    compute_dtype: str = "auto"
    max_combined_length: int | None = None
    block_questions: int = 256
    num_shards: int | None = None
    nprobe: int | None = None
    ef_search: int | None = None
    device: str = "auto"
    threads: int = defaults.THREADS
    batch_tokens: int | None = None
    accelerator: str | None = None
    worker_memory: str | None = None
    overwrite: bool = False
    keep_going: bool = False
    verify: bool = False

    def __post_init__(self) -> None:
        _ = self.resources
        for flag in ("n_docs", "block_questions", "threads"):
            check_count("--" + flag, getattr(self, flag))
        for flag in ("num_shards", "nprobe", "ef_search", "rescore", "retrieve", "batch_tokens"):
            check_count("--" + flag, getattr(self, flag))
        check_choice("--device", self.device, ("auto", "cpu", "cuda"))
        check_choice("--compute_dtype", self.compute_dtype, ("auto", "float32", "bfloat16", "float16"))
        _ = self.generation
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
    def generation(self) -> GenerationSettings:
        """How answers are decoded."""
        return GenerationSettings(**{field: getattr(self, field) for field in GENERATION_FIELDS})

    @property
    def kept(self) -> int:
        """How many passages of a question are kept with its answer."""
        return self.retrieve or self.n_docs

    @property
    def resources(self) -> Resources:
        """What the workers must have."""
        return Resources.of(self.accelerator, self.worker_memory, self.device)


@dataclasses.dataclass(frozen=True)
class EvaluateOptions:
    """evaluate: `answers` directories to figures and report, `output` with .json and .html."""

    answers: Sequence[str]
    output: str
    gold: Sequence[str] | None = None
    reading: QuestionOptions = dataclasses.field(default_factory=QuestionOptions)
    regex_answers: bool = False
    sweep: Sequence[int] | None = None
    model: str | None = None
    report_rows: int = 1000
    device: str = "auto"
    threads: int = defaults.THREADS
    batch_tokens: int | None = None

    def __post_init__(self) -> None:
        for n in self.sweep or ():
            check_count("--sweep", n)
        check_count("--threads", self.threads)
        check_count("--batch_tokens", self.batch_tokens)
        check_choice("--device", self.device, ("auto", "cpu", "cuda"))
        if bool(self.sweep) != bool(self.model):
            raise InputError("--sweep and --model go together", expected="both or neither")
        if self.report_rows < 0:
            raise InputError("--report_rows is negative", value=self.report_rows, expected="0 or more")
        if not self.output.endswith((".json", ".html")):
            raise InputError("--output has another suffix", value=self.output, expected="NAME.json or NAME.html")
        if len(set(self.answers)) < len(self.answers):
            raise InputError("--answers names a directory twice", value=" ".join(self.answers))

    @property
    def outputs(self) -> tuple[str, str]:
        """Where the figures and the report go."""
        stem = self.output[: -len(".json")]  # as long as ".html"
        return stem + ".json", stem + ".html"
