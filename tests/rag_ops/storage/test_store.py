"""Files behind URLs: atomic, hashed, the same for every scheme."""

import contextlib
import hashlib
import http.server
import os
import shutil
import tempfile
import threading
from pathlib import Path

import fsspec
import pyarrow as pa
import pytest

from rag_ops.errors import InputError, JobError
from rag_ops.storage import places, store
from rag_ops.storage.parquet import open_parquet, read_parquet, write_parquet


@pytest.fixture(params=["local", "memory"])
def directory(request, tmp_path):
    yield str(tmp_path) if request.param == "local" else f"memory://{tmp_path.name}"
    fsspec.filesystem("memory").store.clear()


def test_a_written_file_is_whole_and_its_digest_is_its_contents(directory):
    with store.atomic_write(directory, "a.bin") as file:
        file.write(b"one")
        file.write(memoryview(b"two"))
    url = store.join(directory, "a.bin")
    assert store.open_read(url).read() == b"onetwo"
    assert file.sha256 == hashlib.sha256(b"onetwo").hexdigest() == store.sha256_of(url)
    assert file.bytes_written == store.size_bytes(url) == 6


def test_a_failed_write_leaves_neither_the_file_nor_a_temporary_one(directory):
    def fail():
        with store.atomic_write(directory, "a.bin") as file:
            file.write(b"half")
            raise RuntimeError("boom")

    with pytest.raises(RuntimeError, match="boom"):
        fail()
    assert not store.exists(store.join(directory, "a.bin"))
    assert store.names_in(store.join(directory, store.INCOMPLETE)) == []


def test_a_failed_write_keeps_the_file_that_was_there(directory):
    store.write_bytes(directory, "a.bin", b"old")

    def fail():
        with store.atomic_write(directory, "a.bin") as file:
            file.write(b"new")
            raise RuntimeError

    with pytest.raises(RuntimeError):
        fail()
    assert store.open_read(store.join(directory, "a.bin")).read() == b"old"


def test_writing_below_a_file_is_one_clear_error(tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(JobError, match="cannot write"), store.atomic_write(str(tmp_path / "file"), "a.bin") as file:
        file.write(b"x")


def test_parquet_is_the_same_bytes_each_time_and_in_row_groups(directory):
    table = pa.table({"n": pa.array(range(2500))})
    digests = set()
    for name in ("a.parquet", "b.parquet"):
        with store.atomic_write(directory, name) as file:
            assert write_parquet(file, iter([table]), table.schema) == 2500
        digests.add(file.sha256)
    assert len(digests) == 1
    with open_parquet(store.join(directory, "a.parquet")) as parquet:
        assert [parquet.metadata.row_group(n).num_rows for n in range(parquet.num_row_groups)] == [1000, 1000, 500]


@pytest.mark.parametrize("content", [None, b"", b"PAR1 and no more"])
def test_a_missing_or_cut_parquet_file_is_named(directory, content):
    if content is not None:
        store.write_bytes(directory, "a.parquet", content)
    with pytest.raises(InputError, match=r"a\.parquet"):
        read_parquet(store.join(directory, "a.parquet"))


def test_an_unknown_scheme_is_refused():
    with pytest.raises(InputError, match="nosuch"):
        store.exists("nosuch://bucket/x")


def test_relative_urls_survive_a_move_of_the_workspace(tmp_path):
    relative = store.relative_url(str(tmp_path / "ws" / "passages"), str(tmp_path / "ws" / "index"))
    assert store.resolve_url(relative, str(tmp_path / "moved" / "index")) == str(tmp_path / "moved" / "passages")


def test_a_remote_file_is_copied_to_the_cache_once(tmp_path, monkeypatch):
    monkeypatch.setenv("RAGBEAM_CACHE", str(tmp_path))
    store.write_bytes("memory://cached", "x.faiss", b"data")
    first = store.local_copy("memory://cached/x.faiss", "d" * 32)
    store.remove("memory://cached/x.faiss")
    assert store.local_copy("memory://cached/x.faiss", "d" * 32) == first
    assert Path(first).read_bytes() == b"data"


def test_what_a_killed_download_left_in_the_cache_goes(tmp_path, monkeypatch):
    monkeypatch.setenv("RAGBEAM_CACHE", str(tmp_path))
    store.write_bytes("memory://cached", "y.faiss", b"data")
    (tmp_path / ("d" * 32)).mkdir()
    (tmp_path / ("d" * 32) / "y.faiss.0123.tmp").write_bytes(b"da")
    copy = Path(store.local_copy("memory://cached/y.faiss", "d" * 32))
    assert sorted(path.name for path in copy.parent.iterdir()) == [".y.faiss.sha256", "y.faiss"]
    assert copy.read_bytes() == b"data"


class Serving(http.server.BaseHTTPRequestHandler):
    """A server without ranges, and on request without a length."""

    data, says_length = b"", True

    def do_GET(self):
        self.send_response(200)
        if self.says_length:
            self.send_header("Content-Length", str(len(self.data)))
        self.end_headers()
        if self.command == "GET":
            with contextlib.suppress(ConnectionError):
                self.wfile.write(self.data)

    do_HEAD = do_GET  # noqa: N815

    def log_message(self, *_):
        pass


@pytest.fixture
def served(monkeypatch):
    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Serving)
    threading.Thread(target=server.serve_forever, args=(0.01,), daemon=True).start()
    monkeypatch.setattr(Serving, "data", bytes(range(256)) * 40_000)
    yield f"http://127.0.0.1:{server.server_port}/file"
    server.shutdown()


def test_a_server_without_ranges_gives_small_files_whole_and_large_ones_are_refused(served, monkeypatch):
    with store.open_read(served) as file:
        file.seek(9_000_000)
        assert file.read(300) == Serving.data[9_000_000:9_000_300]
    monkeypatch.setattr(store, "WHOLE_BYTES", 1 << 20)
    with pytest.raises(InputError, match=r"parts of the file.*127.*download"):
        store.open_read(served)


def test_a_server_without_a_length_is_refused_and_so_is_writing_to_one(served, monkeypatch):
    monkeypatch.setattr(Serving, "says_length", False)
    with pytest.raises(InputError, match=r"how long the file is.*download"):
        store.open_read(served)
    with pytest.raises(InputError, match="nothing can be written"):
        store.write_bytes(served, "x", b"")
    with pytest.raises(InputError, match="--output cannot be written to"):
        places.check_writable(served)


def test_colons_in_a_local_name_are_no_chain_of_urls(tmp_path):
    for directory in (f"{tmp_path}/x::y", f"file://{tmp_path}/u::v"):
        store.write_bytes(directory, "a::b.jsonl", b"data")
        assert store.read_text(store.join(directory, "a::b.jsonl")) == "data"
        assert [Path(name).name for name in store.expand(directory, "file")] == ["a::b.jsonl"]
    assert sorted(path.name for path in tmp_path.iterdir()) == ["u::v", "x::y"]


def test_a_name_that_is_not_utf_8_is_one_clear_error(tmp_path):
    name = os.fsdecode(b"\xe4.jsonl")
    (tmp_path / name).write_text("data")
    for read in (lambda: store.expand(str(tmp_path), "file"), lambda: store.open_read(str(tmp_path / name))):
        with pytest.raises(InputError, match=r"not UTF-8.*udce4.*rename"):
            read()


@pytest.mark.parametrize("known", [True, False])
def test_a_cached_file_with_another_content_is_fetched_anew(tmp_path, monkeypatch, known):
    monkeypatch.setenv("RAGBEAM_CACHE", str(tmp_path))
    store.write_bytes("memory://cached", "w.faiss", b"data")
    sha256 = hashlib.sha256(b"data").hexdigest() if known else None
    copy = Path(store.local_copy("memory://cached/w.faiss", "f" * 32, sha256=sha256))
    copy.write_bytes(b"date")
    monkeypatch.setattr(store, "_checked_copies", set())  # as in the next process
    assert store.local_copy("memory://cached/w.faiss", "f" * 32, sha256=sha256) == str(copy)
    assert copy.read_bytes() == b"data"
    copy.write_bytes(b"date")
    monkeypatch.setattr(store, "_checked_copies", set())
    store.write_bytes("memory://cached", "w.faiss", b"date")
    if known:
        with pytest.raises(InputError, match=r"another content.*w\.faiss"):
            store.local_copy("memory://cached/w.faiss", "f" * 32, sha256=sha256)


def test_the_cache_is_closed_to_others_or_refused(tmp_path, monkeypatch):
    monkeypatch.delenv("RAGBEAM_CACHE", raising=False)
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    store.write_bytes("memory://cached", "v.faiss", b"data")
    copy = Path(store.local_copy("memory://cached/v.faiss", "f" * 32))
    cache = copy.parents[1]
    assert cache.parent == tmp_path
    assert cache.stat().st_mode & 0o777 == 0o700
    cache.chmod(0o777)
    with pytest.raises(JobError, match=r"written by others.*RAGBEAM_CACHE"):
        store.local_copy("memory://cached/v.faiss", "0" * 32)
    copy.unlink()
    shutil.rmtree(cache)
    cache.symlink_to(tmp_path / "elsewhere")
    (tmp_path / "elsewhere").mkdir()
    with pytest.raises(JobError, match="written by others"):
        store.local_copy("memory://cached/v.faiss", "0" * 32)


def test_a_cache_that_cannot_be_written_and_a_missing_file_are_one_clear_error(tmp_path, monkeypatch):
    store.write_bytes("memory://cached", "z.faiss", b"data")
    (tmp_path / "file").write_text("")
    monkeypatch.setenv("RAGBEAM_CACHE", str(tmp_path / "file"))
    with pytest.raises(JobError, match="RAGBEAM_CACHE"):
        store.local_copy("memory://cached/z.faiss", "d" * 32)
    monkeypatch.setenv("RAGBEAM_CACHE", str(tmp_path))
    with pytest.raises(InputError, match=r"missing.*none\.faiss"):
        store.local_copy("memory://cached/none.faiss", "e" * 32)


def test_a_page_that_cannot_be_decompressed_names_its_file(tmp_path):
    table = pa.table({"n": pa.array([b"%d" % n * 20 for n in range(2000)])})
    with store.atomic_write(str(tmp_path), "a.parquet") as file:
        write_parquet(file, iter([table]), table.schema)
    data = bytearray((tmp_path / "a.parquet").read_bytes())
    data[40:400] = bytes(360)
    (tmp_path / "a.parquet").write_bytes(data)
    with pytest.raises(InputError, match=r"damaged.*a\.parquet.*--verify"):
        read_parquet(str(tmp_path / "a.parquet"))


def test_a_file_that_is_written_again_is_in_another_state(tmp_path):
    url = str(tmp_path / "a")
    (tmp_path / "a").write_bytes(b"one")
    before = store.state_of(url)
    assert store.open_read(url).read() == b"one"
    assert store.state_of(url) == before
    (tmp_path / "b").write_bytes(b"two")
    (tmp_path / "b").replace(tmp_path / "a")
    assert store.state_of(url) != before


def test_a_file_of_no_stage_is_replaced_whole_and_leaves_nothing_else(directory):
    url = store.join(directory, "new", "a.json")
    store.write_file(url, b"one")
    store.write_file(url, b"two")
    assert store.read_text(url) == "two"
    assert store.names_in(store.join(directory, "new")) == ["a.json"]
    assert store.is_directory(store.join(directory, "new"))
    assert not store.is_directory(url)


def test_a_file_in_a_file_cannot_be_written(tmp_path):
    (tmp_path / "a").write_text("")
    with pytest.raises(JobError, match="cannot write"):
        store.write_file(str(tmp_path / "a" / "b.json"), b"x")


def test_what_exists_by_its_very_name_is_never_taken_for_a_pattern(directory):
    names = (
        "w[1]/in.jsonl",
        "w1/other.jsonl",
        "a?.jsonl",
        "ab.jsonl",
        "w[1]/deep[2]/x*.jsonl",
        "w[1]/deep[2]/xy.jsonl",
    )
    for name in names:
        folder, _, file = name.rpartition("/")
        store.write_bytes(store.join(directory, *folder.split("/")) if folder else directory, file, b"x")

    def found(pattern: str) -> list[str]:
        urls = store.expand(store.join(directory, pattern), "file")
        return [url.split(directory.rsplit("/", 1)[1] + "/")[1] for url in urls]

    assert found("w[1]") == found("w[1]/") == ["w[1]/in.jsonl"]
    assert found("a?.jsonl") == ["a?.jsonl"]
    assert found("w[1]/*.jsonl") == ["w[1]/in.jsonl"]
    assert found("w[1]/deep[2]/x[y]*") == ["w[1]/deep[2]/xy.jsonl"]
    assert found("w[0-9]/*.jsonl") == ["w1/other.jsonl"]
    assert found("a[a-z].jsonl") == ["ab.jsonl"]
    with pytest.raises(InputError, match="no file there"):
        found("w[2-9]/*.jsonl")


def test_an_output_with_brackets_in_its_name_leaves_its_sibling_alone(directory):
    store.write_bytes(store.join(directory, "out1"), "kept", b"other")
    ours = store.join(directory, "out[1]")
    store.write_bytes(ours, "a", b"one")
    store.write_bytes(ours, "a", b"two")
    assert store.open_read(store.join(ours, "a")).read() == b"two"
    store.remove(ours)
    assert not store.exists(store.join(ours, "a"))
    assert store.open_read(store.join(directory, "out1", "kept")).read() == b"other"


def test_a_link_to_a_file_is_a_file_of_the_directory(tmp_path):
    (tmp_path / "d").mkdir()
    (tmp_path / "far.jsonl").write_bytes(b"x")
    (tmp_path / "d" / "near.jsonl").symlink_to(tmp_path / "far.jsonl")
    (tmp_path / "d" / "folder").symlink_to(tmp_path)
    assert store.expand(str(tmp_path / "d"), "file") == [str(tmp_path / "d" / "near.jsonl")]


def test_a_file_system_whose_library_is_missing_is_one_line(monkeypatch):
    def broken(*_, **__):
        raise OSError("Unable to load libjvm\nloadFileSystems error:\na second line, and more")

    monkeypatch.setattr(fsspec.core, "url_to_fs", broken)
    with pytest.raises(InputError, match=r"cannot be used: 'hdfs://host/x'; Unable to load libjvm$"):
        store.exists("hdfs://host/x")
