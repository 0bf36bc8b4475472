"""plan: prints what the four stages will take, before anything runs."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from typing import TYPE_CHECKING

from pipelines.console.command import Command, say
from pipelines.console.options import (
    VECTOR_DTYPES,
    Options,
    embed_dtype_setting,
    n_docs_setting,
    shard_memory_setting,
    spec_setting,
)
from rag_ops import defaults
from rag_ops.errors import InputError
from rag_ops.generation.settings import GenerationSettings
from rag_ops.models import checkpoints
from rag_ops.settings import same_setting, setting
from rag_ops.sizes import parse_size
from rag_ops.storage.manifests import read_manifest

if TYPE_CHECKING:
    from rag_ops.planning import Job

CORPUS = ("articles", "num_passages", "passages", "embeddings")


@dataclasses.dataclass(frozen=True, kw_only=True)
class PlanOptions(Options):
    """Options of plan: a corpus, a job, and known rates."""

    articles: int | None = setting(
        None, "articles; a Wikipedia's have 3.6 passages each", group="corpus, one of", at_least=1
    )
    num_passages: int | None = setting(None, "passages", group="corpus, one of", at_least=1)
    passages: str | None = setting(None, "output of ragbeam chunk", group="corpus, one of", metavar="DIR")
    embeddings: str | None = setting(None, "output of ragbeam embed", group="corpus, one of", metavar="DIR")
    encoder: str | None = setting(None, "context encoder; by default one of BERT-base's size", metavar="MODEL")
    model: str | None = setting(None, "RAG-Token model; by default one of rag-token-nq's size")
    dimension: int | None = setting(
        None, "numbers of a vector; by default the encoder's, or 768", at_least=1, at_most=1 << 16
    )
    dtype: str = setting("float16", "numbers of the vectors on disk: float16 or float32", choices=VECTOR_DTYPES)
    compute_dtype: str = embed_dtype_setting()
    spec: str = spec_setting()
    shard_memory: str = shard_memory_setting()
    num_shards: int | None = setting(None, "index shards", group="index", at_least=1, at_most=defaults.MAX_SHARDS)
    target_recall: float | None = setting(None, "recall that --spec auto aims at", group="index", within=(0, 1))
    questions: int | None = setting(None, "how many questions there are to answer", group="answers", at_least=1)
    n_docs: int = n_docs_setting()
    num_beams: int = same_setting(GenerationSettings, "num_beams")
    max_new_tokens: int = same_setting(GenerationSettings, "max_new_tokens")
    lazy: bool = same_setting(GenerationSettings, "lazy")
    passage_memory: str = same_setting(GenerationSettings, "passage_memory")
    search_docs: int = setting(
        defaults.SEARCH_DOCS,
        "passages that search gives a question",
        group="answers",
        at_least=1,
        at_most=defaults.MAX_DOCS,
    )
    workers: int = setting(1, "processes of a stage", group="time", at_least=1)
    measured: str | None = setting(None, "workspace of an earlier run, for its rates", group="time", metavar="DIR")
    rate: Sequence[str] = setting(
        (), "rows a second of one worker: embed=100 answer=2.5", group="time", metavar="STAGE=N"
    )

    def __post_init__(self) -> None:
        super().__post_init__()
        given = [name for name in CORPUS if getattr(self, name)]
        if len(given) != 1:
            raise InputError(
                "the corpus is not given", value=given, expected="one of " + ", ".join("--" + name for name in CORPUS)
            )
        _ = self.generation

    @property
    def generation(self) -> GenerationSettings:
        """The settings of decoding that decide how much memory it takes."""
        return GenerationSettings(
            num_beams=self.num_beams,
            max_new_tokens=self.max_new_tokens,
            lazy=self.lazy,
            passage_memory=self.passage_memory,
        )


def run(options: PlanOptions, beam_arguments: Sequence[str] = ()) -> None:
    """Prints the plan.

    Raises:
        InputError: an input is missing, or no index fits.
    """
    from rag_ops import planning  # with FAISS

    measured = planning.measured_rates(options.measured) if options.measured else {}
    rates = {**measured, **planning.parse_rates(options.rate)}
    for line in planning.plan(job_of(options), rates).lines():
        say(line)


def job_of(options: PlanOptions) -> Job:
    """The job that the options describe."""
    from rag_ops import planning

    passages, dimension, dtype, files = options.num_passages or 0, options.dimension, options.dtype, None
    normalize, encoder, model = False, planning.BERT_BASE, planning.RAG_TOKEN
    if options.articles:
        passages = round(options.articles * planning.PASSAGES_PER_ARTICLE)
    if options.encoder:
        directory = checkpoints.find_model(options.encoder)
        dimension, encoder = dimension or checkpoints.dimension(directory), planning.Model.of(options.encoder)
        normalize = checkpoints.encoder_config(directory, "context").normalize
    if options.model:
        model = planning.Model.of(options.model)
    if url := options.passages or options.embeddings:
        manifest = read_manifest(url, "chunk" if options.passages else "embed")
        passages, files = manifest.rows, len(manifest.shards)
        if options.embeddings:
            dimension, dtype = int(manifest.info["dimension"]), str(manifest.info["dtype"])
            normalize = bool(manifest.info["normalize"])
    return planning.Job(
        passages,
        dimension or 768,
        dtype,
        options.spec,
        files,
        options.num_shards,
        parse_size("--shard_memory", options.shard_memory),
        options.target_recall if options.target_recall is not None else defaults.TARGET_RECALL,
        normalize,
        options.questions or 0,
        options.n_docs,
        encoder,
        model,
        defaults.COMPUTE_DTYPES["cpu"] if options.compute_dtype == "auto" else options.compute_dtype,
        workers=options.workers,
        generation=options.generation,
        search_docs=options.search_docs,
    )


COMMAND = Command.of(
    "plan",
    "says what the stages will take before anything runs",
    "Disk, peak memory of a worker, and time, for each stage; the index that fits; and the same of words and search.",
    PlanOptions,
    run,
    takes_beam_flags=False,
)

if __name__ == "__main__":
    COMMAND.main()
