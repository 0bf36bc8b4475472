"""chunk: Wikipedia in, passages out.

Each input split becomes one spill file (read, parsed, split into passages); each shard is put together from these,
sorted and written. What goes through the shuffle is the list of each.
"""

from __future__ import annotations

import contextlib
import dataclasses
import json
import math
import os
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from functools import partial
from typing import Any, TypeVar

import apache_beam as beam

from pipelines.chunk import templates
from pipelines.chunk.options import ChunkOptions
from pipelines.runners import launch, local_workers
from pipelines.runners.counters import StepCounters, live_rows
from pipelines.transforms.stage_job import InputStates, StageRun, begins_again, distribute, stage_job
from rag_ops.articles import languages, shuffle
from rag_ops.articles.article import Split
from rag_ops.articles.dropped import NAMED_TEMPLATES, Dropped, most_common
from rag_ops.articles.formats import FORMATS
from rag_ops.articles.options import DATASET, InputOptions
from rag_ops.articles.reading import plan_splits
from rag_ops.compute.cores import cores
from rag_ops.storage import store
from rag_ops.storage.compression import COMPRESSIONS
from rag_ops.storage.parquet import write_parquet
from rag_ops.storage.stages import StageOutput, is_finished, write_shard
from schemas import passages
from schemas.layout import CHUNK

MIN_SHARDS = 4  # a laptop's cores have something to share even for a small input
SHARD_INPUT_BYTES = {True: 16 << 20, False: 64 << 20}  # input for a shard, compressed or not
SHARD_PASSAGES = 50_000  # that about come of it
HF_SHARDS = 8  # shards for each shard of a Hugging Face dataset, whose size is not known
# Bytes as stored that a core reads in a second: of markup or not, compressed or not
CORE_BYTES_PER_SEC = {(True, True): 0.5e6, (True, False): 2.3e6, (False, True): 6e6, (False, False): 12e6}
HF_SECS = 10  # for a shard of a dataset
WORTH_SECS = 20  # work of a core for which processes start, which take 2 seconds of a core each
TEXT_RULES = 4  # raised when the rules from markup to text change: passages of other rules are not reused
T = TypeVar("T")


@begins_again
def run(options: ChunkOptions, beam_arguments: Sequence[str] = ()) -> StageRun:
    """Runs the job and returns what it wrote; reuses the whole output when inputs and settings hold.

    Raises:
        InputError: an input is missing or malformed, or the output belongs to another configuration.
    """
    started = time.monotonic()
    splits, config = _planned(options, beam_arguments)
    num_shards = config["num_shards"]
    states = InputStates({split.url for split in splits if FORMATS[split.format].is_file})
    output = StageOutput(options.output, "chunk", config, _digests(splits, options.reading))
    # Of spill files; named by the fingerprint, so that no other run's are taken for this one's.
    directory = store.join(options.output, store.INCOMPLETE, f"parts-{output.fingerprint[:16]}")
    wanted = {CHUNK.shard(n, num_shards): output.fingerprint for n in range(num_shards)}
    with stage_job(output, beam_arguments, started, states.check, directory) as job:
        if done := job.reuse(verify=options.verify):
            return done
        job.begin(options)
        job.todo(wanted)
        language = _language(splits, options.reading)
        job.spread(partial(_processes, splits, num_shards), {split.url for split in splits})

        wikis = templates.wikis_of(splits, options.reading)

        def build(pipeline: beam.Pipeline) -> None:
            todo = pipeline | distribute("Splits", splits)
            if any(len(wiki.splits) > 1 for wiki in wikis):
                todo |= "WaitForTemplates" >> beam.WaitOn(
                    templates.collect(pipeline, wikis, options.reading, directory)
                )
            read = todo | "ReadSplits" >> beam.Map(
                read_split, options, directory, num_shards, templates.names_of(wikis)
            )
            _ = (
                pipeline
                | distribute("Shards", range(num_shards))  # finished ones too, for their counts
                | "WaitForSplits" >> beam.WaitOn(read)
                | "WriteShards" >> beam.Map(write_passages, output, directory, num_shards, splits)
            )

        spilled = _articles_spilled(directory, splits)
        metrics = job.run(build, "articles", None, lambda: live_rows("ReadSplits") or spilled())
        inputs = {f"input_{number}": url for number, url in enumerate(dict.fromkeys(map(named, splits)))}
        info = {**_counts(directory, splits, metrics), **language}
        return job.finish(inputs, info, metrics)


def _processes(splits: Sequence[Split], num_shards: int) -> int:
    """How many processes pay on this machine: the cores, if there is a split and enough work for each."""
    from rag_ops import planning

    secs = float(HF_SECS * sum(split.format == DATASET for split in splits))
    for url, kind in {split.url: FORMATS[split.format] for split in splits if FORMATS[split.format].is_file}.items():
        secs += store.size_bytes(url) / CORE_BYTES_PER_SEC[kind.is_markup, _is_compressed(url)]
    wanted = min(cores(), len(splits)) if secs >= WORTH_SECS else 1
    rows = SHARD_PASSAGES * default_shards(splits)  # or fewer
    return local_workers.affordable(wanted, planning.chunk_memory_bytes(rows, num_shards))


def _articles_spilled(directory: str, splits: Sequence[Split]) -> Callable[[], int]:
    """A function that counts the articles of the spill files that are complete; for progress."""
    left, count = {spill_name(split) for split in splits}, 0

    def counted() -> int:
        nonlocal count
        for name in left & {name.removesuffix(".json") for name in store.names_in(directory) if name.endswith(".json")}:
            if spill := shuffle.find_spill(directory, name):
                left.discard(name)
                count += spill.articles
        return count

    return counted


def check(options: ChunkOptions, beam_arguments: Sequence[str], known: Mapping[str, Any]) -> dict[str, Any]:
    """Raises what the job would before it works; returns what is known of its manifest's `info`: nothing.

    Raises:
        InputError: as `run`.
    """
    _planned(options, beam_arguments)
    return {}


def _planned(options: ChunkOptions, beam_arguments: Sequence[str]) -> tuple[list[Split], dict[str, Any]]:
    """The splits of the inputs and the configuration, checked against the runner and what the output holds."""
    files = [] if options.reading.names_datasets else options.input
    launch.check(beam_arguments, [*files, options.output])
    splits = plan_splits(options.input, options.reading)
    config = _config(options, options.num_shards or default_shards(splits), splits)
    StageOutput(options.output, "chunk", config, {}).check(options.overwrite)
    return splits, config


def read_split(
    split: Split, options: ChunkOptions, directory: str, num_shards: int, templates_of: Mapping[str, str]
) -> None:
    """Reads a split and writes its spill file, unless an earlier run has.

    Args:
        split, options, directory, num_shards: what is read, how, where to and for how many shards.
        templates_of: of each dump, the name of its file of templates in the directory.
    """
    counters = StepCounters("ReadSplits")
    templates.collect_alone(split, options.reading, directory, templates_of)
    with counters.timed():
        spill = shuffle.find_spill(directory, spill_name(split))
        if spill is None:
            dropped = Dropped()
            with templates.articles(split, options.reading, dropped, directory, templates_of) as articles:
                spill = shuffle.write_spill(
                    directory,
                    spill_name(split),
                    _ticking(articles, counters),
                    dropped,
                    ordinal=split.ordinal,
                    num_shards=num_shards,
                    cutting=options.cutting,
                )
            templates.forget(split, directory, templates_of)
    pages = spill.articles + sum(spill.dropped.values())
    counters.add(rows_in=pages, rows_out=spill.passages, bytes=spill.text_bytes)
    counters.add(**{f"dropped_{reason}": count for reason, count in spill.dropped.items()})


def _ticking(articles: Iterable[T], counters: StepCounters) -> Iterator[T]:
    for article in articles:
        counters.tick(1)
        yield article


def write_passages(shard: int, output: StageOutput, directory: str, num_shards: int, splits: Sequence[Split]) -> None:
    """Puts one shard together from its passages in all spill files, and writes it, unless an earlier run has.

    How many duplicates a shard dropped, and how many passages it has of each kind, is kept beside the spill files,
    because counts are of all shards.
    """
    counters, name = StepCounters("WriteShards"), CHUNK.shard(shard, num_shards)
    note = name + ".counts"
    if is_finished(output.url, name, output.fingerprint):
        with contextlib.suppress(FileNotFoundError):
            counters.add(**json.loads(store.read_text(store.join(directory, note))))
            return
    with counters.timed():
        spills = [store.join(directory, spill_name(split)) for split in splits]
        table, duplicates = shuffle.read_shard(spills, shard, [split.url for split in splits])
        counts = {"dropped_duplicate_id": duplicates}
        counts |= {f"kind_{one['values']}": one["counts"] for one in table["kind"].value_counts().to_pylist()}
        store.write_bytes(directory, note, json.dumps(counts).encode())
        record = write_shard(
            output.url, name, output.fingerprint, lambda file: write_parquet(file, iter([table]), passages.SCHEMA)
        )
    counters.add(rows_out=record.rows, bytes=record.bytes, **counts)


def default_shards(splits: Sequence[Split]) -> int:
    """The number of shards when --num_shards is not given: from the size of the inputs alone."""
    wanted = float(HF_SHARDS * sum(split.format == DATASET for split in splits))
    for url in {split.url for split in splits if FORMATS[split.format].is_file}:
        wanted += store.size_bytes(url) / SHARD_INPUT_BYTES[_is_compressed(url)]
    return max(MIN_SHARDS, math.ceil(wanted))


def _is_compressed(url: str) -> bool:
    return store.name_of(url).lower().endswith((*COMPRESSIONS, ".tgz", ".parquet", ".zim"))


def spill_name(split: Split) -> str:
    """The name of a split's spill file."""
    return templates.file_name("spill", split)


def _config(options: ChunkOptions, num_shards: int, splits: Sequence[Split]) -> dict[str, Any]:
    urls = dict.fromkeys(split.url for split in splits)
    reading = dataclasses.asdict(options.reading)
    del reading["split_bytes"]  # decides how the work is cut, not what comes out
    return {
        "inputs": [store.name_of(url) for url in urls],
        "reading": reading,
        "prefixes": list(dict.fromkeys(split.prefix for split in splits)),
        **dataclasses.asdict(options.cutting),
        "num_shards": num_shards,
        "text_rules": TEXT_RULES,
    }


def _language(splits: Sequence[Split], reading: InputOptions) -> dict[str, str]:
    """The language of all articles for the manifest, if --language says it, or all inputs say the same."""
    if reading.language:
        return {"language": reading.language.lower()}
    formats = {split.url: FORMATS[split.format] for split in splits}
    code = languages.agreed(one.language(url, reading) for url, one in formats.items())
    return {"language": code} if code else {}


def _digests(splits: Sequence[Split], reading: InputOptions) -> dict[str, str]:
    formats = {split.url: FORMATS[split.format] for split in splits}
    return {f"input_{number}": one.digest(url, reading) for number, (url, one) in enumerate(formats.items())}


def named(split: Split) -> str:
    """The URL of a split's input; a dataset of the hub has one too."""
    return f"hf://datasets/{split.url}" if split.format == DATASET and not os.path.isdir(split.url) else split.url


def _counts(directory: str, splits: Sequence[Split], metrics: Mapping[str, Mapping[str, float]]) -> dict[str, Any]:
    """Articles kept, pages and templates dropped, titles: from the spill files, which outlive an interrupted run."""
    dropped = Dropped()
    articles = 0
    for split in splits:
        part = shuffle.find_spill(directory, spill_name(split))
        if part is not None:
            dropped.add(part.dropped, part.titles)
            dropped.lose(part.templates)
            articles += part.articles
    written = metrics.get("WriteShards", {})
    kinds = {kind: int(written[f"kind_{kind}"]) for kind in passages.KINDS if written.get(f"kind_{kind}")}
    if duplicates := int(written.get("dropped_duplicate_id", 0)):
        dropped["duplicate_id"] = duplicates
        articles -= duplicates
    return {
        "articles": articles,
        "kinds": kinds,
        "dropped": dict(sorted(dropped.items())),
        "dropped_titles": dropped.titles,
        "dropped_templates": most_common(dropped.templates, NAMED_TEMPLATES),
    }
