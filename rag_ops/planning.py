"""Estimates, before a job runs, the disk, peak worker memory and time that each stage takes.

Sizes on disk follow from the formats. Memory is a process's own size with its libraries, plus models, plus what a stage
holds of a shard; the constants were measured on Linux with the versions of constraints.txt (`make bench`, benchmark
`plan`). Time follows from rates, which depend on the machine: they are read from the `run.json` of an earlier run, or
given, or left open.
"""

from __future__ import annotations

import dataclasses
import json
import os
import shutil
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from rag_ops import defaults
from rag_ops.errors import InputError
from rag_ops.generation.batch_memory import BART_LARGE, Decoder, batch_bytes
from rag_ops.generation.settings import GenerationSettings
from rag_ops.models import checkpoints
from rag_ops.retrieval import kinds
from rag_ops.retrieval.bm25_postings import SHARD_ROWS
from rag_ops.sizes import duration, size
from rag_ops.storage import store
from schemas.layout import BM25, OUTPUTS, SEARCH

PASSAGES_PER_ARTICLE = 3.6  # English Wikipedia: 21,015,324 passages (DPR's psgs_w100) of 5.9 million articles
PASSAGE_BYTES = 277  # a passage of 100 words on disk, compressed
VECTOR_PACKING = 0.925  # compressed vectors over plain ones; numbers of an encoder hardly compress
ROW_OVERHEAD_BYTES = 17  # the content hash beside each vector
SEARCH_STEPS = ("SearchShards", "SearchWords")  # whose time grows with the passages too
FIXED_STEP = "Train"  # whose time grows with nothing
WORD_SEARCH = f"{SEARCH.name} --bm25"  # by words alone: it has another rate and other needs than by vectors
ANSWER_BYTES = 370  # a passage in an answer's row, compressed, with its share of the other columns
HIT_BYTES = 300  # a row of hits, compressed

CHUNK_ROW_BYTES = 2700  # a passage while its shard is put together
CHUNK_ROUND, CHUNK_ROUND_ROW = 54e6, 1950  # what is buffered before it is spilled, at most and for a passage
EMBED_ROW_BYTES = 4000  # a passage while its shard is embedded: its text and tokens
CHUNK_PROCESS, INDEX_PROCESS, MODEL_PROCESS = 250e6, 262e6, 907e6  # a worker before its data: libraries and runner
WORDS_PROCESS = 785e6  # likewise, of search by words
TORCH = 600e6  # extra memory of index while it measures recall
# peak over file size: the checkpoint, its repacked copy, which in 16 bits is half, and what malloc keeps
EMBED_WEIGHTS, EMBED_WEIGHTS_16_BITS, ANSWER_WEIGHTS = 4.0, 2.0, 3.0
ANSWER_LEAST = 400e6  # instead of weights and batches, if those are less: what malloc keeps of texts and small batches
DECODING_WEIGHTS = 2.0  # the same once questions are decoded: their batches take what the checkpoint had
TOKEN_BYTES = 45  # activations in float32, for each token of a batch and each number of the feed-forward layer
INDEX_COPIES = 1.05  # peak over shard size while an index shard is filled
BM25_ROW_BYTES, BM25_WORDS = 285, 400e3  # of postings on disk, a passage of 100 words; and of the words themselves
BM25_COPIES = 1.1  # peak over shard size while it is filled
BM25_RUN_ROW, BM25_RUN = 625, 150e6  # a passage while its words are counted, and all that are counted at a time
EMBED_COPIES = 3.0  # peak over the size of a shard's vectors while it is embedded and written


MIN_RATE, MAX_RATE = 1e-9, 1e9  # rows a second
MAX_MEASURED = 1e12  # seconds, bytes
MAX_FEED_FORWARD = 1 << 20  # numbers of a feed-forward layer


@dataclasses.dataclass(frozen=True)
class Model:
    """The size of an encoder or a RAG model.

    Attributes:
        weight_bytes: bytes of its weights in float32.
        feed_forward: numbers of its feed-forward layer.
        decoder: sizes of a RAG model's decoder; None for an encoder, or if they are not known.
    """

    weight_bytes: int
    feed_forward: int
    decoder: Decoder | None = None

    @classmethod
    def of(cls, name: str) -> Model:
        """Returns the sizes of a model, read from its files.

        Raises:
            InputError: its configuration gives none.
        """
        directory = checkpoints.weights_directory(checkpoints.find_model(name))
        config = checkpoints.read_config(directory)
        part = config.get("generator", config)
        keys = ("intermediate_size", "encoder_ffn_dim", "d_ff")
        given = any(map(part.get, keys))
        feed_forward = checkpoints.number_in(part, keys, MAX_FEED_FORWARD, directory) if given else 3072
        files = [*Path(directory).glob("*.safetensors"), *Path(directory, checkpoints.GENERATOR).glob("*.safetensors")]
        weights = sum(os.path.getsize(path) for path in files) or sum(
            os.path.getsize(path) for path in Path(directory).glob("*.bin")
        )
        return cls(weights, feed_forward, _decoder_of(part, directory) if "generator" in config else None)


def _decoder_of(config: Mapping[str, Any], directory: str) -> Decoder:
    """The sizes of a generator's decoder, by its configuration; those of BART-large for what that leaves out.

    Raises:
        InputError: the configuration gives a size that is none.
    """
    text = config.get("text_config")
    config = text if isinstance(text, dict) else config

    def size_of(usual: int, *keys: str) -> int:
        given = any(map(config.get, keys))
        return checkpoints.number_in(config, keys, MAX_FEED_FORWARD, directory) if given else usual

    layers = size_of(12, "decoder_layers", "num_decoder_layers", "num_hidden_layers", "num_layers", "n_layer")
    width = size_of(1024, "d_model", "hidden_size", "n_embd")
    heads = size_of(16, "decoder_attention_heads", "num_attention_heads", "num_heads", "n_head")
    of_keys, head = size_of(heads, "num_key_value_heads"), size_of(max(1, width // heads), "head_dim", "d_kv")
    has_encoder, is_bart = bool(config.get("is_encoder_decoder")), config.get("model_type") == "bart"
    vocabulary = size_of(50_265, "vocab_size")
    states = width if has_encoder else 0
    return Decoder(2 * layers * of_keys * head, states, vocabulary, layers, is_bart)


BERT_BASE = Model(438_000_000, 3072)
RAG_TOKEN = Model(2_060_000_000, 4096, BART_LARGE)  # rag-token-nq: BERT-base and BART-large


@dataclasses.dataclass(frozen=True)
class Job:
    """The job to plan for.

    Attributes:
        passages: number of passages.
        dimension: numbers of a vector.
        dtype: of the vectors on disk.
        spec: spec of an index, or "auto".
        passage_shards, index_shards: files of embeddings and of the index; None for the stages' own choice.
        shard_bytes: memory for an index shard.
        target_recall: recall that --spec auto aims at.
        normalize: whether vectors have length 1.
        questions: number of questions; 0 for none.
        n_docs: passages for a question.
        encoder, model: sizes of the encoder and of the RAG model.
        compute_dtype: of the encoder's arithmetic, on a CPU.
        embed_batch_tokens: tokens of a batch on a CPU.
        threads: batches that a worker of embed computes at once.
        workers: processes of each stage.
        generation: settings of decoding, of which some decide how much memory it takes.
        search_docs: passages that search gives a question.
    """

    passages: int
    dimension: int = 768
    dtype: str = "float16"
    spec: str = kinds.AUTO
    passage_shards: int | None = None
    index_shards: int | None = None
    shard_bytes: int = kinds.SHARD_BYTES
    target_recall: float = defaults.TARGET_RECALL
    normalize: bool = False
    questions: int = 0
    n_docs: int = 5
    encoder: Model = BERT_BASE
    model: Model = RAG_TOKEN
    compute_dtype: str = defaults.COMPUTE_DTYPES["cpu"]
    embed_batch_tokens: int = defaults.ENCODER_BATCH_TOKENS["cpu"]
    threads: int = defaults.THREADS
    workers: int = 1
    generation: GenerationSettings = dataclasses.field(default_factory=GenerationSettings)
    search_docs: int = defaults.SEARCH_DOCS


@dataclasses.dataclass(frozen=True)
class StagePlan:
    """One stage's needs: rows, bytes on disk, peak bytes of a worker's memory, seconds (None without a rate)."""

    stage: str
    rows: int
    disk_bytes: float
    memory_bytes: float
    seconds: float | None


@dataclasses.dataclass(frozen=True)
class Plan:
    """All stages, the index that was chosen, and what stands beside the stages: words, and search by either index."""

    stages: tuple[StagePlan, ...]
    spec: str
    reason: str
    index_shards: int
    bm25: StagePlan
    search: StagePlan
    word_search: StagePlan

    def stage(self, name: str) -> StagePlan:
        """The plan of one stage, by name."""
        return next(stage for stage in (*self.stages, *self._beside) if stage.stage == name)

    @property
    def _beside(self) -> tuple[StagePlan, ...]:
        return self.bm25, self.search, self.word_search

    def lines(self) -> list[str]:
        """The plan as a table for the terminal."""
        rows = [("stage", "rows", "disk", "memory of a worker", "time")]
        for s in self.stages:
            rows.append((s.stage, f"{s.rows:,}", size(s.disk_bytes), size(s.memory_bytes), duration(s.seconds)))
        disk = sum(stage.disk_bytes for stage in self.stages)
        memory = max(stage.memory_bytes for stage in self.stages)
        known = all(stage.seconds is not None for stage in self.stages)
        seconds = sum(stage.seconds or 0 for stage in self.stages) if known else None
        rows.append(("all", "", size(disk), size(memory), duration(seconds)))
        widths = [max(len(row[column]) for row in rows) for column in range(5)]
        table = ["  ".join(cell.rjust(width) for cell, width in zip(row, widths, strict=True)) for row in rows]
        commands = (f"{BM25.command}, if you want one", f"{SEARCH.name} --index, if you want it", WORD_SEARCH)
        beside = [
            f"{command}: disk {size(one.disk_bytes)}, memory of a worker {size(one.memory_bytes)}, "
            f"time {duration(one.seconds)}"
            for command, one in zip(commands, self._beside, strict=True)
        ]
        return [*table, f"index: {self.reason}; {self.index_shards} shards", *beside]


@dataclasses.dataclass(frozen=True)
class Rate:
    """How fast a stage is, and how large its rows are.

    Attributes:
        rows_per_sec: of one worker at work: passages of chunk and embed, vectors of index, questions of answer and
            search.
        start_secs: seconds of the stage's start and end, whatever its rows.
        row_bytes: bytes of a row on disk, of search of one passage for a question; None if not measured.
        search_secs: seconds of one worker to search one vector for one question; of answer and search alone. What a
            search takes for each list counts as vectors: see `IndexKind.searched`.

    Raises:
        ValueError: a number is no rate, size or time.
    """

    rows_per_sec: float
    start_secs: float = 0.0
    row_bytes: float | None = None
    search_secs: float = 0.0

    def __post_init__(self) -> None:
        others = self.start_secs, self.row_bytes or 0.0, self.search_secs
        if not MIN_RATE <= self.rows_per_sec <= MAX_RATE or not all(0 <= one <= MAX_MEASURED for one in others):
            raise ValueError("no rate")

    def seconds(self, rows: int, vectors: int, workers: int) -> float:
        """Seconds for so many rows, and for the search of so many vectors."""
        return self.start_secs + rows * (1 / self.rows_per_sec + self.search_secs * vectors) / workers


def plan(job: Job, rates: Mapping[str, Rate] | None = None) -> Plan:
    """Returns what each stage takes.

    Args:
        job: the job to plan for.
        rates: the rate of each stage that is known.

    Raises:
        InputError: the spec does not go with the vectors, or no index fits the memory.
    """
    rates, width = rates or {}, kinds.NUMBER_BYTES[job.dtype]
    files = job.passage_shards or max(1, job.passages // 50_000)
    design = kinds.design(
        job.spec,
        job.passages,
        job.dimension,
        job.dtype,
        normalize=job.normalize,
        files=files,
        num_shards=job.index_shards,
        shard_bytes=job.shard_bytes,
        recall=job.target_recall,
    )
    kind, shards = design.kind, design.num_shards
    reason = f"{kind.spec}, as told" if design.reason == kinds.TOLD else design.reason
    per_vector, fixed = kind.bytes_per_vector, kind.fixed_bytes
    index_shard = job.passages / shards * per_vector + fixed
    vector_shard = job.passages / files * job.dimension * 4
    index_memory = INDEX_PROCESS + INDEX_COPIES * index_shard
    if not kind.exact:
        index_memory = max(index_memory, INDEX_PROCESS + TORCH + index_shard + vector_shard * width / 4)
    needs = {
        "chunk": (job.passages, job.passages * PASSAGE_BYTES, chunk_memory_bytes(job.passages, files)),
        "embed": (
            job.passages,
            job.passages * (job.dimension * width * VECTOR_PACKING + ROW_OVERHEAD_BYTES),
            embed_memory_bytes(job) + EMBED_COPIES * vector_shard * width / 4 + EMBED_ROW_BYTES * job.passages / files,
        ),
        "index": (
            job.passages,
            job.passages * per_vector + shards * fixed + fixed * kind.training,
            index_memory,
        ),
        "answer": (
            job.questions,
            job.questions * job.n_docs * ANSWER_BYTES,
            answer_memory_bytes(job.model, index_shard + kind.search_bytes(job.questions), job.generation, job.n_docs),
        ),
    }
    stages = []
    searched = kind.searched(job.passages, shards)
    for stage, (rows, disk, memory) in needs.items():
        rate = rates.get(stage)
        seconds = rate.seconds(rows, searched, job.workers) if rate else None
        disk = rows * rate.row_bytes if rate and rate.row_bytes else disk
        stages.append(StagePlan(stage, rows, disk, memory, 0.0 if not rows else seconds))
    words = plan_bm25(job.passages, None, rates.get(BM25.name), job.workers)
    dense = search_memory_bytes([job.encoder.weight_bytes], index_shard + kind.search_bytes(job.questions))
    by_words = search_memory_bytes([], BM25_ROW_BYTES * min(job.passages, SHARD_ROWS))
    search, word_search = (
        _plan_search(name, job, vectors, memory, rates.get(name))
        for name, vectors, memory in ((SEARCH.name, searched, dense), (WORD_SEARCH, job.passages, by_words))
    )
    return Plan(tuple(stages), kind.spec, reason, shards, words, search, word_search)


def _plan_search(name: str, job: Job, vectors: int, memory_bytes: float, rate: Rate | None) -> StagePlan:
    hits = job.questions * min(job.search_docs, job.passages)
    disk = hits * ((rate.row_bytes if rate else None) or HIT_BYTES)
    seconds = rate.seconds(job.questions, vectors, job.workers) if rate else None
    return StagePlan(name, job.questions, disk, memory_bytes, 0.0 if not job.questions else seconds)


def chunk_memory_bytes(passages: float, shards: int) -> float:
    """Peak memory of a worker that reads and writes so many passages in so many shards, in bytes."""
    return CHUNK_PROCESS + max(min(CHUNK_ROUND, CHUNK_ROUND_ROW * passages), CHUNK_ROW_BYTES * passages / shards)


def search_memory_bytes(weights: Sequence[int], shard_bytes: float) -> float:
    """Peak memory of a search worker, in bytes.

    Args:
        weights: bytes of each model that it loads; none to search by words alone.
        shard_bytes: bytes of the largest index shard, with its search.
    """
    process = MODEL_PROCESS + EMBED_WEIGHTS * sum(weights) if weights else WORDS_PROCESS
    return process + shard_bytes


def plan_bm25(passages: int, num_shards: int | None = None, rate: Rate | None = None, workers: int = 1) -> StagePlan:
    """Returns what an index of words takes: of passages of 100 words; its search reads the same files.

    Args:
        passages: number of passages.
        num_shards: number of index shards; None for the stage's own choice.
        rate: its rate, if that is known.
        workers: processes.
    """
    shards = num_shards or max(1, -(-passages // SHARD_ROWS))
    seconds = rate.seconds(passages, 0, workers) if rate else None
    measured, postings = rate.row_bytes if rate else None, passages * BM25_ROW_BYTES
    disk = passages * measured if measured else postings + min(BM25_WORDS * shards, postings)
    return StagePlan(BM25.name, passages, disk, bm25_memory_bytes(-(-passages // shards)), seconds)


def bm25_memory_bytes(rows: int) -> float:
    """Peak memory of a worker that writes a shard of an index of words, of so many passages, in bytes."""
    return INDEX_PROCESS + min(BM25_RUN, BM25_RUN_ROW * rows) + BM25_COPIES * BM25_ROW_BYTES * rows


def embed_memory_bytes(job: Job) -> float:
    """Peak memory of an embed worker on a CPU before its vectors, in bytes: weights, and activations of its batches."""
    wide = job.compute_dtype == "float32"
    tokens = job.encoder.feed_forward * job.embed_batch_tokens * job.threads
    weights = (EMBED_WEIGHTS if wide else EMBED_WEIGHTS_16_BITS) * job.encoder.weight_bytes
    return MODEL_PROCESS + weights + TOKEN_BYTES * tokens * (1 if wide else 0.5)


def answer_memory_bytes(
    model: Model,
    index_bytes: float,
    generation: GenerationSettings,
    n_docs: int,
    batch_tokens: int | None = None,
    compute_dtype: str = "float32",
) -> float:
    """Peak memory of an answer worker on a CPU, in bytes: as the model is loaded, or as it decodes a batch.

    Args:
        model: sizes of the RAG model.
        index_bytes: bytes of an index shard and its search.
        generation: settings of decoding.
        n_docs: passages of a question.
        batch_tokens: context tokens of a batch; None for those of a CPU.
        compute_dtype: of the generator's arithmetic.
    """
    loading = ANSWER_WEIGHTS * model.weight_bytes
    decoding = DECODING_WEIGHTS * model.weight_bytes
    if model.decoder is not None:
        number_bytes = 4 if compute_dtype == "float32" else 2
        decoding += batch_bytes(model.decoder, generation, n_docs, batch_tokens, number_bytes)
    return MODEL_PROCESS + max(loading, decoding, ANSWER_LEAST) + index_bytes


def measured_rates(workspace: str) -> dict[str, Rate]:
    """The rate of each stage, from the run.json files of an earlier run in a workspace directory.

    Raises:
        InputError: there is none, or one that says no rate.
    """
    reports = {}
    try:
        for stage in OUTPUTS.values():
            url = store.join(workspace, stage.folder, "run.json")
            if store.exists(url):
                report = json.loads(store.read_text(url))
                if report["shards"]["made"] == report["shards"]["total"]:
                    reports[stage.name] = report
        vectors = next((_searched(reports[name]) for name in ("index", BM25.name) if name in reports), 0)
        rates = {
            name: rate_of(report, vectors) for stage, report in reports.items() for name in _lines_of(stage, report)
        }
    except (ValueError, LookupError, TypeError, AttributeError, ArithmeticError, RecursionError) as error:
        raise InputError("a run.json there gives no rate", value=workspace, remedy="give --rate") from error
    if not rates:
        raise InputError(
            "no rates there", value=workspace, expected="a workspace of ragbeam run, with run.json in its stages"
        )
    return rates


def _searched(report: Mapping[str, Any]) -> int:
    """What the time of a search in an index grows with, by the run.json of the index."""
    rows, info = int(report["rows"]), report.get("info", {})
    if "dimension" not in info:  # an index of words
        return rows
    kind = kinds.kind_of(info["spec"])(info["spec"], info["dimension"])
    return kind.searched(rows, report["shards"]["total"])


def _lines_of(stage: str, report: Mapping[str, Any]) -> list[str]:
    """The lines of a plan that a run.json says something of: a search by both indexes of both, for want of better."""
    if stage != SEARCH.name:
        return [stage]
    searched = {SEARCH.name: "index_digest", WORD_SEARCH: "bm25_digest"}
    return [line for line, digest in searched.items() if digest in report["info"]]


def rate_of(report: Mapping[str, Any], vectors: int) -> Rate:
    """The rate that a run.json shows: by the time of its steps, where the runner counted it, else by all of it.

    Args:
        report: the run.json of a run that took over nothing from an earlier one.
        vectors: how many answer and search searched, as `IndexKind.searched` counts; 0 if that is not known.
    """
    steps = report["steps"].items()
    seconds = {step: counters.get("millis", 0) / 1000 for step, counters in steps if step != FIXED_STEP}
    searching = sum(seconds.pop(step, 0.0) for step in SEARCH_STEPS) if vectors else 0.0
    vector_counts = report.get("vectors", {})
    rows = vector_counts.get("computed", 0) + vector_counts.get("checked", 0) or report["rows"]
    row_bytes, rows_per_sec = report["bytes"] / max(report["rows"], 1), float(report["rows_per_sec"])
    if report.get("stage") == SEARCH.name:  # several rows for a question
        questions = report["info"]["questions"]
        rows_per_sec, rows = rows_per_sec * questions / max(rows, 1), questions
    if (at_work := sum(seconds.values())) <= 0 or not rows:
        return Rate(max(rows_per_sec, 1e-9), row_bytes=row_bytes)
    start = max(0.0, report["seconds"] - at_work - searching)
    return Rate(rows / at_work, start, row_bytes, searching / max(1, rows * vectors))


def parse_rates(given: Sequence[str]) -> dict[str, Rate]:
    """Parses rates given as STAGE=NUMBER.

    Raises:
        InputError: not STAGE=NUMBER.

    >>> parse_rates(["embed=100"])["embed"].rows_per_sec
    100.0
    """
    rates = {}
    for text in given:
        stage, _, number = text.partition("=")
        try:
            rates[stage] = Rate(float(number))
        except ValueError:
            stage = ""
        if stage not in OUTPUTS:
            raise InputError("--rate is no rate", value=text, expected=f"STAGE=ROWS_PER_SEC, of {', '.join(OUTPUTS)}")
    return rates | ({WORD_SEARCH: rates[SEARCH.name]} if SEARCH.name in rates else {})


def check_fits(stage: StagePlan, output: str, remedy: str | None = None) -> None:
    """Raises if this machine lacks the memory or the disk space for a stage.

    Args:
        stage: what the stage takes.
        output: directory that it writes to.
        remedy: what takes less memory, if that is not the index.

    Raises:
        InputError: the stage does not fit; the line has the plan's figures.
    """
    memory = available_memory_bytes()
    if memory is not None and stage.memory_bytes > memory:
        raise InputError(
            f"{stage.stage} does not fit this machine's memory",
            value=size(stage.memory_bytes),
            expected=f"at most {size(memory)}",
            remedy=remedy or "less --shard_memory, more --num_shards, or a smaller --spec; see ragbeam plan",
        )
    if store.is_local(output):
        place = Path(store.filesystem(output)[1]).absolute()
        free = shutil.disk_usage(next(parent for parent in (place, *place.parents) if parent.exists())).free
        if stage.disk_bytes > free:
            raise InputError(
                f"{stage.stage} does not fit the disk",
                value=size(stage.disk_bytes),
                expected=f"at most {size(free)}, which are free at {output}",
                remedy="another --output, or a smaller --spec; see ragbeam plan",
            )


def available_memory_bytes() -> int | None:
    """Memory that a new process may take, by the system's and the container's limits; None if unknown."""
    found = []
    try:
        lines = Path("/proc/meminfo").read_text().splitlines()
        found += [int(line.split()[1]) * 1024 for line in lines if line.startswith("MemAvailable:")]
        limit = Path("/sys/fs/cgroup/memory.max").read_text().strip()
        if limit.isdigit():
            found.append(int(limit) - int(Path("/sys/fs/cgroup/memory.current").read_text()))
    except (OSError, ValueError):
        pass
    return min(found) if found else None
