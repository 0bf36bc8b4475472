"""answer: question files in, a Parquet table of answers out.

Shard-major: every block of questions meets an index shard while it is in memory, once; every passage shard is read once
for all questions. Question vectors, article text and answers lie in files between the steps; what goes through a
shuffle is top-k arrays, rows and file names.
"""

from __future__ import annotations

import dataclasses
import time
from collections.abc import Iterator, Mapping, Sequence
from functools import partial
from typing import Any

import apache_beam as beam

from pipelines.answer.generate import answer_questions
from pipelines.answer.options import AnswerOptions
from pipelines.answer.plan import Plan
from pipelines.answer.promise import floor_of
from pipelines.answer.retrieved import answer_retrieved
from pipelines.answer.sources import IndexSource, Source, found_files, open_source
from pipelines.answer.write import write_answers
from pipelines.runners import launch
from pipelines.runners.counters import live_rows
from pipelines.transforms import question_blocks
from pipelines.transforms.arithmetic import device_of, question_dtype, settled_dtype
from pipelines.transforms.index_search import rescore, search
from pipelines.transforms.passage_texts import fetch_texts, join_texts
from pipelines.transforms.question_blocks import BlockPlan, deal, keep_finished, write_when_checked
from pipelines.transforms.question_vectors import encode_questions
from pipelines.transforms.stage_job import InputStates, StageRun, begins_again, distribute, stage_job
from pipelines.transforms.topk import register_coder
from pipelines.transforms.work import Work
from rag_ops import defaults
from rag_ops.errors import InputError
from rag_ops.models import checkpoints
from rag_ops.questions import blocks
from rag_ops.questions.reading import check_question_files, expand_question_files
from rag_ops.retrieval.corpus import check_model, prefix_config, question_changes
from rag_ops.storage import store
from rag_ops.storage.places import check_directory
from rag_ops.storage.stages import StageOutput
from schemas.layout import ANSWER
from schemas.manifest import Manifest

PROCESS_QUESTIONS = 256  # for which another process with its models starts
LESS_MEMORY = (
    "lower --batch_tokens, --max_new_tokens, --num_beams or --passage_memory, leave out --lazy, or make an index of "
    "more --num_shards; see ragbeam plan"
)


@begins_again
def run(options: AnswerOptions, beam_arguments: Sequence[str] = ()) -> StageRun:
    """Runs the job and returns what it wrote.

    Raises:
        InputError: a question file, the index or the model is missing or malformed, or they do not go together.
    """
    started = time.monotonic()
    options = options.prompted()
    files = expand_question_files(options.questions)
    asked_files, model = InputStates(files), InputStates(checkpoints.local_files(options.model))
    found_elsewhere = InputStates(found_files(options))
    source = open_source(options, files)
    launch.check(beam_arguments, source.places)
    options = settled(options, beam_arguments)
    config = _planned(options, beam_arguments, source.known)
    dtype = config.get("question_dtype", "float32")
    digests = {"model_digest": config["model_digest"], "index_digest": source.digest}
    config |= {**digests, **source.config}
    if floor := floor_of(options, config):
        config |= floor.config
    if options.rescore and isinstance(source, IndexSource):
        _ = source.corpus.embeddings  # refused now rather than in the middle
    read = {f"questions_{number}": url for number, url in enumerate(files)}
    asked = {name: store.sha256_of(url) for name, url in read.items()}
    output = StageOutput(options.output, "answer", config, asked)
    work = Work.of(options.output, output.fingerprint)

    def check_inputs() -> None:
        source.check_unchanged()
        model.check()

    with stage_job(output, beam_arguments, started, check_inputs, work.url) as job:
        if options.verify:
            source.check_digests()
        if done := job.reuse(verify=options.verify):
            return done
        if launch.is_local(beam_arguments):
            _check_fits(options, source)
        job.begin(options)
        job.keeps_scratch = lambda: keep_finished(options.keep_going, work, job)
        keep_finished(options.keep_going, work, job)  # of a run that was killed before it could end with its failures
        prepared = blocks.prepare(source.questions(files, work.url), work.url, options.block_questions)
        found_elsewhere.check()
        asked_files.check()  # the blocks hold all that is read of them
        dealt = deal(job, prepared, work, ANSWER.shard, options.num_shards, keep_going=options.keep_going)
        job.spread(partial(_processes, options, source, dealt), source.places)
        plan = Plan(**vars(dealt), options=options, source=source, digests=digests, question_dtype=dtype, floor=floor)
        metrics = job.run(
            partial(build, plan),
            "questions",
            plan.questions,
            lambda: live_rows("Generate") or plan.finished(),
            options.workers.resources,
        )
        info = {
            **digests,
            "model": options.model,
            **plan.info(prepared),
            **({"abstained": blocks.abstained_rows(options.output, plan.made())} if floor else {}),
            "execution": options.workers.execution,
            **source.info,
        }
        return job.finish({**source.inputs, **read}, info, metrics, report=plan.report())


def warnings(manifest: Manifest) -> Iterator[str]:
    """Warnings for a reader of the answers; see `question_blocks.warnings`."""
    yield from question_blocks.warnings(manifest.info, manifest.rows, manifest.rows)


def build(plan: Plan, pipeline: beam.Pipeline) -> None:
    """Adds the job's transforms to `pipeline`."""
    register_coder()
    answered = answer_retrieved(pipeline, plan) if plan.options.retrieved else answer_searched(pipeline, plan)
    write_when_checked(pipeline, answered, plan, "WriteAnswers", write_answers)


def answer_searched(pipeline: beam.Pipeline, plan: Plan) -> Any:
    """Adds the transforms from questions through the index to answers; emits the numbers of finished blocks."""
    hints = plan.options.workers.resources.hints()
    changes = question_changes(plan.corpus.index.info, plan.options.query_prefix)
    settings = dataclasses.replace(plan.settings, dtype=plan.question_dtype, changes=changes)
    encode = encode_questions(plan.todo, plan.work, settings).with_resource_hints(**hints)
    encoded = pipeline | "EncodeQuestions" >> encode
    shards = plan.search.shards() if plan.todo else []
    hits = pipeline | distribute("IndexShards", shards) | "Search" >> search(plan.search, encoded)
    if plan.options.rescore:
        hits = hits | "Rescore" >> rescore(plan.search)
    texts = hits | "FetchTexts" >> fetch_texts(plan.source.texts, plan.shard_of_block, plan.work)
    joined = (hits, texts) | "Join" >> join_texts(plan.shard_of_block)
    return joined | "Answer" >> answer_questions(plan).with_resource_hints(**hints)


def _processes(options: AnswerOptions, source: Source, dealt: BlockPlan) -> int:
    """How many processes pay on this machine; on a CPU each has the same threads, for answers depend on them."""
    units = min(len(dealt.todo), dealt.questions // PROCESS_QUESTIONS)
    return options.workers.processes(units, defaults.THREADS, lambda: _memory_bytes(options, source, dealt.questions))


def _memory_bytes(options: AnswerOptions, source: Source, questions: int = 0) -> float:
    """Peak memory of a process: models, a batch, and the largest index shard with the search of so many questions."""
    from rag_ops import planning

    model, batch_tokens = planning.Model.of(options.model), options.workers.batch_tokens
    if device_of(options.workers, ()) == "cuda":  # whose own memory holds what is decoded
        model = dataclasses.replace(model, decoder=None)
    return planning.answer_memory_bytes(
        model, source.index_bytes(questions), options.generation, options.n_docs, batch_tokens, options.compute_dtype
    )


def _check_fits(options: AnswerOptions, source: Source) -> None:
    """Refuses a job that this machine has no memory for."""
    from rag_ops import planning

    stage = planning.StagePlan("answer", 0, 0, _memory_bytes(options, source), None)
    planning.check_fits(stage, options.output, LESS_MEMORY)


def check(options: AnswerOptions, beam_arguments: Sequence[str], known: Mapping[str, Any]) -> dict[str, Any]:
    """Raises what the job would before it opens the index; returns what is known of its manifest's `info`: nothing.

    Args:
        options: options of the job.
        beam_arguments: flags of the runner.
        known: what is known of the `info` of the index.

    Raises:
        InputError: as `run`.
    """
    options = settled(options.prompted(), beam_arguments)
    config = _planned(options, beam_arguments, known)
    given = {name for name, value in dataclasses.asdict(options.search).items() if value}
    unknown = {"index_digest", *dataclasses.asdict(options.search)} - given
    if floor := floor_of(options, config, unknown | {"prior", "contexts"}):
        config |= floor.config
    StageOutput(options.output, "answer", config, {}).check(options.overwrite, unknown)
    return {}


def _planned(options: AnswerOptions, beam_arguments: Sequence[str], known: Mapping[str, Any] | None) -> dict[str, Any]:
    """The configuration, but for what the index decides, checked against question files, model and runner.

    `known` is what the index says of its vectors; None if no index is searched.
    """
    from rag_ops.generation import special_tokens

    # The question files are read by the launcher, so they may lie anywhere.
    places = [place for place in (options.output, options.index, options.generation.passage_cache) if place]
    launch.check(beam_arguments, places, [options.model], options.workers.resources)
    launch.check_device(beam_arguments, options.workers.device)
    check_question_files(options.questions, options.reading)
    if options.generation.passage_cache is not None:
        check_directory(options.generation.passage_cache, "passage_cache")
    digest = check_model(options.model, known, options.query_prefix)
    chosen, directory = options.generation, checkpoints.find_model(options.model)
    chosen.check_generator(checkpoints.is_causal_rag(directory))
    checkpoints.check_adapter(directory)
    if chosen.lazy:
        _check_bart(directory)
    decoding = checkpoints.read_decoding(directory, options.model, chosen.decoding, chosen.any_architecture)
    chosen.check_decoding(decoding)
    tokens = special_tokens.read_special_tokens(directory, decoding)
    tokens = tokens if chosen.forced_tokens == "model" else tokens.unforced()
    reading = dataclasses.asdict(options.reading)
    decisive = ("n_docs", "block_questions", "num_shards", "rescore", "compute_dtype")
    # Part of the fingerprint only if it changes what is kept.
    kept = {"retrieve": options.kept} if options.kept != options.n_docs else {}
    dtype = question_dtype(options.compute_dtype, options.workers, beam_arguments)
    asked = {"question_dtype": dtype} if dtype != "float32" and known is not None else {}
    return {
        "questions": [store.name_of(url) for url in expand_question_files(options.questions)],
        "reading": reading,
        "model_digest": digest,
        "special_tokens": dataclasses.asdict(tokens),  # which generation_config.json may name, no part of the digest
        **chosen.config(decoding),
        **{field: getattr(options, field) for field in decisive},
        **kept,
        **asked,
        **prefix_config(directory, options.query_prefix),
        **options.search.config({}),
    }


def _check_bart(directory: str) -> None:
    """Refuses a generator that lazy decoding does not know; the worker that loads it looks closer."""
    kind = checkpoints.read_config(directory).get("generator", {}).get("model_type")
    if kind != "bart":
        raise InputError(
            "--lazy knows no bound of rounding for this generator",
            value=f"model_type {kind}",
            expected="bart",
            remedy="leave out --lazy",
        )


def settled(options: AnswerOptions, beam_arguments: Sequence[str]) -> AnswerOptions:
    """The options with the dtype that --compute_dtype auto means; see `settled_dtype`."""
    output = None if options.overwrite else StageOutput(options.output, "answer", {}, {})
    dtype = options.generation.dtype(options.compute_dtype)
    return dataclasses.replace(options, compute_dtype=settled_dtype(dtype, options.workers, beam_arguments, output))
