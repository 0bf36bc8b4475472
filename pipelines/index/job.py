"""index: vectors in, a FAISS index out: trained once, then filled shard by shard; vector i of the index is row i."""

from __future__ import annotations

import dataclasses
import shutil
import time
from collections.abc import Iterator, Mapping, Sequence
from functools import partial
from typing import Any

import apache_beam as beam
import numpy as np

from pipelines.index.options import IndexOptions
from pipelines.index.recall import Measurement
from pipelines.runners import launch, local_workers
from pipelines.runners.counters import StepCounters
from pipelines.transforms.stage_job import StageRun, begins_again, distribute, rows_done, stage_job
from rag_ops import defaults, heap
from rag_ops.compute.cores import cores
from rag_ops.errors import InputError
from rag_ops.retrieval import kinds
from rag_ops.retrieval.index_kind import IndexKind
from rag_ops.retrieval.kinds import IndexDesign
from rag_ops.sizes import parse_size
from rag_ops.storage import store
from rag_ops.storage.manifests import check_unchanged, find_manifest, read_manifest
from rag_ops.storage.rows import read_corpus_rows, vector_batches
from rag_ops.storage.stages import StageOutput, config_differences, finished_shards, is_finished, write_shard
from rag_ops.storage.verify import check_digests
from schemas.layout import CHANGED, INDEX, TRAINED
from schemas.manifest import Manifest

PROCESS_BYTES = 500e6  # vectors for which a process pays: a core adds them to an IVF index in some 10 s


@dataclasses.dataclass(frozen=True)
class IndexTask:
    """One index shard to fill.

    Attributes:
        embeddings: URL and rows of each embedding shard that it covers, in order.
        first_row: row of its first vector in the corpus.
        name, fingerprint: of its file.
    """

    embeddings: tuple[tuple[str, int], ...]
    first_row: int
    name: str
    fingerprint: str

    @property
    def rows(self) -> int:
        """The number of its vectors."""
        return sum(rows for _, rows in self.embeddings)


@begins_again
def run(options: IndexOptions, beam_arguments: Sequence[str] = ()) -> StageRun:
    """Runs the job and returns what it wrote; shards whose embeddings and settings hold are reused.

    Raises:
        InputError: no embeddings, a spec that does not go with them, or an output of another configuration.
        JobError: the index does not reach the target recall.
    """
    started = time.monotonic()
    source = read_manifest(options.embeddings, "embed")
    check(options, beam_arguments, source.info)
    if not source.rows:
        raise InputError(
            "there is nothing to find: no passages",
            value=options.embeddings,
            expected="at least one",
            remedy="ragbeam chunk says what it dropped",
        )
    design = design_of(options, source)
    kind = design.kind
    cuts = kinds.cut_shards([shard.rows for shard in source.shards], design.num_shards)
    config = {**kind.config(), "num_shards": design.num_shards}
    earlier = open_trained(options, kind) if options.trained_from else None
    if earlier:  # part of the fingerprint only if it decides
        config["trained_from"] = earlier[1]
    output = StageOutput(options.output, "index", config, {"embeddings": source.digest})
    measured_for = {
        "target_recall": options.target_recall,
        "queries": store.sha256_of(options.queries) if options.queries else None,
        "recall_queries": options.recall_queries,
    }
    with stage_job(output, beam_arguments, started, lambda: check_unchanged(options.embeddings, source)) as job:
        if options.verify:
            check_digests(options.embeddings, source)
        done = job.reuse(verify=options.verify)
        if done and done.manifest.info.get("measured_for") == measured_for:
            return done
        if launch.is_local(beam_arguments):
            _check_fits(options, design, source)
        before = find_manifest(options.output)
        job.begin(options)
        trained = output.shard_fingerprint(["trained", dict(output.input_digests) if not earlier else earlier[1]])
        tasks = _tasks(options, output, source, cuts, kind.training and not earlier)
        wanted = job.todo({task.name: task.fingerprint for task in tasks})
        todo = [task for task in tasks if task.name in wanted]
        threads = job.threads(options.threads)
        options, given = dataclasses.replace(options, threads=threads), options.threads
        job.spread(partial(_processes, design, todo, given), [options.embeddings])
        filling = dataclasses.replace(options, threads=job.threads(given))
        train = kind.training and not (job.holds(TRAINED, trained) or _trained_before(output, before, trained))
        trainer = beam.Map(write_trained, options, source, kind, trained, earlier[0] if earlier else None)

        def build(pipeline: beam.Pipeline) -> None:
            trained = pipeline | "Sample" >> beam.Create([TRAINED] if train else []) | "Train" >> trainer
            shards = pipeline | distribute("Shards", todo) | "WaitForTraining" >> beam.WaitOn(trained)
            _ = shards | "BuildShards" >> beam.Map(build_shard, filling, kind)

        written = rows_done(options.output, wanted)
        metrics = job.run(build, "vectors", sum(task.rows for task in todo), written) if todo or train else {}
        recall, measuring = _measure(options, source, kind, tasks, beam_arguments)
        info = {
            "dimension": kind.dimension,
            "spec": kind.spec,
            **kind.info(),
            "reason": design.reason,
            "trained": TRAINED if kind.training else None,
            **({"trained_sha256": _trained_digest(output)} if kind.training else {}),
            "passages_digest": source.info["passages_digest"],
            "embeddings_digest": source.digest,
            "measured_for": measured_for,
            **recall,
            **{key: source.info[key] for key in ("encoder", "encoder_digest", "pooling", "normalize", "dtype")},
            "contexts": source.info.get("contexts", defaults.TITLE),
            **{key: source.info[key] for key in ("prompt", *CHANGED) if key in source.info},
        }
        passages_url = store.resolve_url(source.inputs["passages"], options.embeddings)
        return job.finish(
            {"embeddings": options.embeddings, "passages": passages_url},
            info,
            {**metrics, **measuring},
            keep=[TRAINED] if kind.training else [],
            report={"trained": _how_trained(kind, train, options.trained_from)},
        )


def check(options: IndexOptions, beam_arguments: Sequence[str], known: Mapping[str, Any]) -> dict[str, Any]:
    """Raises what the job would before it reads vectors; returns what is known of its manifest's `info`.

    Args:
        options: options of the job.
        beam_arguments: flags of the runner.
        known: what is known of the `info` of the embeddings.

    Raises:
        InputError: no index by this spec, --queries or --trained_from that does not serve, or an output of another
            configuration.
    """
    queries = [options.queries] if options.queries else []
    launch.check(beam_arguments, [options.embeddings, options.output, *queries])
    parse_size("--shard_memory", options.shard_memory)
    dimension = int(known["dimension"])
    if options.queries:
        from rag_ops.retrieval import recall  # with torch

        recall.read_queries(options.queries, dimension)
    config, unknown = {}, {"spec", "metric", "augmented", "num_shards", "trained_from"}
    if options.spec != kinds.AUTO:  # which depends on the number of vectors
        kind = kinds.kind_of(options.spec)(options.spec, dimension, str(known["dtype"]), bool(known["normalize"]))
        kind.check(None)
        config, unknown = kind.config(), {"num_shards"}
        if options.trained_from:
            config["trained_from"] = open_trained(options, kind)[1]
    elif options.trained_from:
        read_manifest(options.trained_from, "index")
    if options.num_shards:
        config["num_shards"] = options.num_shards
        unknown.discard("num_shards")
    StageOutput(options.output, "index", config, {}).check(options.overwrite, unknown)
    return dict(known)


def open_trained(options: IndexOptions, kind: IndexKind) -> tuple[str, str]:
    """URL and SHA-256 of the trained index in --trained_from, checked to be of the same kind.

    Raises:
        InputError: no index, one without training, or of another spec or dimension.
    """
    assert options.trained_from is not None
    info = read_manifest(options.trained_from, "index").info
    wanted = {"spec": kind.spec, "dimension": kind.dimension}
    if differences := config_differences({name: info[name] for name in wanted}, wanted):
        raise InputError(
            "the index of --trained_from is of another kind", value=options.trained_from, expected=differences
        )
    if not kind.training or not info.get("trained"):
        raise InputError(
            "--trained_from has nothing to give: the index is not trained", value=kind.spec, remedy="leave it out"
        )
    url = store.join(options.trained_from, info["trained"])
    digest = store.sha256_of(url)
    if info["trained_sha256"] != digest:
        raise InputError("the trained index has another content than when it was written", value=url)
    return url, digest


def _trained_before(output: StageOutput, before: Manifest | None, fingerprint: str) -> bool:
    """Whether the trained index of the last run, of the same inputs and configuration, is still there."""
    if before is None or before.fingerprint != output.fingerprint:
        return False
    return output.adopt(TRAINED, fingerprint, before.info["trained_sha256"])


def _trained_digest(output: StageOutput) -> str:
    return next(record.sha256 for record in finished_shards(output.url) if record.path == TRAINED)


def _how_trained(kind: IndexKind, trained: bool, trained_from: str | None) -> str:
    if not kind.training:
        return "not needed"
    return f"of {trained_from}" if trained_from else "now" if trained else "by an earlier run"


def describe(manifest: Manifest) -> str:
    """Describes in one line what was built and its recall."""
    info = manifest.info
    recalls = {int(k): value for k, value in info["recall"].items()}
    if not recalls:
        found = "recall not measured"
    elif not info["recall_queries"]:
        found = "exact: recall is 1"
    else:
        setting = " ".join(f"{name} {value}" for name, value in info["search"].items())
        figures = ", ".join(f"@{k} {recalls[k]:.3f}" for k in sorted(recalls))
        found = f"recall {figures}{f' at {setting}' if setting else ''}, on {info['recall_queries']} queries"
    graph = "; a graph over augmented vectors" if info.get("augmented") else ""
    why = f"{info['spec']}" if info["reason"] == "as told" else info["reason"]
    return f"{why}{graph}; {found}"


def design_of(options: IndexOptions, source: Manifest) -> IndexDesign:
    """The index for some embeddings, checked against them before any work.

    Raises:
        InputError: the spec does not go with the vectors, or no index fits the memory.
    """
    return kinds.design(
        options.spec,
        source.rows,
        int(source.info["dimension"]),
        str(source.info["dtype"]),
        normalize=bool(source.info["normalize"]),
        files=len(source.shards),
        num_shards=options.num_shards,
        shard_bytes=parse_size("--shard_memory", options.shard_memory),
        recall=options.target_recall if options.target_recall is not None else defaults.TARGET_RECALL,
    )


def _processes(design: IndexDesign, todo: Sequence[IndexTask], threads: int | None) -> int:
    """How many processes pay on this machine, which share its cores; bytes depend on neither them nor threads."""
    from rag_ops import planning

    kind, rows = design.kind, [task.rows for task in todo]
    worth = int(sum(rows) * kind.dimension * kinds.NUMBER_BYTES[kind.dtype] // PROCESS_BYTES)
    wanted = min(cores(), len(todo), worth)
    if threads or wanted < 2:
        return 1
    shard_bytes = max(rows) * kind.bytes_per_vector + kind.fixed_bytes
    return local_workers.affordable(wanted, planning.INDEX_PROCESS + planning.INDEX_COPIES * shard_bytes)


def _check_fits(options: IndexOptions, design: IndexDesign, source: Manifest) -> None:
    from rag_ops import planning

    kind, counts = design.kind, (len(source.shards), design.num_shards)
    job = planning.Job(source.rows, kind.dimension, kind.dtype, kind.spec, *counts, normalize=kind.normalize)
    planning.check_fits(planning.plan(job).stage("index"), options.output)


def _measure(
    options: IndexOptions,
    source: Manifest,
    kind: IndexKind,
    tasks: Sequence[IndexTask],
    beam_arguments: Sequence[str],
) -> tuple[dict[str, Any], dict[str, dict[str, float]]]:
    """Recall and the settings of the search, for the manifest; the counters of what measured them."""
    auto = options.spec == kinds.AUTO
    target = options.target_recall if options.target_recall is not None or not auto else defaults.TARGET_RECALL
    if kind.exact:
        return {"recall": {str(k): 1.0 for k in kinds.DEPTHS}, "recall_queries": 0, "search": {}}, {}
    if options.queries is None and (not options.recall_queries or source.rows < 2):  # a query does not count itself
        return {"recall": {}, "recall_queries": 0, "search": {}}, {}
    from rag_ops.retrieval import recall  # with torch

    records = {record.path: record for record in finished_shards(options.output)}
    shards = [(records[task.name], task.first_row, task.embeddings) for task in tasks]
    measurement = Measurement(options, source, kind, shards, target is not None)
    recalls, metrics = measurement.run(beam_arguments)
    return recall.to_info(recall.choose(recalls, target)), metrics


def write_trained(
    name: str, options: IndexOptions, source: Manifest, kind: IndexKind, fingerprint: str, earlier_url: str | None
) -> None:
    """Writes the trained, empty index: trained on a sample of the embeddings, or copied from --trained_from."""
    if is_finished(options.output, name, fingerprint):  # by the runner's earlier try
        return
    if earlier_url is not None:
        write_shard(options.output, name, fingerprint, partial(_copy, earlier_url))
        return
    counters = StepCounters("Train")
    with counters.timed():
        rows = kind.training_rows(source.rows)
        index = kind.train(read_corpus_rows(options.embeddings, source, rows), options.cpu_threads)
        write_shard(options.output, name, fingerprint, partial(kind.write, index))
    counters.add(rows_in=len(rows))


def _copy(url: str, file: Any) -> int:
    with store.open_read(url) as earlier:
        shutil.copyfileobj(earlier, file, store.COPY_BYTES)
    return 0


def build_shard(task: IndexTask, options: IndexOptions, kind: IndexKind) -> None:
    """Fills a clone of the trained index with the vectors of one shard, and writes it."""
    if is_finished(options.output, task.name, task.fingerprint):  # by the runner's earlier try
        return

    def vectors() -> Iterator[np.ndarray]:
        return (batch for url, rows in task.embeddings for batch in vector_batches(url, rows))

    counters = StepCounters("BuildShards")
    with counters.timed():
        url = store.join(options.output, TRAINED)
        trained = store.local_copy(url, task.fingerprint) if kind.training else None
        index = kind.build(vectors, task.rows, options.cpu_threads, trained)
        record = write_shard(options.output, task.name, task.fingerprint, partial(kind.write, index))
        del index
        heap.trim()  # its lists grew in pieces, between which the next shard's do not fit
    counters.add(rows_in=record.rows, rows_out=record.rows, bytes=record.bytes)


def _tasks(
    options: IndexOptions, output: StageOutput, source: Manifest, cuts: Sequence[range], training: bool
) -> list[IndexTask]:
    tasks, starts = [], source.row_starts()
    for number, cut in enumerate(cuts):
        shards = [source.shards[place] for place in cut]
        # What is trained depends on all vectors; without training a shard depends on its own alone.
        inputs = [shard.sha256 for shard in (source.shards if training else shards)]
        tasks.append(
            IndexTask(
                tuple((store.join(options.embeddings, shard.path), shard.rows) for shard in shards),
                starts[cut[0]],
                INDEX.shard(number, len(cuts)),
                output.shard_fingerprint([inputs, [shard.sha256 for shard in shards]]),
            )
        )
    return tasks
