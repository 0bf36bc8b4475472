"""plan: what the four stages will take, before anything runs."""

from __future__ import annotations

import argparse
import sys

from pipelines.options import check_choice, check_count
from rag_ops import checkpoints, defaults, planning, specs
from rag_ops.errors import InputError
from rag_ops.stages import read_manifest

COUNTS = ("articles", "num_passages", "questions", "dimension", "n_docs", "num_shards", "workers")


def run(flags: argparse.Namespace) -> int:
    """Prints the plan.

    Raises:
        InputError: a flag is out of range, an input is missing, or no index fits.
    """
    for name in COUNTS:
        check_count("--" + name, getattr(flags, name))
    check_choice("--dtype", flags.dtype, ("float16", "float32"))
    rates = {**(planning.measured_rates(flags.measured) if flags.measured else {}), **planning.parse_rates(flags.rate)}
    for line in planning.plan(job_of(flags), rates).lines():
        sys.stdout.write(line + "\n")
    return 0


def job_of(flags: argparse.Namespace) -> planning.Job:
    """The job that the flags describe.

    Raises:
        InputError: not just one of --articles, --num_passages, --passages and --embeddings is given.
    """
    given = [name for name in ("articles", "num_passages", "passages", "embeddings") if getattr(flags, name)]
    if len(given) != 1:
        raise InputError(
            "the corpus is not told",
            value=given,
            expected="one of --articles, --num_passages, --passages, --embeddings",
        )
    passages, dimension, dtype, files = flags.num_passages, flags.dimension, flags.dtype, None
    normalize, encoder, model = False, planning.BERT_BASE, planning.RAG_TOKEN
    if flags.articles:
        passages = round(flags.articles * planning.PASSAGES_PER_ARTICLE)
    if flags.encoder:
        directory = checkpoints.find_model(flags.encoder)
        dimension, encoder = dimension or checkpoints.dimension(directory), planning.Model.of(flags.encoder)
        normalize = checkpoints.encoder_config(directory, "context").normalize
    if flags.model:
        model = planning.Model.of(flags.model)
    if flags.passages or flags.embeddings:
        manifest = read_manifest(flags.passages or flags.embeddings, "chunk" if flags.passages else "embed")
        passages, files = manifest.rows, len(manifest.shards)
        if flags.embeddings:
            dimension, dtype = int(manifest.info["dimension"]), str(manifest.info["dtype"])
            normalize = bool(manifest.info["normalize"])
    return planning.Job(
        passages,
        dimension or 768,
        dtype,
        flags.spec,
        files,
        flags.num_shards,
        specs.parse_size("--shard_memory", flags.shard_memory),
        flags.target_recall if flags.target_recall is not None else defaults.TARGET_RECALL,
        normalize,
        flags.questions or 0,
        flags.n_docs,
        encoder,
        model,
        workers=flags.workers,
    )


if __name__ == "__main__":
    from pipelines.cli import main

    sys.exit(main(["plan", *sys.argv[1:]]))
