"""No output overlaps an input, however either is written."""

import os
from pathlib import Path

import pytest

from rag_ops.errors import InputError
from rag_ops.storage import places


@pytest.mark.parametrize(
    ("one", "other"),
    [
        ("s3://b/run/x", "s3a://b/run/x/"),
        ("gs://b//run/./x", "gcs://b/run/x"),
        ("memory://run/x", "memory://run/y/../x"),
        ("https://host/x?signature=1", "https://host/x?signature=2"),
    ],
)
def test_one_place_by_two_urls(one, other):
    assert places.location(one) == places.location(other)


def test_a_local_place_by_path_url_link_and_slash(tmp_path, monkeypatch):
    (tmp_path / "data").mkdir()
    (tmp_path / "link").symlink_to("data")
    monkeypatch.chdir(tmp_path)
    ways = ["data", "data/", "./data", "link", "x/../data", f"file://{tmp_path}/data", f"{tmp_path}//data/."]
    assert {places.location(way) for way in ways} == {str(tmp_path / "data")}


def test_what_overlaps(tmp_path):
    (tmp_path / "in").mkdir()
    (tmp_path / "in" / "a.jsonl").touch()
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / "passages.parquet").touch()
    os.symlink(tmp_path / "out" / "passages.parquet", tmp_path / "in" / "b.parquet")

    def overlaps(output: str, read: str, folder: bool = False) -> bool:
        folders = ["input"] if folder else []
        try:
            places.check_apart({"output": [str(tmp_path / output)]}, {"input": [str(tmp_path / read)]}, folders)
        except InputError as error:
            return "--output overlaps --input" in str(error)
        return False

    assert overlaps("in", "in")
    assert overlaps("in", "in/a.jsonl")
    assert overlaps("in", "in/*.jsonl")
    assert overlaps("", "in/a.jsonl")
    assert overlaps("out", "in")  # by the link in it
    assert overlaps("in/a.jsonl", "in/a.jsonl")
    assert not overlaps("in/new", "in")  # files are read of it, not folders
    assert overlaps("in/new", "in", folder=True)
    assert not overlaps("in2", "in", folder=True)
    assert not overlaps("new", "in/a.jsonl")
    assert not overlaps("new", "none/*.jsonl")


def test_a_directory_to_be_filled_is_empty_but_for_hidden_files(tmp_path):
    places.check_empty(str(tmp_path / "none"))
    (tmp_path / ".DS_Store").touch()
    places.check_empty(str(tmp_path))
    for name in ("a", "b", "c", "d"):
        (tmp_path / name).touch()
    with pytest.raises(InputError, match=r"not its own \('a', 'b', 'c' and 1 more\)"):
        places.check_empty(str(tmp_path))
    with pytest.raises(InputError, match="--output is a file"):
        places.check_empty(str(tmp_path / "a"))
    assert len(list(Path(tmp_path).iterdir())) == 5


def test_a_workspace_is_not_the_directory_of_a_stage(tmp_path):
    places.check_workspace(str(tmp_path))
    (tmp_path / "manifest.json").touch()
    with pytest.raises(InputError, match="directory of a stage"):
        places.check_workspace(str(tmp_path))
    with pytest.raises(InputError, match="--output is a file"):
        places.check_workspace(str(tmp_path / "manifest.json"), "output")
