"""compose: makes a RAG model from a question encoder and a generator, in Hugging Face's own layout."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence

from pipelines.console.command import Command, say
from pipelines.console.options import Options, local_output_setting
from rag_ops.errors import InputError
from rag_ops.settings import setting
from rag_ops.storage.places import local_output


@dataclasses.dataclass(frozen=True, kw_only=True)
class ComposeOptions(Options):
    """compose: `question_encoder` and `generator` to a model in `output`."""

    question_encoder: str = setting(..., "DPR question encoder or sentence-transformers model", metavar="MODEL")
    generator: str | None = setting(
        None, "any sequence-to-sequence model, BART first, or causal model", metavar="MODEL"
    )
    adapter: str | None = setting(
        None, "directory of a low-rank adapter of a causal --generator, as PEFT saves one", metavar="DIR"
    )
    warm_start: bool = setting(
        False, "make an untrained BART of the weights of --question_encoder, a BERT, to be fine-tuned"
    )
    decoder_layers: int = setting(
        2, "layers of the decoder of the BART that --warm_start makes", at_least=1, at_most=1000
    )
    context_encoder: str | None = setting(None, "encoder of the passages that it goes with", metavar="MODEL")
    score_scale: float = setting(
        1.0, "factor of inner products before the softmax over passages; 1 is the paper's, unit vectors want more"
    )
    architecture: str = setting(
        "token",
        "token: RAG-Token, a mixture of passages for each token; sequence: RAG-Sequence, one for the answer as a whole",
        choices=("token", "sequence"),
    )
    output: str = local_output_setting()

    def __post_init__(self) -> None:
        super().__post_init__()
        if bool(self.generator) == self.warm_start:
            raise InputError(
                "compose wants either --generator or --warm_start",
                value="both" if self.generator else "neither",
                remedy="see ragbeam compose --help",
            )
        if self.adapter and self.warm_start:
            raise InputError("--adapter is for a causal --generator", value="--warm_start", remedy="leave out one")
        local_output(self.output)


def run(options: ComposeOptions, beam_arguments: Sequence[str] = ()) -> None:
    """Composes and saves the model.

    Raises:
        InputError: a part is missing or does not go with the other.
    """
    from rag_ops.models import compose

    if options.generator is None:
        compose.compose_warm_started(
            options.question_encoder,
            options.output,
            decoder_layers=options.decoder_layers,
            score_scale=options.score_scale,
            architecture=options.architecture,
        )
        say(f"compose: an untrained model, saved to {options.output}")
        return
    compose.compose(
        options.question_encoder,
        options.generator,
        options.output,
        context_encoder=options.context_encoder,
        score_scale=options.score_scale,
        architecture=options.architecture,
        adapter=options.adapter,
    )
    say(f"compose: saved to {options.output}")


COMMAND = Command.of(
    "compose",
    "a RAG model from a question encoder and a generator",
    "Saves a RAG-Token or RAG-Sequence model in Hugging Face's own layout.",
    ComposeOptions,
    run,
    takes_beam_flags=False,
)
