"""What comes from outside is data: no code of a model's directory, no pickle, no formula runs; no path leads away."""

import ast
import contextlib
import json
import os
import pickle
import re
import shutil
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch

from rag_ops.errors import InputError
from rag_ops.generation.rag_token import GenerationSettings, RagTokenGenerator
from rag_ops.models.compose import compose
from rag_ops.models.encoder import Encoder
from rag_ops.storage.manifests import read_manifest
from tests.pipelines.workspace import fails, ragbeam, write_articles

ROOT = Path(__file__).parent.parent
MAY_TAKE_CODE = re.compile("Auto[A-Z]")  # of a model's own directory
FORMULAS = [
    "=cmd|' /C calc'!A0", "@SUM[1+1]", "+1+2", "-2+3", '=HYPERLINK["http://x","y"]', "\t=1+1",
    "<img src=x onerror=alert>",
]  # fmt: skip


def calls() -> list[tuple[Path, ast.Call, str]]:
    """Every call in the three packages, with the name that is called."""
    found = []
    for package in ("pipelines", "rag_ops", "schemas"):
        for path in sorted((ROOT / package).rglob("*.py")):
            for node in ast.walk(ast.parse(path.read_text())):
                if isinstance(node, ast.Call):
                    found.append((path, node, ast.unparse(node.func)))
    assert len(found) > 1000
    return found


def keywords(call: ast.Call) -> dict[str | None, str]:
    return {keyword.arg: ast.unparse(keyword.value) for keyword in call.keywords}


def test_no_code_of_a_models_directory_is_trusted_anywhere():
    checked = 0
    for path, call, name in calls():
        assert "trust_remote_code" not in keywords(call), path
        owner, _, method = name.rpartition(".")
        if MAY_TAKE_CODE.match(owner) and method in ("from_pretrained", "from_config"):
            assert keywords(call).get(None) == "OWN_CLASSES", f"{path}, line {call.lineno}"
            assert path.name == "loading.py", f"{path}, line {call.lineno}: models load in one place"
            checked += 1
    assert checked >= 5
    from rag_ops.models.loading import OWN_CLASSES

    assert OWN_CLASSES == {"trust_remote_code": False}


def test_nothing_is_evaluated_and_no_torch_file_is_unpickled():
    for path, call, name in calls():
        assert name not in ("eval", "exec", "__import__", "os.system", "os.popen"), path
        if name.endswith("RagTokenizer.from_pretrained"):  # ours, not transformers', which takes code along
            text = path.read_text()
            ours = r"^(class RagTokenizer\(|from rag_ops\.interop\.model_card import .*\bRagTokenizer\b)"
            assert name == "RagTokenizer.from_pretrained", path
            assert re.search(ours, text, re.MULTILINE), path
        if name == "torch.load":
            assert keywords(call)["weights_only"] == "True", path
        if name in ("np.load", "numpy.load"):
            assert keywords(call)["allow_pickle"] == "False", path
        assert keywords(call).get("shell") != "True", path


class Hostile:
    """Unpickled, it makes a directory."""

    def __init__(self, marker: Path):
        self._marker = str(marker)

    def __reduce__(self):
        return os.mkdir, (self._marker,)


def hostile_copy(model: str, target: Path, marker: Path, how: str) -> str:
    """A model directory whose weights are a pickle that does something."""
    shutil.copytree(model, target)
    for path in target.rglob("*.safetensors"):
        path.unlink()
    weights = target / "pytorch_model.bin"
    if how == "torch file":
        torch.save({"weight": torch.zeros(1), "more": Hostile(marker)}, weights)
    else:
        weights.write_bytes(pickle.dumps(Hostile(marker)))
    return str(target)


@pytest.mark.parametrize("how", ["torch file", "bare pickle"])
@pytest.mark.parametrize("part", ["encoder", "question encoder", "generator", "composed"])
def test_a_hostile_checkpoint_is_refused_in_one_line_and_runs_nothing(
    sentence_encoder, tiny_rag, tiny_bart, tmp_path, how, part
):
    source = {"encoder": sentence_encoder, "composed": tiny_bart}.get(part, tiny_rag)
    marker = tmp_path / "it ran"
    model = hostile_copy(source, tmp_path / "model", marker, how)
    load = {
        "encoder": lambda: Encoder.load(model, role="context"),
        "question encoder": lambda: Encoder.load(model, role="question"),
        "generator": lambda: RagTokenGenerator.load(model, GenerationSettings()),
        "composed": lambda: compose(sentence_encoder, model, str(tmp_path / "out")),
    }[part]
    with pytest.raises(InputError) as caught:
        load()
    assert not marker.exists()
    assert "holds more than weights" in str(caught.value)
    assert "\n" not in str(caught.value)
    assert len(str(caught.value)) < 600
    pickle.loads(pickle.dumps(Hostile(marker)))  # noqa: S301 - it would have run
    assert marker.exists()


def test_a_hostile_checkpoint_stops_embed_with_one_line(sentence_encoder, tmp_path, capsys):
    write_articles(tmp_path / "articles.jsonl", count=3)
    ragbeam("chunk", "--input", tmp_path / "articles.jsonl", "--output", tmp_path / "passages")
    model = hostile_copy(sentence_encoder, tmp_path / "model", tmp_path / "it ran", "torch file")
    command = ["embed", "--passages", tmp_path / "passages", "--encoder", model, "--output", tmp_path / "out"]
    code, line = fails(capsys, *command)
    assert code == 2
    assert "holds more than weights" in line
    assert not (tmp_path / "it ran").exists()


@pytest.mark.parametrize("name", ["model.safetensors", "tokenizer.json", "config.json"])
@pytest.mark.parametrize("content", [b"", b"\x00\xff" * 50, b'{"a": '])
def test_a_damaged_file_of_a_model_is_one_line(sentence_encoder, tmp_path, name, content):
    shutil.copytree(sentence_encoder, tmp_path / "model")
    (tmp_path / "model" / name).write_bytes(content)
    with pytest.raises(InputError) as caught:
        Encoder.load(str(tmp_path / "model"), role="context")
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("what", ["encoder", "encoder's tokenizer", "generator"])
def test_code_in_a_models_directory_does_not_run(sentence_encoder, tiny_bart, tmp_path, what):
    source = tiny_bart if what == "generator" else sentence_encoder
    shutil.copytree(source, tmp_path / "model")
    marker = tmp_path / "it ran"
    (tmp_path / "model" / "own.py").write_text(f"import os\nos.mkdir({str(marker)!r})\nclass Own: pass\n")
    name = "tokenizer_config.json" if what == "encoder's tokenizer" else "config.json"
    config = json.loads((tmp_path / "model" / name).read_text())
    classes = dict.fromkeys(("AutoConfig", "AutoModel", "AutoModelForSeq2SeqLM"), "own.Own")
    config["auto_map"] = {"AutoTokenizer": ["own.Own", "own.Own"]} if "tokenizer" in what else classes
    config["tokenizer_class" if "tokenizer" in what else "model_type"] = "Own" if "tokenizer" in what else "own-kind"
    (tmp_path / "model" / name).write_text(json.dumps(config))
    with contextlib.suppress(InputError):  # or a class of transformers' own is used; what counts is that nothing ran
        if what == "generator":
            compose(sentence_encoder, str(tmp_path / "model"), str(tmp_path / "out"))
        else:
            Encoder.load(str(tmp_path / "model"), role="context")
    assert not marker.exists()


def test_formulas_and_markup_stay_text_from_file_to_report(sentence_encoder, tiny_rag, tmp_path):
    articles = [{"id": f"../../{n}", "title": text, "text": f"{text} the moon {n}"} for n, text in enumerate(FORMULAS)]
    (tmp_path / "a.jsonl").write_text("".join(json.dumps(row) + "\n" for row in articles))
    questions = [{"id": f"../{n}{text}", "question": text, "answer": text} for n, text in enumerate(FORMULAS)]
    (tmp_path / "q.jsonl").write_text("".join(json.dumps(row) + "\n" for row in questions))
    command = [
        "run",
        "--workspace",
        tmp_path / "ws",
        "--input",
        tmp_path / "a.jsonl",
        "--questions",
        tmp_path / "q.jsonl",
    ]
    ragbeam(*command, "--encoder", sentence_encoder, "--model", tiny_rag, "--max_new_tokens", 3)
    rows = read(tmp_path / "ws" / "answers", "answer")
    assert [row["question"] for row in rows] == [text.strip() for text in FORMULAS]
    assert [row["gold_answers"] for row in rows] == [[text.strip()] for text in FORMULAS]
    assert {row["title"] for row in read(tmp_path / "ws" / "passages", "chunk")} == set(FORMULAS)
    ragbeam("evaluate", "--answers", tmp_path / "ws" / "answers", "--output", tmp_path / "report.html")
    page = (tmp_path / "report.html").read_text()
    assert "<img src=x" not in page
    # Ids that climb name no file: nothing lies beside what the commands were told to write.
    assert {path.name for path in tmp_path.iterdir()} == {"a.jsonl", "q.jsonl", "ws", "report.html", "report.json"}
    assert {path.name for path in (tmp_path / "ws").iterdir()} == {"passages", "embeddings", "index", "answers"}


def read(directory: Path, stage: str) -> list[dict]:
    shards = read_manifest(str(directory), stage).shards
    return pa.concat_tables([pq.read_table(directory / shard.path) for shard in shards]).to_pylist()


@pytest.mark.parametrize("path", ["../other.parquet", "/etc/passwd", "a/../../b.parquet", "..", "a\\b"])
def test_a_manifest_cannot_name_a_shard_elsewhere(tmp_path, path):
    write_articles(tmp_path / "a.jsonl", count=3)
    ragbeam("chunk", "--input", tmp_path / "a.jsonl", "--output", tmp_path / "passages", "--num_shards", 1)
    manifest = json.loads((tmp_path / "passages" / "manifest.json").read_text())
    manifest["shards"][0]["path"] = path
    (tmp_path / "passages" / "manifest.json").write_text(json.dumps(manifest))
    with pytest.raises(InputError, match=r"manifest|shard"):
        read_manifest(str(tmp_path / "passages"), "chunk")


@pytest.mark.parametrize("name", ["../../etc", "a/../../b", "x; rm -rf /", "http://localhost:1/x", "a/b/c/d", "-rf"])
def test_a_models_name_is_no_path_elsewhere_and_no_command(name, tmp_path, monkeypatch):
    from rag_ops.models import checkpoints

    monkeypatch.chdir(tmp_path)
    with pytest.raises(InputError):
        checkpoints.find_model(name)
    assert not list(tmp_path.iterdir())
