"""Model files of others: read as data, never run, and told in one line when they cannot be read.

Weights come from safetensors, or from torch files with weights_only=True, which is how transformers reads them too;
classes come from transformers itself, never from a model's own directory.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from typing import Any

from transformers import AutoTokenizer, RagConfig, RagTokenizer

from rag_ops.errors import InputError, JobError, RagbeamError
from rag_ops.isolating import is_out_of_memory

OWN_CLASSES: dict[str, Any] = {"trust_remote_code": False}  # given to whatever of transformers would take a directory's
MAX_REASON_CHARS = 160


def rag_tokenizer(directory: str) -> RagTokenizer:
    """Both tokenizers of a RAG model; transformers' own loader would ask at the terminal whether to run their code."""
    config = RagConfig.from_pretrained(directory)
    sides = {"question_encoder": config.question_encoder, "generator": config.generator}
    tokenizers = {
        side: AutoTokenizer.from_pretrained(directory, config=part, subfolder=f"{side}_tokenizer", **OWN_CLASSES)
        for side, part in sides.items()
    }
    return RagTokenizer(**tokenizers)


@contextlib.contextmanager
def loading(what: str, directory: str) -> Iterator[None]:
    """Turns whatever a damaged, foreign or hostile model file raises into one line.

    Args:
        what: the part that is loaded: "the encoder".
        directory: where from.

    Raises:
        InputError: the block raised something else than our own errors.
        JobError: there is no memory for it.
    """
    try:
        yield
    except RagbeamError:
        raise
    except Exception as error:  # of unpickling, zip, JSON, safetensors, torch and transformers
        if is_out_of_memory(error):
            raise JobError(f"there is no memory for {what}", value=directory, remedy="use a larger worker") from error
        lines = str(error).strip().splitlines()
        reason = lines[0][:MAX_REASON_CHARS] if lines else type(error).__name__
        if "weights_only" in str(error) or "Weights only load failed" in str(error):
            raise InputError(
                f"{what} cannot be loaded: a file of it holds more than weights, of which nothing was run",
                value=directory,
                expected="safetensors, or a torch file of tensors alone",
            ) from error
        if "trust_remote_code" in str(error):
            raise InputError(
                f"{what} cannot be loaded: it asks to run code of its own, which is off",
                value=directory,
                expected="a model that transformers has a class for",
            ) from error
        raise InputError(f"{what} cannot be loaded ({reason})", value=directory) from error
