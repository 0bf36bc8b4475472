"""The options of embed."""

from __future__ import annotations

import dataclasses

from pipelines.console.options import VECTOR_DTYPES, StageOptions, embed_dtype_setting
from pipelines.transforms.model_workers import WorkerOptions
from rag_ops.defaults import CONTEXTS, MIN_FIDELITY, TITLE
from rag_ops.models.sentence_encoders import EncoderChanges
from rag_ops.settings import setting
from schemas.layout import MAX_DIMENSION


@dataclasses.dataclass(frozen=True, kw_only=True)
class EmbedOptions(StageOptions):
    """embed: `passages` to vectors of the context encoder in `output`."""

    passages: str = setting(..., "output of ragbeam chunk", metavar="DIR")
    encoder: str = setting(..., "context encoder: directory, URL or hub id", metavar="MODEL")
    dtype: str = setting("float16", "numbers of the vectors on disk: float16 or float32", choices=VECTOR_DTYPES)
    compute_dtype: str = embed_dtype_setting()
    min_fidelity: float = setting(
        MIN_FIDELITY,
        "recall@20 of float32's neighbours under which bfloat16 and int8 are refused on a CPU, and auto is float32; "
        "the lower, the more of int8's matrices are in 8 bits",
        group="workers",
        within=(0.0, 1.0),
    )
    max_tokens: int | None = setting(
        None, "cut passages to this many tokens; by default the model's limit", at_least=1, memory=True
    )
    contexts: str = setting(
        TITLE, "what stands before each text for the encoder, and the generator later", choices=CONTEXTS
    )
    passage_prefix: str | None = setting(
        None,
        "put before each title for the encoder, '' for nothing; by default the encoder's own prompt for documents",
        metavar="TEXT",
    )
    dimensions: int | None = setting(
        None,
        "keep the first numbers of a vector alone, as a Matryoshka encoder allows; by default all",
        at_least=1,
        at_most=MAX_DIMENSION,
    )
    previous: str | None = setting(
        None,
        "earlier output of ragbeam embed: take the vectors of unchanged passages",
        metavar="DIR",
    )
    workers: WorkerOptions = dataclasses.field(default_factory=WorkerOptions)

    @property
    def changes(self) -> EncoderChanges:
        """What is asked of the encoder beside what its files say."""
        return EncoderChanges(self.passage_prefix, self.dimensions)
