"""Files behind URLs: atomic, hashed, the same for every scheme."""

import hashlib
from pathlib import Path

import fsspec
import pyarrow as pa
import pytest

from rag_ops.errors import InputError, JobError
from rag_ops.storage import store
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
    assert [path.name for path in copy.parent.iterdir()] == ["y.faiss"]
    assert copy.read_bytes() == b"data"


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
