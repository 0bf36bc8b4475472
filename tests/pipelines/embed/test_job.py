"""The arithmetic of the encoder: what is computed in, what the output says of it, and what can be reused."""

import json

import numpy as np
import pytest

from pipelines.embed import job
from rag_ops.compute import processor
from rag_ops.models.encoder import Encoder
from rag_ops.storage.manifests import read_manifest
from rag_ops.storage.parquet import read_parquet, write_parquet
from rag_ops.storage.rows import as_matrix
from rag_ops.storage.stages import StageOutput, write_shard
from tests.pipelines.workspace import chunked, digests, fails, ragbeam


@pytest.fixture(scope="module")
def passages(tmp_path_factory):
    return chunked(tmp_path_factory.mktemp("passages"), count=6, num_shards=1)


@pytest.mark.skipif(not processor.computes("bfloat16"), reason="the processor has no instructions for bfloat16")
def test_bfloat16_is_the_users_choice_on_a_cpu_and_another_configuration(passages, sentence_encoder, tmp_path, capsys):
    command = ["embed", "--passages", passages, "--encoder", sentence_encoder, "--dtype", "float32", "--device", "cpu"]
    ragbeam(*command, "--output", tmp_path / "wide", "--compute_dtype", "float32")
    ragbeam(*command, "--output", tmp_path / "narrow", "--compute_dtype", "bfloat16")
    wide, narrow = (read_manifest(str(tmp_path / name), "embed") for name in ("wide", "narrow"))
    # Without the choice there were these names alone: such an output is reused.
    assert wide.config.keys() == {"encoder_digest", "encoder", "max_tokens", "dtype"}
    assert narrow.config == {**wide.config, "compute_dtype": "bfloat16"}
    assert (wide.info["compute_dtype"], narrow.info["compute_dtype"]) == ("float32", "bfloat16")
    before = digests(tmp_path / "wide", "embed")
    capsys.readouterr()
    for same in ("auto", "float32"):
        ragbeam(*command, "--output", tmp_path / "wide", "--compute_dtype", same)
        assert "all reused" in capsys.readouterr().out
    code, line = fails(capsys, *command, "--output", tmp_path / "wide", "--compute_dtype", "bfloat16")
    assert code == 2
    assert "another configuration" in line
    assert "compute_dtype" in line
    assert digests(tmp_path / "wide", "embed") == before

    table = read_parquet(f"{passages}/{read_manifest(str(passages), 'chunk').shards[0].path}", ["title", "text"])
    texts = [table[name].to_pylist() for name in ("title", "text")]
    for name, dtype in (("wide", "float32"), ("narrow", "bfloat16")):
        expected, _ = Encoder.load(sentence_encoder, role="context", device="cpu", dtype=dtype).encode(*texts)
        manifest = read_manifest(str(tmp_path / name), "embed")
        vectors = as_matrix(read_parquet(f"{tmp_path / name}/{manifest.shards[0].path}", ["vector"])["vector"])
        assert np.array_equal(vectors, expected)


@pytest.mark.parametrize(("max_tokens", "warns"), [(8, True), (None, False)])
def test_passages_that_the_encoder_cuts_are_warned_of(passages, sentence_encoder, tmp_path, caplog, max_tokens, warns):
    command = ["embed", "--passages", passages, "--encoder", sentence_encoder, "--output", tmp_path / "out"]
    ragbeam(*command, *(["--max_tokens", max_tokens] if max_tokens else []))
    rows = read_manifest(str(tmp_path / "out"), "embed").rows
    assert (f"{rows} of {rows} passages (100.0%) are longer than the encoder's limit" in caplog.text) is warns


@pytest.mark.parametrize(("cut", "warns"), [(10, False), (11, True)])
def test_one_passage_in_a_hundred_may_be_cut(cut, warns):
    assert bool(list(job.warnings({"Encode": {"rows_in": 1000, "truncated": cut}}))) is warns
    assert not list(job.warnings({}))


@pytest.fixture(scope="module")
def sections(tmp_path_factory):
    """Passages of which half have a section."""
    directory = tmp_path_factory.mktemp("sections")
    rows = [
        {
            "id": str(n),
            "title": f"the moon {n}",
            "text": "ice is in the river",
            "section": "the king > the sun" * (n % 2),
        }
        for n in range(6)
    ]
    (directory / "articles.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    ragbeam("chunk", "--input", directory / "articles.jsonl", "--output", directory / "passages", "--num_shards", 2)
    return directory


def test_sections_stand_behind_titles_if_asked_for_and_all_that_follows_says_so(
    sections, sentence_encoder, tmp_path, capsys
):
    passages = sections / "passages"
    command = ["embed", "--passages", passages, "--encoder", sentence_encoder, "--dtype", "float32"]
    command += ["--compute_dtype", "float32"]
    ragbeam(*command, "--output", tmp_path / "plain")
    ragbeam(*command, "--output", tmp_path / "both", "--contexts", "title_section")
    plain, both = (read_manifest(str(tmp_path / name), "embed") for name in ("plain", "both"))
    assert (plain.info["contexts"], both.info["contexts"]) == ("title", "title_section")
    assert both.config == {**plain.config, "contexts": "title_section"}
    encoder = Encoder.load(sentence_encoder, role="context", device="cpu", dtype="float32")
    for shard, kept in zip(read_manifest(str(passages), "chunk").shards, both.shards, strict=True):
        table = read_parquet(f"{passages}/{shard.path}")
        titles = [f"{row['title']} > {row['section']}" if row["section"] else row["title"] for row in table.to_pylist()]
        expected, _ = encoder.encode(titles, table["text"].to_pylist())
        found = read_parquet(f"{tmp_path / 'both'}/{kept.path}")
        assert np.array_equal(as_matrix(found["vector"]), expected)
        assert found["content_hash"].to_pylist() == table["content_hash"].to_pylist()
    code, line = fails(
        *(capsys, *command, "--output", tmp_path / "again", "--contexts", "title_section"),
        *("--previous", tmp_path / "plain"),
    )
    assert (code, "contexts" in line) == (2, True)
    ragbeam(*command, "--output", tmp_path / "again", "--contexts", "title_section", "--previous", tmp_path / "both")
    assert digests(tmp_path / "again", "embed") == digests(tmp_path / "both", "embed")
    ragbeam("index", "--embeddings", tmp_path / "both", "--output", tmp_path / "index")
    assert read_manifest(str(tmp_path / "index"), "index").info["contexts"] == "title_section"


def test_a_heading_that_changes_changes_what_a_refresh_encodes(sections, sentence_encoder, tmp_path):
    lines = (sections / "articles.jsonl").read_text().replace("the king > the sun", "the war", 1)
    (tmp_path / "articles.jsonl").write_text(lines)
    ragbeam("chunk", "--input", tmp_path / "articles.jsonl", "--output", tmp_path / "passages", "--num_shards", 2)
    command = ["embed", "--encoder", sentence_encoder, "--contexts", "title_section"]
    ragbeam(*command, "--passages", sections / "passages", "--output", tmp_path / "before")
    more = ["--previous", tmp_path / "before"]
    ragbeam(*command, "--passages", tmp_path / "passages", "--output", tmp_path / "after", *more)
    assert json.loads((tmp_path / "after" / "run.json").read_text())["vectors"]["computed"] == 1


def test_passages_of_an_earlier_version_have_no_sections_and_are_still_read(
    sections, sentence_encoder, tmp_path, capsys
):
    old = StageOutput(str(tmp_path / "old"), "chunk", {}, {})
    old.begin(False)
    table = read_parquet(str(sections / "passages" / "passages-00000-of-00002.parquet"))
    table = table.drop_columns(["section", "kind"])
    name = "passages-00000-of-00001.parquet"
    record = write_shard(old.url, name, "f" * 32, lambda file: write_parquet(file, iter([table]), table.schema))
    old.finish([record], {}, {"articles": table.num_rows, "dropped": {}, "dropped_titles": {}})
    command = ["embed", "--passages", old.url, "--encoder", sentence_encoder, "--output", tmp_path / "e"]
    code, line = fails(capsys, *command, "--contexts", "title_section")
    assert (code, "the passages have no sections" in line) == (2, True)
    ragbeam(*command)
    assert read_manifest(str(tmp_path / "e"), "embed").rows == table.num_rows
