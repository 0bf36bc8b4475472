"""What no command writes over: files that are not its own, and what it reads; and where an output's name is on disk."""

from pathlib import Path

import numpy as np
import pytest

from pipelines.demo import command as demo
from rag_ops.storage.manifests import read_manifest
from tests.pipelines.workspace import arguments_of, fails, ragbeam, write_answers, write_wiki

FOREIGN = [  # where a file lies in the output of a command
    *(("chunk", ""), ("embed", ""), ("index", ""), ("answer", ""), ("search", "")),
    *(("compose", ""), ("finetune", ""), ("export", "")),
    *(("run", "embeddings"), ("demo", "model"), ("demo", "passages"), ("demo", "answers")),
    *(("import", "passages"), ("import", "embeddings"), ("import dpr", "index")),
]


@pytest.fixture
def place(searchable, tmp_path) -> Path:
    """What commands read."""
    for path in searchable.iterdir():
        (tmp_path / path.name).symlink_to(path)
    write_wiki(tmp_path / "wiki.parquet")
    return tmp_path


def contents(directory: Path) -> dict[Path, bytes]:
    return {path: path.read_bytes() for path in directory.rglob("*") if path.is_file()}


@pytest.mark.parametrize(("name", "folder"), FOREIGN)
def test_an_output_with_files_of_others_is_refused_and_stays(
    name, folder, place, sentence_encoder, tiny_rag, tiny_bart, excerpt, capsys
):
    output = place / "output"
    (output / folder).mkdir(parents=True)
    (output / folder / "thesis.txt").write_text("mine")
    before = contents(place)
    command = arguments_of(name.partition(" ")[0], place, sentence_encoder, tiny_rag, tiny_bart)
    if name == "import dpr":
        command = ["import", "--index", place / "nq", "--passages", place / "psgs.tsv"]
    if (name, folder) == ("demo", "model"):
        command = command[:-2]  # so that the demo makes its own
    code, line = fails(capsys, *command, "--workspace" if name in ("run", "demo") else "--output", output)
    assert (code, "thesis.txt" in line) == (2, True), line
    assert contents(place) == before


def test_a_file_that_evaluate_did_not_write_is_refused_and_stays(tmp_path, capsys):
    write_answers(tmp_path / "answers", [])
    for name in ("report.json", "report.html"):
        (tmp_path / name).write_text("mine")
        command = ["evaluate", "--answers", tmp_path / "answers", "--output", tmp_path / "report.json"]
        code, line = fails(capsys, *command)
        assert (code, name in line) == (2, True), line
        assert (tmp_path / name).read_text() == "mine"
        (tmp_path / name).unlink()


@pytest.mark.parametrize(
    ("name", "flag"),
    [
        ("run", "--input"),
        *((name, flag) for name in ("run", "demo") for flag in ("--questions", "--encoder", "--model")),
    ],
)
def test_a_workspace_that_overlaps_what_is_read_is_refused(
    name, flag, place, sentence_encoder, tiny_rag, excerpt, capsys
):
    folder = {"--questions": "answers", "--encoder": "embeddings", "--model": "answers", "--input": "passages"}[flag]
    read = place / "workspace" / folder / "data.jsonl"
    read.parent.mkdir(parents=True)
    read.write_text('{"question": "a", "id": 1, "title": "a", "text": "a"}')
    command = arguments_of(name, place, sentence_encoder, tiny_rag)
    command[command.index(flag) + 1] = read if flag in ("--questions", "--input") else read.parent
    before = contents(place)
    code, line = fails(capsys, *command, "--workspace", place / "workspace")
    assert (code, f"overlaps {flag}" in line) == (2, True), line
    assert contents(place) == before


def test_an_import_replaces_what_another_command_made_only_if_it_is_told_to(place, searchable, capsys):
    output = place / "output"
    command = [*arguments_of("import", place, "", ""), "--output", output]
    ragbeam("chunk", "--input", place / "articles.jsonl", "--output", output / "passages", "--passage_words", 30)
    before = contents(place)
    code, line = fails(capsys, *command)
    assert (code, "--overwrite" in line) == (2, True), line
    assert contents(place) == before
    ragbeam(*command, "--overwrite")
    assert read_manifest(str(output / "embeddings"), "embed").rows == 2
    ragbeam(*command)  # the same import again
    code, line = fails(capsys, *command, "--dtype", "float32")
    assert (code, "dtype" in line) == (2, True), line


def test_an_import_that_fails_in_the_middle_leaves_nothing(place, capsys):
    write_wiki(place / "wiki.parquet", [[1.0] * 4, [2.0] * 3])
    code, line = fails(capsys, *arguments_of("import", place, "", ""), "--output", place / "output")
    assert code == 2, line
    assert not (place / "output").exists()


@pytest.mark.parametrize("form", ["file://{}", "~/{}"])
@pytest.mark.parametrize("name", ["compose", "export", "finetune", "demo"])
def test_a_local_output_may_be_a_url_or_lie_in_the_home_directory(
    name, form, place, sentence_encoder, tiny_rag, tiny_bart, monkeypatch
):
    home = place / "home"
    (home / "here").mkdir(parents=True)
    monkeypatch.setenv("HOME", str(home))
    monkeypatch.chdir(home / "here")
    output = form.format(home / "output" if "file" in form else "output")
    if name == "demo":
        demo.composed(sentence_encoder, output)
    else:
        ragbeam(*arguments_of(name, place, sentence_encoder, tiny_rag, tiny_bart), "--output", output)
    assert np.any([path.is_file() for path in (home / "output").rglob("*")])
    assert not [*(home / "here").iterdir()]
