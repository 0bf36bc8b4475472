"""The output directory of a stage: what is finished, what can be reused, what differs, and the manifest at the end.

While a stage runs, its directory holds finished shards under their final names, a record for each in `_incomplete`, and
temporary files there. The manifest is written last, then `_incomplete` goes.
"""

from __future__ import annotations

import dataclasses
import json
import logging
from collections.abc import Callable, Container, Mapping, Sequence
from typing import Any

from rag_ops import memory, storage
from rag_ops.errors import InputError
from schemas import manifest as manifests
from schemas.manifest import Manifest, ManifestError, ShardRecord, digest_of

logger = logging.getLogger(__name__)
RECORD_SUFFIX = ".record.json"
SETTINGS = "settings.json"  # in _incomplete: the configuration that the unfinished shards belong to


def read_manifest(url: str, stage: str) -> Manifest:
    """Opens the output of `stage` at directory `url`, and checks that every shard is there with its size.

    Raises:
        InputError: no manifest, one of another version or stage, a shard missing or of another size.
    """
    manifest = _find_manifest(url)
    if manifest is None:
        what = "the stage there is unfinished" if storage.exists(url) else "there is no such directory"
        raise InputError(
            f"no {manifests.FILE_NAME}: {what}",
            value=url,
            expected=f"the output of ragbeam {stage}",
            remedy="run it (again)",
        )
    if manifest.stage != stage:
        raise InputError(
            "the directory holds another stage's output",
            value=f"{url} ({manifest.stage})",
            expected=f"the output of ragbeam {stage}",
        )
    for shard in manifest.shards:
        problem = _shard_problem(url, shard)
        if problem:
            raise InputError(problem, value=storage.join(url, shard.path), remedy=f"run ragbeam {stage} again")
    return manifest


def check_passages(index: Manifest, passages_url: str) -> Manifest:
    """The passages' manifest, checked to be what the index was made from.

    Raises:
        InputError: they are missing or have changed since.
    """
    passages = read_manifest(passages_url, "chunk")
    if index.info["passages_digest"] != passages.digest:
        raise InputError(
            "the index was made from other passages",
            value=passages_url,
            expected=f"passages of digest {index.info['passages_digest']}, not {passages.digest}",
            remedy="run embed and index again",
        )
    if index.rows != passages.rows or not index.rows:
        raise InputError(
            "the index does not hold one vector a passage",
            value=f"{index.rows} vectors",
            expected=f"{passages.rows}, not 0",
        )
    return passages


def check_embeddings(index: Manifest, embeddings_url: str) -> Manifest:
    """The embeddings' manifest, checked to be what the index was made from.

    Raises:
        InputError: they are missing or have changed since.
    """
    embeddings = read_manifest(embeddings_url, "embed")
    if index.info.get("embeddings_digest") != embeddings.digest:
        raise InputError(
            "the index was made from other embeddings",
            value=embeddings_url,
            expected=f"embeddings of digest {index.info.get('embeddings_digest')}, not {embeddings.digest}",
            remedy="run index again",
        )
    return embeddings


def write_shard(url: str, name: str, fingerprint: str, write: Callable[[Any], int]) -> ShardRecord:
    """Writes shard `name` into stage directory `url`: whole under its name, then its record; or nothing.

    Args:
        url: the stage's output directory.
        name: the shard's file name.
        fingerprint: what the shard's content depends on; kept with it.
        write: gets the open file, returns the number of rows.
    """
    with storage.atomic_write(url, name) as file:
        rows = write(file)
    record = ShardRecord(name, rows, file.bytes_written, file.sha256, fingerprint)
    _write_record(url, record)
    memory.release()
    logger.debug("%s", name, extra={"event": "shard_made", "counts": {"rows": rows, "bytes": record.bytes}})
    return record


def is_finished(url: str, name: str, fingerprint: str) -> bool:
    """Whether shard `name` of an unfinished stage directory is complete, with that fingerprint.

    For workers: a runner that tries a bundle again need not make again what the first try finished.
    """
    try:
        text = storage.read_text(storage.join(url, storage.INCOMPLETE, name + RECORD_SUFFIX))
        record = ShardRecord(**json.loads(text))
    except (ValueError, TypeError, ManifestError, FileNotFoundError):
        return False
    return record.fingerprint == fingerprint and _shard_problem(url, record) is None


def finished_shards(url: str, known: Container[str] = ()) -> list[ShardRecord]:
    """The records of the shards that are complete in an unfinished stage directory, by name, without those `known`."""
    records = []
    for name in storage.names_in(storage.join(url, storage.INCOMPLETE)):
        if name.endswith(RECORD_SUFFIX) and name.removesuffix(RECORD_SUFFIX) not in known:
            try:
                records.append(
                    ShardRecord(**json.loads(storage.read_text(storage.join(url, storage.INCOMPLETE, name))))
                )
            except (ValueError, TypeError, ManifestError, FileNotFoundError):
                continue  # cut or just removed: the shard is not complete
    return records


@dataclasses.dataclass(frozen=True)
class StageOutput:
    """One stage's output directory, opened by the launcher.

    Attributes:
        url: the directory.
        stage: the stage's name.
        config: settings that decide the content, JSON values.
        input_digests: name to digest of each input.
    """

    url: str
    stage: str
    config: Mapping[str, Any]
    input_digests: Mapping[str, str]

    @property
    def fingerprint(self) -> str:
        """Digest of the configuration and of the inputs."""
        return self.shard_fingerprint(dict(self.input_digests))

    def shard_fingerprint(self, inputs: Any) -> str:
        """The fingerprint of a shard that depends on the configuration and on `inputs` (a JSON value) alone."""
        return digest_of({"stage": self.stage, "config": dict(self.config), "inputs": inputs})

    def finished(self) -> Manifest | None:
        """The manifest, when the directory already holds just what this stage would write; else None."""
        manifest = _find_manifest(self.url)
        if manifest is None or manifest.fingerprint != self.fingerprint:
            return None
        if any(_shard_problem(self.url, shard) for shard in manifest.shards):
            return None
        return manifest

    def begin(self, overwrite: bool) -> dict[str, ShardRecord]:
        """Opens the directory for writing and returns the finished shards by name; the caller compares fingerprints.

        Raises:
            InputError: the directory belongs to another configuration and `overwrite` is not set.
        """
        manifest = _find_manifest(self.url)
        owner = self._owner(manifest)
        if owner is not None and owner != self._identity() and not overwrite:
            raise InputError(
                "the output directory belongs to another configuration",
                value=self.url,
                expected=_differences(owner, self._identity()),
                remedy="give another --output, or --overwrite",
            )
        if owner is not None and owner != self._identity():
            self._clear(manifest)
            manifest = None
        if manifest is not None:  # same configuration, other inputs or a damaged shard: keep what holds
            for shard in manifest.shards:
                _write_record(self.url, shard)
            storage.remove(storage.join(self.url, manifests.FILE_NAME))
        self._write_settings()
        return {shard.path: shard for shard in finished_shards(self.url) if _shard_problem(self.url, shard) is None}

    def finish(
        self,
        shards: Sequence[ShardRecord],
        inputs: Mapping[str, str],
        info: Mapping[str, Any],
        keep: Sequence[str] = (),
    ) -> Manifest:
        """Writes the manifest over `shards`, in row order; removes working files and shards that are not wanted now.

        Args:
            shards: the records of all shards.
            inputs: name to URL of what was read.
            info: for the reader.
            keep: names of other finished files that stay.
        """
        manifest = Manifest(
            self.stage,
            self.fingerprint,
            dict(self.config),
            {name: storage.relative_url(url, self.url) for name, url in inputs.items()},
            tuple(shards),
            dict(info),
        )
        kept = {*keep, *(shard.path for shard in shards)}
        for stale in finished_shards(self.url):
            if stale.path not in kept:
                storage.remove(storage.join(self.url, stale.path))
        storage.write_bytes(self.url, manifests.FILE_NAME, manifest.to_json().encode())
        storage.remove(storage.join(self.url, storage.INCOMPLETE))
        return manifest

    def abandon(self) -> None:
        """Leaves finished shards for the next run; removes an output directory in which there are none."""
        if _find_manifest(self.url) is None and not finished_shards(self.url):
            storage.remove(storage.join(self.url, storage.INCOMPLETE))
            if storage.exists(self.url) and not storage.names_in(self.url):
                storage.remove(self.url)

    def _identity(self) -> dict[str, Any]:
        return json.loads(json.dumps({"stage": self.stage, **self.config}))

    def _owner(self, manifest: Manifest | None) -> dict[str, Any] | None:
        if manifest is not None:
            return {"stage": manifest.stage, **manifest.config}
        try:
            return json.loads(storage.read_text(storage.join(self.url, storage.INCOMPLETE, SETTINGS)))
        except (FileNotFoundError, NotADirectoryError, ValueError):
            return None

    def _write_settings(self) -> None:
        data = json.dumps(self._identity(), sort_keys=True).encode()
        incomplete = storage.join(self.url, storage.INCOMPLETE)
        storage.write_bytes(incomplete, SETTINGS, data)

    def _clear(self, manifest: Manifest | None) -> None:
        storage.remove(storage.join(self.url, manifests.FILE_NAME))
        for shard in manifest.shards if manifest else finished_shards(self.url):
            storage.remove(storage.join(self.url, shard.path))
        storage.remove(storage.join(self.url, storage.INCOMPLETE))


def _find_manifest(url: str) -> Manifest | None:
    path = storage.join(url, manifests.FILE_NAME)
    try:
        text = storage.read_text(path)
    except (FileNotFoundError, NotADirectoryError):
        return None
    try:
        return Manifest.from_json(text)
    except ManifestError as error:
        raise InputError(
            f"the manifest cannot be used: {error}", value=path, remedy="run the stage again into a new directory"
        ) from error


def _shard_problem(url: str, shard: ShardRecord) -> str | None:
    try:
        size = storage.size_bytes(storage.join(url, shard.path))
    except FileNotFoundError:
        return "a shard of the manifest is missing"
    return None if size == shard.bytes else f"a shard has {size} bytes instead of {shard.bytes}"


def _write_record(url: str, record: ShardRecord) -> None:
    data = json.dumps(dataclasses.asdict(record), sort_keys=True).encode()
    storage.write_bytes(storage.join(url, storage.INCOMPLETE), record.path + RECORD_SUFFIX, data)


def _differences(old: Mapping[str, Any], new: Mapping[str, Any]) -> str:
    names = sorted(name for name in {*old, *new} if old.get(name) != new.get(name))
    changes = [f"{name} {_brief(old.get(name))} as it has, not {_brief(new.get(name))}" for name in names]
    return ", ".join(changes)


def _brief(value: Any) -> str:
    text = json.dumps(value)
    return text if len(text) <= 60 else text[:57] + "..."
