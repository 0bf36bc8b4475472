"""The encoder in bfloat16 and int8 next to sentence-transformers' OpenVINO backend, from texts to vectors.

The peer's pins conflict with ours, so it runs in a virtual environment of its own, which the first run makes
(RAGBEAM_BENCH_PEERS says where; 5 GB with its torch), and in a process of its own; rounds are in turn.
"""

from __future__ import annotations

import contextlib
import dataclasses
import json
import os
import subprocess
import sys
import tempfile
import venv
from collections.abc import Iterator
from pathlib import Path

import numpy as np

from rag_ops.defaults import MIN_FIDELITY
from rag_ops.models import quantisation
from tests.benchmarks import bench_precision
from tests.benchmarks.bench_precision import Way, int8_name, measured, own_ways
from tests.benchmarks.common import THREADS, NotHereError, Result

PINS = Path(__file__).parent / "peers.txt"
PEER = Path(__file__).parent / "peer.py"
INSTALL_SECS = 1800


@dataclasses.dataclass(frozen=True)
class Sizes(bench_precision.Sizes):
    """Sizes of a run.

    Attributes:
        backend: of the peer; "torch" runs it with this Python, which has no OpenVINO.
    """

    recalls: tuple[float, ...] = (MIN_FIDELITY, 0.96)
    backend: str = "openvino"


TOY = Sizes(parts=2, rounds=1, small=True, backend="torch")


def run(directory: Path, sizes: Sizes = Sizes()) -> list[Result]:
    """Passages per second as ratios.

    Raises:
        NotHereError: the processor has no instructions for bfloat16 or int8, or the peer cannot be installed.
    """
    pairs, model = bench_precision.inputs(directory, sizes)
    ways = own_ways(model, pairs, sizes.recalls)
    with peers(model, pairs, sizes.backend) as theirs:
        rates, recall, curve = measured(pairs, ways | theirs, sizes.rounds)
    results = []
    mixtures = list(map(int8_name, sizes.recalls))
    for name, owns in (("bf16", ["bfloat16"]), ("int8", mixtures)):
        peer = f"sentence-transformers {name}"
        own, wanted = owns[0], ">= 1.0"
        if name == "int8":  # the fastest mixture that finds no fewer neighbours
            own = max((one for one in owns if recall[one] >= recall[peer]), key=rates.__getitem__, default=own)
            wanted += ", recall no less"
        ratio = rates[own] / rates[peer]
        ok = ratio >= 1 and (name == "bf16" or recall[own] >= recall[peer])
        results.append(Result(f"{own} / {peer}, passages per second", ratio, wanted, ok, curve))
    return results


@contextlib.contextmanager
def peers(model: str, pairs: list[tuple[str, str]], backend: str) -> Iterator[dict[str, Way]]:
    """sentence-transformers in a process of its own, in bfloat16 and int8.

    Raises:
        NotHereError: it cannot be installed or does not start.
    """
    python = sys.executable if backend == "torch" else environment()
    names = ["bf16", "int8"]
    process = subprocess.Popen([python, PEER], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, bufsize=1)
    assert process.stdin is not None
    assert process.stdout is not None

    def ask(line: str) -> str:
        assert process.stdin is not None
        assert process.stdout is not None
        with contextlib.suppress(BrokenPipeError):
            process.stdin.write(line + "\n")
            process.stdin.flush()
        if not (answered := process.stdout.readline().strip()):
            raise NotHereError("sentence-transformers ended before it had encoded")
        return answered

    settings = {
        **{"model": model, "backend": backend, "precisions": names, "threads": THREADS, "batch": 8},
        **{"calibration": list(zip(*quantisation.calibration_texts(), strict=True)), "pairs": pairs},
    }
    with tempfile.TemporaryDirectory() as directory:

        def vectors(name: str) -> np.ndarray:
            path = os.path.join(directory, f"{name}.npy")
            ask(f"save {name} {path}")
            return np.load(path)

        def way(name: str) -> Way:
            return Way(lambda: float(ask(name)), lambda: vectors(name))

        try:
            ask(json.dumps(settings))
            yield {f"sentence-transformers {name}": way(name) for name in names}
        finally:
            with contextlib.suppress(BrokenPipeError):
                process.stdin.close()
            process.stdout.close()
            process.wait()


def environment() -> str:
    """The Python of the peer's virtual environment, which is made if it is not there.

    Raises:
        NotHereError: it cannot be.
    """
    default = os.path.expanduser("~/.cache/ragbeam-tests/peers")
    place = Path(os.environ.get("RAGBEAM_BENCH_PEERS") or default)
    python, complete = place / "bin" / "python", place / "complete"
    if not complete.exists():
        try:
            venv.create(place, with_pip=True)
            command = [python, "-m", "pip", "install", "--quiet", "-r", PINS]
            subprocess.run(command, check=True, capture_output=True, timeout=INSTALL_SECS)
        except (OSError, subprocess.SubprocessError) as error:
            raise NotHereError("sentence-transformers with OpenVINO cannot be installed") from error
        complete.touch()
    return str(python)
