"""What this machine's processor multiplies at full speed, by its instructions."""

from __future__ import annotations

import contextlib
import functools

from rag_ops.errors import JobError

# By dtype, the instructions of which one is enough, as Linux names them. Without them a processor converts at each
# step, which is slower than float32 and may give other bytes.
INSTRUCTIONS = {
    "bfloat16": ("avx512_bf16", "amx_bf16"),
    "int8": ("avx512_vnni", "amx_int8"),
}


@functools.lru_cache
def flags() -> frozenset[str]:
    """The instructions of the processor, as Linux names them; none on other systems and processors."""
    with contextlib.suppress(OSError), open("/proc/cpuinfo", encoding="utf-8") as file:
        return frozenset(next((line.split(":", 1)[1].split() for line in file if line.startswith("flags")), ()))
    return frozenset()


def computes(dtype: str) -> bool:
    """Whether the processor has instructions for a dtype of --compute_dtype; float32 and float16 need none."""
    return dtype not in INSTRUCTIONS or bool(flags() & set(INSTRUCTIONS[dtype]))


def best_dtype() -> str:
    """The dtype that --compute_dtype auto means for an encoder on this processor: "bfloat16" or "float32"."""
    return "bfloat16" if computes("bfloat16") else "float32"


def check(dtype: str) -> None:
    """Checks that the processor computes in a dtype.

    Raises:
        JobError: it has no instructions for it.
    """
    if not computes(dtype):
        raise JobError(
            f"this machine's processor has no instructions for {dtype}",
            value=f"--compute_dtype {dtype}",
            expected=" or ".join(INSTRUCTIONS[dtype]),
            remedy="use machines that have them, or --compute_dtype float32",
        )
