"""search: question files in, a Parquet table of ranked passages out.

Shard-major, as answer: every block of questions meets an index shard while it is in memory, once; every passage shard
is read once for all questions. What goes through a shuffle is top-k arrays, rows and file names.
"""

from __future__ import annotations

import dataclasses
import time
from collections.abc import Iterator, Sequence
from functools import partial
from typing import Any

import apache_beam as beam

from pipelines.runners import launch
from pipelines.runners.counters import live_rows
from pipelines.search.combine import combine
from pipelines.search.options import SearchOptions
from pipelines.search.plan import Plan
from pipelines.search.rank import rank
from pipelines.search.sources import Sources, open_sources
from pipelines.search.words import search_words
from pipelines.search.write import write_hits
from pipelines.transforms import question_blocks
from pipelines.transforms.allowed import find_allowed
from pipelines.transforms.arithmetic import question_dtype, settled_dtype
from pipelines.transforms.index_search import rescore, search
from pipelines.transforms.passage_texts import fetch_texts, join_texts
from pipelines.transforms.question_blocks import BlockPlan, deal, keep_finished, write_when_checked
from pipelines.transforms.question_vectors import encode_questions
from pipelines.transforms.stage_job import InputStates, StageRun, begins_again, distribute, stage_job
from pipelines.transforms.topk import register_coder
from pipelines.transforms.work import Work
from rag_ops.compute import processor
from rag_ops.models import checkpoints
from rag_ops.questions import blocks
from rag_ops.questions.reading import check_question_files, expand_question_files, read_questions
from rag_ops.retrieval import filters, score_origin
from rag_ops.retrieval.corpus import check_question_encoder, prefix_config
from rag_ops.retrieval.trec import check_place, write_run
from rag_ops.storage import store
from rag_ops.storage.parquet import open_parquet
from rag_ops.storage.stages import StageOutput
from schemas.layout import SEARCH
from schemas.manifest import Manifest

PROCESS_QUESTIONS = 1024  # for which another process with its encoder starts


@begins_again
def run(options: SearchOptions, beam_arguments: Sequence[str] = ()) -> StageRun:
    """Runs the job and returns what it wrote.

    Raises:
        InputError: a question file, an index or a model is missing or malformed, or they do not go together.
    """
    if options.trec is not None:
        check_place(options.trec)
    done = _run(options, beam_arguments)
    if options.trec is not None:
        write_run(options.output, done.manifest, options.trec)
    return done


def _run(options: SearchOptions, beam_arguments: Sequence[str]) -> StageRun:
    started = time.monotonic()
    files = expand_question_files(options.questions)
    asked_files = InputStates(files)
    models = InputStates([file for model in options.models for file in checkpoints.local_files(model)])
    sources = open_sources(options)
    config = _config(options, beam_arguments, sources)
    read = {f"questions_{number}": url for number, url in enumerate(files)}
    asked = {name: store.sha256_of(url) for name, url in read.items()}
    output = StageOutput(options.output, "search", config, asked)
    work = Work.of(options.output, output.fingerprint)

    def check_inputs() -> None:
        sources.check_unchanged()
        models.check()

    with stage_job(output, beam_arguments, started, check_inputs, work.url) as job:
        if options.verify:
            sources.check_digests(embeddings=options.rescore is not None)
        if done := job.reuse(verify=options.verify):
            return done
        if launch.is_local(beam_arguments):
            _check_fits(options, sources)
        job.begin(options)
        job.keeps_scratch = lambda: keep_finished(options.keep_going, work, job)
        keep_finished(options.keep_going, work, job)  # of a run that was killed before it could end with its failures
        prepared = blocks.prepare(read_questions(files, options.reading), work.url, options.block_questions)
        asked_files.check()  # the blocks hold all that is read of them
        dealt = deal(job, prepared, work, SEARCH.shard, options.num_shards, keep_going=options.keep_going)
        places = [*sources.inputs.values(), *([options.embeddings] if options.embeddings else [])]
        job.spread(partial(_processes, options, sources, dealt), places)
        workers = options.workers.with_threads(job.threads(options.workers.threads))
        plan = Plan(
            **vars(dealt),
            options=dataclasses.replace(options, workers=workers),
            sources=sources,
            question_dtype=config.get("question_dtype", "float32"),
            rerank_dtype=config.get("rerank_dtype", "float32"),
        )
        metrics = job.run(
            partial(build, plan),
            "questions",
            plan.questions,
            lambda: live_rows("WriteResults") or plan.finished(),
            options.workers.resources,
        )
        info = {
            **({"encoder": options.encoder, "encoder_digest": config["encoder_digest"]} if options.encoder else {}),
            **({"reranker": options.rerank, "reranker_digest": config["reranker_digest"]} if options.rerank else {}),
            **({"scores": score_origin.DENSE} if options.bm25 is None and options.rerank is None else {}),
            **({"filter": options.filter} if options.filter is not None else {}),
            **sources.digests,
            "passages_digest": sources.texts.passages.digest,
            **plan.info(prepared),
            "execution": options.workers.execution,
        }
        return job.finish({**sources.inputs, **read}, info, metrics, report=plan.report())


def warnings(manifest: Manifest) -> Iterator[str]:
    """Warnings for a reader of the hits; see `question_blocks.warnings`."""
    yield from question_blocks.warnings(manifest.info, manifest.info["questions"], manifest.rows)


def build(plan: Plan, pipeline: beam.Pipeline) -> None:
    """Adds the job's transforms to `pipeline`."""
    register_coder()
    hints = plan.options.workers.resources.hints()
    hits = find_hits(plan, pipeline)
    fetched = hits | "FetchTexts" >> fetch_texts(plan.sources.texts, plan.shard_of_block, plan.work)
    joined = (hits, fetched) | "Join" >> join_texts(plan.shard_of_block)
    ranked = joined | "Rank" >> rank(plan).with_resource_hints(**(hints if plan.reranker else {}))
    write_when_checked(pipeline, ranked, plan, "WriteHits", write_hits)


def find_hits(plan: Plan, pipeline: beam.Pipeline) -> Any:
    """Adds the transforms from questions to (block, TopK): by vectors, by words, or by both."""
    allowed, sides = None, []
    if plan.allowed is not None:
        numbers = list(range(len(plan.allowed.passages.shards))) if plan.todo else []
        allowed = pipeline | distribute("PassageShards", numbers) | "Filter" >> find_allowed(plan.allowed)

    def shards(label: str, found: Sequence[Any]) -> Any:
        dealt = pipeline | distribute(label, found if plan.todo else [])
        return dealt if allowed is None else dealt | f"{label}WaitForFilter" >> beam.WaitOn(allowed)

    if plan.dense is not None:
        hints = plan.options.workers.resources.hints()
        encode = encode_questions(plan.todo, plan.work, plan.encoder).with_resource_hints(**hints)
        encoded = pipeline | "EncodeQuestions" >> encode
        hits = shards("IndexShards", plan.dense.shards()) | "Search" >> search(plan.dense, encoded)
        sides.append(hits | "Rescore" >> rescore(plan.dense) if plan.options.rescore else hits)
    if plan.words is not None:
        numbers = list(range(len(plan.words.corpus.shards)))
        sides.append(shards("WordShards", numbers) | "SearchWords" >> search_words(plan.words))
    if len(sides) == 1:
        return sides[0]
    return tuple(sides) | "Combine" >> combine(plan.options.fusing, plan.options.depth, plan.work)


def _processes(options: SearchOptions, sources: Sources, dealt: BlockPlan) -> int:
    """How many processes pay on this machine."""
    units = min(len(dealt.todo), dealt.questions // PROCESS_QUESTIONS)
    return options.workers.processes(units, None, lambda: _memory_bytes(options, sources, dealt.questions))


def _memory_bytes(options: SearchOptions, sources: Sources, questions: int = 0) -> float:
    """Peak memory of a process: the models, and the largest index shard with the search of so many questions."""
    from rag_ops import planning

    weights = [planning.Model.of(model).weight_bytes for model in options.models]
    return planning.search_memory_bytes(weights, sources.shard_bytes(questions))


def _check_fits(options: SearchOptions, sources: Sources) -> None:
    """Refuses a job that this machine has no memory for."""
    from rag_ops import planning

    stage = planning.StagePlan("search", 0, 0, _memory_bytes(options, sources), None)
    planning.check_fits(stage, options.output, "make an index of more --num_shards; see ragbeam plan")


def _config(options: SearchOptions, beam_arguments: Sequence[str], sources: Sources) -> dict[str, Any]:
    """The configuration, checked against question files, models and runner."""
    # The question files are read by the launcher, so they may lie anywhere.
    urls = [*sources.inputs.values(), options.output]
    launch.check(beam_arguments, urls, options.models, options.workers.resources)
    launch.check_device(beam_arguments, options.workers.device)
    check_question_files(options.questions, options.reading)
    config = {
        "questions": [store.name_of(url) for url in expand_question_files(options.questions)],
        "reading": dataclasses.asdict(options.reading),
        **{field: getattr(options, field) for field in ("n_docs", "block_questions", "num_shards")},
        **sources.digests,
    }
    if options.fuses:
        config |= {**options.fusing.config(), "candidates": options.searched}
    if options.filter is not None:
        config["filter"] = _parsed(options.filter, sources)
    if sources.dense is not None:
        config |= _dense_config(options, beam_arguments, sources)
    if options.rerank is not None:
        config |= _rerank_config(options, beam_arguments)
    return config


def _parsed(expression: str, sources: Sources) -> list[list[Any]]:
    """The conditions of a filter, checked against the columns of the passages."""
    condition, texts = filters.parse(expression), sources.texts
    with open_parquet(store.join(texts.url, texts.passages.shards[0].path)) as parquet:
        condition.check(parquet.schema_arrow)
    return [[one.column, one.operator, list(one.values)] for one in condition.conditions]


def _dense_config(options: SearchOptions, beam_arguments: Sequence[str], sources: Sources) -> dict[str, Any]:
    """What decides the search of vectors, checked."""
    assert options.encoder is not None
    assert sources.dense is not None
    if options.rescore:
        _ = sources.dense.embeddings  # refused now rather than in the middle
    info, directory = sources.dense.index.info, checkpoints.find_model(options.encoder)
    check_question_encoder(directory, info, options.query_prefix)
    before = None if options.overwrite else StageOutput(options.output, "search", {}, {})
    dtype = settled_dtype(options.compute_dtype, options.workers, beam_arguments, before)
    return {
        "encoder_digest": checkpoints.model_digest(directory),
        "rescore": options.rescore,
        "compute_dtype": dtype,
        "question_dtype": question_dtype(dtype, options.workers, beam_arguments),
        **prefix_config(directory, options.query_prefix),
        **options.search.config(info.get("search", {})),
    }


def _rerank_config(options: SearchOptions, beam_arguments: Sequence[str]) -> dict[str, Any]:
    """What decides the reranking, checked: in float32 unless bfloat16 is named, for it orders what is near already."""
    from rag_ops.models.cross_encoder import check_cross_encoder  # with transformers

    assert options.rerank is not None
    directory = checkpoints.find_model(options.rerank)
    check_cross_encoder(directory)
    dtype = "bfloat16" if options.compute_dtype == "bfloat16" else "float32"
    if dtype == "bfloat16" and launch.is_local(beam_arguments) and options.workers.worker_device == "cpu":
        processor.check(dtype)
    digest = checkpoints.model_digest(directory)
    return {"reranker_digest": digest, "rerank_top": options.reranked, "rerank_dtype": dtype}
