"""The work: pure functions and small classes over Arrow tables, NumPy arrays and tensors. Never imports Beam.

The model card's names (`RagTokenizer`, `RagRetriever`, `RagTokenForGeneration`, `AutoTokenizer`) are here too; torch
and transformers are imported when one of them is asked for.
"""

from typing import Any

_CARD = ("AutoTokenizer", "RagRetriever", "RagTokenForGeneration", "RagTokenizer")


def __getattr__(name: str) -> Any:
    if name in _CARD:
        from rag_ops.interop import model_card

        return getattr(model_card, name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")


def __dir__() -> list[str]:
    return sorted([*globals(), *_CARD])
