"""What a processor computes in, by its instructions."""

import pytest

from rag_ops.compute import processor
from rag_ops.errors import JobError


@pytest.mark.parametrize(
    ("flags", "best", "int8"),
    [
        ({"avx2"}, "float32", False),
        ({"avx512f", "avx512_bf16", "avx512_vnni"}, "bfloat16", True),
        ({"amx_bf16"}, "bfloat16", False),
        ({"avx512_vnni"}, "float32", True),
        (set(), "float32", False),
    ],
)
def test_instructions_decide(monkeypatch, flags, best, int8):
    monkeypatch.setattr(processor, "flags", lambda: frozenset(flags))
    assert processor.best_dtype() == best
    assert processor.computes("int8") is int8
    processor.check("float32")
    if not int8:
        with pytest.raises(JobError, match=r"no instructions for int8.*avx512_vnni or amx_int8"):
            processor.check("int8")


def test_flags_are_those_of_linux():
    assert all(flag == flag.strip() and " " not in flag for flag in processor.flags())
