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
from pipelines.search.options import SearchOptions
from pipelines.search.plan import Plan
from pipelines.search.rank import rank
from pipelines.search.write import write_hits
from pipelines.transforms import question_blocks
from pipelines.transforms.arithmetic import question_dtype, settled_dtype
from pipelines.transforms.index_search import rescore, search
from pipelines.transforms.passage_texts import Texts, fetch_texts, join_texts
from pipelines.transforms.question_blocks import check_failures, keep_finished
from pipelines.transforms.question_vectors import encode_questions
from pipelines.transforms.stage_job import InputStates, StageRun, begins_again, distribute, stage_job
from pipelines.transforms.topk import register_coder
from pipelines.transforms.work import Work
from rag_ops.models import checkpoints
from rag_ops.questions import blocks
from rag_ops.questions.reading import check_question_files, expand_question_files, read_questions
from rag_ops.retrieval import score_origin
from rag_ops.retrieval.corpus import Corpus, check_question_encoder, open_corpus, prefix_config
from rag_ops.retrieval.kinds import kind_of
from rag_ops.retrieval.trec import write_run
from rag_ops.storage import store
from rag_ops.storage.manifests import reads_sections
from rag_ops.storage.stages import StageOutput
from schemas.layout import SEARCH
from schemas.manifest import Manifest

PROCESS_QUESTIONS = 1024  # for which another process with its encoder starts


@begins_again
def run(options: SearchOptions, beam_arguments: Sequence[str] = ()) -> StageRun:
    """Runs the job and returns what it wrote.

    Raises:
        InputError: a question file, the index or the encoder is missing or malformed, or they do not go together.
    """
    done = _run(options, beam_arguments)
    if options.trec is not None:
        write_run(options.output, done.manifest, options.trec)
    return done


def _run(options: SearchOptions, beam_arguments: Sequence[str]) -> StageRun:
    started = time.monotonic()
    assert options.index is not None
    files = expand_question_files(options.questions)
    asked_files, model = InputStates(files), InputStates(checkpoints.local_files(options.encoder))
    corpus = open_corpus(options.index, options.passages, options.embeddings)
    before = None if options.overwrite else StageOutput(options.output, "search", {}, {})
    dtype = settled_dtype(options.compute_dtype, options.workers, beam_arguments, before)
    options = dataclasses.replace(options, compute_dtype=dtype)
    config = _config(options, beam_arguments, corpus)
    if options.rescore:
        _ = corpus.embeddings  # refused now rather than in the middle
    read = {f"questions_{number}": url for number, url in enumerate(files)}
    asked = {name: store.sha256_of(url) for name, url in read.items()}
    output = StageOutput(options.output, "search", config, asked)
    work = Work.of(options.output, output.fingerprint)

    def check_inputs() -> None:
        corpus.check_unchanged()
        model.check()

    with stage_job(output, beam_arguments, started, check_inputs, work.url) as job:
        if options.verify:
            corpus.check_digests(embeddings=options.rescore is not None)
        if done := job.reuse(verify=options.verify):
            return done
        if launch.is_local(beam_arguments):
            _check_fits(options, corpus)
        job.begin(options)
        job.keeps_scratch = lambda: keep_finished(options.keep_going, work, job)
        keep_finished(options.keep_going, work, job)  # of a run that was killed before it could end with its failures
        prepared = blocks.prepare(read_questions(files, options.reading), work.url, options.block_questions)
        asked_files.check()  # the blocks hold all that is read of them
        cuts = blocks.cut_shards(prepared.blocks, options.num_shards)
        names = [SEARCH.shard(number, len(cuts)) for number in range(len(cuts))]
        wanted = job.todo(dict.fromkeys(names, output.fingerprint))
        there = set(blocks.result_names(work.url))
        todo = [block for block in prepared.blocks if blocks.result_name(block.number) not in there]
        places = [corpus.index_url, corpus.passages_url, *([options.embeddings] if options.embeddings else [])]
        job.spread(partial(_processes, options, corpus, todo), places)
        workers = options.workers.with_threads(job.threads(options.workers.threads))
        running = dataclasses.replace(options, workers=workers)
        dtype = question_dtype(dtype, options.workers, beam_arguments)
        plan = Plan(running, corpus, work, output.fingerprint, todo, cuts, names, wanted, dtype)

        def found() -> int:  # by workers that are not in this process
            there = set(blocks.result_names(work.url))
            return sum(block.questions for block in todo if blocks.result_name(block.number) in there)

        metrics = job.run(
            partial(build, plan),
            "questions",
            sum(block.questions for block in todo),
            lambda: live_rows("WriteResults") or found(),
            options.workers.resources,
        )
        made = [name for name in names if store.exists(store.join(options.output, name))]  # finish says what lacks
        info = {
            "encoder": options.encoder,
            "encoder_digest": config["encoder_digest"],
            "scores": score_origin.DENSE,
            "index_digest": corpus.index.digest,
            "passages_digest": corpus.passages.digest,
            "questions": prepared.rows,
            "distinct_questions": sum(block.questions for block in prepared.blocks),
            "unreadable_questions": prepared.errors,
            "errors": blocks.error_counts(options.output, made),
            "truncated": blocks.truncated_rows(options.output, made),
            "unreadable_gold_answers": prepared.notes,
            "first_unreadable_gold_answers": prepared.first_note,
            "execution": options.workers.execution,
        }
        report = {
            "blocks": {"total": len(prepared.blocks), "reused": len(prepared.blocks) - len(todo), "made": len(todo)}
        }
        inputs = {"passages": corpus.passages_url, "index": corpus.index_url, **read}
        return job.finish(inputs, info, metrics, report=report)


def warnings(manifest: Manifest) -> Iterator[str]:
    """Warnings for a reader of the hits; see `question_blocks.warnings`."""
    yield from question_blocks.warnings(manifest.info, manifest.info["questions"], manifest.rows)


def build(plan: Plan, pipeline: beam.Pipeline) -> None:
    """Adds the job's transforms to `pipeline`."""
    register_coder()
    hints = plan.options.workers.resources.hints()
    encode = encode_questions(plan.todo, plan.work, plan.encoder).with_resource_hints(**hints)
    encoded = pipeline | "EncodeQuestions" >> encode
    shards = plan.dense.shards() if plan.todo else []
    hits = pipeline | distribute("IndexShards", shards) | "Search" >> search(plan.dense, encoded)
    if plan.options.rescore:
        hits = hits | "Rescore" >> rescore(plan.dense)
    texts = Texts(plan.corpus.passages_url, plan.corpus.passages, reads_sections(plan.corpus.index))
    fetched = hits | "FetchTexts" >> fetch_texts(texts, plan.shard_of_block, plan.work)
    joined = (hits, fetched) | "Join" >> join_texts(plan.shard_of_block)
    ranked = joined | "Rank" >> rank(plan)
    made = [n for n, name in enumerate(plan.names) if name in plan.wanted]
    checked = (
        pipeline
        | distribute("Job", [plan.block_numbers] if made else [])
        | "CheckFailures"
        >> beam.Map(check_failures, plan.work, plan.options.keep_going, done=beam.pvalue.AsIter(ranked))
    )
    _ = (
        pipeline
        | distribute("HitShards", made)
        | "WaitForCheck" >> beam.WaitOn(checked)  # and so for all blocks: a question may stand in another's
        | "WriteHits" >> beam.Map(write_hits, plan)
    )


def _processes(options: SearchOptions, corpus: Corpus, todo: Sequence[blocks.Block]) -> int:
    """How many processes pay on this machine."""
    questions = sum(block.questions for block in todo)
    units = min(len(todo), questions // PROCESS_QUESTIONS)
    return options.workers.processes(units, None, lambda: _memory_bytes(options, corpus, questions))


def _memory_bytes(options: SearchOptions, corpus: Corpus, questions: int = 0) -> float:
    """Peak memory of a process: the encoder, and the largest index shard with the search of so many questions."""
    from rag_ops import planning

    info, shard_bytes = corpus.index.info, max(shard.bytes for shard in corpus.index.shards)
    kind = kind_of(info["spec"])(info["spec"], info["dimension"])
    weights = planning.EMBED_WEIGHTS * planning.Model.of(options.encoder).weight_bytes
    return planning.MODEL_PROCESS + weights + shard_bytes + kind.search_bytes(questions)


def _check_fits(options: SearchOptions, corpus: Corpus) -> None:
    """Refuses a job that this machine has no memory for."""
    from rag_ops import planning

    planning.check_fits(planning.StagePlan("search", 0, 0, _memory_bytes(options, corpus), None), options.output)


def _config(options: SearchOptions, beam_arguments: Sequence[str], corpus: Corpus) -> dict[str, Any]:
    """The configuration, checked against question files, models and runner."""
    # The question files are read by the launcher, so they may lie anywhere.
    urls = [corpus.index_url, corpus.passages_url, options.output]
    launch.check(beam_arguments, urls, [options.encoder], options.workers.resources)
    launch.check_device(beam_arguments, options.workers.device)
    check_question_files(options.questions, options.reading)
    directory = checkpoints.find_model(options.encoder)
    check_question_encoder(directory, corpus.index.info, options.query_prefix)
    decisive = ("n_docs", "block_questions", "num_shards", "rescore", "compute_dtype")
    return {
        "questions": [store.name_of(url) for url in expand_question_files(options.questions)],
        "reading": dataclasses.asdict(options.reading),
        "encoder_digest": checkpoints.model_digest(directory),
        "index_digest": corpus.index.digest,
        **{field: getattr(options, field) for field in decisive},
        **prefix_config(directory, options.query_prefix),
        **options.search.config(corpus.index.info.get("search", {})),
    }
