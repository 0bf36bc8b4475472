"""The manifest: what a stage wrote, and the only way in for its reader.

`manifest.json` is written last, so a directory that has one is whole. It lists every shard in order with its rows,
bytes, SHA-256 and fingerprint; row numbers count across the shards in that order.
"""

from __future__ import annotations

import dataclasses
import hashlib
import json
from collections.abc import Mapping, Sequence
from typing import Any

from schemas.layout import OUTPUTS

SCHEMA_VERSION = 1
MAX_ROWS, MAX_BYTES = 1 << 40, 1 << 50  # of one shard
FILE_NAME = "manifest.json"


class ManifestError(ValueError):
    """The text is no manifest that this version can read; the message says what is wrong, without the file's name."""


@dataclasses.dataclass(frozen=True)
class ShardRecord:
    """One complete shard: its file name relative to the manifest, rows, size, digest, and the fingerprint it holds for.

    >>> ShardRecord("passages-00000-of-00001.parquet", 10, 2048, "ab" * 32, "cd" * 16).rows
    10
    """

    path: str
    rows: int
    bytes: int
    sha256: str
    fingerprint: str

    def __post_init__(self) -> None:
        for name, most in (("rows", MAX_ROWS), ("bytes", MAX_BYTES)):
            value = getattr(self, name)
            if not isinstance(value, int) or isinstance(value, bool) or not 0 <= value <= most:
                raise ManifestError(f"shard {self.path!r} has {value!r} {name}, which is no number from 0 to {most:,}")
        for name in ("path", "sha256", "fingerprint"):
            if not isinstance(getattr(self, name), str):
                raise ManifestError(f"a shard's {name} is {getattr(self, name)!r}, which is no string")
        if any(character in "/\\\0" for character in self.path) or self.path in ("", ".", ".."):
            raise ManifestError(f"shard path {self.path!r} must be a plain file name beside the manifest")


@dataclasses.dataclass(frozen=True)
class Manifest:
    """What one stage wrote.

    Attributes:
        stage: "chunk", "embed", "index", "answer", "bm25" (an index of words) or "search".
        fingerprint: digest of the stage's configuration and of the digests of its inputs.
        config: the settings that decide the shards' content; what the fingerprint is made from.
        inputs: name to URL of what was read, without passwords and signatures; relative to this manifest's directory
            where they share a parent.
        shards: in row order.
        info: what a reader needs to know, by the schema of the stage in `schemas.layout`; decides nothing.
    """

    stage: str
    fingerprint: str
    config: Mapping[str, Any]
    inputs: Mapping[str, str]
    shards: Sequence[ShardRecord]
    info: Mapping[str, Any] = dataclasses.field(default_factory=dict)
    schema_version: int = SCHEMA_VERSION

    @property
    def rows(self) -> int:
        """Rows of all shards together."""
        return sum(shard.rows for shard in self.shards)

    @property
    def digest(self) -> str:
        """Digest (32 hex digits) of what the stage is and holds: fingerprint and shard digests, in order."""
        return digest_of({"fingerprint": self.fingerprint, "shards": [shard.sha256 for shard in self.shards]})

    def row_starts(self) -> list[int]:
        """The first row of each shard, then the number of rows: length `len(shards) + 1`."""
        starts = [0]
        for shard in self.shards:
            starts.append(starts[-1] + shard.rows)
        return starts

    def to_json(self) -> str:
        """The text of manifest.json: sorted keys, two spaces, so that equal manifests are equal bytes."""
        return json.dumps(dataclasses.asdict(self), indent=2, sort_keys=True) + "\n"

    @classmethod
    def from_json(cls, text: str) -> Manifest:
        """Parses and checks the text of a manifest.json.

        Raises:
            ManifestError: not JSON, another schema version, a key missing or of the wrong kind.
        """
        try:
            data = json.loads(text)
        except (ValueError, RecursionError) as error:
            raise ManifestError(f"it is not JSON ({error})") from error
        if not isinstance(data, dict) or "schema_version" not in data:
            raise ManifestError("it has no schema_version")
        if data["schema_version"] != SCHEMA_VERSION or type(data["schema_version"]) is not int:
            raise ManifestError(
                f"its schema_version is {data['schema_version']!r}, this ragbeam reads {SCHEMA_VERSION}"
            )
        for key, kind in (("stage", str), ("fingerprint", str), ("config", dict), ("inputs", dict), ("info", dict)):
            if not isinstance(data.setdefault(key, None), kind):
                raise ManifestError(f"its {key} is {str(data[key])[:80]!r}, which is no {kind.__name__}")
        if not isinstance(data.get("shards"), list) or not all(isinstance(shard, dict) for shard in data["shards"]):
            raise ManifestError("its shards are no list of objects")
        try:
            manifest = cls(**{**data, "shards": tuple(ShardRecord(**shard) for shard in data["shards"])})
        except TypeError as error:
            raise ManifestError(f"a key is missing or unknown ({error})") from error
        manifest._check()
        return manifest

    def _check(self) -> None:
        """Checks what `from_json` read against the schema of its stage."""
        if self.stage not in OUTPUTS:
            raise ManifestError(f"its stage is {self.stage!r}, which is none of {', '.join(OUTPUTS)}")
        stage, paths = OUTPUTS[self.stage], [shard.path for shard in self.shards]
        if wrong := stage.wrong_info(self.info) or stage.wrong_config(self.config):
            raise ManifestError(wrong)
        for name, url in self.inputs.items():
            if not isinstance(url, str) or not url or "\0" in url:
                raise ManifestError(f"its inputs.{name} is {url!r}, which is no URL")
        missing = [name for name in stage.reads if name not in self.inputs]
        if missing and stage.otherwise not in self.inputs:
            raise ManifestError(f"its inputs have no {missing[0]}")
        if len(set(paths)) < len(paths):
            raise ManifestError("it names a shard twice")
        if not paths:
            raise ManifestError("it has no shards")


def digest_of(value: Any) -> str:
    """Digest of a JSON value: the first 32 hex digits of SHA-256 over its canonical JSON (sorted keys, no spaces).

    >>> digest_of({"b": 1, "a": [2.5, None]}) == digest_of({"a": [2.5, None], "b": 1})
    True
    """
    canonical = json.dumps(value, sort_keys=True, separators=(",", ":"), ensure_ascii=False)
    return hashlib.sha256(canonical.encode()).hexdigest()[:32]
