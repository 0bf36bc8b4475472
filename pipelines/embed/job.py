"""embed: passages in, vectors of the context encoder out; embedding shard j holds the rows of passage shard j."""

from __future__ import annotations

import dataclasses
import logging
import time
from collections.abc import Iterator, Mapping, Sequence
from functools import partial
from typing import Any

import apache_beam as beam
import numpy as np
import pyarrow as pa
from apache_beam.ml.inference.base import RunInference

from pipelines.embed import precision
from pipelines.embed.options import EmbedOptions
from pipelines.embed.precision import Precision
from pipelines.runners import launch
from pipelines.runners.counters import StepCounters, live_rows
from pipelines.transforms.inference import EncoderHandler, ModelSettings, TextUnit, VectorUnit
from pipelines.transforms.stage_job import (
    InputStates,
    StageJob,
    StageRun,
    begins_again,
    distribute,
    rows_done,
    stage_job,
)
from rag_ops.defaults import TITLE, TITLE_SECTION
from rag_ops.errors import InputError, JobError
from rag_ops.models import checkpoints
from rag_ops.models.sentence_encoders import UNCHANGED
from rag_ops.retrieval import previous_vectors
from rag_ops.retrieval.previous_vectors import Previous
from rag_ops.storage import store
from rag_ops.storage.manifests import check_unchanged, read_manifest
from rag_ops.storage.parquet import open_parquet, read_parquet, write_parquet
from rag_ops.storage.rows import hash_words
from rag_ops.storage.stages import StageOutput, config_differences, is_finished, write_shard
from rag_ops.storage.verify import check_digests
from schemas import embeddings
from schemas.layout import EMBED, QUANTISED
from schemas.manifest import Manifest
from schemas.passages import heading

logger = logging.getLogger("ragbeam")
VECTOR_ROWS = 1000  # rows of a row group
PROCESS_ROWS = 10_000  # passages for which a GPU's own process starts
FEW_CUT = 0.01  # share of the passages that the encoder may cut without a warning
# Rows of a shard whose vectors of --previous are computed again, to see that this machine gives the same.
CHECKED_ROWS = 8


@dataclasses.dataclass(frozen=True)
class EmbedTask:
    """A shard to embed: the passages' URL, their number; name and fingerprint of the vectors' file."""

    passages_url: str
    rows: int
    name: str
    fingerprint: str


@dataclasses.dataclass(frozen=True)
class Piece:
    """The part of a shard whose vectors are computed.

    Attributes:
        task: task of the shard.
        computed: rows whose vectors are computed, int64 ascending; None for all.
        locations: where --previous has the vectors of the shard's rows, int64 (rows,), -1 for nowhere.
    """

    task: EmbedTask
    computed: np.ndarray | None = None
    locations: np.ndarray | None = None


def run(options: EmbedOptions, beam_arguments: Sequence[str] = ()) -> StageRun:
    """Runs the job and returns what it wrote; shards whose passages and settings hold are reused.

    Raises:
        InputError: no passages, no encoder, or an output of another configuration.
        JobError: vectors in the dtype that was asked for are too far from float32's.
    """
    try:
        return _run(options, beam_arguments)
    except precision.TooCoarseError as error:
        if error.precision.settled:
            raise
        logger.warning("embed: --compute_dtype auto is float32 here: %s", error)
        return _run(dataclasses.replace(options, compute_dtype="float32"), beam_arguments)


@begins_again
def _run(options: EmbedOptions, beam_arguments: Sequence[str]) -> StageRun:
    started = time.monotonic()
    model = InputStates(checkpoints.local_files(options.encoder))
    known, config, arithmetic = _planned(options, beam_arguments)
    source = read_manifest(options.passages, "chunk")
    if options.contexts == TITLE_SECTION:
        _check_sections(options.passages, source)
    output = StageOutput(options.output, "embed", config, {"passages": source.digest})
    earlier = read_manifest(options.previous, "embed") if options.previous else None

    def check_inputs() -> None:
        check_unchanged(options.passages, source)
        model.check()

    with stage_job(output, beam_arguments, started, check_inputs) as job:
        if options.verify:
            check_digests(options.passages, source)
            if options.previous and earlier:
                check_digests(options.previous, earlier)
        if done := job.reuse(verify=options.verify):
            return done
        threads = job.threads(options.workers.threads)
        fidelity = precision.measure(options, source, arithmetic, threads, output)
        job.begin(options)
        precision.keep_measured(output, fidelity)
        _write_quantised(output, arithmetic)
        tasks = [
            EmbedTask(
                store.join(options.passages, shard.path),
                shard.rows,
                EMBED.shard(number, len(source.shards)),
                output.shard_fingerprint(shard.sha256),
            )
            for number, shard in enumerate(source.shards)
        ]
        wanted = job.todo({task.name: task.fingerprint for task in tasks})
        todo = [task for task in tasks if task.name in wanted]
        previous = _prepare(options, output, earlier) if earlier and todo else None
        job.spread(partial(_processes, options, todo), [options.passages])
        workers = options.workers.with_threads(job.threads(options.workers.threads))
        options = dataclasses.replace(options, workers=workers)
        quantised = None if arithmetic.quantised is None else store.join(options.output, QUANTISED)
        settings = ModelSettings(
            options.encoder, workers, options.max_tokens, arithmetic.dtype, quantised, options.changes
        )
        metrics = _encode(options, settings, job, todo, previous) if todo else {}
        left = [task for task in todo if not is_finished(options.output, task.name, task.fingerprint)]
        if previous and left:
            logger.warning("embed: this machine gives other vectors than --previous has: %d shards anew", len(left))
            metrics = _added(metrics, _encode(options, settings, job, left, None))
        info = {**known, "passages_digest": source.digest, "execution": options.workers.execution}
        if fidelity is not None:
            info["fidelity"] = fidelity
        report = _report(options, metrics, started)
        keep = [] if quantised is None else [QUANTISED]
        return job.finish({"passages": options.passages}, info, metrics, keep=keep, report=report)


def _write_quantised(output: StageOutput, arithmetic: Precision) -> None:
    """Writes the int8 model, if there is one, beside the vectors."""
    if (data := arithmetic.quantised) is not None:
        fingerprint = output.shard_fingerprint(["quantised", arithmetic.digest])

        def write(file: Any) -> int:
            file.write(data)
            return 0

        write_shard(output.url, QUANTISED, fingerprint, write)


def _processes(options: EmbedOptions, todo: Sequence[EmbedTask]) -> int:
    """How many processes pay on this machine."""

    def memory_bytes() -> float:
        from rag_ops import planning

        return planning.MODEL_PROCESS + planning.EMBED_WEIGHTS * planning.Model.of(options.encoder).weight_bytes

    units = min(len(todo), sum(task.rows for task in todo) // PROCESS_ROWS)
    return options.workers.processes(units, None, memory_bytes)


def _report(options: EmbedOptions, metrics: Mapping[str, Mapping[str, float]], started: float) -> dict[str, Any]:
    """More entries for run.json; the rate, which `plan --measured` reads, counts computed vectors alone."""
    counts = vector_counts(metrics)
    report: dict[str, Any] = {"vectors": counts, "previous": options.previous}
    if counts["reused"]:
        report["rows_per_sec"] = round((counts["computed"] + counts["checked"]) / (time.monotonic() - started), 1)
    return report


def vector_counts(metrics: Mapping[str, Mapping[str, float]]) -> dict[str, int]:
    """How many vectors a run took from --previous, computed, and computed only to compare them (`checked`)."""
    steps = metrics.get("WriteEmbeddings", {})
    return {name: int(steps.get(name, 0)) for name in ("reused", "computed", "checked")}


def warnings(metrics: Mapping[str, Mapping[str, float]]) -> Iterator[str]:
    """A warning if the encoder's limit cut many of the passages that a run encoded."""
    encoded = metrics.get("Encode", {})
    rows, cut = int(encoded.get("rows_in", 0)), int(encoded.get("truncated", 0))
    if cut > FEW_CUT * rows:
        yield (
            f"{cut:,} of {rows:,} passages ({cut / rows:.1%}) are longer than the encoder's limit, and no question "
            "finds what was cut; give chunk fewer --passage_words"
        )


def check(options: EmbedOptions, beam_arguments: Sequence[str], known: Mapping[str, Any]) -> dict[str, Any]:
    """Raises what the job would before it reads passages; returns what is known of its manifest's `info`.

    Raises:
        InputError: as `run`.
    """
    return _planned(options, beam_arguments)[0]


def _planned(options: EmbedOptions, beam_arguments: Sequence[str]) -> tuple[dict[str, Any], dict[str, Any], Precision]:
    """What the manifest says of the encoder, the configuration and the arithmetic; checked as far as it can be.

    Of what the job reads, the passages may not be there yet.

    Raises:
        InputError: no encoder, a device or --previous that does not serve, or an output of another configuration.
    """
    launch.check(beam_arguments, [options.passages, options.output], [options.encoder], options.workers.resources)
    launch.check_device(beam_arguments, options.workers.device)
    directory = checkpoints.find_model(options.encoder)
    own, encoder = (checkpoints.encoder_config(directory, "context", one) for one in (UNCHANGED, options.changes))
    whole = checkpoints.dimension(directory)
    described = encoder.as_dict()
    config: dict[str, Any] = {
        "encoder_digest": checkpoints.model_digest(directory),
        "encoder": described,
        "max_tokens": options.max_tokens,
        "dtype": options.dtype,
    }
    if options.contexts != TITLE:  # likewise
        config["contexts"] = options.contexts
    arithmetic = precision.settle(options, beam_arguments, config)
    config |= arithmetic.config()
    if options.previous:
        _check_previous(options, config)
    StageOutput(options.output, "embed", config, {}).check(options.overwrite)
    info: dict[str, Any] = {
        "dimension": encoder.dimensions or whole,
        "encoder": options.encoder,
        "encoder_digest": config["encoder_digest"],
        "pooling": encoder.pooling,
        "normalize": encoder.normalize,
        **{name: described[name] for name in ("prompt", "lower_case") if name in described},
        "dtype": options.dtype,
        **arithmetic.info(),
        "contexts": options.contexts,
    }
    if encoder.dimensions != own.dimensions:
        info["encoder_dimension"] = whole
    if encoder.prompt != own.prompt:
        info["passage_prefix"] = encoder.prompt
    return info, config, arithmetic


def _check_sections(url: str, source: Manifest) -> None:
    """Checks that passages have sections, which those of earlier versions don't.

    Raises:
        InputError: they have none.
    """
    for shard in source.shards[:1]:
        with open_parquet(store.join(url, shard.path)) as parquet:
            if "section" not in parquet.schema_arrow.names:
                raise InputError(
                    "the passages have no sections, which --contexts title_section needs",
                    value=url,
                    expected="passages that this version of ragbeam chunk wrote",
                    remedy="run chunk again, or leave out --contexts",
                )


def _check_previous(options: EmbedOptions, config: Mapping[str, Any]) -> None:
    """Checks that --previous holds vectors that this job would make.

    Raises:
        InputError: there is none, or the encoder or a flag that decides the vectors differs.
    """
    assert options.previous is not None
    previous = read_manifest(options.previous, "embed")
    if differences := config_differences(previous.config, config):
        raise InputError(
            "the vectors of --previous are of another kind",
            value=options.previous,
            expected=differences,
            remedy="embed without --previous",
        )


def _prepare(options: EmbedOptions, output: StageOutput, earlier: Manifest) -> Previous:
    assert options.previous is not None
    incomplete = store.join(output.url, store.INCOMPLETE)
    url = previous_vectors.write_locations(options.previous, earlier, incomplete, f"previous-{earlier.digest[:16]}.npy")
    return Previous(options.previous, earlier, url)


def _encode(
    options: EmbedOptions, settings: ModelSettings, job: StageJob, todo: Sequence[EmbedTask], previous: Previous | None
) -> dict[str, dict[str, float]]:
    """Makes the shards of `todo`, without those whose sample of `previous` comes out otherwise here."""
    handler = PassageEncoder("Encode", settings, "context", ("title", "text"), options.dtype)

    @beam.ptransform_fn  # one composite for the hints: texts and vectors stay within a stage
    def make_shards(pipeline: Any) -> Any:
        return (
            pipeline
            | distribute("Shards", todo)
            | "ReadPassages" >> beam.FlatMap(read_passages, options.output, previous, options.contexts)
            | "Encode" >> RunInference(handler)
            | "WriteEmbeddings" >> beam.Map(write_embeddings, options.output, options.dtype, previous)
        )

    def build(pipeline: beam.Pipeline) -> None:
        _ = pipeline | "Embed" >> make_shards().with_resource_hints(**options.workers.resources.hints())

    written = rows_done(options.output, [task.name for task in todo])
    # Workers outside this process report no rows, but leave whole shards.
    rows = sum(task.rows for task in todo)
    return job.run(build, "passages", rows, lambda: live_rows("Encode") or written(), options.workers.resources)


def _added(
    first: Mapping[str, Mapping[str, float]], second: Mapping[str, Mapping[str, float]]
) -> dict[str, dict[str, float]]:
    """The counters of two pipelines of one run together; rates, which don't add up, are the second's."""
    steps = {step: dict(counters) for step, counters in first.items()}
    for step, counters in second.items():
        known = steps.setdefault(step, {})
        for name, value in counters.items():
            known[name] = value if name == "rows_per_sec" else known.get(name, 0) + value
    return steps


def read_passages(task: EmbedTask, output: str, previous: Previous | None, contexts: str) -> Iterator[TextUnit]:
    """Reads those passages of a shard that are to be encoded: all, or those that --previous does not have and a sample.

    A shard whose vectors the runner's earlier try has written is left out.
    """
    if is_finished(output, task.name, task.fingerprint):
        return
    counters = StepCounters("ReadPassages")
    with counters.timed():
        sections = ["section"] if contexts == TITLE_SECTION else []
        table = read_parquet(task.passages_url, ["title", "text", "content_hash", *sections], task.rows)
        if sections:
            titles = map(heading, table["title"].to_pylist(), table["section"].to_pylist())
            table = table.set_column(0, "title", pa.array(titles, pa.string()))
        piece = Piece(task)
        if previous is not None:
            locations = previous.find(hash_words(table["content_hash"]))
            piece = Piece(task, rows_to_compute(locations), locations)
            table = table.take(piece.computed)
    counters.add(rows_out=table.num_rows, bytes=table.nbytes)
    yield TextUnit(piece, table)


def rows_to_compute(locations: np.ndarray) -> np.ndarray:
    """Rows that have no location, and `CHECKED_ROWS` of those that have one, spread over the shard; ascending.

    >>> rows_to_compute(np.array([7, -1, 8, -1])).tolist()
    [0, 1, 2, 3]
    """
    known = np.flatnonzero(locations >= 0)
    sample = known[np.linspace(0, len(known) - 1, min(CHECKED_ROWS, len(known))).astype(np.int64)]
    return np.sort(np.concatenate([np.flatnonzero(locations < 0), sample]))


class PassageEncoder(EncoderHandler):
    """The encoder, whose errors name the passages' file and row."""

    def work(self, unit: TextUnit, model: Any, counters: StepCounters) -> VectorUnit:
        """Encodes one unit."""
        try:
            return super().work(unit, model, counters)
        except JobError as error:
            piece: Piece = unit.key
            if error.row is None:
                raise type(error)(f"{error}; in {piece.task.passages_url}") from error
            row = error.row if piece.computed is None else int(piece.computed[error.row])
            raise JobError(f"{error}; it is row {row} of {piece.task.passages_url}") from error


def write_embeddings(unit: VectorUnit, output: str, dtype: str, previous: Previous | None) -> None:
    """Writes a shard of vectors, computed or of --previous, beside the content hashes of their passages.

    Nothing is written if those computed again differ from what --previous has.
    """
    counters, task, checked = StepCounters("WriteEmbeddings"), unit.key.task, 0
    with counters.timed():
        hashes, vectors = unit.table["content_hash"], unit.vectors
        if previous is not None:
            rows, locations = unit.key.computed, unit.key.locations
            hashes = read_parquet(task.passages_url, ["content_hash"])["content_hash"]
            vectors = np.zeros((len(hashes), vectors.shape[1]), vectors.dtype)
            vectors[rows] = unit.vectors
            previous.read(locations, hash_words(hashes), vectors)
            if vectors[rows].tobytes() != unit.vectors.tobytes():
                counters.add(computed=len(rows))
                return
            checked = int((locations[rows] >= 0).sum())
        table = embeddings.table(hashes, vectors, dtype)
        record = write_shard(
            output,
            task.name,
            task.fingerprint,
            lambda file: write_parquet(file, iter([table]), table.schema, VECTOR_ROWS),
        )
    computed = len(unit.vectors) - checked
    counters.add(reused=record.rows - computed, computed=computed, checked=checked)
    counters.add(rows_in=len(unit.vectors), rows_out=record.rows, bytes=record.bytes)
