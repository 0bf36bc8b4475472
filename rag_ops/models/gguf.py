"""Causal models in GGUF, llama.cpp's format of few bits: back to float32, through transformers."""

from __future__ import annotations

import importlib.metadata
import importlib.util
import os
from typing import Any

from rag_ops.errors import InputError
from rag_ops.models.loading import load_gguf


def read_gguf(path: str) -> tuple[Any, Any]:
    """The model and the tokenizer of a GGUF file, as if they had never been in one: to be saved, and to be run.

    Args:
        path: local file.

    Raises:
        InputError: it cannot be read, or the package `gguf` is not installed.
    """
    if importlib.util.find_spec("gguf") is None:
        raise InputError("a GGUF file needs a package that is not installed", value="gguf", remedy="pip install gguf")
    # On Python 3.10 transformers cannot tell of which distribution a package is, and then asks the package itself.
    gguf: Any = importlib.import_module("gguf")
    gguf.__version__ = getattr(gguf, "__version__", None) or importlib.metadata.version("gguf")
    directory, name = os.path.split(path)
    model, tokenizer = load_gguf(directory, name)
    # transformers takes the model for a quantised one still, and would not save it
    if hasattr(model.config, "quantization_config"):
        del model.config.quantization_config
    model.hf_quantizer, model.is_quantized = None, False
    return model.eval(), tokenizer
