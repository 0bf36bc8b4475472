"""What verify says of stages that do not go together, and of what a killed run left."""

import json
import shutil

import numpy as np
import pytest

from rag_ops.errors import InputError
from rag_ops.storage import stages, store, verify
from rag_ops.storage.manifests import read_manifest
from rag_ops.storage.stages import StageOutput
from tests.pipelines.workspace import write_corpus


@pytest.fixture
def corpus(tmp_path):
    """Passages and embeddings, and an index directory that was made from them."""
    generator = np.random.default_rng(0)
    write_corpus(tmp_path, [generator.standard_normal((n, 4)).astype(np.float16) for n in (20, 30)], normalize=False)
    embeddings = read_manifest(str(tmp_path / "embeddings"), "embed")
    output = StageOutput(str(tmp_path / "index"), "index", {}, {})
    output.begin(False)
    record = stages.write_shard(output.url, "index-00000-of-00001.faiss", "f" * 32, lambda file: file.write(b"x" * 50))
    info = {**embeddings.info, "spec": "Flat", "augmented": False, "embeddings_digest": embeddings.digest}
    inputs = {name: str(tmp_path / name) for name in ("embeddings", "passages")}
    output.finish([record], inputs, info)
    return tmp_path


def problems(url, stage: str) -> tuple[str, ...]:
    return next(finding for finding in verify.verify(str(url)) if finding.stage == stage).problems


def test_a_whole_workspace_is_well_and_a_stage_alone_too(corpus):
    lines = [finding.line() for finding in verify.verify(str(corpus))]
    assert [line.split(", in ")[0].split(":")[0] for line in lines] == ["chunk", "embed", "index"]
    assert all(": ok, 50 rows in " in line for line in lines)
    assert [finding.stage for finding in verify.verify(str(corpus / "embeddings"))] == ["embed"]


def test_other_passages_of_the_same_rows_are_told(corpus):
    manifest = corpus / "passages" / "manifest.json"
    text = json.loads(manifest.read_text())
    text["shards"].reverse()
    manifest.write_text(json.dumps(text))
    (found,) = problems(corpus, "embed")
    assert "made from another state of" in found
    assert "run ragbeam embed again" in found
    assert problems(corpus, "chunk") == ()


def test_rows_that_are_not_aligned_are_told_even_where_all_digests_hold(corpus):
    """As if embed had written its shards in another order than the passages'."""
    url = str(corpus / "embeddings")
    text = json.loads((corpus / "embeddings" / "manifest.json").read_text())
    text["shards"].reverse()
    (corpus / "embeddings" / "manifest.json").write_text(json.dumps(text))
    found = problems(corpus, "embed")
    assert len(found) == 2
    assert f"its rows are not those of {corpus}/passages/passages-00000-of-00002.parquet" in found[0]
    assert "made from another state" in problems(corpus, "index")[0]
    assert read_manifest(url, "embed").rows == 50


def test_a_manifest_with_other_rows_than_its_files_is_told(corpus):
    manifest = corpus / "passages" / "manifest.json"
    manifest.write_text(manifest.read_text().replace('"rows": 20', '"rows": 21'))
    assert "20 rows instead of 21" in problems(corpus, "chunk")[0]


def test_an_index_of_other_embeddings_is_told(corpus):
    other = corpus / "other"
    write_corpus(other, [np.ones((50, 4), np.float16)], normalize=False)
    shutil.rmtree(corpus / "embeddings")
    shutil.copytree(other / "embeddings", corpus / "embeddings")
    assert "another state" in problems(corpus, "embed")[0]
    assert "another state" in problems(corpus, "index")[0]


@pytest.mark.parametrize("name", [f"{store.INCOMPLETE}/x.1.tmp", "x.tmp", "passages-00000-of-00009.parquet"])
def test_what_a_killed_run_left_is_told_and_goes(corpus, name):
    left = corpus / "passages" / name
    left.parent.mkdir(exist_ok=True)
    left.write_text("half")
    assert "a working file is left" in problems(corpus, "chunk")[0]


def test_an_unfinished_stage_is_told(corpus):
    StageOutput(str(corpus / "answers"), "answer", {}, {}).begin(False)
    finding = verify.verify(str(corpus))[-1]
    assert "unfinished" in finding.line()
    assert not [found for found in verify.verify(str(corpus))[:-1] if found.problems]


def test_digests_of_inputs_are_checked(corpus):
    manifest = read_manifest(str(corpus / "embeddings"), "embed")
    verify.check_digests(str(corpus / "embeddings"), manifest)
    path = corpus / "embeddings" / manifest.shards[1].path
    data = bytearray(path.read_bytes())
    data[40] ^= 4
    path.write_bytes(data)
    with pytest.raises(InputError, match=rf"another content.*{path.name}.*--verify"):
        verify.check_digests(str(corpus / "embeddings"), manifest)
    assert read_manifest(str(corpus / "embeddings"), "embed").rows == 50  # the size alone does not tell


def test_a_name_in_a_manifest_cannot_command_the_terminal(corpus):
    path = corpus / "passages" / "manifest.json"
    data = json.loads(path.read_text())
    data["shards"][0]["path"] = "\x1b[31mx\nembed: ok, 5 rows in 1 shard"
    path.write_text(json.dumps(data))
    line = next(finding.line() for finding in verify.verify(str(corpus)) if finding.stage == "chunk")
    assert line.isprintable()
    assert "\\x1b[31mx\\nembed" in line


def test_a_manifest_that_is_no_text_is_a_problem_of_its_stage(corpus):
    (corpus / "passages" / "manifest.json").write_bytes(b"\xff\xfe")
    assert "not UTF-8" in problems(corpus, "chunk")[0]


@pytest.mark.parametrize(
    ("key", "value", "says"),
    [
        ("info", [], "info"),
        ("info", {}, "info"),
        ("inputs", [], "inputs"),
        ("inputs", {}, "passages"),
        ("inputs", {"passages": 5}, "passages"),
        ("inputs", {"passages": "foo://x"}, "foo://x"),
        ("inputs", {"passages": "../nowhere"}, "no such directory"),
        ("inputs", {"passages": "a\0b"}, "a\\x00b"),
        ("rows", "5", "rows"),
        ("shards", {}, "shards"),
    ],
)
def test_a_manifest_that_was_tampered_with_is_a_problem_of_its_stage_alone(corpus, key, value, says):
    path = corpus / "embeddings" / "manifest.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | {key: value}))
    lines = [finding.line() for finding in verify.verify(str(corpus))]
    assert lines[0].startswith("chunk: ok, 50 rows")
    assert says in lines[1]
    assert lines[1].isprintable()
    assert not lines[1].startswith("embed: ok")
