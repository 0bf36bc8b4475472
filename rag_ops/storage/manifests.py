"""Manifests of finished stages: read, and checked against their shards and against each other."""

from __future__ import annotations

from rag_ops.defaults import TITLE, TITLE_SECTION
from rag_ops.errors import InputError, JobError
from rag_ops.storage import store
from schemas.layout import BM25, INDEX, OUTPUTS
from schemas.manifest import FILE_NAME, Manifest, ManifestError, ShardRecord

_USES = {  # what an index is for that is given as one of the other kind
    (INDEX.name, BM25.name): "an index of words finds passages by ragbeam search --bm25 DIR",
    (BM25.name, INDEX.name): "an index of vectors is given as --index DIR",
}
AGAIN = "run the stage again into a new directory"


def read_manifest(url: str, stage: str) -> Manifest:
    """Opens the output of `stage` at directory `url`, and checks that every shard is there with its size.

    Raises:
        InputError: no manifest, one of another version or stage, a shard missing or of another size.
    """
    manifest = find_manifest(url)
    if manifest is None:
        what = "the stage there is unfinished" if store.exists(url) else "there is no such directory"
        what = what if store.is_directory(url) or not store.exists(url) else "it is a file"
        raise InputError(
            f"no {FILE_NAME}: {what}",
            value=url,
            expected=f"the output of ragbeam {OUTPUTS[stage].command}",
            remedy="run it (again)",
        )
    if manifest.stage != stage:
        raise InputError(
            "the directory holds another stage's output",
            value=f"{url} ({manifest.stage})",
            expected=f"the output of ragbeam {OUTPUTS[stage].command}",
            remedy=_USES.get((stage, manifest.stage)),
        )
    for shard in manifest.shards:
        problem = shard_problem(url, shard)
        if problem:
            raise InputError(
                problem, value=store.join(url, shard.path), remedy=f"run ragbeam {OUTPUTS[stage].command} again"
            )
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


def reads_sections(manifest: Manifest) -> bool:
    """Whether sections stand behind titles for the models that read what embeddings or an index were made from."""
    return manifest.info.get("contexts", TITLE) == TITLE_SECTION


def check_unchanged(url: str, read: Manifest) -> None:
    """Checks, when a job has read the stage at `url`, that it is still what it was when the job began.

    Raises:
        JobError: it has been written anew or removed meanwhile.
    """
    try:
        now = read_manifest(url, read.stage)
    except InputError as error:
        raise JobError(f"the job's input changed while it was read ({error})") from error
    if now.digest != read.digest:
        raise JobError("the job's input changed while it was read", value=url, remedy="run the same command again")


def find_manifest(url: str) -> Manifest | None:
    """The manifest in directory `url`, or None if there is none.

    Raises:
        InputError: it is no manifest, or of another version.
    """
    path = store.join(url, FILE_NAME)
    try:
        text = store.read_text(path)
    except (FileNotFoundError, NotADirectoryError):
        return None
    except IsADirectoryError as error:
        raise InputError("the manifest is a directory", value=path, remedy=AGAIN) from error
    except UnicodeDecodeError as error:
        raise InputError("the manifest is not UTF-8", value=path, remedy=AGAIN) from error
    try:
        return Manifest.from_json(text)
    except ManifestError as error:
        raise InputError(f"the manifest cannot be used: {error}", value=path, remedy=AGAIN) from error


def shard_problem(url: str, shard: ShardRecord, verify: bool = False) -> str | None:
    """Why a shard's file is bad: missing, of another size, or, with `verify`, of another digest; None if it is good."""
    path = store.join(url, shard.path)
    try:
        size = store.size_bytes(path)
    except FileNotFoundError:
        return "a shard of the manifest is missing"
    if size != shard.bytes:
        return f"a shard has {size} bytes instead of {shard.bytes}"
    if verify and store.sha256_of(path) != shard.sha256:
        return "a shard has another content than when it was written"
    return None
