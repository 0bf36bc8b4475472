"""The layout of the stages; a manifest's info: values of wrong types are refused with the manifest, and named."""

import json
import re

import pytest

from rag_ops import defaults
from schemas import layout
from schemas.layout import BM25, INDEX, OUTPUTS, STAGES
from schemas.manifest import Manifest, ManifestError, ShardRecord


def test_every_stage_has_its_schema_and_reads_an_earlier_one():
    assert list(STAGES) == ["chunk", "embed", "index", "answer"]
    assert list(OUTPUTS) == [*STAGES, "bm25", "search"]
    for place, stage in enumerate(OUTPUTS.values()):
        assert stage.info.__annotations__
        assert stage.source is None or stage.source in list(STAGES.values())[:place]
        assert stage.source is None or f"{stage.source.folder}_digest" in stage.info.__annotations__


@pytest.mark.parametrize(
    ("stage", "info", "clause"),
    [
        ("chunk", {"articles": "many"}, "its info.articles is 'many', which is no int"),
        ("chunk", {"articles": True}, "its info.articles is True, which is no int"),
        ("chunk", {"dropped": []}, "its info.dropped is [], which is no dict"),
        ("embed", {"normalize": "yes"}, "its info.normalize is 'yes', which is no bool"),
        ("index", {"trained": 3}, "its info.trained is 3, which is no str or null"),
        ("answer", {"model_digest": None}, "its info.model_digest is None, which is no str"),
    ],
)
def test_a_value_of_another_type_is_named(stage, info, clause):
    assert STAGES[stage].wrong_info(info) == clause
    text = Manifest(stage, "f", {}, {}, (), info).to_json()
    with pytest.raises(ManifestError) as refused:
        Manifest.from_json(text)
    assert clause in str(refused.value)


ENCODED = {
    "encoder": "e",
    "encoder_digest": None,
    "pooling": "cls",
    "normalize": False,
    "dtype": "float16",
    "dimension": 3,
    "passages_digest": "d",
}
SEARCHED = {**ENCODED, "spec": "Flat", "embeddings_digest": "d"}
SHARDS = (ShardRecord("index-00000-of-00001.faiss", 1, 1, "ab" * 32, "f"),)
INPUTS = {"embeddings": "../embeddings", "passages": "../passages"}


WORDS = {
    "language": "de",
    "k1": 0.9,
    "b": 0.4,
    "words": 7,
    "statistics": layout.STATISTICS,
    "statistics_sha256": "ab" * 32,
    "passages_digest": "d",
    "sources": ["cd" * 32],
    "source_rows": [2],
}


@pytest.mark.parametrize(
    ("changed", "clause"),
    [
        ({"k1": 0}, "its info.k1, info.b or info.words is out of range"),
        ({"b": float("nan")}, "its info.b is nan, which is no float"),
        ({"words": -1}, "its info.k1, info.b or info.words is out of range"),
        ({"statistics": "../other"}, "its info.statistics is '../other', not statistics.safetensors"),
        ({"sources": []}, "its info.sources and info.source_rows are not as many"),
        ({"source_rows": ["2"]}, "its info.source_rows is ['2'], which is no list"),
    ],
)
def test_what_an_index_of_words_says_is_checked(changed, clause):
    assert BM25.wrong_info(WORDS) is None
    assert BM25.wrong_info({**WORDS, **changed}) == clause


def test_what_is_right_or_unknown_passes():
    info = {**SEARCHED, "trained": None, "search": {"nprobe": 4}, "later_version": [1]}
    assert INDEX.wrong_info(info) is None
    assert Manifest.from_json(Manifest("index", "f", {}, INPUTS, SHARDS, info).to_json()).info == info


@pytest.mark.parametrize("key", SEARCHED)
def test_what_readers_need_is_missed(key):
    info = {name: value for name, value in SEARCHED.items() if name != key}
    assert INDEX.wrong_info(info) == f"its info has no {key}"


@pytest.mark.parametrize(
    ("changes", "clause"),
    [
        ({"dimension": 0}, "its info.dimension is 0, not 1 to 65536"),
        ({"dimension": 10**9}, "not 1 to 65536"),
        ({"dtype": "float8"}, "its info.dtype is 'float8', not float16 or float32"),
        ({"trained": "../../etc/passwd"}, "not trained.faiss"),
        ({"search": {"nprobe": "x"}}, "its info.search is {'nprobe': 'x'}, which is no dict"),
        ({"search": {"nprobe": 0}}, "its info.search.nprobe is less than 1"),
        ({"spec": ["x" * 500]}, "..., which is no str"),
        ({"recall": {"1": float("nan")}}, "its info.recall is {'1': nan}, which is no dict"),
    ],
)
def test_a_value_out_of_range_is_named(changes, clause):
    assert clause in (INDEX.wrong_info(SEARCHED | changes) or "")


@pytest.mark.parametrize(
    ("changes", "clause"),
    [
        ({"stage": ["index"]}, "its stage"),
        ({"config": None}, "its config is 'None', which is no dict"),
        ({"inputs": {}}, "its inputs have no embeddings"),
        ({"inputs": {**INPUTS, "passages": 5}}, "its inputs.passages is 5, which is no URL"),
        ({"inputs": None}, "its inputs"),
        ({"info": None}, "its info"),
        ({"shards": {}}, "no list of objects"),
        ({"shards": "abc"}, "no list of objects"),
        ({"shards": []}, "it has no shards"),
        ({"evil": 1}, "unknown"),
        ({"schema_version": True}, "schema_version"),
        ({"schema_version": 1.0}, "schema_version"),
    ],
)
def test_a_manifest_of_another_shape_is_refused(changes, clause):
    data = json.loads(Manifest("index", "f", {}, INPUTS, SHARDS, SEARCHED).to_json()) | changes
    with pytest.raises(ManifestError, match=re.escape(clause)):
        Manifest.from_json(json.dumps(data))


@pytest.mark.parametrize(
    ("changes", "clause"),
    [
        ({"rows": 60.5}, "60.5 rows"),
        ({"rows": True}, "True rows"),
        ({"rows": "7"}, "'7' rows"),
        ({"rows": float("nan")}, "nan rows"),
        ({"rows": 10**18}, "no number from 0"),
        ({"bytes": None}, "None bytes"),
        ({"path": 5}, "path is 5"),
        ({"path": "a\0b"}, "plain file name"),
        ({"sha256": None}, "sha256 is None"),
    ],
)
def test_a_shard_of_another_shape_is_refused(changes, clause):
    data = json.loads(Manifest("index", "f", {}, INPUTS, SHARDS, SEARCHED).to_json())
    data["shards"][0] |= changes
    with pytest.raises(ManifestError, match=re.escape(clause)):
        Manifest.from_json(json.dumps(data))
    data["shards"] = json.loads(Manifest("index", "f", {}, INPUTS, SHARDS * 2, SEARCHED).to_json())["shards"]
    with pytest.raises(ManifestError, match="a shard twice"):
        Manifest.from_json(json.dumps(data))


def test_a_deeply_nested_manifest_is_refused():
    with pytest.raises(ManifestError, match="not JSON"):
        Manifest.from_json('{"schema_version": ' + "[" * 100_000)


def test_answers_need_the_settings_that_their_readers_use():
    assert layout.MAX_DOCS == defaults.MAX_DOCS
    more = [{"n_docs": 5, "reading": {}, "retrieve": number} for number in (-1, layout.MAX_DOCS + 1)]
    for config, clause in (
        *(({}, "no n_docs"), ({"n_docs": 0, "reading": {}}, "n_docs"), ({"n_docs": "5"}, "n_docs")),
        ({"n_docs": 10**18, "reading": {}}, "its config.n_docs is 1000000000000000000, not 1 to 10000"),
        *((config, f"its config.retrieve is {config['retrieve']}, not 1 to 10000") for config in more),
    ):
        manifest = Manifest("answer", "f", config, {"index": "../index"}, SHARDS, {"errors": {}})
        with pytest.raises(ManifestError, match=clause):
            Manifest.from_json(manifest.to_json())


def test_info_that_is_no_object_is_refused():
    data = json.loads(Manifest("index", "f", {}, {}, (), {}).to_json()) | {"info": [1]}
    with pytest.raises(ManifestError, match="info"):
        Manifest.from_json(json.dumps(data))
