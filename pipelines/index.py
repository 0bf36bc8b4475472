"""index: vectors in, a FAISS index out: trained once, then filled shard by shard; vector i of the index is row i."""

from __future__ import annotations

import dataclasses
import time
from collections.abc import Sequence
from typing import Any

import apache_beam as beam
import numpy as np

from pipelines import runners
from pipelines.metrics import StepCounters
from pipelines.options import IndexOptions
from pipelines.progress import Progress
from pipelines.shards import StageRun, finish, holds, reuse_whole, rows_done, spread
from rag_ops import storage
from rag_ops.errors import RagbeamError
from rag_ops.stages import StageOutput, read_manifest, write_shard
from schemas.manifest import Manifest, shard_name

TRAINED = "trained.faiss"
AUTO_SPEC = "Flat"  # exact; what --spec auto means


@dataclasses.dataclass(frozen=True)
class IndexTask:
    """One index shard to fill: the embedding shards' URLs in order, and name and fingerprint of the file."""

    embeddings_urls: tuple[str, ...]
    name: str
    fingerprint: str


def run(options: IndexOptions, beam_arguments: Sequence[str] = ()) -> StageRun:
    """Runs the job and returns what it wrote; shards whose embeddings and settings hold are reused.

    Raises:
        InputError: no embeddings, a spec that FAISS does not know, or an output of another configuration.
    """
    from rag_ops import indexing

    started = time.monotonic()
    source = read_manifest(options.embeddings, "embed")
    dimension = int(source.info["dimension"])
    spec = AUTO_SPEC if options.spec == "auto" else options.spec
    indexing.check_spec(spec, dimension, source.rows)
    training = indexing.needs_training(spec, dimension)
    num_shards = options.num_shards or indexing.default_shards(source.rows, dimension, len(source.shards))
    config = {"spec": spec, "metric": "inner_product", "num_shards": num_shards}
    output = StageOutput(options.output, "index", config, {"embeddings": source.digest})
    if done := reuse_whole(output, started):
        return done
    finished = output.begin(options.overwrite)
    tasks = _tasks(options, output, source, indexing.cut_shards([s.rows for s in source.shards], num_shards), training)
    reused = [task.name for task in tasks if holds(finished.get(task.name), task.fingerprint)]
    todo = [task for task in tasks if task.name not in reused]
    builder = BuildShards(options.output, spec, dimension, options.threads, training)
    trainer = TrainIndex(options, source, spec, output.fingerprint)

    def build(pipeline: beam.Pipeline) -> None:
        samples = [TRAINED] if training and not holds(finished.get(TRAINED), output.fingerprint) else []
        trained = pipeline | "Sample" >> beam.Create(samples) | "Train" >> beam.ParDo(trainer)
        _ = (
            pipeline
            | spread("Shards", todo)
            | "BuildShards" >> beam.ParDo(builder, trained=beam.pvalue.AsList(trained))
        )

    rows = sum(shard.rows for shard in source.shards)
    try:
        with Progress("index", rows, rows_done(options.output, [task.name for task in todo]), "vectors"):
            metrics = runners.run(build, beam_arguments) if todo else {}
    except RagbeamError:
        output.abandon()
        raise
    wanted = {task.name: task.fingerprint for task in tasks}
    info = {
        "dimension": dimension,
        "spec": spec,
        "trained": TRAINED if training else None,
        "passages_digest": source.info["passages_digest"],
        **{key: source.info[key] for key in ("encoder", "encoder_digest", "pooling", "normalize")},
    }
    inputs = {"embeddings": options.embeddings, "passages": _passages_url(options.embeddings, source)}
    return finish(
        output, wanted, reused=reused, inputs=inputs, info=info, metrics=metrics, started=started, keep=[TRAINED]
    )


class TrainIndex(beam.DoFn):
    """Trains the index on a sample of the embeddings and writes it, empty, as trained.faiss."""

    def __init__(self, options: IndexOptions, source: Manifest, spec: str, fingerprint: str):
        self._options, self._source, self._spec, self._fingerprint = options, source, spec, fingerprint
        self._counters = StepCounters("Train")

    def process(self, name: str) -> Any:
        """See the class."""
        from rag_ops import indexing

        with self._counters.timed():
            starts = self._source.row_starts()
            rows = indexing.training_rows(self._spec, self._source.rows)
            sample = []
            for number, shard in enumerate(self._source.shards):
                here = rows[(rows >= starts[number]) & (rows < starts[number + 1])] - starts[number]
                if len(here):
                    sample.append(indexing.read_rows(storage.join(self._options.embeddings, shard.path), here))
            index = indexing.train(self._spec, np.concatenate(sample), self._options.threads)
            write_shard(self._options.output, name, self._fingerprint, lambda file: indexing.write_index(index, file))
        self._counters.add(rows_in=len(rows))
        yield name


class BuildShards(beam.DoFn):
    """Fills a clone of the trained index with the vectors of one shard, and writes it."""

    def __init__(self, output: str, spec: str, dimension: int, threads: int, training: bool):
        self._output, self._spec, self._dimension = output, spec, dimension
        self._threads, self._training = threads, training
        self._counters = StepCounters("BuildShards")

    def process(self, task: IndexTask, trained: list[str]) -> None:
        """See the class; `trained` is there to wait for the training."""
        from rag_ops import indexing

        with self._counters.timed():
            if self._training:
                url = storage.join(self._output, TRAINED)
                index = indexing.read_index(storage.local_copy(url, task.fingerprint))
            else:
                index = indexing.empty_index(self._spec, self._dimension)
            batches = (batch for url in task.embeddings_urls for batch in indexing.vector_batches(url))
            rows = indexing.fill(index, batches, self._threads)
            record = write_shard(
                self._output, task.name, task.fingerprint, lambda file: indexing.write_index(index, file)
            )
        self._counters.add(rows_in=rows, rows_out=record.rows, bytes=record.bytes)


def _tasks(
    options: IndexOptions, output: StageOutput, source: Manifest, cuts: Sequence[range], training: bool
) -> list[IndexTask]:
    tasks = []
    for number, cut in enumerate(cuts):
        shards = [source.shards[place] for place in cut]
        # What is trained depends on all vectors; without training a shard depends on its own alone.
        inputs = [shard.sha256 for shard in (source.shards if training else shards)]
        tasks.append(
            IndexTask(
                tuple(storage.join(options.embeddings, shard.path) for shard in shards),
                shard_name("index", number, len(cuts), "faiss"),
                output.shard_fingerprint([inputs, [shard.sha256 for shard in shards]]),
            )
        )
    return tasks


def _passages_url(embeddings: str, source: Manifest) -> str:
    return storage.resolve_url(source.inputs["passages"], embeddings)


if __name__ == "__main__":
    import sys

    from pipelines.cli import main

    sys.exit(main(["index", *sys.argv[1:]]))
