"""answer: question files in, a Parquet table of answers out.

Shard-major: every block of questions meets an index shard while it is in memory, once; every passage shard is read once
for all questions. Question vectors, article text and answers lie in files between the steps; what goes through a
shuffle is top-k arrays, rows and file names.
"""

from __future__ import annotations

import dataclasses
import posixpath
import time
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any

import apache_beam as beam
import numpy as np
import pyarrow as pa
from apache_beam.ml.inference.base import RunInference

from pipelines.answer.search import Rescore, Search, search_effort
from pipelines.console.options import AnswerOptions
from pipelines.runners import launch
from pipelines.runners.counters import StepCounters, live_rows
from pipelines.transforms import coders
from pipelines.transforms.inference import (
    AnswerUnit,
    EncoderHandler,
    GeneratorHandler,
    ModelSettings,
    TextUnit,
    VectorUnit,
)
from pipelines.transforms.stage_job import StageRun, spread, stage_job
from rag_ops.questions import blocks
from rag_ops.questions.reading import expand_question_files, read_questions
from rag_ops.retrieval import passage_texts
from rag_ops.retrieval.corpus import Corpus, check_model, open_corpus
from rag_ops.retrieval.topk import TopK
from rag_ops.storage import store
from rag_ops.storage.rows import needed_rows
from rag_ops.storage.stages import StageOutput, write_shard
from schemas import answers
from schemas.layout import ANSWER
from schemas.manifest import Manifest, ShardRecord

RESULT_ROWS = 1000  # of a row group
FEW_ERRORS = 0.01  # share of the rows: of more, the terminal names the commonest reason


@dataclasses.dataclass(frozen=True)
class Work:
    """Where the answer job keeps its files while it runs: named by the run's fingerprint, so none is another run's."""

    url: str

    def name(self, kind: str, number: int, suffix: str = "parquet") -> str:
        """The file name of part `number` of a kind: vectors, texts."""
        return f"{kind}-{number:05d}.{suffix}"

    def path(self, name: str) -> str:
        """The URL of a file."""
        return store.join(self.url, name)


def run(options: AnswerOptions, beam_arguments: Sequence[str] = ()) -> StageRun:
    """Runs the job and returns what it wrote.

    Raises:
        InputError: a question file, the index or the model is missing or malformed, or they do not go together.
    """
    started = time.monotonic()
    # The question files are read by the launcher, so they may lie anywhere.
    launch.check(beam_arguments, [options.index, options.output], [options.model], options.workers.resources)
    files = expand_question_files(options.questions)
    corpus = open_corpus(options.index)
    launch.check(beam_arguments, [corpus.passages_url])
    digests = {"model_digest": check_model(options.model, corpus.index.info), "index_digest": corpus.index.digest}
    if options.rescore:
        _ = corpus.embeddings  # refused now rather than in the middle
    output = StageOutput(options.output, "answer", _config(options, files, digests, corpus.index), _digests(files))
    work = Work(store.join(options.output, store.INCOMPLETE, f"work-{output.fingerprint[:16]}"))
    with stage_job(output, beam_arguments, started, corpus.check_unchanged, work.url) as job:
        if options.verify:
            corpus.check_digests(embeddings=options.rescore is not None)
        if done := job.reuse(verify=options.verify):
            return done
        if launch.is_local(beam_arguments):
            _check_fits(options, corpus)
        job.begin(options)
        job.keeps_scratch = lambda: _keep_answered(options, work)
        prepared = blocks.prepare(read_questions(files, options.reading), work.url, options.block_questions)
        cuts = blocks.cut_shards(prepared.blocks, options.num_shards)
        names = [ANSWER.shard(number, len(cuts)) for number in range(len(cuts))]
        wanted = job.todo(dict.fromkeys(names, output.fingerprint))
        there = set(blocks.result_names(work.url))
        todo = [block for block in prepared.blocks if blocks.result_name(block.number) not in there]
        plan = Plan(options, corpus, work, output.fingerprint, todo, cuts, names, wanted, digests)

        def answered() -> int:  # by workers that are not in this process
            there = set(blocks.result_names(work.url))
            return sum(block.questions for block in todo if blocks.result_name(block.number) in there)

        total = sum(block.questions for block in todo)
        metrics = job.run(
            plan.build, "questions", total, lambda: live_rows("Generate") or answered(), options.workers.resources
        )
        made = [name for name in names if store.exists(store.join(options.output, name))]  # finish says what lacks
        info = {
            **digests,
            "model": options.model,
            "questions": prepared.rows,
            "distinct_questions": sum(block.questions for block in prepared.blocks),
            "unreadable_questions": prepared.errors,
            "errors": blocks.error_counts(options.output, made),
            "unreadable_gold_answers": prepared.notes,
            "first_unreadable_gold_answers": prepared.first_note,
            "execution": options.workers.execution,
        }
        report = {
            "blocks": {"total": len(prepared.blocks), "reused": len(prepared.blocks) - len(todo), "made": len(todo)}
        }
        inputs = {"index": options.index, **{f"questions_{number}": url for number, url in enumerate(files)}}
        return job.finish(inputs, info, metrics, report=report)


def _keep_answered(options: AnswerOptions, work: Work) -> bool:
    """Whether a failed run leaves answered blocks to the next one; those that failed the job are asked again."""
    if not options.keep_going:
        blocks.forget_failures(work.url)
    return bool(blocks.result_names(work.url))


def describe_errors(manifest: Manifest) -> str:
    """How many rows have an error, for the terminal."""
    count = sum(manifest.info["errors"].values())
    return f"{count:,} with an error" if count else "none with an error"


def warnings(manifest: Manifest) -> Iterator[str]:
    """What a reader of the answers should know: many errors, with the commonest reason; unreadable gold answers."""
    errors, rows = manifest.info["errors"], manifest.rows
    count = sum(errors.values())
    if count > FEW_ERRORS * rows:
        reason = max(errors, key=lambda reason: errors[reason])
        yield (
            f"{count:,} of {rows:,} rows ({count / rows:.1%}) have an error, {errors[reason]:,} of them: {reason}; "
            "the column error says more"
        )
    if unreadable := manifest.info.get("unreadable_gold_answers", 0):
        first = manifest.info["first_unreadable_gold_answers"]
        yield f"gold answers of {unreadable:,} of {rows:,} rows cannot be read and are left out: {first}"


@dataclasses.dataclass(frozen=True)
class Plan:
    """All that the pipeline is built from."""

    options: AnswerOptions
    corpus: Corpus
    work: Work
    fingerprint: str
    todo: Sequence[blocks.Block]
    cuts: Sequence[Sequence[int]]
    names: Sequence[str]
    wanted: Sequence[str]
    digests: Mapping[str, str]

    def build(self, pipeline: beam.Pipeline) -> None:
        """Adds the job's transforms to `pipeline`."""
        coders.register()
        encoded = pipeline | spread("Blocks", self.todo) | "EncodeQuestions" >> EncodeQuestions(self)
        hits = pipeline | spread("IndexShards", self._index_shards()) | "Search" >> Search(self, encoded)
        if self.options.rescore:
            hits = hits | "Rescore" >> Rescore(self)
        found = hits | "FetchTexts" >> FetchTexts(self)
        results = (hits, found) | "Answer" >> AnswerQuestions(self)
        shards = [n for n, name in enumerate(self.names) if name in self.wanted]
        checked = (
            pipeline
            | spread("Job", [self.block_numbers] if shards else [])
            | "CheckFailures" >> beam.ParDo(CheckFailures(self), results=beam.pvalue.AsList(results))
        )
        _ = (
            pipeline
            | spread("AnswerShards", shards)
            | "WriteAnswers" >> beam.ParDo(WriteAnswers(self), checked=beam.pvalue.AsList(checked))
        )

    def _index_shards(self) -> list[tuple[ShardRecord, int]]:
        starts = self.corpus.index.row_starts()
        return list(zip(self.corpus.index.shards, starts, strict=False)) if self.todo else []

    @property
    def candidates(self) -> int:
        """How many hits of the index are wanted for a question."""
        return self.options.rescore or self.options.kept

    @property
    def settings(self) -> ModelSettings:
        """How a worker runs the model."""
        options = self.options
        return ModelSettings(options.model, options.workers, dtype=options.compute_dtype)

    @property
    def block_numbers(self) -> list[int]:
        """All blocks of the job, those that an earlier run answered among them."""
        return sorted(block for numbers in self.cuts for block in numbers)

    @property
    def shard_of_block(self) -> dict[int, int]:
        """The answer shard that each block belongs to."""
        return {block: shard for shard, numbers in enumerate(self.cuts) for block in numbers}


class EncodeQuestions(beam.PTransform):
    """Blocks to files of question vectors; gives the numbers of the blocks done."""

    def __init__(self, plan: Plan):
        super().__init__()
        self._plan = plan

    def expand(self, pcoll: Any) -> Any:
        """See the class."""
        handler = EncoderHandler("EncodeQuestions", self._plan.settings, "question", ("question",), "float32")
        return (
            pcoll
            | "Read" >> beam.ParDo(ReadBlocks(self._plan.work))
            | "Encode" >> RunInference(handler)
            | "Write" >> beam.ParDo(WriteVectors(self._plan.work))
        )


class ReadBlocks(beam.DoFn):
    """Reads a block of questions."""

    def __init__(self, work: Work):
        self._work = work
        self._counters = StepCounters("ReadBlocks")

    def process(self, block: blocks.Block) -> Iterator[TextUnit]:
        """See the class."""
        with self._counters.timed():
            table = store.read_parquet(self._work.path(blocks.block_name(block.number)))
        self._counters.add(rows_out=table.num_rows, bytes=table.nbytes)
        yield TextUnit(block.number, table)


class WriteVectors(beam.DoFn):
    """Writes the vectors of a block."""

    def __init__(self, work: Work):
        self._work = work

    def process(self, unit: VectorUnit) -> Iterator[int]:
        """See the class."""
        counters = StepCounters("WriteVectors")
        dimension = unit.vectors.shape[1]
        column = pa.FixedSizeListArray.from_arrays(pa.array(unit.vectors.reshape(-1), pa.float32()), dimension)
        errors = pa.array([unit.errors.get(row) for row in range(len(unit.vectors))], pa.string())
        table = pa.table({"truncated": pa.array(unit.truncated), "error": errors, "vector": column})
        with store.atomic_write(self._work.url, self._work.name("vectors", unit.key)) as file:
            store.write_parquet(file, iter([table]), table.schema)
        counters.add(rows_in=len(unit.vectors), rows_out=table.num_rows, bytes=file.bytes_written)
        yield unit.key


class FetchTexts(beam.PTransform):
    """(block, TopK) to (answer shard, (file, record batch)): each passage shard is read once."""

    def __init__(self, plan: Plan):
        super().__init__()
        self._plan = plan

    def expand(self, pcoll: Any) -> Any:
        """See the class."""
        starts = self._plan.corpus.passages.row_starts()
        shards = self._plan.shard_of_block

        def needs(element: tuple[int, TopK]) -> Iterator[tuple[int, tuple[int, bytes]]]:
            block, hits = element
            for passage_shard, rows in needed_rows(hits.rows, starts).items():
                yield passage_shard, (shards[block], rows.tobytes())

        return (
            pcoll
            | "Needs" >> beam.FlatMap(needs).with_output_types(tuple[int, tuple[int, bytes]])
            | "GroupByPassageShard" >> beam.GroupByKey()
            | "Read" >> beam.ParDo(ReadTexts(self._plan))
        )


class ReadTexts(beam.DoFn):
    """Reads the rows of one passage shard that any question needs."""

    def __init__(self, plan: Plan):
        self._corpus_url, self._passages, self._work = plan.corpus.passages_url, plan.corpus.passages, plan.work
        self._counters = StepCounters("ReadTexts")

    def process(self, element: tuple[int, Iterable[tuple[int, bytes]]]) -> Iterator[tuple[int, tuple[str, int]]]:
        """See the class."""
        number, needs = element
        rows: dict[int, list[np.ndarray]] = {}
        for answer_shard, data in needs:
            rows.setdefault(answer_shard, []).append(np.frombuffer(data, np.int64))
        wanted = {shard: np.unique(np.concatenate(parts)) for shard, parts in rows.items()}
        name = self._work.name("texts", number, "arrow")
        with self._counters.timed():
            batches = passage_texts.fetch(
                store.join(self._corpus_url, self._passages.shards[number].path),
                self._passages.row_starts()[number],
                wanted,
                self._work.url,
                name,
            )
        self._counters.add(rows_out=sum(map(len, wanted.values())))
        for answer_shard, batch in batches.items():
            yield answer_shard, (self._work.path(name), batch)


class AnswerQuestions(beam.PTransform):
    """Hits and texts to files of results; gives the numbers of the blocks done."""

    def __init__(self, plan: Plan):
        super().__init__()
        self._plan = plan

    def expand(self, pcolls: Any) -> Any:
        """See the class."""
        hits, found = pcolls
        options, shards = self._plan.options, self._plan.shard_of_block
        by_shard = hits | "KeyByShard" >> beam.Map(lambda hit: (shards[hit[0]], hit)).with_output_types(
            tuple[int, tuple[int, TopK]]
        )
        return (
            {"hits": by_shard, "texts": found}
            | "Join" >> beam.CoGroupByKey()
            | "Contexts" >> beam.ParDo(ReadContexts(self._plan.work))
            | "Generate"
            >> RunInference(GeneratorHandler("Generate", self._plan.settings, options.generation, options.n_docs))
            | "Write" >> beam.ParDo(WriteResults(self._plan.work))
        )


class ReadContexts(beam.DoFn):
    """Reads the texts that an answer shard needs, and gives its blocks one by one with their passages.

    Blocks that an earlier try of the runner's has answered are left out.
    """

    def __init__(self, work: Work):
        self._work = work
        self._counters = StepCounters("ReadContexts")

    def process(self, element: tuple[int, dict[str, Iterable[Any]]]) -> Iterator[AnswerUnit]:
        """See the class."""
        _, joined = element
        hits_of = sorted(joined["hits"], key=lambda hit: hit[0])
        todo = [hit for hit in hits_of if not store.exists(self._work.path(blocks.result_name(hit[0])))]
        passages = passage_texts.load(sorted(joined["texts"])) if todo else {}
        for block, hits in todo:
            asked = store.read_parquet(self._work.path(blocks.block_name(block)))["question"].to_pylist()
            encoded = store.read_parquet(self._work.path(self._work.name("vectors", block)), ["truncated", "error"])
            errors = {row: error for row, error in enumerate(encoded["error"].to_pylist()) if error is not None}
            self._counters.add(rows_out=len(asked))
            yield AnswerUnit(
                block,
                asked,
                [
                    [passages[row] for row in rows if row >= 0 and number not in errors]
                    for number, rows in enumerate(hits.rows.tolist())
                ],
                hits.scores,
                encoded["truncated"].to_numpy(),
                errors,
            )


class WriteResults(beam.DoFn):
    """Writes the results of a block."""

    def __init__(self, work: Work):
        self._work = work

    def process(self, element: tuple[AnswerUnit, list[Any]]) -> Iterator[int]:
        """See the class."""
        unit, found = element
        rows = [
            {
                "answer": answer.text,
                "score": answer.score,
                "passages": [
                    {
                        "id": passage.passage_id,
                        "title": passage.title,
                        "text": passage.text,
                        "score": float(unit.scores[number, place]),
                        "posterior": answer.posterior[place] if place < len(answer.posterior) else None,
                    }
                    for place, passage in enumerate(unit.passages[number])
                ],
                "tokens": [dataclasses.asdict(token) for token in answer.tokens] if answer.error is None else None,
                "alternatives": (
                    [{"answer": text, "score": score} for text, score in answer.others]
                    if answer.error is None
                    else None
                ),
                "truncated": bool(answer.truncated or unit.truncated[number]),
                "error": answer.error,
            }
            for number, answer in enumerate(found)
        ]
        table = pa.Table.from_pylist(rows, schema=answers.RESULTS)
        with store.atomic_write(self._work.url, blocks.result_name(unit.block)) as file:
            store.write_parquet(file, iter([table]), answers.RESULTS, RESULT_ROWS)
        StepCounters("WriteResults").add(rows_in=len(found), rows_out=table.num_rows, bytes=file.bytes_written)
        yield unit.block


class CheckFailures(beam.DoFn):
    """Ends the job, before any answer is written, when the model failed alike on over half of its questions."""

    def __init__(self, plan: Plan):
        self._work_url, self._keep_going = plan.work.url, plan.options.keep_going

    def process(self, numbers: list[int], results: list[int]) -> Iterator[int]:
        """See the class; the files are read, because a runner that tries again gives the results of its last try."""
        if not self._keep_going:
            blocks.failures(self._work_url, numbers).check()
        yield len(results)


class WriteAnswers(beam.DoFn):
    """Writes an answer shard: every row of the question files with its result, in the files' order."""

    def __init__(self, plan: Plan):
        self._output, self._work, self._cuts = plan.options.output, plan.work, plan.cuts
        self._names, self._fingerprint, self._digests = plan.names, plan.fingerprint, dict(plan.digests)
        self._counters = StepCounters("WriteAnswers")

    def process(self, shard: int, checked: list[int]) -> None:
        """See the class; `checked` is there to wait for all blocks, because a question may be answered in another's."""
        with self._counters.timed():
            tables = blocks.join_answers(self._work.url, self._work.url, self._cuts[shard], self._digests)
            record = write_shard(
                self._output,
                self._names[shard],
                self._fingerprint,
                lambda file: store.write_parquet(file, self._counted(tables), answers.SCHEMA, RESULT_ROWS),
            )
        self._counters.add(rows_out=record.rows, bytes=record.bytes)

    def _counted(self, tables: Iterator[pa.Table]) -> Iterator[pa.Table]:
        for table in tables:
            self._counters.add(rows_in=table.num_rows, errors=table.num_rows - table["error"].null_count)
            yield table


def _check_fits(options: AnswerOptions, corpus: Corpus) -> None:
    """Refuses a job that this machine has no memory for: models and the largest index shard."""
    from rag_ops import planning

    shard_bytes = max(shard.bytes for shard in corpus.index.shards)
    memory = planning.answer_memory_bytes(planning.Model.of(options.model), shard_bytes)
    planning.check_fits(planning.StagePlan("answer", 0, 0, memory, None), options.output)


def _config(
    options: AnswerOptions, files: Sequence[str], digests: Mapping[str, str], index: Manifest
) -> dict[str, Any]:
    from rag_ops.generation import special_tokens
    from rag_ops.models import checkpoints

    tokens = special_tokens.read_special_tokens(checkpoints.find_model(options.model))
    tokens = tokens if options.generation.forced_tokens == "model" else tokens.unforced()
    reading = dataclasses.asdict(options.reading)
    decisive = ("n_docs", "block_questions", "num_shards", "rescore", "compute_dtype")
    # Named only where it changes what is kept: answers that were made before there was the flag stay valid.
    kept = {"retrieve": options.kept} if options.kept != options.n_docs else {}
    return {
        "questions": [posixpath.basename(url) for url in files],
        "reading": reading,
        **digests,
        "special_tokens": dataclasses.asdict(tokens),  # which generation_config.json may name, no part of the digest
        **dataclasses.asdict(options.generation),
        **{field: getattr(options, field) for field in decisive},
        **kept,
        **search_effort(options, index),
    }


def _digests(files: Sequence[str]) -> dict[str, str]:
    return {f"questions_{number}": store.sha256_of(url) for number, url in enumerate(files)}
