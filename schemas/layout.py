"""The stages, each written here once: its name, its folder and shards, what its manifest says, what it reads."""

from __future__ import annotations

import dataclasses
import math
import re
import types
import typing
from collections.abc import Mapping
from typing import Any, TypedDict

UNIONS = (types.UnionType, typing.Union)
MAX_DIMENSION = 1 << 16
MAX_DOCS = 10_000  # passages of a question
MAX_VALUE_CHARS = 80  # of a wrong value in an error line
# What the manifest of each stage says under `info`: for readers, deciding nothing. What is unknown is left out, unless
# the class is one of keys that are always there.


class Encoded(TypedDict):
    """Always there: what made the vectors, and what they are; the same in the manifests of embed and index."""

    encoder: str  # as --encoder named it
    encoder_digest: str | None  # None if the vectors were imported
    pooling: str
    normalize: bool  # whether vectors have length 1
    dtype: str  # "float16" or "float32"
    dimension: int  # numbers of a vector
    passages_digest: str  # of the manifest of the passages


class Changed(Encoded, total=False):
    """What was asked of the encoder beside what its files say; not said where nothing was."""

    passage_prefix: str  # what --passage_prefix put before each passage in place of the encoder's own prompt
    encoder_dimension: int  # numbers of the encoder's vectors, if those here are the first of them


class ChunkInfo(TypedDict, total=False):
    """Of chunk."""

    articles: int
    language: str  # code of the language of all articles, if it is said
    kinds: dict[str, int]  # passages by kind
    dropped: dict[str, int]  # pages that are no articles, by reason
    dropped_titles: dict[str, list[str]]  # the first of those that would have been, by reason
    dropped_templates: dict[str, int]  # calls in articles, by template: the 50 that are dropped most often


class Fidelity(TypedDict):
    """How near embeddings of a narrow dtype come to float32's, on a sample of the passages."""

    cosine: float  # of the two vectors of a passage, on average
    recall_at_20: float  # of the 20 nearest passages by float32's vectors
    queries: int  # passages whose neighbours were looked for
    among: int  # passages that they were looked for in


class EmbedInfo(Changed, total=False):
    """Of embed."""

    prompt: str  # that stands before each passage
    lower_case: bool
    contexts: str  # "title_section" if sections stand behind titles; titles alone if it is not said
    compute_dtype: str  # of the encoder's arithmetic; float32 if it is not said
    engine: str  # "onednn" on CPUs, "cuda" on GPUs; not said if only the workers know
    quantised: str  # file of the int8 model
    quantised_sha256: str
    fidelity: dict[str, float]  # see Fidelity; of bfloat16 and int8 on CPUs
    execution: dict[str, Any]  # device, threads, batch_tokens


class Searched(Encoded):
    """Always there: what else the search of an index needs."""

    spec: str  # FAISS factory string
    embeddings_digest: str


class IndexInfo(Searched, total=False):
    """Of index."""

    contexts: str  # as of embed; and so the next three
    prompt: str
    passage_prefix: str
    encoder_dimension: int
    augmented: bool  # whether vectors have one more number, for a graph
    stored_as: str
    reason: str  # for the spec, in one line
    trained: str | None  # file of the trained, empty index
    trained_sha256: str
    measured_for: dict[str, Any]  # what recall was measured for
    recall: dict[str, float]  # by k
    recall_queries: int
    search: dict[str, int]  # nprobe or ef_search that reaches the target


class Bm25Info(TypedDict):
    """Of an index of words; always there."""

    language: str  # code that stemmer and stop words are by
    k1: float
    b: float
    words: int  # of all passages, without stop words
    statistics: str  # file that says in how many passages each term is
    statistics_sha256: str
    passages_digest: str  # of the manifest of the passages
    sources: list[str]  # SHA-256 of each passage shard, in order
    source_rows: list[int]  # passages of each


class Counted(TypedDict):
    """Always there: how answering went."""

    errors: dict[str, int]  # rows by reason


class AnswerInfo(Counted, total=False):
    """Of answer."""

    model: str  # as --model named it
    model_digest: str
    index_digest: str  # of the index, or of the files of --retrieved
    retrieved_as: str  # "run", "parquet" or "json": what these are
    prior: str  # what the weights of their passages are made from: "scores", "scaled" or "uniform"
    questions: int  # rows of the question files
    distinct_questions: int
    unreadable_questions: int
    truncated: int  # rows whose question or a passage was cut to fit a model
    abstained: int  # rows whose answer is held back (--max_error)
    unreadable_gold_answers: int
    first_unreadable_gold_answers: str | None
    execution: dict[str, Any]


class SearchInfo(Counted, total=False):
    """Of search."""

    encoder: str  # as --question_encoder or --model named it
    encoder_digest: str
    scores: str  # "dense" if they are inner products of that encoder's vectors and the passages'
    index_digest: str  # of an index of vectors
    bm25_digest: str  # of an index of words
    passages_digest: str
    filter: str  # as --filter has it
    reranker: str  # as --rerank named it
    reranker_digest: str
    questions: int  # rows of the question files
    distinct_questions: int
    unreadable_questions: int
    truncated: int  # rows whose question, or a passage of it, was cut to fit a model
    unreadable_gold_answers: int
    first_unreadable_gold_answers: str | None
    execution: dict[str, Any]


class Answered(TypedDict):
    """What readers of answers need of the settings that made them."""

    n_docs: int
    reading: dict[str, Any]  # how the question files are read


class AnswerConfig(Answered, total=False):
    """Of answer, under `config`; it has more."""

    retrieve: int | None
    prior: str  # as in the info


@dataclasses.dataclass(frozen=True)
class Stage:
    """One stage on disk.

    Attributes:
        name: name of its command and of its folder in `pipelines/`; also in its manifest.
        folder: its directory in a workspace, and what the names of its shards begin with.
        suffix: suffix of its shards.
        unit: what a row of it is, plural.
        info: what its manifest says under `info`.
        reads: folders of the stages that `inputs` of its manifest names.
        otherwise: what `inputs` may name in their place, if anything.
        source: the stage that it is made from, if any; `info` has the digest of its manifest as "<folder>_digest".
        aligned: what `verify` compares with the source: "shards" (the same content hashes, shard by shard), "rows"
            (the number of rows), or None.
        config: what its manifest says under `config`, as far as readers need it.
        kind: the --kind of `ragbeam index` that makes it, if it is no step from articles to answers.
    """

    name: str
    folder: str
    suffix: str
    unit: str
    info: type
    reads: tuple[str, ...] = ()
    source: Stage | None = None
    aligned: str | None = None
    config: type | None = None
    otherwise: str | None = None
    kind: str | None = None

    @property
    def command(self) -> str:
        """What to type after "ragbeam" to run it."""
        return f"index --kind {self.kind}" if self.kind else self.name

    def shard(self, number: int, count: int) -> str:
        """The file name of shard `number` of `count`.

        >>> CHUNK.shard(3, 64)
        'passages-00003-of-00064.parquet'
        """
        return f"{self.folder}-{number:05d}-of-{count:05d}.{self.suffix}"

    def wrong_info(self, info: Mapping[str, Any]) -> str | None:
        """What is wrong with the `info` of a manifest, as a clause; None if nothing is.

        >>> EMBED.wrong_info({"dimension": "768"})
        "its info.dimension is '768', which is no int"
        >>> CHUNK.wrong_info({"articles": 7, "someone_elses": 1}) is None
        True
        """
        if wrong := _wrong_values(self.info, info, "info"):
            return wrong
        if not 0 < info.get("dimension", 1) <= MAX_DIMENSION:
            return f"its info.dimension is {info['dimension']!r}, not 1 to {MAX_DIMENSION}"
        if not info.get("dimension", 1) <= info.get("encoder_dimension", MAX_DIMENSION) <= MAX_DIMENSION:
            return f"its info.encoder_dimension is {info['encoder_dimension']!r}, less than its dimension or too large"
        if info.get("dtype", "float16") not in ("float16", "float32"):
            return f"its info.dtype is {info['dtype']!r}, not float16 or float32"
        if info.get("quantised", QUANTISED) != QUANTISED:
            return f"its info.quantised is {info['quantised']!r}, not {QUANTISED}"
        if info.get("trained") not in (None, TRAINED):
            return f"its info.trained is {info['trained']!r}, not {TRAINED}"
        if info.get("statistics", STATISTICS) != STATISTICS:
            return f"its info.statistics is {info['statistics']!r}, not {STATISTICS}"
        if len(info.get("sources", ())) != len(info.get("source_rows", ())):
            return "its info.sources and info.source_rows are not as many"
        if self.info is Bm25Info and not (info["k1"] > 0 and 0 <= info["b"] <= 1 and info["words"] >= 0):
            return "its info.k1, info.b or info.words is out of range"
        if low := [name for name, value in info.get("search", {}).items() if value < 1]:
            return f"its info.search.{low[0]} is less than 1"
        return None

    def wrong_config(self, config: Mapping[str, Any]) -> str | None:
        """What is wrong with the `config` of a manifest, as a clause; None if nothing is."""
        if self.config is None:
            return None
        if wrong := _wrong_values(self.config, config, "config"):
            return wrong
        for name in ("n_docs", "retrieve"):
            if (value := config.get(name)) is not None and not 0 < value <= MAX_DOCS:
                return f"its config.{name} is {value!r}, not 1 to {MAX_DOCS}"
        return None


def _wrong_values(schema: type, values: Mapping[str, Any], where: str) -> str | None:
    """The first value that is not of the type that a TypedDict gives its key, or the first key that is missing."""
    for key, hint in typing.get_type_hints(schema).items():
        if key in values and not _is_of(values[key], hint):
            parts = typing.get_args(hint) if _is_union(hint) else (hint,)
            names = [getattr(typing.get_origin(part) or part, "__name__", "value") for part in parts]
            kinds = " or ".join(names).replace("NoneType", "null")
            return f"its {where}.{key} is {_short(values[key])}, which is no {kinds}"
    for key in sorted(schema.__required_keys__ - values.keys()):  # type: ignore[attr-defined]
        return f"its {where} has no {key}"
    return None


def _is_of(value: Any, hint: Any) -> bool:
    """Whether a JSON value is of a type: a class, a union of some, or a dict or list of what its arguments say."""
    if hint is Any:
        return True
    if _is_union(hint):
        return any(_is_of(value, part) for part in typing.get_args(hint))
    kind: Any = typing.get_origin(hint) or hint
    parts = typing.get_args(hint)
    kinds: Any = (float, int) if kind is float else kind
    if isinstance(value, bool) or not isinstance(value, kinds):
        return kind is bool and isinstance(value, bool)
    if kind is float and not math.isfinite(value):
        return False
    inside: Any = value.values() if kind is dict else value if kind is list else ()
    return all(_is_of(each, parts[-1]) for each in inside) if parts else True


def _is_union(hint: Any) -> bool:
    return hint is not Any and not isinstance(hint, type) and typing.get_origin(hint) not in (dict, list)


def _short(value: Any) -> str:
    text = repr(value)
    return text if len(text) <= MAX_VALUE_CHARS else text[:MAX_VALUE_CHARS] + "..."


CHUNK = Stage("chunk", "passages", "parquet", "passages", ChunkInfo)
EMBED = Stage("embed", "embeddings", "parquet", "passages", EmbedInfo, ("passages",), CHUNK, "shards")
INDEX = Stage("index", "index", "faiss", "vectors", IndexInfo, ("embeddings", "passages"), EMBED, "rows")
ANSWER = Stage(
    *("answer", "answers", "parquet", "questions", AnswerInfo, ("index",), INDEX),
    config=AnswerConfig,
    otherwise="retrieved_0",
)
BM25 = Stage("bm25", "bm25", "safetensors", "passages", Bm25Info, ("passages",), CHUNK, "rows", kind="bm25")
STAGES = {stage.name: stage for stage in (CHUNK, EMBED, INDEX, ANSWER)}  # in the order in which they run
SEARCH = Stage("search", "hits", "parquet", "rows", SearchInfo, ("passages",), CHUNK)
OUTPUTS = {**STAGES, BM25.name: BM25, SEARCH.name: SEARCH}  # all that may stand in a manifest
CHANGED = ("passage_prefix", "encoder_dimension")  # the keys of `Changed` that index takes over
TRAINED = "trained.faiss"  # of an index: trained and empty; no shard, but kept with a record
QUANTISED = "quantised.safetensors"  # of embeddings: the encoder's int8 matrices; likewise
STATISTICS = "statistics.safetensors"  # of an index of words: in how many passages each term is; likewise

_ANY_SHARD = "|".join(rf"{stage.folder}-\d{{5,}}-of-\d{{5,}}\.{stage.suffix}" for stage in OUTPUTS.values())
_WRITTEN = re.compile("|".join([_ANY_SHARD, *map(re.escape, (TRAINED, QUANTISED, STATISTICS))]))


def is_written_name(name: str) -> bool:
    """Whether a stage may have written a file of this name.

    >>> is_written_name("index-00000-of-00008.faiss"), is_written_name("notes.parquet")
    (True, False)
    """
    return _WRITTEN.fullmatch(name) is not None
