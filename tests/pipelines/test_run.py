"""What `ragbeam run` refuses before its first stage; the stages' own commands refuse the same, in the same line."""

import json
import shutil
from pathlib import Path

import numpy as np
import pytest

from tests.pipelines.workspace import fails, instead, ragbeam, write_articles, write_questions


@pytest.fixture(scope="module")
def inputs(tmp_path_factory) -> Path:
    directory = tmp_path_factory.mktemp("inputs")
    write_articles(directory / "articles.jsonl", count=6)
    write_questions(directory / "questions.jsonl")
    (directory / "broken.jsonl").write_text("no json\n" * 200)
    np.save(directory / "narrow.npy", np.zeros((2, 3), np.float32))
    (directory / "text.npy").write_text("no array")
    return directory


@pytest.fixture(scope="module")
def command(inputs, sentence_encoder, tiny_rag) -> list[object]:
    return [
        *("run", "--input", inputs / "articles.jsonl", "--questions", inputs / "questions.jsonl", "--threads", 1),
        *("--encoder", sentence_encoder, "--model", tiny_rag, "--passage_words", 20, "--max_new_tokens", 2),
    ]


@pytest.fixture(scope="module")
def finished(command, tmp_path_factory) -> Path:
    """A workspace whose stages are done."""
    workspace = tmp_path_factory.mktemp("finished") / "workspace"
    ragbeam(*command, "--workspace", workspace)
    return workspace


def contents(directory: Path) -> dict[str, bytes]:
    return {str(path.relative_to(directory)): path.read_bytes() for path in directory.rglob("*") if path.is_file()}


def refused(capsys, *arguments: object, code: int = 2) -> str:
    found, line = fails(capsys, *arguments)
    assert found == code, line
    return line


@pytest.mark.parametrize(
    ("flags", "part"),
    [
        (["--spec", "xx"], "--spec"),
        (["--spec", "HNSW0"], "--spec"),
        (["--spec", "HNSW9999999"], "--spec"),
        (["--spec", "IVF0,Flat"], "--spec"),
        (["--spec", "IVF99999999999,Flat"], "--spec"),
        (["--spec", "PQ0"], "--spec"),
        (["--spec", "PQ4x30"], "--spec"),
        (["--spec", "Flat" * 2000], "--spec"),
        (["--shard_memory", "0.1"], "--shard_memory"),
        (["--shard_memory", "1" + "0" * 400], "--shard_memory"),
        (["--queries", "none.npy"], "none.npy"),
        (["--queries", "narrow.npy"], "--queries"),
        (["--queries", "text.npy"], "--queries"),
        (["--question_column", "nosuch"], "nosuch"),
        (["--questions", "none.jsonl"], "none.jsonl"),
        (["--questions", "broken.jsonl"], "broken.jsonl"),
        (["--input", "none.jsonl"], "none.jsonl"),
        (["--text_column", "nosuch"], "nosuch"),
        (["--model", "/no/model"], "/no/model"),
        (["--encoder", "/no/encoder"], "/no/encoder"),
        (["--previous", "/no/workspace"], "/no/workspace"),
        (["--trained_from", "/no/index"], "/no/index"),
        (["--trained_from", "/no/index", "--spec", "IVF2,Flat"], "/no/index"),
        (["--no_such_flag", "1"], "--no_such_flag"),
    ],
)
def test_what_can_be_known_is_refused_before_the_first_stage(capsys, command, inputs, tmp_path, flags, part):
    there = [path.name for path in inputs.iterdir()]
    here = [inputs / flag if flag in there else flag for flag in flags]
    assert part in refused(capsys, *instead(command, here), "--workspace", tmp_path / "workspace")
    assert not (tmp_path / "workspace").exists()


def test_an_absent_device_is_known_before_the_first_stage(capsys, command, tmp_path):
    import torch

    if torch.cuda.is_available():
        pytest.skip("there is a CUDA device")
    workspace = tmp_path / "workspace"
    assert "CUDA" in refused(capsys, *command, "--device", "cuda", "--workspace", workspace, code=1)
    assert not workspace.exists()


@pytest.mark.parametrize(
    ("flags", "folder", "part"),
    [
        (["--passage_words", "30"], "passages", "passage_words 20"),
        (["--dtype", "float32"], "embeddings", "dtype"),
        (["--spec", "SQ8"], "index", "spec"),
        (["--n_docs", "3"], "answers", "n_docs 5"),
        (["--retrieve", "7"], "answers", "retrieve"),
        (["--nprobe", "3"], "answers", "nprobe"),
    ],
)
def test_a_directory_of_other_settings_is_refused_before_the_first_stage(
    capsys, command, finished, tmp_path, flags, folder, part
):
    workspace = tmp_path / "workspace"
    shutil.copytree(finished, workspace)
    for other in {"passages", "embeddings", "index", "answers"} - {folder}:  # so that the first stage has work to do
        shutil.rmtree(workspace / other)
    before = contents(workspace)
    line = refused(capsys, *instead(command, flags), "--workspace", workspace)
    assert str(workspace / folder) in line
    assert part in line
    assert "--overwrite" in line
    assert contents(workspace) == before


@pytest.mark.parametrize("folder", ["passages", "embeddings", "index", "answers"])
def test_a_directory_with_other_files_or_of_another_stage_is_refused_before_the_first_stage(
    capsys, command, finished, tmp_path, folder
):
    workspace = tmp_path / "workspace"
    (workspace / folder).mkdir(parents=True)
    (workspace / folder / "thesis.txt").write_text("mine")
    assert "thesis.txt" in refused(capsys, *command, "--workspace", workspace, "--overwrite")
    shutil.rmtree(workspace / folder)
    other = "index" if folder == "passages" else "passages"
    shutil.copytree(finished / other, workspace / folder)
    before = contents(workspace)
    assert "another stage" in refused(capsys, *command, "--workspace", workspace, "--overwrite")
    assert contents(workspace) == before


def test_vectors_of_another_kind_are_refused_before_the_first_stage(capsys, command, finished, tmp_path):
    flags = ["--previous", finished, "--dtype", "float32", "--workspace", tmp_path / "workspace"]
    assert "--previous" in refused(capsys, *command, *flags)
    assert not (tmp_path / "workspace").exists()
    flags = ["--trained_from", finished / "index", "--spec", "IVF2,Flat", "--workspace", tmp_path / "workspace"]
    assert "--trained_from" in refused(capsys, *command, *flags)
    assert not (tmp_path / "workspace").exists()


def test_what_is_done_is_reused_and_a_part_is_made_again(command, finished, tmp_path):
    workspace = tmp_path / "workspace"
    shutil.copytree(finished, workspace)
    shutil.rmtree(workspace / "index")
    ragbeam(*command, "--workspace", workspace)
    for folder in ("passages", "embeddings", "answers"):
        before, after = (json.loads((one / folder / "manifest.json").read_text()) for one in (finished, workspace))
        assert before == after
