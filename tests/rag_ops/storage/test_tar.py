"""Tar archives of the standard library's writer, in each of its formats, and broken ones."""

import io
import tarfile

import pytest

from rag_ops.storage import tar

FILES = {"a.ndjson": b"x" * 1000, "folder/b.json": b"", "c" * 150 + ".txt": b"y" * 512}


def archive(kind: int = tarfile.PAX_FORMAT, headers: dict | None = None) -> bytes:
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w", format=kind) as file:
        file.addfile(directory := tarfile.TarInfo("folder"))
        directory.type = tarfile.DIRTYPE
        for name, data in FILES.items():
            member = tarfile.TarInfo(name)
            member.size, member.pax_headers = len(data), headers or {}
            file.addfile(member, io.BytesIO(data))
    return buffer.getvalue()


@pytest.mark.parametrize("kind", [tarfile.USTAR_FORMAT, tarfile.GNU_FORMAT, tarfile.PAX_FORMAT])
def test_files_are_those_that_were_written(kind, monkeypatch):
    if kind == tarfile.USTAR_FORMAT:
        monkeypatch.delitem(FILES, "c" * 150 + ".txt")
    found = [content.read() for name, content in tar.members(io.BytesIO(archive(kind))) if name != "folder"]
    assert found == list(FILES.values())


def test_a_content_that_is_not_read_is_passed_over():
    names = [name for name, _ in tar.members(io.BytesIO(archive()))]
    assert names[:3] == ["folder", "a.ndjson", "folder/b.json"]


def test_a_size_in_an_extended_header_counts():
    data = archive(headers={"size": "1000"})
    assert next(content.read() for name, content in tar.members(io.BytesIO(data)) if name == "a.ndjson") == b"x" * 1000


@pytest.mark.parametrize("data", [b"not a tar" * 100, archive()[:900], archive()[:1600], b"\xff" * 512])
def test_what_is_cut_or_no_archive_is_refused(data):
    with pytest.raises(tar.TarError):
        sum(len(content.read()) for _, content in tar.members(io.BytesIO(data)))


def test_a_header_of_gigabytes_is_not_read():
    member = tarfile.TarInfo("x")
    member.type, member.size = tarfile.XHDTYPE, 4 << 30
    with pytest.raises(tar.TarError, match="a header of 4294967296 bytes"):
        next(tar.members(io.BytesIO(member.tobuf(tarfile.GNU_FORMAT))))
