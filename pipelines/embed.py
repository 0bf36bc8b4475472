"""embed: passages in, vectors of the context encoder out; embedding shard j holds the rows of passage shard j."""

from __future__ import annotations

import dataclasses
import time
from collections.abc import Iterator, Sequence

import apache_beam as beam
from apache_beam.ml.inference.base import RunInference

from pipelines import runners
from pipelines.inference import EncoderHandler, ModelSettings, TextUnit, VectorUnit
from pipelines.metrics import StepCounters, live_rows
from pipelines.options import EmbedOptions
from pipelines.progress import Progress, shards_of
from pipelines.shards import StageRun, finish, holds, reuse_whole, rows_done, spread
from rag_ops import checkpoints, storage
from rag_ops.errors import RagbeamError
from rag_ops.stages import StageOutput, is_finished, read_manifest, write_shard
from schemas import embeddings
from schemas.manifest import shard_name

VECTOR_ROWS = 1000  # of a row group


@dataclasses.dataclass(frozen=True)
class EmbedTask:
    """One shard to do: the passages' URL, and name and fingerprint of the vectors' file."""

    passages_url: str
    name: str
    fingerprint: str


def run(options: EmbedOptions, beam_arguments: Sequence[str] = ()) -> StageRun:
    """Runs the job and returns what it wrote; shards whose passages and settings hold are reused.

    Raises:
        InputError: no passages, no encoder, or an output of another configuration.
    """
    started = time.monotonic()
    runners.check(beam_arguments, [options.passages, options.output], [options.encoder], options.resources)
    source = read_manifest(options.passages, "chunk")
    directory = checkpoints.find_model(options.encoder)
    encoder = checkpoints.encoder_config(directory, "context")
    config = {
        "encoder_digest": checkpoints.model_digest(directory),
        "encoder": dataclasses.asdict(encoder),
        "max_tokens": options.max_tokens,
        "dtype": options.dtype,
    }
    output = StageOutput(options.output, "embed", config, {"passages": source.digest})
    if done := reuse_whole(output, started):
        return done
    finished = output.begin(options.overwrite)
    count = len(source.shards)
    tasks = [
        EmbedTask(
            storage.join(options.passages, shard.path),
            shard_name("embeddings", number, count, "parquet"),
            output.shard_fingerprint(shard.sha256),
        )
        for number, shard in enumerate(source.shards)
    ]
    reused = [task.name for task in tasks if holds(finished.get(task.name), task.fingerprint)]
    todo = [task for task in tasks if task.name not in reused]
    resources = options.resources
    settings = ModelSettings(
        options.encoder,
        resources.device(options.device),
        options.threads,
        options.batch_tokens,
        options.max_tokens,
        resources=resources,
    )
    handler = EncoderHandler("Encode", settings, "context", ("title", "text"), options.dtype)

    def build(pipeline: beam.Pipeline) -> None:
        (
            pipeline
            | spread("Shards", todo)
            | "ReadPassages" >> beam.ParDo(ReadPassages(options.output))
            | "Encode" >> RunInference(handler)
            | "WriteEmbeddings" >> beam.ParDo(WriteEmbeddings(options.output, options.dtype))
        )

    rows = sum(shard.rows for shard, task in zip(source.shards, tasks, strict=True) if task in todo)
    written = rows_done(options.output, [task.name for task in todo])
    try:
        # Workers that are not in this process tell no rows, but leave whole shards.
        shards = shards_of(options.output, len(tasks))
        with Progress("embed", rows, lambda: live_rows("Encode") or written(), "passages", shards):
            metrics = runners.run(build, beam_arguments, resources) if todo else {}
    except RagbeamError:
        output.abandon()
        raise
    wanted = {task.name: task.fingerprint for task in tasks}
    info = {
        "dimension": checkpoints.dimension(directory),
        "encoder": options.encoder,
        "encoder_digest": config["encoder_digest"],
        "pooling": encoder.pooling,
        "normalize": encoder.normalize,
        "dtype": options.dtype,
        "passages_digest": source.digest,
        "execution": {"device": settings.device, "threads": options.threads, "batch_tokens": options.batch_tokens},
    }
    inputs = {"passages": options.passages}
    return finish(output, wanted, reused=reused, inputs=inputs, info=info, metrics=metrics, started=started)


class ReadPassages(beam.DoFn):
    """Reads a passage shard, unless an earlier try of the runner's has written its vectors."""

    def __init__(self, output: str) -> None:
        self._output = output
        self._counters = StepCounters("ReadPassages")

    def process(self, task: EmbedTask) -> Iterator[TextUnit]:
        """See the class."""
        if is_finished(self._output, task.name, task.fingerprint):
            return
        with self._counters.timed():
            table = storage.read_parquet(task.passages_url, ["title", "text", "content_hash"])
        self._counters.add(rows_out=table.num_rows, bytes=table.nbytes)
        yield TextUnit(task, table, task.passages_url)


class WriteEmbeddings(beam.DoFn):
    """Writes a shard of vectors beside the content hashes of their passages."""

    def __init__(self, output: str, dtype: str):
        self._output, self._dtype = output, dtype
        self._counters = StepCounters("WriteEmbeddings")

    def process(self, unit: VectorUnit) -> None:
        """See the class."""
        with self._counters.timed():
            table = embeddings.table(unit.table["content_hash"], unit.vectors, self._dtype)
            record = write_shard(
                self._output,
                unit.key.name,
                unit.key.fingerprint,
                lambda file: storage.write_parquet(file, iter([table]), table.schema, VECTOR_ROWS),
            )
        self._counters.add(rows_in=len(unit.vectors), rows_out=record.rows, bytes=record.bytes)


if __name__ == "__main__":
    import sys

    from pipelines.cli import main

    sys.exit(main(["embed", *sys.argv[1:]]))
