"""What embed computes in: settled once, by the launcher, for all workers, and measured against float32.

A set of embeddings mixes no two kinds of arithmetic. So --compute_dtype auto becomes a dtype before anything is
computed: that of the output that is continued, or of --previous, or what suits the device.
"""

from __future__ import annotations

import dataclasses
import functools
import gc
import hashlib
import json
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import pyarrow as pa

from pipelines.embed.options import EmbedOptions
from pipelines.transforms.arithmetic import device_of, encoder_dtype
from rag_ops import heap
from rag_ops.compute import processor
from rag_ops.defaults import TITLE_SECTION
from rag_ops.errors import InputError, JobError
from rag_ops.models import checkpoints
from rag_ops.storage import store
from rag_ops.storage.manifests import read_manifest
from rag_ops.storage.parquet import read_parquet
from rag_ops.storage.rows import hash_words
from rag_ops.storage.stages import StageOutput
from schemas.layout import QUANTISED, Fidelity
from schemas.manifest import Manifest
from schemas.passages import heading

MEASURED = ("bfloat16", "int8")  # against float32, on CPUs
FIDELITY = "fidelity.json"  # in _incomplete: what was measured for the shards there


class TooCoarseError(JobError):
    """Vectors in a narrow dtype find too few of the neighbours that float32's find; `precision` says how they came.

    Args:
        precision: what they were computed in.
        found: what was measured.
        least: the recall that was wanted.
    """

    def __init__(self, precision: Precision, found: Fidelity, least: float):
        self.precision = precision
        super().__init__(
            f"vectors in {precision.dtype} are too far from float32's",
            value=f"recall@20 {found['recall_at_20']}, cosine {found['cosine']}, of {found['among']} passages",
            expected=f"recall@20 of at least {least}",
            remedy="use --compute_dtype float32, or a lower --min_fidelity",
        )


@dataclasses.dataclass(frozen=True)
class Precision:
    """What all workers of a job compute in.

    Attributes:
        dtype: of the encoder's arithmetic.
        device: "cpu" or "cuda"; "auto" if only the workers know.
        settled: whether the user, the output or --previous said so, and not this machine.
        quantised: the int8 model, a safetensors file; None for other dtypes.
    """

    dtype: str
    device: str
    settled: bool
    quantised: bytes | None = None

    @property
    def digest(self) -> str | None:
        """SHA-256 of the int8 model."""
        return hashlib.sha256(self.quantised).hexdigest() if self.quantised is not None else None

    def config(self) -> dict[str, Any]:
        """What of it decides the vectors' bytes; nothing for float32."""
        found: dict[str, Any] = {} if self.dtype == "float32" else {"compute_dtype": self.dtype}
        return found if self.digest is None else {**found, "quantised_sha256": self.digest}

    def info(self) -> dict[str, Any]:
        """What the manifest says of it."""
        engine = {"cpu": "onednn", "cuda": "cuda"}.get(self.device)
        quantised = {} if self.digest is None else {"quantised": QUANTISED, "quantised_sha256": self.digest}
        return {"compute_dtype": self.dtype, **({"engine": engine} if engine else {}), **quantised}

    @property
    def measured(self) -> bool:
        """Whether its vectors are compared with float32's."""
        here = self.device == "cpu" or (self.device == "auto" and processor.computes(self.dtype))
        return self.dtype in MEASURED and here


def settle(options: EmbedOptions, beam_arguments: Sequence[str], config: Mapping[str, Any]) -> Precision:
    """What the job computes in.

    Args:
        options: options of the job.
        beam_arguments: flags of the runner.
        config: the rest of the output's configuration.

    Raises:
        InputError: int8 for a GPU, or an encoder that can't compute in it.
        JobError: this machine, which must measure it, can't compute in the dtype.
    """
    device, dtype = device_of(options.workers, beam_arguments), options.compute_dtype
    before = _before(options, config)
    if dtype == "auto" and before:
        dtype = before[0].get("compute_dtype", "float32")
    elif dtype == "auto":
        dtype = encoder_dtype(device)
    if dtype == "int8" and device != "cpu":
        raise InputError(
            "int8 is for CPUs",
            value=f"--device {options.workers.device}",
            expected="cpu",
            remedy="give --device cpu, or another --compute_dtype",
        )
    precision = Precision(dtype, device, options.compute_dtype != "auto" or bool(before))
    if device == "cpu":
        processor.check(dtype)
    if dtype == "int8":
        return dataclasses.replace(precision, quantised=_quantised(options, before, str(config["encoder_digest"])))
    return precision


def _before(options: EmbedOptions, config: Mapping[str, Any]) -> list[Mapping[str, Any]]:
    """Configurations that the job goes on from: that of the output, if only the dtype may differ, and of --previous."""
    own = StageOutput(options.output, "embed", {}, {}).continued()
    arithmetic = {"compute_dtype", "quantised_sha256"}
    found: list[Mapping[str, Any]] = []
    if own is not None and {name: value for name, value in own.items() if name not in arithmetic} == json.loads(
        json.dumps(dict(config))
    ):
        found.append(own)
    if options.previous:
        found.append(read_manifest(options.previous, "embed").config)
    return found


def _quantised(options: EmbedOptions, before: Sequence[Mapping[str, Any]], digest: str) -> bytes:
    """The int8 model: of the output that is continued, of --previous, or made now."""
    wanted = {one["quantised_sha256"] for one in before if "quantised_sha256" in one}
    for place in [options.output, *([options.previous] if options.previous else [])]:
        url = store.join(place, QUANTISED)
        if wanted and store.exists(url) and store.sha256_of(url) in wanted:
            with store.open_read(url) as file:
                return file.read()
    return _made(options.encoder, digest, options.max_tokens, options.min_fidelity)


@functools.lru_cache(1)  # `ragbeam run` asks twice
def _made(encoder: str, digest: str, max_tokens: int | None, recall: float) -> bytes:
    from rag_ops.models import calibration

    try:
        return calibration.quantise(checkpoints.find_model(encoder), max_tokens, recall)
    finally:
        _forget_models()


def measure(
    options: EmbedOptions, source: Manifest, precision: Precision, threads: int, output: StageOutput
) -> Fidelity | None:
    """Encodes a sample of the passages twice, in float32 and as the job does, and compares.

    The sample is chosen by hash, as chunk distributes articles over shards: of as many shards as hold it, the passages
    with the smallest content hashes.

    Returns:
        None if nothing is to be measured, or there are no passages.

    Raises:
        TooCoarseError: recall is under --min_fidelity.
    """
    if not precision.measured or not source.rows:
        return None
    found = _measured_before(output)
    if found is None:
        from rag_ops.models import fidelity, quantisation
        from rag_ops.models.encoder import Encoder

        sample = fidelity.Sample.of(source.rows)
        titles, texts = _sampled(options, source, sample.among)
        directory = checkpoints.find_model(options.encoder)

        def vectors(dtype: str) -> np.ndarray:
            linears = quantisation.from_bytes(precision.quantised or b"", QUANTISED) if dtype == "int8" else None
            encoder = Encoder.load(
                directory,
                role="context",
                device="cpu",
                threads=threads,
                max_tokens=options.max_tokens,
                dtype=dtype,
                linears=linears,
                changes=options.changes,
            )
            try:
                budget = options.workers.batch_tokens
                # One that cannot be encoded ends the job later, with its file and row.
                return encoder.encode(titles, texts, batch_tokens=budget, on_failure=lambda *_: None)[0]
            finally:
                del encoder
                _forget_models()

        found = fidelity.fidelity(vectors("float32"), vectors(precision.dtype), sample.queries)
    if found["recall_at_20"] < options.min_fidelity:
        raise TooCoarseError(precision, found, options.min_fidelity)
    return found


def keep_measured(output: StageOutput, found: Fidelity | None) -> None:
    """Notes what was measured for the run that continues this one."""
    if found is not None:
        data = json.dumps({"fingerprint": output.fingerprint, "fidelity": found}).encode()
        store.write_bytes(store.join(output.url, store.INCOMPLETE), FIDELITY, data)


def _measured_before(output: StageOutput) -> Fidelity | None:
    try:
        noted = json.loads(store.read_text(store.join(output.url, store.INCOMPLETE, FIDELITY)))
        found = noted["fidelity"] if noted["fingerprint"] == output.fingerprint else None
        return found if found is None or found.keys() == Fidelity.__annotations__.keys() else None
    except (FileNotFoundError, NotADirectoryError, ValueError, KeyError, TypeError, AttributeError):
        return None


def _sampled(options: EmbedOptions, source: Manifest, among: int) -> tuple[list[str], list[str]]:
    """Titles and texts of a sample of passages, by hash."""
    sections = ["section"] if options.contexts == TITLE_SECTION else []
    tables, rows = [], 0
    for shard in source.shards:
        if rows < among:
            columns = ["title", "text", "content_hash", *sections]
            tables.append(read_parquet(store.join(options.passages, shard.path), columns, shard.rows))
            rows += shard.rows
    table = pa.concat_tables(tables)
    words = hash_words(table["content_hash"])
    table = table.take(pa.array(np.lexsort((words[:, 1], words[:, 0]))[:among]))
    titles = table["title"].to_pylist()
    if sections:
        titles = list(map(heading, titles, table["section"].to_pylist()))
    return titles, table["text"].to_pylist()


def _forget_models() -> None:
    gc.collect()
    heap.trim()
