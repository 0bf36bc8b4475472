"""A manifest that somebody changed: every command that reads it says so in one line, and leaves nothing behind."""

import json
import shutil

import pytest

from tests.pipelines.workspace import answer_row, arguments_of, fails, write_answers

HUGE = 10**18


def shard(**changes):
    return lambda manifest: manifest["shards"][0].update(changes)


def info(**changes):
    return lambda manifest: manifest["info"].update(changes)


def config(**changes):
    return lambda manifest: manifest["config"].update(changes)


def inputs(**changes):
    return lambda manifest: manifest["inputs"].update(changes)


def top(**changes):
    return lambda manifest: manifest.update(changes)


CASES = [  # stage of the manifest, what is done to it, commands that read it
    ("passages", shard(path="../../etc/passwd"), "embed"),
    ("passages", shard(path="a\0b"), "embed"),
    ("passages", shard(rows="7"), "embed"),
    ("passages", shard(rows=1), "embed"),
    ("passages", shard(rows=HUGE), "embed"),
    ("passages", shard(bytes=None), "embed"),
    ("passages", top(shards={}), "embed"),
    ("passages", top(config=None), "embed"),
    ("passages", top(stage=["chunk"]), "embed"),
    ("passages", top(evil=1), "embed"),
    ("embeddings", shard(rows=1), "index"),
    ("embeddings", info(dimension=10**9), "index"),
    ("embeddings", info(dtype="float8"), "index"),
    ("embeddings", top(info={}), "index"),
    ("embeddings", top(inputs={}), "index"),
    ("index", top(info=[]), "answer"),
    ("index", top(inputs={"passages": 5, "embeddings": 5}), "answer"),
    ("index", info(search={"nprobe": "x"}), "answer"),
    ("index", info(spec=["x"]), "answer"),
    ("index", lambda manifest: manifest["inputs"].update(passages="foo://x"), "answer"),
    *(("answers", change, "evaluate") for change in (shard(path="../x"), shard(rows=HUGE), top(info={}))),
    *(("answers", config(n_docs=number), "evaluate") for number in ("5", 0, HUGE)),
    ("answers", config(retrieve=-1), "evaluate"),
    *(("index", change, "export") for change in (top(info={}), info(dimension=-1), shard(path="/etc/passwd"))),
    *(("index", inputs(**{name: "../none"}), "export") for name in ("passages", "embeddings")),
    *((folder, shard(rows=1), "export") for folder in ("passages", "embeddings", "index")),
    *(("index", change, "finetune") for change in (top(info={}), inputs(passages="../none"), info(dtype="float8"))),
    ("passages", shard(rows=1), "finetune"),
    *(("passages", change, "plan") for change in (shard(rows=-1), shard(path="a/b"), top(config=None))),
    *(("embeddings", change, "plan embeddings") for change in (info(dimension=HUGE), info(normalize=1))),
    *(("index", change, "run") for change in (shard(path="../x"), top(stage="answer"))),
]
TEXTS = ["[" * 100_000, "", "null", "\udcff", '{"schema_version": 1}']


def command(name: str, workspace, encoder: str, model: str, output) -> list[object]:
    if name == "plan embeddings":
        return ["plan", "--embeddings", workspace / "embeddings"]
    output = {"plan": [], "evaluate": ["--output", output / "report.json"], "run": ["--output", workspace]}.get(
        name, ["--output", output]
    )
    return [*arguments_of(name, workspace, encoder, model), *output]


@pytest.fixture
def workspace(searchable, tmp_path):
    write_answers(tmp_path / "workspace" / "answers", [answer_row("q", "what", "ice", ["ice"])] * 2)
    return shutil.copytree(searchable, tmp_path / "workspace", dirs_exist_ok=True)


@pytest.mark.parametrize(("stage", "change", "name"), CASES)
def test_a_manifest_of_wrong_values_is_refused(
    stage, change, name, workspace, sentence_encoder, tiny_rag, tmp_path, capsys
):
    path = workspace / stage / "manifest.json"
    manifest = json.loads(path.read_text())
    change(manifest)
    path.write_text(json.dumps(manifest))
    code, line = fails(capsys, *command(name, workspace, sentence_encoder, tiny_rag, tmp_path / "out"))
    assert code == 2, line
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize("text", TEXTS)
@pytest.mark.parametrize(
    ("stage", "name"),
    [
        *(("passages", "embed"), ("embeddings", "index"), ("index", "answer"), ("answers", "evaluate")),
        *(("index", "export"), ("index", "finetune"), ("passages", "plan"), ("embeddings", "plan embeddings")),
    ],
)
def test_what_is_no_manifest_is_refused(text, stage, name, workspace, sentence_encoder, tiny_rag, tmp_path, capsys):
    (workspace / stage / "manifest.json").write_bytes(text.encode(errors="surrogateescape"))
    code, line = fails(capsys, *command(name, workspace, sentence_encoder, tiny_rag, tmp_path / "out"))
    assert (code, "manifest" in line) == (2, True)
    assert not (tmp_path / "out").exists()
