"""Files behind URLs: any fsspec URL is read and written here, and nowhere else.

A path without a scheme is local. Writing is atomic: to a temporary name first, then renamed, so that a file under its
final name is whole. On an object store an upload does that by itself: an object is there when its upload ends, or not.
"""

from __future__ import annotations

import contextlib
import glob
import hashlib
import io
import os
import posixpath
import re
import shutil
import stat
import tempfile
import threading
import uuid
from collections.abc import Iterator
from typing import IO, Any

import fsspec
from fsspec.utils import get_protocol

from rag_ops.errors import InputError, JobError
from rag_ops.redaction import public_url
from rag_ops.storage import locks

INCOMPLETE = "_incomplete"  # folder in a stage's output for unfinished files; removed once the manifest is written
COPY_BYTES = 1 << 20
WEB = ("http", "https")
WHOLE_BYTES = 64 << 20  # a file up to this size is read at once from a server that gives no parts
OBJECT_STORES = ("s3", "s3a", "gs", "gcs", "abfs", "az")
NO_ANSWER = re.compile("Connect|Credential|Timeout")  # in the names of errors of the stores' clients
ANSWER_SECS = 10.0  # for the first answer of an object store, whose client would try again for a minute or more

_silent: dict[str, str] = {}  # why a bucket does not answer, by its URL; "" if it does
_checked_copies: set[str] = set()  # cached files whose content this process has compared


def filesystem(url: str) -> tuple[fsspec.AbstractFileSystem, str]:
    """The fsspec filesystem of `url` and the path within it.

    Raises:
        InputError: the name is not UTF-8, the scheme is unknown, or its package is not installed or does not work.
    """
    _check_name(url)
    if is_local(url):  # whatever its name has in it: url_to_fs takes "::" for a chain of URLs
        fs = fsspec.filesystem("file")
        return fs, fs._strip_protocol(os.path.expanduser(url))
    try:
        if not is_object_store(url):
            return fsspec.core.url_to_fs(url)
        _check_reached(url)
        return _object_store(url)
    except ImportError as error:
        raise InputError("the URL needs a package that is not installed", value=url, remedy=str(error)) from error
    except ValueError as error:
        raise InputError(
            "unknown URL", value=url, expected="a path or an fsspec URL such as gs://bucket/dir"
        ) from error
    except OSError as error:
        raise InputError("the URL cannot be used", value=url, remedy=str(error).splitlines()[0][:200]) from error


def _object_store(url: str) -> tuple[fsspec.AbstractFileSystem, str]:
    # Other processes write there too: a remembered listing would be out of date.
    return fsspec.core.url_to_fs(url, use_listings_cache=False)


def _check_reached(url: str) -> None:
    """Asks a bucket something, once in a process.

    Raises:
        JobError: there is no answer within `ANSWER_SECS`; an answer of any kind is one.
    """
    bucket = "/".join(url.split("/")[:3])
    if bucket not in _silent:
        _silent[bucket] = f"in {ANSWER_SECS:g} s"
        asking = threading.Thread(target=_ask, args=(url, bucket), daemon=True)
        asking.start()
        asking.join(ANSWER_SECS)
    if _silent[bucket]:
        raise JobError(
            f"the object store does not answer ({_silent[bucket]})",
            value=bucket,
            remedy="check the network, the address and the credentials",
        )


def _ask(url: str, bucket: str) -> None:
    try:
        fs, path = _object_store(url)
        fs.exists(path)
        _silent[bucket] = ""
    except Exception as error:  # of the store's client: they have no class in common
        _silent[bucket] = str(error) if NO_ANSWER.search(type(error).__name__) else ""


def protocol(url: str) -> str:
    """The scheme of a URL, the outermost of a chained one; "file" for a path.

    >>> protocol("gs://bucket/x"), protocol("a::b"), protocol("simplecache::s3://bucket/x")
    ('gs', 'file', 'simplecache')
    """
    return get_protocol(url) if "://" in url else "file"


def _check_name(url: str) -> None:
    try:
        url.encode()
    except UnicodeEncodeError as error:
        raise InputError("the name is not UTF-8", value=url, remedy="rename it") from error


def is_local(url: str) -> bool:
    """Whether `url` is on this machine's own disk."""
    return protocol(url) in ("file", "local")


def is_object_store(url: str) -> bool:
    """Whether `url` is on an object store: no directories, no renames, and an upload appears whole or not at all."""
    return protocol(url) in OBJECT_STORES


def join(base: str, *names: str) -> str:
    """`base` with `names` appended, by forward slashes.

    >>> join("gs://bucket/run/", "passages", "manifest.json")
    'gs://bucket/run/passages/manifest.json'
    """
    return "/".join([base.rstrip("/") or "/", *names])


def name_of(url: str) -> str:
    """The file's own name in a URL or path: without the query of a web address, which may hold a signature.

    >>> name_of("https://host/a/b.jsonl?X-Amz-Signature=0f"), name_of("gs://bucket/a/b.jsonl")
    ('b.jsonl', 'b.jsonl')
    """
    name = public_url(url)
    if protocol(name) in WEB:
        path = re.split(r"[?#]", name)[0]
        name = path if "." in posixpath.basename(path) else name  # else in its query: get?file=b.jsonl
    return posixpath.basename(name)


def relative_url(target: str, base: str) -> str:
    """`target` relative to directory `base` if both lie in one parent directory, else `target` made absolute.

    So a workspace can be moved or copied whole, and what lies elsewhere is still found.

    >>> relative_url("gs://b/run/passages", "gs://b/run/embeddings")
    '../passages'
    >>> relative_url("/data/passages", "/tmp/run/embeddings")
    '/data/passages'
    """
    if is_local(target) and is_local(base):
        target, base = os.path.abspath(filesystem(target)[1]), os.path.abspath(filesystem(base)[1])
    target, base = target.rstrip("/"), base.rstrip("/")
    if posixpath.dirname(target) == posixpath.dirname(base):
        return "../" + posixpath.basename(target)
    return target


def resolve_url(url: str, base: str) -> str:
    """The inverse of `relative_url`: `url` as a manifest in directory `base` gives it, as an address of its own.

    >>> resolve_url("../passages", "gs://b/run/embeddings")
    'gs://b/run/passages'
    """
    if not url.startswith("../"):
        return url
    if is_local(base):
        base = os.path.abspath(filesystem(base)[1])
    return join(posixpath.dirname(base.rstrip("/")), url[3:])


def exists(url: str) -> bool:
    """Whether there is a file or directory at `url`."""
    fs, path = filesystem(url)
    return bool(fs.exists(path))


def is_directory(url: str) -> bool:
    """Whether there is a directory at `url`."""
    fs, path = filesystem(url)
    return bool(fs.isdir(path))


def size_bytes(url: str) -> int:
    """Returns the size of the file at `url` in bytes.

    Raises:
        FileNotFoundError: there is none.
        InputError: its server does not say.
    """
    fs, path = filesystem(url)
    if (size := fs.size(path)) is None:
        raise InputError(
            "the server does not say how long the file is",
            value=url,
            expected="one that sends Content-Length",
            remedy="download the file first",
        )
    return int(size)


def open_read(url: str) -> IO[bytes]:
    """Opens the file at `url` for reading bytes, seekable.

    Raises:
        FileNotFoundError: there is none.
        InputError: it is no file on disk, or its server does not give parts of it.
    """
    fs, path = filesystem(url)
    if is_local(url):
        _check_on_disk(path)
    if protocol(url) not in WEB:
        return fs.open(path, "rb")
    size = size_bytes(url)
    file = fs.open(path, "rb")
    try:
        file.seek(max(size - 1, 0))
        file.read(1)
        file.seek(0)
        return file
    except ValueError as error:  # the server sends files from the beginning only
        file.close()
        if size <= WHOLE_BYTES:
            return io.BytesIO(fs.cat_file(path))
        raise InputError(
            "the server does not give parts of the file",
            value=url,
            expected="one that answers range requests",
            remedy="download the file first",
        ) from error


def _check_on_disk(path: str) -> None:
    """Refuses a pipe, which may wait for ever for a writer, and has no beginning to go back to; and a device."""
    mode = os.stat(path).st_mode
    if not stat.S_ISREG(mode) and not stat.S_ISDIR(mode):
        raise InputError(
            "no regular file", value=path, expected="a file on disk, not a pipe or device", remedy="write it to a file"
        )


def read_text(url: str) -> str:
    """The whole of a small UTF-8 file."""
    with open_read(url) as file:
        return file.read().decode()


def remove(url: str) -> None:
    """Removes the file or directory at `url` with all it holds; does nothing if there is none."""
    fs, path = filesystem(url)
    with contextlib.suppress(FileNotFoundError):
        if is_local(url) or not has_magic(path):
            fs.rm(path, recursive=True)
        else:  # fsspec would remove what the name matches as a pattern: the directory out1 for out[1]
            for file in fs.find(path):
                fs.rm_file(file)
            with contextlib.suppress(OSError):
                fs.rmdir(path)


def state_of(url: str) -> str:
    """What changes when the file at `url` is written again: a digest of its size, times and whatever its store reports.

    Raises:
        FileNotFoundError: there is no such file.
    """
    fs, path = filesystem(url)
    fs.invalidate_cache(path)
    return str(fs.ukey(path))


def names_in(url: str) -> list[str]:
    """The names of the files in directory `url`, sorted; empty if there is no directory."""
    fs, path = filesystem(url)
    try:
        fs.invalidate_cache(path)
        return sorted(posixpath.basename(name.rstrip("/")) for name in fs.ls(path, detail=False))
    except (FileNotFoundError, NotADirectoryError):
        return []


def expand(url: str, kind: str) -> list[str]:
    """Lists the files that a URL, a glob or a directory stands for, sorted.

    Args:
        url: a file; a directory, whose visible files are meant; or a pattern with `*`, `?` or `[`. What exists by that
            very name is never taken for a pattern.
        kind: what the files are, for the error message.

    Raises:
        InputError: there are no such files.
    """
    fs, path = filesystem(url)
    scheme = url.split("://")[0] + "://" if "://" in url else ""

    def full(found: str) -> str:
        return scheme + found.removeprefix(scheme).lstrip("/") if scheme and scheme != "file://" else found

    if fs.isfile(path):
        return [url]
    if fs.isdir(path):
        found = _listed(fs, path)
    elif has_magic(path):
        found = [name for name in fs.glob(_literal_beginning(fs, path)) if fs.isfile(name)]
    else:
        raise InputError(f"no such {kind}", value=url, expected="a file, a directory or a glob")
    files = sorted(name for name in found if not posixpath.basename(name).startswith((".", "_")))
    for name in files:
        _check_name(name)
    if not files:
        raise InputError(f"no {kind} there", value=url, expected="at least one file")
    return [full(name) for name in files]


def has_magic(path: str) -> bool:
    """Whether fsspec would take a path for a pattern."""
    return any(character in path for character in "*?[")


def _listed(fs: fsspec.AbstractFileSystem, directory: str) -> list[str]:
    """The files in a directory, by its listing: a pattern would take brackets in its name for a set of characters."""
    fs.invalidate_cache(directory)
    kinds = {entry["name"].rstrip("/"): entry["type"] for entry in fs.ls(directory, detail=True)}
    kinds.pop(directory.rstrip("/"), None)  # an object store may have an object of the directory's own name
    # A link's own type is neither.
    return [name for name, kind in kinds.items() if kind == "file" or (kind != "directory" and fs.isfile(name))]


def _literal_beginning(fs: fsspec.AbstractFileSystem, pattern: str) -> str:
    """A pattern in which the directories that exist by these very names are taken literally."""
    directory = posixpath.dirname(pattern)
    while has_magic(directory) and not fs.isdir(directory):
        directory = posixpath.dirname(directory)
    return glob.escape(directory) + pattern[len(directory) :]


class HashingFile(io.RawIOBase):
    """A writable file that counts and digests what goes through it; for writers that never seek."""

    def __init__(self, raw: IO[bytes]):
        self._raw = raw
        self._sha256 = hashlib.sha256()
        self.bytes_written = 0

    def writable(self) -> bool:
        """True: the file is open for writing."""
        return True

    def write(self, data: Any) -> int:
        """Writes and digests `data` (bytes-like); returns its length in bytes."""
        view = memoryview(data).cast("B")
        self._raw.write(view)
        self._sha256.update(view)
        self.bytes_written += view.nbytes
        return view.nbytes

    def tell(self) -> int:
        """Number of bytes written so far."""
        return self.bytes_written

    @property
    def sha256(self) -> str:
        """Hex SHA-256 of everything written so far."""
        return self._sha256.hexdigest()


@contextlib.contextmanager
def atomic_write(directory: str, name: str) -> Iterator[HashingFile]:
    """Yields a file that appears as `directory/name` when the block ends well, and leaves nothing when it raises.

    The temporary file lies in `directory/_incomplete`, on the same filesystem.

    Raises:
        JobError: the disk is full or writing is not permitted.
    """
    fs, path = filesystem(directory)
    if is_object_store(directory):
        with _upload(fs, join(path, name), join(directory, name)) as file:
            yield file
        return
    temporary = join(path, INCOMPLETE, f"{name}.{uuid.uuid4().hex}.tmp")
    with _write_then_rename(fs, temporary, join(path, name), join(directory, name)) as file:
        yield file


@contextlib.contextmanager
def _write_then_rename(fs: fsspec.AbstractFileSystem, temporary: str, final: str, shown: str) -> Iterator[HashingFile]:
    try:
        fs.makedirs(posixpath.dirname(temporary), exist_ok=True)
        if is_local(shown):
            with locks.temporary_file(temporary, final) as raw:
                yield HashingFile(raw)
            return
        try:
            with fs.open(temporary, "wb") as raw:
                yield HashingFile(raw)
            if has_magic(temporary):  # mv and rm would take the name for a pattern
                fs.cp_file(temporary, final)
                fs.rm_file(temporary)
            else:
                fs.mv(temporary, final)
        except BaseException:
            with contextlib.suppress(OSError):
                fs.rm_file(temporary)
            raise
    except NotImplementedError as error:
        raise InputError("nothing can be written there", value=shown, expected="a path or an object store") from error
    except OSError as error:
        raise JobError(
            f"cannot write {shown}: {error.strerror or error}",
            remedy="free the disk or check permissions",
        ) from error


@contextlib.contextmanager
def _upload(fs: fsspec.AbstractFileSystem, path: str, shown: str) -> Iterator[HashingFile]:
    try:
        raw = fs.open(path, "wb")
        try:
            yield HashingFile(raw)
        except BaseException:
            with contextlib.suppress(OSError):
                raw.discard()
            raw.closed = True  # closing it would make an object of what was written so far
            raise
        raw.close()
    except OSError as error:
        raise JobError(
            f"cannot write {shown}: {error.strerror or error}", remedy="check the bucket and its permissions"
        ) from error


@contextlib.contextmanager
def write_stream(url: str) -> Iterator[HashingFile]:
    """Yields a file outside of stages, which appears when the block ends well; leaves nothing else in its directory.

    Raises:
        JobError: the disk is full or writing is not permitted.
    """
    fs, path = filesystem(url)
    temporary = posixpath.join(posixpath.dirname(path), f".{posixpath.basename(path)}.{uuid.uuid4().hex}.tmp")
    way = _upload(fs, path, url) if is_object_store(url) else _write_then_rename(fs, temporary, path, url)
    with way as file:
        yield file


def write_file(url: str, data: bytes) -> None:
    """Writes a file outside of stages atomically, and leaves nothing else in its directory.

    Raises:
        JobError: the disk is full or writing is not permitted.
    """
    with write_stream(url) as file:
        file.write(data)


def write_bytes(directory: str, name: str, data: bytes) -> None:
    """Writes a small file atomically."""
    with atomic_write(directory, name) as file:
        file.write(data)


def sha256_of(url: str) -> str:
    """Hex SHA-256 of a file's content.

    Raises:
        InputError: there is no such file.
    """
    digest = hashlib.sha256()
    try:
        with open_read(url) as file:
            while chunk := file.read(COPY_BYTES):
                digest.update(chunk)
    except (FileNotFoundError, IsADirectoryError) as error:
        raise InputError("no such file", value=url, expected="a readable file") from error
    return digest.hexdigest()


def local_copy(url: str, key: str, folder: str = "", sha256: str | None = None) -> str:
    """A path on this machine for the file at `url`: its own when local, else a cached copy below `key` and `folder`.

    The cache lies under RAGBEAM_CACHE, else in a directory of the user's own, closed to others, below the system's
    temporary one. Several processes can ask for the same file: each downloads to a name of its own and the rename
    decides. What a killed process left is removed. When a process first asks for a copy, its content is compared with
    its SHA-256; a damaged one is fetched anew.

    Args:
        url: URL of the file.
        key: what the copies of one version of the file have in common, such as a digest.
        folder: directory below the key.
        sha256: SHA-256 of the content, if it is known; else that of the download counts.

    Raises:
        InputError: there is no such file, or its content is not that of `sha256`.
        JobError: the disk is full or the cache cannot be written, or it belongs to somebody else.
    """
    fs, path = filesystem(url)
    if is_local(url):
        return path
    target = os.path.join(_cache(), key[:32], folder, name_of(path))
    if target in _checked_copies or _holds_content(target, sha256):
        _checked_copies.add(target)
        return target
    temporary = f"{target}.{uuid.uuid4().hex}.tmp"
    try:
        os.makedirs(os.path.dirname(target), exist_ok=True)
        locks.remove_stale(target + ".")
        with fs.open(path, "rb") as source, locks.temporary_file(temporary, target) as raw:
            sink = HashingFile(raw)
            shutil.copyfileobj(source, sink, COPY_BYTES)
            if sha256 not in (None, sink.sha256):
                raise InputError(
                    "a file has another content than when it was written", value=url, remedy="run its stage again"
                )
        with locks.temporary_file(temporary, _digest_note(target)) as note:
            note.write(sink.sha256.encode())
    except FileNotFoundError as error:
        raise InputError("a file is missing", value=url, remedy="run the stage that writes it again") from error
    except OSError as error:
        raise JobError(
            f"cannot copy {url} to {target}: {error.strerror or error}",
            remedy="free the disk, or name a larger one in RAGBEAM_CACHE",
        ) from error
    _checked_copies.add(target)
    return target


def _cache() -> str:
    """The directory of cached files, made if needed: RAGBEAM_CACHE, or one that nobody else can write to."""
    if cache := os.environ.get("RAGBEAM_CACHE"):
        return cache
    user = os.getuid() if hasattr(os, "getuid") else "user"  # Windows has a temporary directory for each user
    cache = os.path.join(tempfile.gettempdir(), f"ragbeam-cache-{user}")
    try:
        os.makedirs(cache, mode=0o700, exist_ok=True)
        state = os.lstat(cache)
    except OSError as error:
        raise JobError(f"cannot make {cache}: {error.strerror}", remedy="name a directory in RAGBEAM_CACHE") from error
    mine = not hasattr(os, "getuid") or (state.st_uid == user and not state.st_mode & 0o077)
    if not stat.S_ISDIR(state.st_mode) or not mine:
        raise JobError(
            "the directory for cached files can be written by others",
            value=cache,
            expected="a directory of this user's, with mode 0700",
            remedy="remove it, or name another in RAGBEAM_CACHE",
        )
    return cache


def _digest_note(copy: str) -> str:
    """The file beside a cached one that says what it must hold."""
    folder, name = os.path.split(copy)
    return os.path.join(folder, f".{name}.sha256")


def _holds_content(copy: str, sha256: str | None) -> bool:
    """Whether a cached file is there and has the content that was downloaded, and that is wanted."""
    try:
        noted = read_text(_digest_note(copy))
        return sha256 in (None, noted) and sha256_of(copy) == noted
    except (OSError, InputError, UnicodeDecodeError):
        return False
