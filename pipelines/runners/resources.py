"""What the workers of a model's transforms must have: a GPU, memory. They are Beam's resource hints.

The hints are put on the composite that reads, runs the model and writes: hints on the model's step alone give it an
environment of its own, and then all texts and vectors cross to it and back between workers.
"""

from __future__ import annotations

import dataclasses
from typing import Any

from rag_ops.errors import InputError
from rag_ops.sizes import parse_size

DRIVER = "install-nvidia-driver"
EXAMPLE = f"type:nvidia-l4;count:1;{DRIVER}"


@dataclasses.dataclass(frozen=True)
class Resources:
    """The resources that a model's transforms ask for.

    Attributes:
        accelerator: Dataflow's description of a GPU, such as "type:nvidia-l4;count:1;install-nvidia-driver".
        memory_bytes: least memory of a worker, over all its processes.
    """

    accelerator: str | None = None
    memory_bytes: int | None = None

    @classmethod
    def of(cls, accelerator: str | None, memory: str | None, device: str) -> Resources:
        """Makes the resources from --accelerator, --worker_memory, and --device, which must not deny the first.

        Raises:
            InputError: one is malformed, or they contradict each other.
        """
        if accelerator is not None:
            _check_accelerator(accelerator, device)
        if memory is None:
            return cls(accelerator)
        return cls(accelerator, parse_size("--worker_memory", memory))

    def hints(self) -> dict[str, Any]:
        """Keyword arguments of Beam's `with_resource_hints`; empty if nothing is asked for."""
        hints = {"accelerator": self.accelerator, "min_ram": self.memory_bytes}
        return {name: value for name, value in hints.items() if value is not None}

    def device(self, wanted: str) -> str:
        """The device that workers use where the user wants `wanted`: one that was promised a GPU must have it."""
        return "cuda" if self.accelerator else wanted


def _check_accelerator(accelerator: str, device: str) -> None:
    fields = dict(field.strip().partition(":")[::2] for field in accelerator.split(";") if field.strip())
    if not fields.get("type", "").startswith("nvidia-") or not fields.get("count", "").isdigit():
        raise InputError("--accelerator is malformed", value=accelerator, expected=f"such as {EXAMPLE!r}")
    if fields["count"] != "1":
        raise InputError(
            "--accelerator asks for several GPUs a worker, and a model runs on one",
            value=accelerator,
            expected="count:1",
            remedy="ask for more workers: --num_workers, --max_num_workers",
        )
    if DRIVER not in fields:
        raise InputError(
            "--accelerator asks for a GPU without its driver", value=accelerator, expected=f"{DRIVER} in it"
        )
    if device == "cpu":
        raise InputError(
            "--accelerator and --device cpu contradict each other",
            value=accelerator,
            expected="--device auto or cuda with an accelerator",
            remedy="leave one of them out",
        )
