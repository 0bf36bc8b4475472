"""Checks that stage outputs are whole and belong together: sizes, digests, rows, and what was made from what."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor

from rag_ops.errors import InputError, printable
from rag_ops.storage import manifests, store
from rag_ops.storage.parquet import open_parquet, read_parquet
from schemas.layout import BM25, INDEX, OUTPUTS, SEARCH, Stage, is_written_name
from schemas.manifest import FILE_NAME, Manifest, ShardRecord

AT_ONCE = 4  # files digested side by side: SHA-256 lets go of Python's lock


@dataclasses.dataclass(frozen=True)
class Finding:
    """The result of checking one stage directory: what is wrong, each a clause with its remedy.

    An unknown `stage` is "?"; `rows` and `shards` are the numbers in the manifest.
    """

    url: str
    stage: str
    problems: tuple[str, ...] = ()
    rows: int = 0
    shards: int = 0

    def line(self) -> str:
        """One line for the terminal."""
        if not self.problems:
            shards = f"{self.shards} shard{'s' * (self.shards != 1)}"
            return printable(f"{self.stage}: ok, {self.rows:,} rows in {shards}: {self.url}")
        more = f" (and {len(self.problems) - 1} more)" if len(self.problems) > 1 else ""
        return printable(f"{self.stage}: {self.problems[0]}{more}")


def check_digests(url: str, manifest: Manifest) -> None:
    """Checks the SHA-256 of every shard of a stage.

    Raises:
        InputError: one differs, or is missing.
    """
    for shard, problem in _damaged(url, manifest):
        raise InputError(problem, value=store.join(url, shard.path), remedy=_redo(manifest.stage))


def verify(url: str) -> list[Finding]:
    """Checks a stage directory, or all stages of a workspace, in the order in which they are made.

    Raises:
        InputError: there is no such directory, or no stage in it.
    """
    if not store.is_directory(url):
        raise InputError("no such directory", value=url, expected="a stage's output or a workspace of ragbeam run")
    if _is_stage(url):
        return [check_stage(url)]
    found = [store.join(url, stage.folder) for stage in OUTPUTS.values()]
    found = [directory for directory in found if _is_stage(directory)]
    if not found:
        raise InputError("there is no stage's output", value=url, expected=f"a directory with {FILE_NAME}")
    return [check_stage(directory) for directory in found]


def check_stage(url: str) -> Finding:
    """Checks everything that one stage directory allows to check."""
    last = url.rstrip("/").rsplit("/", 1)[-1]
    guess = next((stage.name for stage in OUTPUTS.values() if stage.folder == last), "?")
    try:
        manifest = manifests.find_manifest(url)
    except InputError as error:
        return Finding(url, guess, (str(error),))
    if manifest is None:
        return Finding(url, guess, (f"unfinished, there is no {FILE_NAME}: {url}; run its command again",))
    problems = [
        f"{problem}: {store.join(url, shard.path)}; {_redo(manifest.stage)}"
        for shard, problem in _damaged(url, manifest)
    ]
    try:
        problems += _content_problems(url, manifest) if not problems else []
    except InputError as error:
        problems.append(str(error))
    problems += _left_over(url, manifest)
    return Finding(url, manifest.stage, tuple(problems), manifest.rows, len(manifest.shards))


def _content_problems(url: str, manifest: Manifest) -> list[str]:
    """What is wrong with a stage whose files hold: made from another source, not aligned with it, other rows."""
    stage, source_url, source = OUTPUTS[manifest.stage], "", None
    again = f"run ragbeam {stage.command} again"
    if stage.source and (stage.aligned or stage.source.folder in manifest.inputs):
        source_url = store.resolve_url(manifest.inputs[stage.source.folder], url)
        try:
            source = manifests.read_manifest(source_url, stage.source.name)
        except InputError as error:
            return [f"what it was made from cannot be read ({error}); {again}"]
        if source.digest != manifest.info.get(f"{stage.source.folder}_digest"):
            return [f"it was made from another state of {source_url}; {again}"]
        if problem := _other_source(stage, manifest, source):
            return [f"{problem}: {url}; {again}"]
    if stage is SEARCH and (problem := _other_index(url, manifest)):
        return [f"{problem}; {again}"]
    for name in [name for name in ("trained", "statistics") if manifest.info.get(name)]:
        path, digest = store.join(url, manifest.info[name]), manifest.info.get(f"{name}_sha256")
        if not store.exists(path):
            return [f"a file is missing: {path}; {again}"]
        if digest and store.sha256_of(path) != digest:
            return [f"a file has another content than when it was written: {path}; {again}"]
    problems = _row_counts(url, manifest) if stage.suffix == "parquet" else []
    if source and stage.aligned == "shards" and not problems:
        return _other_rows(url, manifest, source_url, source)
    return problems


def _other_source(stage: Stage, manifest: Manifest, source: Manifest) -> str:
    """How a stage's manifest does not go with that of its source, as a clause; empty if it does."""
    folder, before = OUTPUTS[source.stage].folder, OUTPUTS[source.stage].source
    if stage.aligned == "shards" and len(manifest.shards) != len(source.shards):
        return f"{len(manifest.shards)} shards, of {len(source.shards)} of {folder}"
    if stage.aligned == "rows" and manifest.rows != source.rows:
        return f"{manifest.rows} {stage.unit}, of {source.rows} {folder}"
    if stage.aligned and before:
        key = f"{before.folder}_digest"
        if source.info.get(key) != manifest.info.get(key):
            return f"it was made from other {before.folder} than its {folder}"
    return ""


def _other_index(url: str, manifest: Manifest) -> str:
    """Which index hits were found in that is another by now, as a clause; empty if none is."""
    for stage in (INDEX, BM25):
        if stage.folder not in manifest.inputs:
            continue
        index_url = store.resolve_url(manifest.inputs[stage.folder], url)
        try:
            index = manifests.read_manifest(index_url, stage.name)
        except InputError as error:
            return f"the index that it was searched in cannot be read ({error})"
        if index.digest != manifest.info.get(f"{stage.folder}_digest"):
            return f"it was made from another state of {index_url}"
    return ""


def _other_rows(url: str, manifest: Manifest, source_url: str, source: Manifest) -> list[str]:
    """The shards whose content hashes are not those of the source's shards."""
    problems = []
    for ours, theirs in zip(manifest.shards, source.shards, strict=True):
        paths = store.join(url, ours.path), store.join(source_url, theirs.path)
        if _same_rows(*paths):
            continue
        if manifests.shard_problem(source_url, theirs, verify=True):
            folder = OUTPUTS[source.stage].folder
            problems.append(f"the {folder} that it was made from are damaged: {paths[1]}; {_redo(source.stage)}")
        else:
            problems.append(f"its rows are not those of {paths[1]}: {paths[0]}; {_redo(manifest.stage)}")
    return problems


def _same_rows(*paths: str) -> bool:
    """Whether two Parquet files have the same content hashes, row by row."""
    try:
        one, other = (read_parquet(path, ["content_hash"])["content_hash"] for path in paths)
    except InputError:
        return False
    return bool(one.equals(other))


def _row_counts(url: str, manifest: Manifest) -> list[str]:
    problems = []
    for shard in manifest.shards:
        path = store.join(url, shard.path)
        with open_parquet(path) as parquet:
            rows = parquet.metadata.num_rows
        if rows != shard.rows:
            problems.append(f"{rows} rows instead of {shard.rows}: {path}; {_redo(manifest.stage)}")
    return problems


def _damaged(url: str, manifest: Manifest) -> Iterator[tuple[ShardRecord, str]]:
    with ThreadPoolExecutor(AT_ONCE) as pool:
        found = pool.map(lambda shard: manifests.shard_problem(url, shard, verify=True), manifest.shards)
        for shard, problem in zip(manifest.shards, found, strict=True):
            if problem:
                yield shard, problem


def _left_over(url: str, manifest: Manifest) -> list[str]:
    beside = {manifest.info.get(name) for name in ("trained", "quantised", "statistics")}
    kept = {shard.path for shard in manifest.shards} | beside
    left = [
        name
        for name in store.names_in(url)
        if name == store.INCOMPLETE or name.endswith(".tmp") or (is_written_name(name) and name not in kept)
    ]
    again = f"run ragbeam {OUTPUTS[manifest.stage].command} again"
    return [f"a working file is left: {store.join(url, name)}; {again}" for name in left]


def _is_stage(url: str) -> bool:
    return any(store.exists(store.join(url, name)) for name in (FILE_NAME, store.INCOMPLETE))


def _redo(stage: str) -> str:
    return f"run ragbeam {OUTPUTS[stage].command} again with --verify, or remove the file and run it again"
