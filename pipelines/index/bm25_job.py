"""index --kind bm25: passages in, an index of their words out: shards of postings, and statistics of all of them."""

from __future__ import annotations

import dataclasses
import logging
import time
from collections.abc import Iterator, Mapping, Sequence
from functools import partial
from typing import Any

import apache_beam as beam
import numpy as np

from pipelines.index.bm25_options import Bm25Options
from pipelines.runners import launch, local_workers
from pipelines.runners.counters import StepCounters
from pipelines.transforms.stage_job import StageRun, begins_again, distribute, rows_done, stage_job
from rag_ops.articles.options import LANGUAGE_CODE
from rag_ops.compute.cores import cores
from rag_ops.errors import InputError
from rag_ops.retrieval import bm25_postings, kinds
from rag_ops.retrieval.bm25_postings import Postings, open_postings
from rag_ops.retrieval.bm25_statistics import ShardTerms, write_statistics
from rag_ops.retrieval.bm25_words import Words, stemmer_of
from rag_ops.storage import store
from rag_ops.storage.arrays import read_array
from rag_ops.storage.manifests import check_unchanged, find_manifest, read_manifest
from rag_ops.storage.parquet import open_parquet
from rag_ops.storage.stages import StageOutput, config_differences, finished_shards, is_finished, write_shard
from rag_ops.storage.verify import check_digests
from schemas.layout import BM25, STATISTICS
from schemas.manifest import Manifest

logger = logging.getLogger("ragbeam")
PROCESS_ROWS = 50_000  # passages for which a process pays: a core counts their words in some 5 s
ENGLISH = "en"
RULES = 1  # of counting; another number once the same texts give other postings
SCORING = ("k1", "b", "num_shards")  # the configuration that does not decide what a shard holds of a passage


@dataclasses.dataclass(frozen=True)
class Earlier:
    """Where an earlier index has a passage shard's postings: URL and digest of a shard, places from first to end."""

    url: str
    digest: str
    first: int
    end: int


@dataclasses.dataclass(frozen=True)
class Source:
    """A passage shard: its URL, its passages, and where an earlier index has their postings, if one does."""

    url: str
    rows: int
    earlier: Earlier | None


@dataclasses.dataclass(frozen=True)
class Bm25Task:
    """An index shard to write: the passage shards that it covers, in order; name and fingerprint of its file."""

    sources: tuple[Source, ...]
    name: str
    fingerprint: str

    @property
    def rows(self) -> int:
        """The number of its passages."""
        return sum(source.rows for source in self.sources)


@begins_again
def run(options: Bm25Options, beam_arguments: Sequence[str] = ()) -> StageRun:
    """Runs the job and returns what it wrote; shards whose passages and settings hold are reused.

    Raises:
        InputError: no passages, a --previous that does not serve, or an output of another configuration.
    """
    started = time.monotonic()
    launch.check(beam_arguments, [options.passages, options.output, *([options.previous] if options.previous else [])])
    source = read_manifest(options.passages, "chunk")
    if not source.rows:
        raise InputError(
            "there is nothing to find: no passages",
            value=options.passages,
            expected="at least one",
            remedy="ragbeam chunk says what it dropped",
        )
    language = options.language or language_of(source)
    num_shards = options.num_shards or default_shards(source)
    cuts = kinds.cut_shards([shard.rows for shard in source.shards], num_shards, "passage")
    config = {
        "language": language.lower(),
        "columns": ["title", "text"],
        "rules": RULES,
        "k1": options.k1,
        "b": options.b,
        "num_shards": len(cuts),
    }
    output = StageOutput(options.output, BM25.name, config, {"passages": source.digest})
    output.check(options.overwrite)
    earlier = _read_previous(options, config) if options.previous else None

    def check_inputs() -> None:
        check_unchanged(options.passages, source)
        if earlier and options.previous:
            check_unchanged(options.previous, earlier)

    with stage_job(output, beam_arguments, started, check_inputs) as job:
        if options.verify:
            check_digests(options.passages, source)
            if earlier and options.previous:
                check_digests(options.previous, earlier)
        if done := job.reuse(verify=options.verify):
            return done
        _warn_of(language)
        if launch.is_local(beam_arguments):
            _check_fits(options, source, len(cuts))
        before = find_manifest(options.output)
        job.begin(options)
        tasks = _tasks(options, output, source, cuts, earlier)
        statistics = output.shard_fingerprint(["statistics", [task.fingerprint for task in tasks]])
        wanted = job.todo({task.name: task.fingerprint for task in tasks})
        todo = [task for task in tasks if task.name in wanted]
        job.spread(partial(_processes, todo), [options.passages])
        merge = not (job.holds(STATISTICS, statistics) or _merged_before(output, before, statistics))
        merger = beam.Map(merge_statistics, options.output, [task.name for task in tasks], statistics)

        def build(pipeline: beam.Pipeline) -> None:
            shards = (
                pipeline | distribute("Shards", todo) | "CountWords" >> beam.Map(count_words, options.output, language)
            )
            start = pipeline | "Statistics" >> beam.Create([STATISTICS] if merge else [])
            _ = start | "WaitForShards" >> beam.WaitOn(shards) | "MergeStatistics" >> merger

        written = rows_done(options.output, wanted)
        metrics = job.run(build, "passages", sum(task.rows for task in todo), written) if todo or merge else {}
        url = store.join(options.output, STATISTICS)
        info = {
            "language": config["language"],
            "k1": options.k1,
            "b": options.b,
            "words": int(read_array(url, "words")[0]),
            "statistics": STATISTICS,
            "statistics_sha256": _digest_of(output, STATISTICS),
            "passages_digest": source.digest,
            "sources": [shard.sha256 for shard in source.shards],
            "source_rows": [shard.rows for shard in source.shards],
        }
        taken = sum(one.rows for task in todo for one in task.sources if one.earlier)
        report = {"previous": options.previous, "passages": {"reused": taken}}
        return job.finish({"passages": options.passages}, info, metrics, keep=[STATISTICS], report=report)


def language_of(passages: Manifest) -> str:
    """The code of the passages' language, as chunk was told it or read it from dumps; else English's."""
    code = str(passages.info.get("language", ENGLISH))
    return code if LANGUAGE_CODE.fullmatch(code) else ENGLISH


def default_shards(passages: Manifest) -> int:
    """The number of index shards when none is given: as few as keep each within SHARD_ROWS passages."""
    return max(1, min(len(passages.shards), -(-passages.rows // bm25_postings.SHARD_ROWS)))


def describe(manifest: Manifest) -> str:
    """Describes in one line what was built."""
    info = manifest.info
    average = info["words"] / max(1, manifest.rows)
    stemmer = stemmer_of(info["language"]) or "no"
    return f"BM25, k1 {info['k1']:g}, b {info['b']:g}; {average:.1f} words a passage by the {stemmer} stemmer"


def _warn_of(language: str) -> None:
    if not stemmer_of(language):
        logger.warning("index: there is no stemmer for language %s: words count as they are written", language)


def _read_previous(options: Bm25Options, config: Mapping[str, Any]) -> Manifest:
    """The manifest of --previous, checked to count words as this job does.

    Raises:
        InputError: it is no index of words, or its language differs.
    """
    assert options.previous is not None
    previous = read_manifest(options.previous, BM25.name)
    before, now = ({name: one[name] for name in one if name not in SCORING} for one in (previous.config, config))
    if differences := config_differences(before, now):
        raise InputError(
            "the index of --previous counts words otherwise",
            value=options.previous,
            expected=differences,
            remedy="index without --previous",
        )
    return previous


def _earlier(url: str, manifest: Manifest) -> dict[tuple[str, int], Earlier]:
    """Where an index has the postings of each passage shard, by the SHA-256 of that and its passages."""
    found, starts = dict[tuple[str, int], Earlier](), manifest.row_starts()
    first = 0
    for digest, rows in zip(manifest.info["sources"], manifest.info["source_rows"], strict=True):
        number = int(np.searchsorted(starts, first, side="right")) - 1
        if number < len(manifest.shards) and first + rows <= starts[number + 1]:
            shard, start = manifest.shards[number], starts[number]
            where = first - start, first + rows - start
            found[digest, rows] = Earlier(store.join(url, shard.path), shard.sha256, *where)
        first += rows
    return found


def _tasks(
    options: Bm25Options, output: StageOutput, source: Manifest, cuts: Sequence[range], previous: Manifest | None
) -> list[Bm25Task]:
    earlier = _earlier(options.previous, previous) if previous and options.previous else {}
    tasks = []
    for number, cut in enumerate(cuts):
        shards = [source.shards[place] for place in cut]
        sources = (
            Source(store.join(options.passages, shard.path), shard.rows, earlier.get((shard.sha256, shard.rows)))
            for shard in shards
        )
        fingerprint = output.shard_fingerprint([shard.sha256 for shard in shards])
        tasks.append(Bm25Task(tuple(sources), BM25.shard(number, len(cuts)), fingerprint))
    return tasks


def _merged_before(output: StageOutput, before: Manifest | None, fingerprint: str) -> bool:
    """Whether the statistics of the last run, of the same inputs and configuration, are still there."""
    if before is None or before.fingerprint != output.fingerprint:
        return False
    return output.adopt(STATISTICS, fingerprint, before.info["statistics_sha256"])


def _digest_of(output: StageOutput, name: str) -> str:
    return next(record.sha256 for record in finished_shards(output.url) if record.path == name)


def _processes(todo: Sequence[Bm25Task]) -> int:
    """How many processes pay on this machine; bytes do not depend on them."""
    from rag_ops import planning

    rows = [task.rows for task in todo]
    wanted = min(cores(), len(todo), sum(rows) // PROCESS_ROWS)
    if wanted < 2:
        return 1
    return local_workers.affordable(wanted, planning.bm25_memory_bytes(max(rows)))


def _check_fits(options: Bm25Options, source: Manifest, num_shards: int) -> None:
    from rag_ops import planning

    planning.check_fits(planning.plan_bm25(source.rows, num_shards), options.output)


def count_words(task: Bm25Task, output: str, language: str) -> None:
    """Counts the words of a shard's passages, or takes them from an earlier index, and writes the postings."""
    if is_finished(output, task.name, task.fingerprint):  # by the runner's earlier try
        return
    counters = StepCounters("CountWords")
    with counters.timed():
        words = Words(language)
        runs = [postings for source in joined(task.sources) for postings in _postings(source, words, counters)]
        write = partial(bm25_postings.write_postings, runs=runs)
        record = write_shard(output, task.name, task.fingerprint, write)
    counters.add(rows_in=task.rows, rows_out=record.rows, bytes=record.bytes)


def joined(sources: Sequence[Source]) -> list[Source]:
    """Passage shards, with those together whose postings lie one behind the other in an earlier index."""
    found = list[Source]()
    for source in sources:
        last, now = found[-1].earlier if found else None, source.earlier
        if last and now and (last.url, last.end) == (now.url, now.first):
            both = dataclasses.replace(last, end=now.end)
            found[-1] = Source(found[-1].url, found[-1].rows + source.rows, both)
        else:
            found.append(source)
    return found


def _postings(source: Source, words: Words, counters: StepCounters) -> Iterator[Postings]:
    """The postings of a passage shard, some passages at a time."""
    if (earlier := source.earlier) is None:
        yield from bm25_postings.count(texts(source.url, source.rows), words)
        return
    # Nothing in a shard says which passages it is of; a copy from elsewhere is compared when it is made.
    if store.is_local(earlier.url) and store.sha256_of(earlier.url) != earlier.digest:
        raise InputError(
            "an index shard of --previous has another content than when it was written",
            value=earlier.url,
            remedy="index without --previous",
        )
    path = store.local_copy(earlier.url, earlier.digest, sha256=earlier.digest)
    yield open_postings(path, earlier.url).between(earlier.first, earlier.end)
    counters.add(reused=source.rows)


def texts(url: str, rows: int) -> Iterator[list[str]]:
    """What is indexed of a passage shard, a row group at a time: each passage's title, and its text on a new line."""
    with open_parquet(url, rows) as parquet:
        for group in range(parquet.num_row_groups):
            table = parquet.read_row_group(group, columns=["title", "text"])
            pairs = zip(table["title"].to_pylist(), table["text"].to_pylist(), strict=True)
            yield [f"{title}\n{text}" for title, text in pairs]


def merge_statistics(name: str, output: str, shards: Sequence[str], fingerprint: str) -> None:
    """Writes in how many passages of all shards each term is."""
    if is_finished(output, name, fingerprint):  # by the runner's earlier try
        return
    counters = StepCounters("MergeStatistics")
    with counters.timed():
        opened = [ShardTerms.of(store.join(output, shard)) for shard in shards]
        terms = 0

        def write(file: Any) -> int:
            nonlocal terms
            terms = write_statistics(file, opened)
            return 0

        write_shard(output, name, fingerprint, write)
    counters.add(rows_in=len(shards), rows_out=terms)
