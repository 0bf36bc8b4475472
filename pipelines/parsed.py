"""The options of a job, from the parsed flags of its command."""

from __future__ import annotations

import argparse
from typing import Any

from pipelines.flags import ANSWER_FLAGS


def chunk_options(flags: argparse.Namespace, output: str) -> Any:
    """ChunkOptions from parsed flags."""
    from pipelines.options import ChunkOptions
    from rag_ops.inputs import InputOptions

    reading = InputOptions(
        flags.format,
        flags.id_column,
        flags.title_column,
        flags.text_column,
        flags.dataset_config,
        flags.dataset_split,
        flags.split_bytes,
        flags.prefix_ids,
    )
    return ChunkOptions(
        flags.input,
        output,
        reading,
        flags.passage_words,
        flags.passage_overlap,
        flags.num_shards,
        flags.overwrite,
        flags.verify,
    )


def embed_options(flags: argparse.Namespace, passages: str, output: str, previous: str | None) -> Any:
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
        flags.accelerator,
        flags.worker_memory,
        flags.overwrite,
        previous,
        flags.verify,
    )


def index_options(flags: argparse.Namespace, embeddings: str, output: str, num_shards: int | None) -> Any:
    """IndexOptions from parsed flags."""
    from pipelines.options import IndexOptions

    same: tuple[str, ...] = (
        "spec",
        "shard_memory",
        "target_recall",
        "queries",
        "recall_queries",
        "threads",
        "overwrite",
    )
    same += ("trained_from", "verify")
    given = {name: getattr(flags, name) for name in same}
    return IndexOptions(embeddings, output, num_shards=num_shards, **given)


def question_options(flags: argparse.Namespace) -> Any:
    """QuestionOptions from parsed flags."""
    from rag_ops.questions import QuestionOptions

    return QuestionOptions(flags.questions_format, flags.question_column, flags.question_id_column, flags.answer_column)


def evaluate_options(flags: argparse.Namespace) -> Any:
    """EvaluateOptions from parsed flags."""
    from pipelines.options import EvaluateOptions

    given = {name: value for name, value in vars(flags).items() if name in EvaluateOptions.__dataclass_fields__}
    return EvaluateOptions(reading=question_options(flags), **given)


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
        "forced_tokens",
        "keep_going",
        "truncation",
        "score_scale",
        "spelling",
        "compute_dtype",
        "max_combined_length",
        "block_questions",
    )
    same += ("nprobe", "ef_search", "rescore", "retrieve", "device", "threads", "batch_tokens", "overwrite")
    same += ("accelerator", "worker_memory", "verify")
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
