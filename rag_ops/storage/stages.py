"""The output directory of a stage: its finished shards, what of them can be reused, and the manifest written last.

While a stage runs, its directory holds finished shards under their final names, a record for each in `_incomplete`, and
temporary files there. The manifest is written last, then `_incomplete` goes. Killed at any moment, the next run goes
on: a step that is half done is done again, and what is no longer needed is removed at the end.
"""

from __future__ import annotations

import contextlib
import dataclasses
import json
import logging
from collections.abc import Callable, Container, Iterator, Mapping, Sequence
from typing import Any

from rag_ops import heap
from rag_ops.errors import InputError, JobError
from rag_ops.redaction import public, public_url
from rag_ops.storage import locks, store
from rag_ops.storage.manifests import find_manifest, shard_problem
from rag_ops.storage.places import check_ours
from schemas.layout import is_written_name
from schemas.manifest import FILE_NAME, Manifest, ManifestError, ShardRecord, digest_of

logger = logging.getLogger(__name__)
RUN_FILE = "run.json"
RECORD_SUFFIX = ".record.json"
SETTINGS = "settings.json"  # in _incomplete: the configuration that the unfinished shards belong to


def write_shard(url: str, name: str, fingerprint: str, write: Callable[[Any], int]) -> ShardRecord:
    """Writes shard `name` into stage directory `url`, whole, then its record; leaves nothing if it fails.

    Args:
        url: the stage's output directory.
        name: the shard's file name.
        fingerprint: what the shard's content depends on; kept with it.
        write: function that writes to the open file and returns the number of rows.
    """
    with store.atomic_write(url, name) as file:
        rows = write(file)
    record = ShardRecord(name, rows, file.bytes_written, file.sha256, fingerprint)
    _write_record(url, record)
    heap.trim()
    logger.debug("%s", name, extra={"event": "shard_made", "counts": {"rows": rows, "bytes": record.bytes}})
    return record


def is_finished(url: str, name: str, fingerprint: str) -> bool:
    """Whether shard `name` of an unfinished stage directory is complete, with that fingerprint.

    Workers ask this, so that a runner's second try of a bundle does not redo what the first one finished.
    """
    try:
        text = store.read_text(store.join(url, store.INCOMPLETE, name + RECORD_SUFFIX))
        record = ShardRecord(**json.loads(text))
    except (ValueError, TypeError, ManifestError, FileNotFoundError):
        return False
    return record.fingerprint == fingerprint and shard_problem(url, record) is None


def finished_shards(url: str, known: Container[str] = ()) -> list[ShardRecord]:
    """The records of the complete shards of an unfinished stage directory, sorted by name, without those `known`."""
    records = []
    for name in store.names_in(store.join(url, store.INCOMPLETE)):
        if name.endswith(RECORD_SUFFIX) and name.removesuffix(RECORD_SUFFIX) not in known:
            try:
                records.append(ShardRecord(**json.loads(store.read_text(store.join(url, store.INCOMPLETE, name)))))
            except (ValueError, TypeError, ManifestError, FileNotFoundError):
                continue  # cut or just removed: the shard is not complete
    return records


@dataclasses.dataclass(frozen=True)
class StageOutput:
    """The output directory of a stage, as the launcher sees it.

    Attributes:
        url: URL of the directory.
        stage: the stage's name.
        config: settings that decide the content, JSON values.
        input_digests: name to digest of each input.
    """

    url: str
    stage: str
    config: Mapping[str, Any]
    input_digests: Mapping[str, str]

    def __post_init__(self) -> None:
        object.__setattr__(self, "config", public(dict(self.config)))

    @property
    def fingerprint(self) -> str:
        """Digest of the configuration and of the inputs."""
        return self.shard_fingerprint(dict(self.input_digests))

    def shard_fingerprint(self, inputs: Any) -> str:
        """The fingerprint of a shard that depends on the configuration and on `inputs` (a JSON value) alone."""
        return digest_of({"stage": self.stage, "config": dict(self.config), "inputs": inputs})

    @contextlib.contextmanager
    def locked(self) -> Iterator[bool]:
        """Keeps other jobs from writing to the directory while the block runs, where there are locks; yields whether.

        Raises:
            JobError: another job does, or the directory cannot be made.
        """
        if not store.is_local(self.url):
            yield False
            return
        with locks.directory_held(store.filesystem(self.url)[1]) as held:
            yield held

    def continued(self) -> dict[str, Any] | None:
        """The configuration of the stage's shards that are there, finished or not; None if there are none."""
        manifest = find_manifest(self.url)
        if manifest is None and not finished_shards(self.url):
            return None
        owner = self._owner(manifest)
        if owner is None or owner.get("stage") != self.stage:
            return None
        return {name: value for name, value in owner.items() if name != "stage"}

    def finished(self, verify: bool = False) -> Manifest | None:
        """The manifest, if the directory already holds exactly what this stage would write; else None.

        Args:
            verify: compare digests, not sizes alone.
        """
        manifest = find_manifest(self.url)
        if manifest is None or manifest.fingerprint != self.fingerprint:
            return None
        if any(shard_problem(self.url, shard, verify) for shard in manifest.shards):
            return None
        return manifest

    def tidy(self) -> None:
        """Removes the working files of a finished stage that was killed just before it could."""
        with contextlib.suppress(OSError):  # another job may write there, where there are no locks
            store.remove(store.join(self.url, store.INCOMPLETE))

    def begin(self, overwrite: bool, verify: bool = False) -> dict[str, ShardRecord]:
        """Opens the directory for writing and returns the finished shards by name; the caller compares fingerprints.

        Args:
            overwrite: replace another configuration's output.
            verify: compare digests of finished shards, not sizes alone.

        Raises:
            InputError: the directory belongs to another configuration and `overwrite` is not set, it holds another
                stage's output, or files that no manifest or record names.
        """
        manifest, owner = self._opened()
        self._check_names(manifest, owner is not None)
        if store.is_local(self.url):
            locks.remove_stale(store.join(store.filesystem(self.url)[1], store.INCOMPLETE, ""))
        other = owner is not None and owner != self._identity()
        self._check_owner(manifest, owner, overwrite)
        if other:
            self._clear(manifest)
            manifest = None
        self._write_settings()
        if manifest is not None:  # same configuration, other inputs or a damaged shard: keep what holds
            for shard in manifest.shards:
                _write_record(self.url, shard)
            store.remove(store.join(self.url, FILE_NAME))
        records = {shard.path: shard for shard in finished_shards(self.url)}
        damaged = [name for name, shard in records.items() if shard_problem(self.url, shard, verify)]
        self._forget(damaged)
        return {name: shard for name, shard in records.items() if name not in damaged}

    def check(self, overwrite: bool, unknown: Container[str] = (), anew: bool = False) -> None:
        """Raises for what `begin` would, as far as that can be known; changes nothing.

        Args:
            overwrite: replace another configuration's output.
            unknown: names of the configuration that are not known yet, for the input does not exist.
            anew: whether an output that is finished is made again, which may be reused as it is otherwise.
        """
        manifest, owner = self._opened()
        if anew or manifest is None:
            self._check_names(manifest, owner is not None)
        self._check_owner(manifest, owner, overwrite, unknown)

    def _opened(self) -> tuple[Manifest | None, dict[str, Any] | None]:
        """The manifest, and whose the directory is.

        Raises:
            InputError: another stage's, or it is a file.
        """
        if store.is_local(self.url) and store.exists(self.url) and not store.is_directory(self.url):
            raise InputError("--output is a file", value=self.url, expected="a directory", remedy="give another")
        manifest = find_manifest(self.url)
        owner = self._owner(manifest)
        if owner is not None and owner["stage"] != self.stage:
            raise InputError(
                "the output directory holds another stage's output",
                value=f"{self.url} ({owner['stage']})",
                expected=f"a directory for the output of {self.stage}",
                remedy="give another --output",
            )
        return manifest, owner

    def _check_owner(
        self,
        manifest: Manifest | None,
        owner: Mapping[str, Any] | None,
        overwrite: bool,
        unknown: Container[str] = (),
    ) -> None:
        if owner is None or overwrite or (manifest is None and not finished_shards(self.url)):
            return  # a job that made nothing is no loss
        before, now = ({n: v for n, v in one.items() if n not in unknown} for one in (owner, self._identity()))
        if before != now:
            raise InputError(
                "the output directory belongs to another configuration",
                value=self.url,
                expected=config_differences(before, now),
                remedy="give another --output, or --overwrite",
            )

    def _check_names(self, manifest: Manifest | None, owned: bool) -> None:
        ours = {FILE_NAME, RUN_FILE, store.INCOMPLETE} if owned else {store.INCOMPLETE}
        noted = {shard.path for shard in manifest.shards} if manifest else set()
        written = {name for name in store.names_in(self.url) if owned and is_written_name(name)}
        check_ours(self.url, ours | noted | written)

    def adopt(self, name: str, fingerprint: str, sha256: str) -> bool:
        """Adopts a file without rows (the trained index) from the last run if its SHA-256 still matches.

        Args:
            name: file name; a manifest lists only shards, so the record is made anew.
            fingerprint: digest of what its content depends on.
            sha256: SHA-256 of the content as it was written.
        """
        path = store.join(self.url, name)
        if not store.exists(path) or store.sha256_of(path) != sha256:
            return False
        _write_record(self.url, ShardRecord(name, 0, store.size_bytes(path), sha256, fingerprint))
        return True

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
            info: facts for whoever reads the manifest.
            keep: names of other finished files to keep.

        Raises:
            JobError: a job of another configuration has begun to write here meanwhile (without locks).
        """
        owner = self._owner(None)
        if owner is not None and owner != self._identity():
            raise JobError(
                "another job has taken over the output directory",
                value=self.url,
                expected="one job at a time",
                remedy="wait for its end, and run this one into another --output",
            )
        manifest = Manifest(
            self.stage,
            self.fingerprint,
            dict(self.config),
            {name: store.relative_url(public_url(url), public_url(self.url)) for name, url in inputs.items()},
            tuple(shards),
            public(dict(info)),
        )
        kept = {*keep, *(shard.path for shard in shards)}
        self._remove_shards(kept)
        store.write_bytes(self.url, FILE_NAME, manifest.to_json().encode())
        self.tidy()
        return manifest

    def abandon(self) -> None:
        """Leaves finished shards for the next run; removes an output directory in which there are none."""
        if find_manifest(self.url) is None and not finished_shards(self.url):
            self._remove_shards(set())
            store.remove(store.join(self.url, store.INCOMPLETE))
            if store.exists(self.url) and not store.names_in(self.url):
                store.remove(self.url)

    def _identity(self) -> dict[str, Any]:
        return json.loads(json.dumps({"stage": self.stage, **self.config}))

    def _owner(self, manifest: Manifest | None) -> dict[str, Any] | None:
        if manifest is not None:
            return {"stage": manifest.stage, **manifest.config}
        if (owner := self._read(store.INCOMPLETE, SETTINGS)) and "stage" in owner:
            return owner
        run = self._read(RUN_FILE)  # of a finished stage whose manifest somebody removed
        return {"stage": run["stage"], **run["config"]} if run and {"stage", "config"} <= run.keys() else None

    def _read(self, *names: str) -> dict[str, Any] | None:
        """A JSON object in the directory; None if there is none."""
        try:
            found = json.loads(store.read_text(store.join(self.url, *names)))
        except (FileNotFoundError, NotADirectoryError, IsADirectoryError, ValueError):
            return None
        return found if isinstance(found, dict) else None

    def _write_settings(self) -> None:
        data = json.dumps(self._identity(), sort_keys=True).encode()
        incomplete = store.join(self.url, store.INCOMPLETE)
        store.write_bytes(incomplete, SETTINGS, data)

    @contextlib.contextmanager
    def discarding(self, names: Sequence[str]) -> Iterator[None]:
        """Forgets these finished shards when the block raises: the next run makes them again."""
        try:
            yield
        except Exception:
            self._forget(names)
            raise

    def forget(self) -> None:
        """Removes all finished shards: they are made again."""
        self._remove_shards(set())
        self._forget([record.path for record in finished_shards(self.url)])

    def _forget(self, names: Sequence[str]) -> None:
        for name in names:
            store.remove(store.join(self.url, store.INCOMPLETE, name + RECORD_SUFFIX))

    def _clear(self, manifest: Manifest | None) -> None:
        store.remove(store.join(self.url, FILE_NAME))
        self._remove_shards(set(), manifest.shards if manifest else ())
        store.remove(store.join(self.url, store.INCOMPLETE))

    def _remove_shards(self, kept: set[str], more: Sequence[ShardRecord] = ()) -> None:
        """Removes shards by record and by name: a run that is killed may leave one before it could note it."""
        noted = {shard.path for shard in (*finished_shards(self.url), *more)}
        for name in store.names_in(self.url):
            if (name in noted or is_written_name(name)) and name not in kept:
                store.remove(store.join(self.url, name))


def _write_record(url: str, record: ShardRecord) -> None:
    data = json.dumps(dataclasses.asdict(record), sort_keys=True).encode()
    store.write_bytes(store.join(url, store.INCOMPLETE), record.path + RECORD_SUFFIX, data)


def config_differences(old: Mapping[str, Any], new: Mapping[str, Any]) -> str:
    """What differs between two configurations (JSON values), as a clause; empty if nothing does."""
    old, new = json.loads(json.dumps(dict(old))), json.loads(json.dumps(dict(new)))
    names = sorted(name for name in {*old, *new} if old.get(name) != new.get(name))
    changes = [f"{name} {_brief(old.get(name))} as it has, not {_brief(new.get(name))}" for name in names]
    return ", ".join(changes)


def _brief(value: Any) -> str:
    text = json.dumps(value)
    return text if len(text) <= 60 else text[:57] + "..."
