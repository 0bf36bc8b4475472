"""The work: pure functions and small classes over Arrow tables, NumPy arrays and tensors. Never imports Beam.

The names of the model card and of transformers' documentation page (`RagTokenizer`, `RagRetriever`,
`RagTokenForGeneration`, `RagSequenceForGeneration`, `AutoTokenizer`) are here too; torch and transformers are imported
when one of them is asked for.
"""

from typing import Any

_CARD = ("AutoTokenizer", "RagRetriever", "RagTokenForGeneration", "RagTokenizer")
_SEQUENCE = "RagSequenceForGeneration"


def __getattr__(name: str) -> Any:
    if name in _CARD:
        from rag_ops.interop import model_card

        return getattr(model_card, name)
    if name == _SEQUENCE:
        from rag_ops.interop import rag_sequence

        return getattr(rag_sequence, name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")


def __dir__() -> list[str]:
    return sorted([*globals(), *_CARD, _SEQUENCE])
