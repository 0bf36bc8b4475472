"""Every command: its flags, and the options that they become."""

from __future__ import annotations

import argparse
import dataclasses
import sys
from collections.abc import Callable, Sequence
from typing import Any

from rag_ops import storage
from rag_ops.errors import InputError

FORMATS = ("auto", "mediawiki", "jsonl", "parquet", "psgs", "hf")
QUESTION_FORMATS = ("auto", "jsonl", "csv", "tsv", "parquet", "text")


@dataclasses.dataclass(frozen=True)
class Command:
    """A command of the command line."""

    name: str
    summary: str
    description: str
    add_flags: Callable[[argparse.ArgumentParser], None]
    run: Callable[[argparse.Namespace, Sequence[str]], int]
    takes_beam_flags: bool = True


def _input_flags(parser: argparse.ArgumentParser) -> None:
    group = parser.add_argument_group("articles")
    group.add_argument(
        "--input", nargs="+", required=True, metavar="URL", help="files, globs, or dataset names with --format hf"
    )
    group.add_argument("--format", default="auto", help=f"{', '.join(FORMATS)}; auto tells it from the name")
    group.add_argument("--id_column", default="id", help="column or key of the article's id")
    group.add_argument("--title_column", default="title", help="column or key of the title")
    group.add_argument("--text_column", default="text", help="column or key of the text")
    group.add_argument(
        "--dataset_config", default=None, help="configuration of a Hugging Face dataset, such as 20231101.en"
    )
    group.add_argument("--dataset_split", default="train", help="split of a Hugging Face dataset")
    group.add_argument("--split_bytes", type=int, default=16 << 20, help="input read by one worker at a time, in bytes")
    group.add_argument("--passage_words", type=int, default=100, help="words of a passage")
    group.add_argument(
        "--passage_overlap", type=int, default=0, help="words that a passage repeats from the one before"
    )


def _encoder_flags(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--encoder", required=True, metavar="MODEL", help="context encoder: directory, URL or hub id")
    parser.add_argument("--dtype", default="float16", help="of the vectors on disk: float16 or float32")
    parser.add_argument(
        "--max_tokens", type=int, default=None, help="cut passages to this many tokens; by default the model's limit"
    )


def _index_flags(parser: argparse.ArgumentParser) -> None:
    group = parser.add_argument_group("index")
    group.add_argument(
        "--spec",
        default="auto",
        help="any FAISS factory string (Flat is exact search), or auto: by number of vectors, memory and recall",
    )
    group.add_argument("--shard_memory", default="2GiB", help="memory for an index shard; one is open at a time")
    group.add_argument(
        "--target_recall",
        type=float,
        default=None,
        help="recall@1, 5, 20 and 100 that the search must reach, with the least effort that does; auto takes 0.95",
    )
    group.add_argument(
        "--queries",
        default=None,
        metavar="URL",
        help="query vectors to measure with (.npy, .parquet); else passages",
    )
    group.add_argument("--recall_queries", type=int, default=512, help="passages to measure recall with; 0 for none")


def _question_columns(group: Any) -> None:
    group.add_argument(
        "--questions_format", default="auto", help=f"{', '.join(QUESTION_FORMATS)}; auto tells it from the name"
    )
    group.add_argument("--question_column", default="question", help="column or key of the question")
    group.add_argument("--question_id_column", default="id", help="column or key of the question's id")
    group.add_argument("--answer_column", default="answer", help="column or key of the gold answers")


ANSWER_FLAGS = (  # those that a preset may set; their defaults are AnswerOptions' own
    ("n_docs", int, "passages for a question (default: 5)"),
    ("num_beams", int, "beams; 1 is greedy decoding (default: 1)"),
    ("min_length", int, "shortest answer in tokens, the start token counted (default: 1)"),
    ("max_new_tokens", int, "longest answer in tokens (default: 50)"),
    ("length_penalty", float, "power of the length by which a beam's score is divided (default: 1.0)"),
    ("no_repeat_ngram_size", int, "n-grams that come only once; 0 for no rule (default: 0)"),
    ("early_stopping", bool, "finish a question as soon as it has as many finished answers as beams"),
    ("n_best", int, "answers for a question, at most as many as beams; the others go to alternatives (default: 1)"),
)


def _answer_flags(parser: argparse.ArgumentParser) -> None:
    group = parser.add_argument_group("questions")
    group.add_argument("--questions", nargs="+", required=True, metavar="URL", help="question files or globs")
    _question_columns(group)
    group = parser.add_argument_group(
        "answers", "A preset sets some of these at once; a flag that is given overrules it."
    )
    group.add_argument(
        "--preset",
        default=None,
        help="paper: 15 passages, greedy; hf: 5 passages, 4 beams, lengths 1 to 50 with the start token counted",
    )
    for flag, kind, text in ANSWER_FLAGS:
        settings: dict[str, Any] = {"action": "store_true"} if kind is bool else {"type": kind}
        group.add_argument("--" + flag, default=argparse.SUPPRESS, help=text, **settings)
    group.add_argument("--forbidden_words", nargs="+", default=[], metavar="WORD", help="words that no answer may have")
    group.add_argument("--truncation", default="question", help="what a too long context keeps: question, or hf's way")
    group.add_argument(
        "--score_scale",
        type=float,
        default=None,
        help="factor of inner products before the softmax over passages; by default the model's own, else 1",
    )
    group.add_argument(
        "--compute_dtype", default="auto", help="of the generator: auto, float32, bfloat16, float16; auto is by device"
    )
    group.add_argument(
        "--max_combined_length", type=int, default=None, help="longest context in tokens; by default the model's"
    )
    group.add_argument(
        "--block_questions", type=int, default=256, help="questions that travel and are answered together"
    )
    group.add_argument(
        "--nprobe",
        type=int,
        default=None,
        help="lists that a search visits; by default what index found",
    )
    group.add_argument(
        "--ef_search",
        type=int,
        default=None,
        help="places of a graph that a search keeps; by default what index found",
    )
    group.add_argument(
        "--rescore",
        type=int,
        default=None,
        metavar="N",
        help="take so many candidates from the index and score them exactly from the stored vectors",
    )


def _model_flags(parser: argparse.ArgumentParser, *, batches: bool = True) -> None:
    group = parser.add_argument_group("workers")
    group.add_argument(
        "--device", default="auto", help="auto, cpu or cuda; one that is asked for and absent is an error"
    )
    group.add_argument(
        "--threads", type=int, default=2, help="CPU threads of a model; results are the same for the same number"
    )
    if batches:
        group.add_argument(
            "--batch_tokens", type=int, default=None, help="tokens of a batch; by default what suits the device"
        )


def _output_flags(parser: argparse.ArgumentParser, *, shards: bool = True) -> None:
    parser.add_argument("--output", required=True, metavar="DIR", help="directory or fsspec URL to write to")
    if shards:
        parser.add_argument(
            "--num_shards", type=int, default=None, help="files to write; by default from the size of the input"
        )
    parser.add_argument("--overwrite", action="store_true", help="replace an output of another configuration")


def _chunk_flags(parser: argparse.ArgumentParser) -> None:
    _input_flags(parser)
    _output_flags(parser)


def _embed_flags(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--passages", required=True, metavar="DIR", help="output of ragbeam chunk")
    _encoder_flags(parser)
    _output_flags(parser, shards=False)
    _model_flags(parser)


def _build_index_flags(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--embeddings", required=True, metavar="DIR", help="output of ragbeam embed")
    _index_flags(parser)
    _output_flags(parser)
    parser.add_argument("--threads", type=int, default=2, help="CPU threads of FAISS")


def _answer_job_flags(parser: argparse.ArgumentParser) -> None:
    _answer_flags(parser)
    parser.add_argument("--index", required=True, metavar="DIR", help="output of ragbeam index")
    parser.add_argument("--model", required=True, help="RAG-Token model: directory, URL or hub id")
    _output_flags(parser)
    _model_flags(parser)


def _run_flags(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--workspace", "--output", dest="workspace", required=True, metavar="DIR", help="directory for all four stages"
    )
    _input_flags(parser)
    _encoder_flags(parser)
    _index_flags(parser)
    _answer_flags(parser)
    parser.add_argument("--model", required=True, help="RAG-Token model: directory, URL or hub id")
    parser.add_argument(
        "--num_shards", type=int, default=None, help="passage shards; by default from the size of the input"
    )
    parser.add_argument("--overwrite", action="store_true", help="replace outputs of another configuration")
    _model_flags(parser)


def _demo_flags(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--workspace", default="demo-workspace", metavar="DIR", help="directory for all that the demo writes"
    )
    parser.add_argument(
        "--encoder",
        default=None,
        metavar="MODEL",
        help="context encoder; by default the one that the demo extra installs",
    )
    parser.add_argument(
        "--model", default=None, help="RAG-Token model; by default one composed from the encoder, untrained"
    )
    parser.add_argument(
        "--questions", nargs="+", default=None, metavar="URL", help="question files; by default the demo's own"
    )
    parser.add_argument("--n_docs", type=int, default=5, help="passages for a question")
    parser.add_argument("--max_new_tokens", type=int, default=20, help="longest answer in tokens")
    parser.add_argument("--overwrite", action="store_true", help="replace outputs of another configuration")
    _model_flags(parser)


def _finetune_flags(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--model", required=True, help="RAG-Token model to start from: directory, URL or hub id")
    parser.add_argument("--index", required=True, metavar="DIR", help="output of ragbeam index; its vectors stay")
    parser.add_argument("--train", nargs="+", required=True, metavar="URL", help="question files with gold answers")
    parser.add_argument("--eval", nargs="+", default=None, metavar="URL", help="question files to evaluate on")
    parser.add_argument("--output", required=True, metavar="DIR", help="local directory to save to")
    _question_columns(parser.add_argument_group("questions"))
    group = parser.add_argument_group("training")
    for flag, kind, default, text in FINETUNE_FLAGS:
        group.add_argument("--" + flag, type=kind, default=default, help=text)
    group.add_argument(
        "--freeze", nargs="+", default=[], metavar="NAME", help="beginnings of the names of parameters that stay"
    )
    group.add_argument("--resume", action="store_true", help="go on from the last checkpoint in --output")
    group.add_argument(
        "--overwrite", action="store_true", help="throw away the model or the unfinished training in --output"
    )
    _model_flags(parser, batches=False)


FINETUNE_FLAGS: tuple[tuple[str, type, Any, str], ...] = (
    ("epochs", float, 3.0, "passes over the training questions"),
    ("max_steps", int, None, "stop after so many steps"),
    ("learning_rate", float, 3e-5, "peak of the learning rate, which falls linearly to 0"),
    ("batch_size", int, 8, "questions of a batch"),
    ("accumulation", int, 1, "batches whose gradients are added up before a step"),
    ("n_docs", int, 5, "passages for a question"),
    ("label_smoothing", float, 0.1, "share of the loss that is spread over the vocabulary"),
    ("eval_fraction", float, 0.1, "share of --train that is held out where --eval is not given"),
    ("eval_steps", int, None, "steps between evaluations and checkpoints; by default an epoch"),
    ("max_answer_tokens", int, 32, "longer gold answers are cut"),
    ("max_question_tokens", int, 64, "longer questions are cut"),
    ("seed", int, 1, "of the order of the questions, and of dropout"),
)


def _compose_flags(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--question_encoder", required=True, metavar="MODEL", help="DPR question encoder or sentence-transformers model"
    )
    parts = parser.add_mutually_exclusive_group(required=True)
    parts.add_argument("--generator", metavar="MODEL", help="any sequence-to-sequence model, BART first")
    parts.add_argument(
        "--warm_start",
        action="store_true",
        help="make an untrained BART of the weights of --question_encoder, a BERT, to be fine-tuned",
    )
    parser.add_argument("--decoder_layers", type=int, default=2, help="of the BART that --warm_start makes")
    parser.add_argument(
        "--context_encoder", default=None, metavar="MODEL", help="encoder of the passages that it goes with"
    )
    parser.add_argument(
        "--score_scale",
        type=float,
        default=1.0,
        help="factor of inner products before the softmax over passages; 1 is the paper's, unit vectors want more",
    )
    parser.add_argument("--output", required=True, metavar="DIR", help="local directory to save to")


def _import_flags(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--format", default="dpr", help="dpr (NAME.index.dpr with passages) or wiki_dpr (Parquet)")
    parser.add_argument(
        "--index", default=None, metavar="URL", help="of dpr: NAME.index.dpr; its .index_meta.dpr is near"
    )
    parser.add_argument(
        "--passages", default=None, metavar="URL", help="of dpr: psgs_w100.tsv, or the pickled dict of it"
    )
    parser.add_argument("--input", nargs="+", default=[], metavar="URL", help="of wiki_dpr: its Parquet files")
    parser.add_argument("--output", required=True, metavar="DIR", help="workspace: gets passages, embeddings and index")
    parser.add_argument(
        "--encoder",
        default="facebook/dpr-ctx_encoder-single-nq-base",
        metavar="MODEL",
        help="context encoder that made the vectors: a name, for the record",
    )
    parser.add_argument("--dtype", default=None, help="of the vectors on disk; by default float32 of dpr, else float16")


def _export_flags(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--index", required=True, metavar="DIR", help="output of ragbeam index")
    parser.add_argument("--output", required=True, metavar="DIR", help="local directory: gets dataset and index.faiss")


def _plan_flags(parser: argparse.ArgumentParser) -> None:
    group = parser.add_argument_group("corpus", "one of these")
    group.add_argument("--articles", type=int, default=None, help="articles; a Wikipedia's have 3.6 passages each")
    group.add_argument("--num_passages", type=int, default=None, help="passages")
    group.add_argument("--passages", default=None, metavar="DIR", help="output of ragbeam chunk")
    group.add_argument("--embeddings", default=None, metavar="DIR", help="output of ragbeam embed")
    group = parser.add_argument_group("job")
    group.add_argument(
        "--encoder", default=None, metavar="MODEL", help="context encoder; by default one of BERT-base's size"
    )
    group.add_argument("--model", default=None, help="RAG-Token model; by default one of rag-token-nq's size")
    group.add_argument(
        "--dimension", type=int, default=None, help="numbers of a vector; by default the encoder's, or 768"
    )
    group.add_argument("--dtype", default="float16", help="of the vectors on disk: float16 or float32")
    group.add_argument("--spec", default="auto", help="auto, or any FAISS factory string")
    group.add_argument("--shard_memory", default="2GiB", help="memory for an index shard")
    group.add_argument("--num_shards", type=int, default=None, help="index shards")
    group.add_argument("--target_recall", type=float, default=None, help="of --spec auto")
    group.add_argument("--questions", type=int, default=None, help="how many questions there are to answer")
    group.add_argument("--n_docs", type=int, default=5, help="passages for a question")
    group = parser.add_argument_group("time")
    group.add_argument("--workers", type=int, default=1, help="processes of a stage")
    group.add_argument("--measured", default=None, metavar="DIR", help="workspace of an earlier run, for its rates")
    group.add_argument(
        "--rate", nargs="+", default=[], metavar="STAGE=N", help="rows a second of one worker: embed=100 answer=2.5"
    )


def chunk_options(flags: argparse.Namespace, output: str) -> Any:
    """ChunkOptions from parsed flags."""
    from pipelines.options import ChunkOptions
    from rag_ops.readers import InputOptions

    reading = InputOptions(
        flags.format,
        flags.id_column,
        flags.title_column,
        flags.text_column,
        flags.dataset_config,
        flags.dataset_split,
        flags.split_bytes,
    )
    return ChunkOptions(
        flags.input, output, reading, flags.passage_words, flags.passage_overlap, flags.num_shards, flags.overwrite
    )


def embed_options(flags: argparse.Namespace, passages: str, output: str) -> Any:
    """EmbedOptions from parsed flags."""
    from pipelines.options import EmbedOptions

    return EmbedOptions(
        passages,
        flags.encoder,
        output,
        flags.dtype,
        flags.device,
        flags.threads,
        flags.batch_tokens,
        flags.max_tokens,
        flags.overwrite,
    )


def index_options(flags: argparse.Namespace, embeddings: str, output: str, num_shards: int | None) -> Any:
    """IndexOptions from parsed flags."""
    from pipelines.options import IndexOptions

    same = ("spec", "shard_memory", "target_recall", "queries", "recall_queries", "threads", "overwrite")
    given = {name: getattr(flags, name) for name in same}
    return IndexOptions(embeddings, output, num_shards=num_shards, **given)


def question_options(flags: argparse.Namespace) -> Any:
    """QuestionOptions from parsed flags."""
    from rag_ops.questions import QuestionOptions

    return QuestionOptions(flags.questions_format, flags.question_column, flags.question_id_column, flags.answer_column)


def answer_options(flags: argparse.Namespace, index: str, output: str, num_shards: int | None) -> Any:
    """AnswerOptions from parsed flags."""
    from pipelines.options import PRESETS, AnswerOptions, check_choice

    preset = getattr(flags, "preset", None)
    if preset is not None:
        check_choice("--preset", preset, tuple(PRESETS))
    chosen: dict[str, Any] = dict(PRESETS[preset]) if preset else {}
    chosen |= {flag: getattr(flags, flag) for flag, *_ in ANSWER_FLAGS if hasattr(flags, flag)}
    same: tuple[str, ...] = (
        "forbidden_words",
        "truncation",
        "score_scale",
        "compute_dtype",
        "max_combined_length",
        "block_questions",
    )
    same += ("nprobe", "ef_search", "rescore", "device", "threads", "batch_tokens", "overwrite")
    reading = question_options(flags)
    return AnswerOptions(
        flags.questions,
        index,
        flags.model,
        output,
        reading=reading,
        num_shards=num_shards,
        **{name: getattr(flags, name) for name in same},
        **chosen,
    )


def _say(line: str) -> None:
    sys.stdout.write(line + "\n")
    sys.stdout.flush()


def _run_chunk(flags: argparse.Namespace, rest: Sequence[str], output: str | None = None) -> int:
    from pipelines import chunk

    done = chunk.run(chunk_options(flags, output or flags.output), rest)
    dropped = ", ".join(
        f"{count:,} {reason.replace('_', ' ')}" for reason, count in done.manifest.info["dropped"].items()
    )
    _say(done.summary("passages"))
    _say(f"  from {done.manifest.info['articles']:,} articles; dropped: {dropped or 'none'}")
    return 0


def _run_embed(flags: argparse.Namespace, rest: Sequence[str]) -> int:
    from pipelines import embed

    _say(embed.run(embed_options(flags, flags.passages, flags.output), rest).summary("passages"))
    return 0


def _run_index(flags: argparse.Namespace, rest: Sequence[str]) -> int:
    _index(index_options(flags, flags.embeddings, flags.output, flags.num_shards), rest)
    return 0


def _index(options: Any, rest: Sequence[str]) -> None:
    from pipelines import index

    done = index.run(options, rest)
    _say(done.summary("vectors"))
    _say(f"  {index.describe(done.manifest)}")


def _run_answer(flags: argparse.Namespace, rest: Sequence[str]) -> int:
    from pipelines import answer

    _say(answer.run(answer_options(flags, flags.index, flags.output, flags.num_shards), rest).summary("questions"))
    return 0


def _run_all(flags: argparse.Namespace, rest: Sequence[str]) -> int:
    from pipelines import answer, embed

    passages, embeddings, indexed, answered = (
        storage.join(flags.workspace, name) for name in ("passages", "embeddings", "index", "answers")
    )
    # Everything that can be refused is refused before the first stage starts.
    embedding = embed_options(flags, passages, embeddings)
    indexing = index_options(flags, embeddings, indexed, None)
    answering = answer_options(flags, indexed, answered, None)
    answer.check_parts(flags.questions, flags.model, flags.encoder)
    _run_chunk(flags, rest, passages)
    _say(embed.run(embedding, rest).summary("passages"))
    _index(indexing, rest)
    _say(answer.run(answering, rest).summary("questions"))
    return 0


def _run_demo(flags: argparse.Namespace, rest: Sequence[str]) -> int:
    from pipelines import demo

    return demo.run(flags, rest, _run_all)


def _run_compose(flags: argparse.Namespace, rest: Sequence[str]) -> int:
    from rag_ops import composing

    if not storage.is_local(flags.output):
        raise InputError("--output must be on this machine", value=flags.output, expected="a local directory")
    if flags.warm_start:
        composing.compose_warm_started(
            flags.question_encoder,
            flags.output,
            decoder_layers=flags.decoder_layers,
            score_scale=flags.score_scale,
        )
        _say(f"compose: an untrained model, saved to {flags.output}")
        return 0
    composing.compose(
        flags.question_encoder,
        flags.generator,
        flags.output,
        context_encoder=flags.context_encoder,
        score_scale=flags.score_scale,
    )
    _say(f"compose: saved to {flags.output}")
    return 0


def _run_finetune(flags: argparse.Namespace, rest: Sequence[str]) -> int:
    from pipelines import finetune

    return finetune.run(flags, question_options(flags))


def _run_import(flags: argparse.Namespace, rest: Sequence[str]) -> int:
    from pipelines.options import check_choice
    from rag_ops import legacy

    check_choice("--format", flags.format, ("dpr", "wiki_dpr"))
    if flags.dtype is not None:
        check_choice("--dtype", flags.dtype, ("float16", "float32"))
    made_with = legacy.MadeWith(flags.encoder)
    wanted = ("index", "passages") if flags.format == "dpr" else ("input",)
    if missing := [name for name in wanted if not getattr(flags, name)]:
        raise InputError(f"--format {flags.format} needs --{missing[0]}")
    if flags.format == "dpr":
        made = legacy.import_dpr(flags.index, flags.passages, flags.output, made_with, flags.dtype or "float32")
    else:
        made = legacy.import_parquet(flags.input, flags.output, made_with, flags.dtype or "float16")
    _say(f"import: {made.rows:,} passages with their vectors, in {flags.output}")
    return 0


def _run_plan(flags: argparse.Namespace, rest: Sequence[str]) -> int:
    from pipelines import plan

    return plan.run(flags)


def _run_export(flags: argparse.Namespace, rest: Sequence[str]) -> int:
    from rag_ops import legacy

    if not storage.is_local(flags.output):
        raise InputError("--output must be on this machine", value=flags.output, expected="a local directory")
    _say(f"export: {legacy.export_custom(flags.index, flags.output)}")
    return 0


COMMANDS = (
    Command(
        "chunk",
        "Wikipedia into passages of 100 words",
        "Reads MediaWiki dumps, JSONL, Parquet, psgs_w100.tsv or Hugging Face datasets; writes passages with titles.",
        _chunk_flags,
        _run_chunk,
    ),
    Command(
        "embed",
        "passages into vectors",
        "Encodes each passage, title and text as a pair, with a DPR context encoder or a sentence-transformers model.",
        _embed_flags,
        _run_embed,
    ),
    Command(
        "index",
        "vectors into a FAISS index",
        "Trains a FAISS index once and fills it shard by shard, by inner product.",
        _build_index_flags,
        _run_index,
    ),
    Command(
        "answer",
        "question files into a Parquet table of answers",
        "Encodes questions, finds passages in every index shard, and answers with the RAG-Token model.",
        _answer_job_flags,
        _run_answer,
    ),
    Command(
        "run",
        "all four stages in one workspace directory",
        "chunk, embed, index and answer, into passages, embeddings, index and answers there; what is done is reused.",
        _run_flags,
        _run_all,
    ),
    Command(
        "demo",
        "ragbeam run on what the demo extra installs, then prints the answers",
        "Runs all stages on the Wikipedia excerpt of the gensim package and prints question, answer and passages.",
        _demo_flags,
        _run_demo,
    ),
    Command(
        "compose",
        "a RAG-Token model from a question encoder and a generator",
        "Saves a RAG-Token model in Hugging Face's own layout.",
        _compose_flags,
        _run_compose,
        takes_beam_flags=False,
    ),
    Command(
        "finetune",
        "trains a RAG-Token model on questions with answers",
        "Question encoder and generator learn through the marginal loss; the index stays. Needs ragbeam[finetune].",
        _finetune_flags,
        _run_finetune,
        takes_beam_flags=False,
    ),
    Command(
        "import",
        "takes over another project's passages, vectors and index",
        "DPR's own index files, or the Parquet files of the wiki_dpr dataset. Pickles of plain data only are read.",
        _import_flags,
        _run_import,
        takes_beam_flags=False,
    ),
    Command(
        "export",
        "writes an index as transformers' RagRetriever opens it",
        'A datasets directory and a FAISS file, for index_name="custom".',
        _export_flags,
        _run_export,
        takes_beam_flags=False,
    ),
    Command(
        "plan",
        "says what the stages will take before anything runs",
        "Disk, peak memory of a worker, and time, for each stage; and the index that fits.",
        _plan_flags,
        _run_plan,
        takes_beam_flags=False,
    ),
)
