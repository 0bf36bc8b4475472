"""A newer dump: vectors of unchanged passages are taken from the earlier embeddings, and nothing else differs."""

import json

import numpy as np
import pytest

from rag_ops.retrieval import previous_vectors
from rag_ops.storage.manifests import read_manifest
from rag_ops.storage.parquet import read_parquet, write_parquet
from rag_ops.storage.rows import hash_words
from tests.conftest import make_sentence_encoder
from tests.pipelines.workspace import digests, fails, ragbeam, write_articles

ARTICLES, CHANGED = 60, 3  # 5%


@pytest.fixture(scope="module")
def dumps(tmp_path_factory, sentence_encoder):
    """Passages of an old and of a new dump, in which 5% of the articles have changed; and the old one's vectors."""
    directory = tmp_path_factory.mktemp("dumps")
    write_articles(directory / "old.jsonl", count=ARTICLES)
    rows = [json.loads(line) for line in (directory / "old.jsonl").read_text().splitlines()]
    for row in rows[4 : 4 + CHANGED]:
        row["text"] = "the war " + row["text"]
    (directory / "new.jsonl").write_text("".join(json.dumps(row) + "\n" for row in reversed(rows)))
    for name, shards in (("old", 3), ("new", 3), ("cut", 4)):
        source = directory / ("old.jsonl" if name == "old" else "new.jsonl")
        passages = directory / name / "passages"
        ragbeam("chunk", "--input", source, "--output", passages, "--passage_words", 20, "--num_shards", shards)
    embed(directory / "old", sentence_encoder)
    return directory


def embed(workspace, encoder, *more: object, output: str = "embeddings") -> dict:
    """Runs the job; gives its run.json."""
    passages = workspace / "passages"
    ragbeam(
        "embed", "--passages", passages, "--encoder", encoder, "--output", workspace / output, "--threads", 1, *more
    )
    return json.loads((workspace / output / "run.json").read_text())


def contents(workspace, output: str) -> dict[str, bytes]:
    directory = workspace / output
    return {path.name: path.read_bytes() for path in directory.iterdir() if path.name != "run.json"}


def hashes(workspace) -> list[bytes]:
    url = str(workspace / "passages")
    shards = read_manifest(url, "chunk").shards
    return [h for s in shards for h in read_parquet(f"{url}/{s.path}", ["content_hash"])["content_hash"].to_pylist()]


@pytest.mark.parametrize("name", ["new", "cut"])
@pytest.mark.parametrize("dtype", ["float16", "float32"])
def test_a_refresh_equals_a_full_run_and_computes_what_changed(dumps, sentence_encoder, tmp_path, capsys, name, dtype):
    embed(dumps / "old", sentence_encoder, "--dtype", dtype, output=f"old-{dtype}")
    old, new = set(hashes(dumps / "old")), hashes(dumps / name)
    embed(dumps / name, sentence_encoder, "--dtype", dtype, output=f"full-{dtype}")
    capsys.readouterr()
    more = ("--dtype", dtype, "--previous", dumps / "old" / f"old-{dtype}")
    report = embed(dumps / name, sentence_encoder, *more, output=f"refreshed-{dtype}")
    assert contents(dumps / name, f"refreshed-{dtype}") == contents(dumps / name, f"full-{dtype}")
    changed = sum(content not in old for content in new)
    assert 0 < changed < 0.12 * len(new)
    assert report["vectors"]["computed"] == changed
    assert report["vectors"]["reused"] == len(new) - changed
    assert 0 < report["vectors"]["checked"] <= 8 * len(report["shards"]) * 2
    assert f"{changed:,} computed" in capsys.readouterr().out
    assert report["steps"]["Encode"]["rows_out"] == changed + report["vectors"]["checked"]


def test_vectors_that_this_machine_does_not_give_are_not_taken(dumps, sentence_encoder, tmp_path, monkeypatch):
    """As when they were made on another machine: the last bit of one number of each vector differs."""
    import pyarrow as pa

    from rag_ops.storage.stages import StageOutput, write_shard
    from schemas import embeddings

    url = str(dumps / "old" / "embeddings")
    manifest = read_manifest(url, "embed")
    elsewhere = StageOutput(str(tmp_path / "elsewhere"), "embed", manifest.config, {})
    elsewhere.begin(False)
    records = []
    for shard in manifest.shards:
        table = read_parquet(f"{url}/{shard.path}")
        vectors = pa.concat_arrays(table["vector"].chunks).flatten().to_numpy(zero_copy_only=False).copy()
        vectors.view(np.uint16)[::16] ^= 1
        other = embeddings.table(table["content_hash"], vectors.reshape(table.num_rows, -1), "float16")
        records.append(
            write_shard(
                *(elsewhere.url, shard.path, "f" * 32),
                lambda file, t=other: write_parquet(file, iter([t]), t.schema),
            )
        )
    elsewhere.finish(records, {"passages": "../passages"}, manifest.info)
    embed(dumps / "new", sentence_encoder, output="alone")
    report = embed(dumps / "new", sentence_encoder, "--previous", elsewhere.url, output="mixed")
    assert contents(dumps / "new", "mixed") == contents(dumps / "new", "alone")
    assert report["vectors"]["reused"] == 0


@pytest.mark.parametrize(
    ("flags", "message"),
    [(["--dtype", "float32"], 'dtype "float16"'), (["--max_tokens", 20], "max_tokens null as it has, not 20")],
)
def test_vectors_of_another_kind_are_refused(dumps, sentence_encoder, tmp_path, capsys, flags, message):
    command = ["embed", "--passages", dumps / "new" / "passages", "--encoder", sentence_encoder]
    command += ["--output", tmp_path / "out", "--previous", dumps / "old" / "embeddings", *flags]
    code, line = fails(capsys, *command)
    assert code == 2
    assert message in line
    assert not (tmp_path / "out").exists()


def test_another_encoders_vectors_and_the_output_itself_are_refused(
    dumps, tmp_path, capsys, tokenizer, tiny_bert_config, sentence_encoder
):
    other = make_sentence_encoder(tmp_path / "encoder", tokenizer, tiny_bert_config, seed=9)
    old = dumps / "old" / "embeddings"
    for encoder, output, message in (
        (other, tmp_path / "out", "encoder_digest"),
        (sentence_encoder, old, "overlaps --previous"),
    ):
        command = ["embed", "--passages", dumps / "new" / "passages", "--encoder", encoder, "--output", output]
        code, line = fails(capsys, *command, "--previous", old)
        assert code == 2
        assert message in line


def test_locations_are_found_by_the_whole_hash(tmp_path):
    from tests.pipelines.workspace import write_corpus

    generator = np.random.default_rng(0)
    write_corpus(
        tmp_path, [generator.standard_normal((n, 4)).astype(np.float32) for n in (1500, 0, 700)], normalize=False
    )
    url = str(tmp_path / "embeddings")
    manifest = read_manifest(url, "embed")
    locations = previous_vectors.write_locations(url, manifest, str(tmp_path / "work"), "previous.npy")
    previous = previous_vectors.Previous(url, manifest, locations)
    tables = [read_parquet(f"{url}/{shard.path}") for shard in manifest.shards]
    last = hash_words(tables[2]["content_hash"])
    wrong = last[:3] ^ np.array([0, 1], np.uint64)
    asked = np.concatenate([last[::-1], wrong, hash_words(tables[0]["content_hash"])[1200:]])
    found = previous.find(asked)
    expected = [(2 << 32) + row for row in range(699, -1, -1)] + [-1] * 3 + list(range(1200, 1500))
    assert found.tolist() == expected
    into = np.zeros((len(asked), 4), np.float32)
    previous.read(found, asked, into)
    vectors = [np.array(table["vector"].to_pylist(), np.float32).reshape(-1, 4) for table in tables]
    assert into.tolist() == [*vectors[2][::-1].tolist(), *[[0.0] * 4] * 3, *vectors[0][1200:].tolist()]


def test_an_index_keeps_what_was_trained(dumps, sentence_encoder, tmp_path, capsys):
    embed(dumps / "new", sentence_encoder, output="embeddings")
    old, new = dumps / "old", dumps / "new"
    flags = ("--spec", "IVF4,Flat", "--threads", 1, "--recall_queries", 0)
    ragbeam("index", "--embeddings", old / "embeddings", "--output", tmp_path / "old", *flags)
    arguments = ("index", "--embeddings", new / "embeddings", *flags[2:])
    ragbeam(*arguments, "--spec", "IVF4,Flat", "--output", tmp_path / "new", "--trained_from", tmp_path / "old")
    trained = [(tmp_path / name / "trained.faiss").read_bytes() for name in ("old", "new")]
    assert trained[0] == trained[1]
    assert str(tmp_path / "old") in json.loads((tmp_path / "new" / "run.json").read_text())["trained"]
    ragbeam(*arguments, "--spec", "IVF4,Flat", "--output", tmp_path / "anew")
    assert (tmp_path / "anew" / "trained.faiss").read_bytes() != trained[0]
    ragbeam("verify", tmp_path / "new")
    capsys.readouterr()
    ragbeam(*arguments, "--spec", "IVF4,Flat", "--output", tmp_path / "new", "--trained_from", tmp_path / "old")
    assert "all reused" in capsys.readouterr().out
    for spec, message in (("IVF2,Flat", 'spec "IVF4,Flat"'), ("Flat", "spec")):
        command = (*arguments, "--spec", spec, "--output", tmp_path / "x", "--trained_from", tmp_path / "old")
        code, line = fails(capsys, *command)
        assert code == 2
        assert message in line
    assert digests(tmp_path / "new", "index")
