"""The flags of every command; `parsed.py` makes options of them."""

from __future__ import annotations

import argparse
from typing import Any

from rag_ops import defaults

FORMATS = ("auto", "mediawiki", "jsonl", "parquet", "psgs", "hf")
QUESTION_FORMATS = ("auto", "jsonl", "csv", "tsv", "parquet", "text")


def input_flags(parser: argparse.ArgumentParser) -> None:
    """Articles in."""
    group = parser.add_argument_group("articles")
    group.add_argument(
        "--input", nargs="+", required=True, metavar="URL", help="files, globs, or dataset names with --format hf"
    )
    group.add_argument("--format", default="auto", help=f"{', '.join(FORMATS)}; auto tells it from the name")
    usual = "; where it is missing, a name in common use"
    group.add_argument("--id_column", default="id", help=f"column or key of the article's id{usual}")
    group.add_argument("--title_column", default="title", help=f"column or key of the title{usual}")
    group.add_argument("--text_column", default="text", help=f"column or key of the text{usual}")
    group.add_argument(
        "--prefix_ids", action="store_true", help="put each file's name before its ids, which begin anew in each file"
    )
    group.add_argument(
        "--dataset_config", default=None, help="configuration of a Hugging Face dataset, such as 20231101.en"
    )
    group.add_argument("--dataset_split", default="train", help="split of a Hugging Face dataset")
    group.add_argument("--split_bytes", type=int, default=16 << 20, help="input read by one worker at a time, in bytes")
    group.add_argument("--passage_words", type=int, default=100, help="words of a passage")
    group.add_argument(
        "--passage_overlap", type=int, default=0, help="words that a passage repeats from the one before"
    )


def encoder_flags(parser: argparse.ArgumentParser) -> None:
    """The context encoder."""
    parser.add_argument("--encoder", required=True, metavar="MODEL", help="context encoder: directory, URL or hub id")
    parser.add_argument("--dtype", default="float16", help="of the vectors on disk: float16 or float32")
    parser.add_argument(
        "--max_tokens", type=int, default=None, help="cut passages to this many tokens; by default the model's limit"
    )


def index_flags(parser: argparse.ArgumentParser) -> None:
    """The index."""
    group = parser.add_argument_group("index")
    group.add_argument(
        "--spec",
        default="auto",
        help="any FAISS factory string (Flat is exact search), or auto: by number of vectors, memory and recall",
    )
    group.add_argument(
        "--shard_memory", default=defaults.SHARD_MEMORY, help="memory for an index shard; one is open at a time"
    )
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


def question_columns(group: Any) -> None:
    """Names of a question file's columns."""
    group.add_argument(
        "--questions_format", default="auto", help=f"{', '.join(QUESTION_FORMATS)}; auto tells it from the name"
    )
    group.add_argument(
        "--question_column",
        default=None,
        help="column or key of the question; by default the one called question, query, question_text or input",
    )
    group.add_argument(
        "--question_id_column",
        default=None,
        help="column or key of the question's id; by default the one called id, qid, question_id, query_id, example_id",
    )
    group.add_argument(
        "--answer_column",
        default=None,
        help="column or key of the gold answers; by default answer, answers, possible_answers, or KILT's output",
    )


ANSWER_FLAGS = (  # those that a preset may set; their defaults are AnswerOptions' own
    ("n_docs", int, "passages for a question (default: 5)"),
    ("num_beams", int, "beams; 1 is greedy decoding (default: 1)"),
    ("min_length", int, "shortest answer in tokens, the start token counted (default: 1)"),
    ("max_new_tokens", int, "longest answer in tokens (default: 50)"),
    ("length_penalty", float, "power of the length by which a beam's score is divided (default: 1.0)"),
    ("no_repeat_ngram_size", int, "n-grams that come only once; 0 for no rule (default: 0)"),
    ("early_stopping", bool, "finish a question as soon as it has as many finished answers as beams"),
    ("extractive", bool, "only answers that stand in a passage, from word to word"),
    ("n_best", int, "answers for a question, at most as many as beams; the others go to alternatives (default: 1)"),
)


def answer_flags(parser: argparse.ArgumentParser) -> None:
    """Questions in, answers out."""
    group = parser.add_argument_group("questions")
    group.add_argument("--questions", nargs="+", required=True, metavar="URL", help="question files or globs")
    question_columns(group)
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
    group.add_argument(
        "--retrieve",
        type=int,
        default=None,
        metavar="N",
        help="keep so many passages of a question, for ragbeam evaluate; it is answered from the first --n_docs",
    )
    group.add_argument("--forbidden_words", nargs="+", default=[], metavar="WORD", help="words that no answer may have")
    group.add_argument(
        "--forced_tokens",
        default="model",
        help="model: answers begin, and end at the limit, with the tokens that the model's files force, as in "
        "transformers; none: nothing is forced",
    )
    group.add_argument(
        "--keep_going",
        action="store_true",
        help="write the answers even if over half of 20 or more questions fail in the model in the same way",
    )
    group.add_argument("--truncation", default="question", help="what a too long context keeps: question, or hf's way")
    group.add_argument(
        "--score_scale",
        type=float,
        default=None,
        help="factor of inner products before the softmax over passages; by default the model's own, else 1",
    )
    group.add_argument(
        "--spelling",
        default="auto",
        help="of answers: tokens, as the tokenizer decodes them; passages, as those write them; auto: passages for an "
        "uncased vocabulary",
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


def model_flags(parser: argparse.ArgumentParser, *, batches: bool = True) -> None:
    """Where models run."""
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
        group.add_argument(
            "--accelerator",
            default=None,
            metavar="GPU",
            help="on Dataflow, for the model's steps: type:nvidia-l4;count:1;install-nvidia-driver",
        )
        group.add_argument(
            "--worker_memory", default=None, metavar="SIZE", help="memory of a worker of the model's steps, as 16GiB"
        )


def output_flags(parser: argparse.ArgumentParser, *, shards: bool = True) -> None:
    """Where a stage writes."""
    parser.add_argument("--output", required=True, metavar="DIR", help="directory or fsspec URL to write to")
    if shards:
        parser.add_argument(
            "--num_shards", type=int, default=None, help="files to write; by default from the size of the input"
        )
    parser.add_argument("--overwrite", action="store_true", help="replace an output of another configuration")
    verify_flag(parser)


def verify_flag(parser: argparse.ArgumentParser) -> None:
    """Of jobs that can check digests."""
    parser.add_argument(
        "--verify",
        action="store_true",
        help="check the SHA-256 of all shards that are read or reused; a damaged one of the output is made again",
    )


def previous_flags(parser: Any, what: str) -> None:
    """What an earlier embed leaves to this one."""
    parser.add_argument("--previous", default=None, metavar="DIR", help=what)


def trained_flags(parser: Any) -> None:
    """What an earlier index leaves to this one."""
    parser.add_argument(
        "--trained_from", default=None, metavar="DIR", help="earlier output of ragbeam index: keep what was trained"
    )


def chunk_flags(parser: argparse.ArgumentParser) -> None:
    """Of chunk."""
    input_flags(parser)
    output_flags(parser)


def embed_flags(parser: argparse.ArgumentParser) -> None:
    """Of embed."""
    parser.add_argument("--passages", required=True, metavar="DIR", help="output of ragbeam chunk")
    encoder_flags(parser)
    previous_flags(parser, "earlier output of ragbeam embed: take the vectors of unchanged passages")
    output_flags(parser, shards=False)
    model_flags(parser)


def build_index_flags(parser: argparse.ArgumentParser) -> None:
    """Of index."""
    parser.add_argument("--embeddings", required=True, metavar="DIR", help="output of ragbeam embed")
    index_flags(parser)
    trained_flags(parser)
    output_flags(parser)
    parser.add_argument("--threads", type=int, default=2, help="CPU threads of FAISS")


def answer_job_flags(parser: argparse.ArgumentParser) -> None:
    """Of answer."""
    answer_flags(parser)
    parser.add_argument("--index", required=True, metavar="DIR", help="output of ragbeam index")
    parser.add_argument("--model", required=True, help="RAG-Token model: directory, URL or hub id")
    output_flags(parser)
    model_flags(parser)


def run_flags(parser: argparse.ArgumentParser) -> None:
    """Of run."""
    parser.add_argument(
        "--workspace", "--output", dest="workspace", required=True, metavar="DIR", help="directory for all four stages"
    )
    input_flags(parser)
    encoder_flags(parser)
    index_flags(parser)
    answer_flags(parser)
    parser.add_argument("--model", required=True, help="RAG-Token model: directory, URL or hub id")
    parser.add_argument(
        "--num_shards", type=int, default=None, help="passage shards; by default from the size of the input"
    )
    parser.add_argument("--overwrite", action="store_true", help="replace outputs of another configuration")
    previous_flags(parser, "earlier workspace: take the vectors of unchanged passages from its embeddings")
    trained_flags(parser)
    verify_flag(parser)
    model_flags(parser)


def verify_flags(parser: argparse.ArgumentParser) -> None:
    """Of verify."""
    parser.add_argument("directory", metavar="DIR", help="a stage's output, or a workspace of ragbeam run")


def demo_flags(parser: argparse.ArgumentParser) -> None:
    """Of demo."""
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
        "--model",
        default=None,
        help="RAG-Token model; by default the demo's own; with another --encoder one composed of that, untrained",
    )
    parser.add_argument(
        "--questions", nargs="+", default=None, metavar="URL", help="question files; by default the demo's own"
    )
    parser.add_argument("--n_docs", type=int, default=5, help="passages for a question")
    parser.add_argument("--max_new_tokens", type=int, default=20, help="longest answer in tokens")
    parser.add_argument("--overwrite", action="store_true", help="replace outputs of another configuration")
    model_flags(parser)


def evaluate_flags(parser: argparse.ArgumentParser) -> None:
    """Of evaluate."""
    parser.add_argument("--answers", nargs="+", required=True, metavar="DIR", help="outputs of ragbeam answer")
    parser.add_argument(
        "--output", required=True, metavar="FILE", help="NAME.json or NAME.html; both are written, side by side"
    )
    group = parser.add_argument_group("gold answers")
    group.add_argument(
        "--gold",
        nargs="+",
        default=None,
        metavar="URL",
        help="question files whose answers replace the answers' own, by question id, else by question",
    )
    question_columns(group)
    group.add_argument(
        "--regex_answers", action="store_true", help="gold answers are regular expressions, as CuratedTREC has them"
    )
    group = parser.add_argument_group("n_docs", "Answers generated again from the passages that stand beside them.")
    group.add_argument("--sweep", nargs="+", type=int, default=None, metavar="N", help="numbers of passages")
    group.add_argument("--model", default=None, help="of --sweep: the RAG-Token model that gave the answers")
    parser.add_argument("--report_rows", type=int, default=1000, help="rows that the report lists, 0 or more")
    model_flags(parser)


def workers_flags(parser: argparse.ArgumentParser) -> None:
    """Of workers."""
    parser.add_argument("--port", type=int, default=50000, help="port to listen on")


def finetune_flags(parser: argparse.ArgumentParser) -> None:
    """Of finetune."""
    parser.add_argument("--model", required=True, help="RAG-Token model to start from: directory, URL or hub id")
    parser.add_argument("--index", required=True, metavar="DIR", help="output of ragbeam index; its vectors stay")
    parser.add_argument("--train", nargs="+", required=True, metavar="URL", help="question files with gold answers")
    parser.add_argument("--eval", nargs="+", default=None, metavar="URL", help="question files to evaluate on")
    parser.add_argument("--output", required=True, metavar="DIR", help="local directory to save to")
    question_columns(parser.add_argument_group("questions"))
    group = parser.add_argument_group("training")
    for flag, kind, default, text in FINETUNE_FLAGS:
        group.add_argument("--" + flag, type=kind, default=default, help=text)
    group.add_argument(
        "--freeze", nargs="+", default=[], metavar="NAME", help="beginnings of the names of parameters that stay"
    )
    group.add_argument(
        "--told_only",
        action="store_true",
        help="leave out training questions whose passages hold no answer, as DPR does",
    )
    group.add_argument("--resume", action="store_true", help="go on from the last checkpoint in --output")
    group.add_argument(
        "--overwrite", action="store_true", help="throw away the model or the unfinished training in --output"
    )
    model_flags(parser, batches=False)


FINETUNE_FLAGS: tuple[tuple[str, type, Any, str], ...] = (
    ("epochs", float, 3.0, "passes over the training questions"),
    ("max_steps", int, None, "stop after so many steps"),
    ("learning_rate", float, 3e-5, "peak of the learning rate, which falls linearly to 0"),
    ("warmup_steps", float, 0.1, "steps in which the learning rate rises from 0; below 1, their share of all"),
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


def compose_flags(parser: argparse.ArgumentParser) -> None:
    """Of compose."""
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


def import_flags(parser: argparse.ArgumentParser) -> None:
    """Of import."""
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


def export_flags(parser: argparse.ArgumentParser) -> None:
    """Of export."""
    parser.add_argument("--index", required=True, metavar="DIR", help="output of ragbeam index")
    parser.add_argument("--output", required=True, metavar="DIR", help="local directory: gets dataset and index.faiss")


def plan_flags(parser: argparse.ArgumentParser) -> None:
    """Of plan."""
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
    group.add_argument("--shard_memory", default=defaults.SHARD_MEMORY, help="memory for an index shard")
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
