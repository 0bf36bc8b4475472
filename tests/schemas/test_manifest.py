"""The manifest: round trip, row arithmetic, and refusal of what it cannot read."""

import json

import pytest

from schemas import layout
from schemas.manifest import Manifest, ManifestError, ShardRecord, digest_of


def example(**changes) -> Manifest:
    shards = tuple(ShardRecord(layout.CHUNK.shard(n, 3), rows, 10, "ab" * 32, "f") for n, rows in enumerate((4, 0, 3)))
    return Manifest(
        **{"stage": "chunk", "fingerprint": "f", "config": {"a": 1}, "inputs": {}, "shards": shards, **changes}
    )


def test_text_and_back_is_the_same_manifest():
    assert Manifest.from_json(example().to_json()) == example()


def test_equal_manifests_are_equal_text_whatever_the_order_of_keys():
    assert example(config={"a": 1, "b": 2}).to_json() == example(config={"b": 2, "a": 1}).to_json()


def test_rows_are_counted_across_shards():
    assert example().rows == 7
    assert example().row_starts() == [0, 4, 4, 7]


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("{", "not JSON"),
        ("[]", "no schema_version"),
        ('{"schema_version": 99}', "99"),
        ('{"schema_version": 1, "shards": []}', "stage"),
        (
            '{"schema_version": 1, "shards": [{"path": "x"}], "stage": "chunk", "fingerprint": "f", "config": {}, '
            '"inputs": {}, "info": {}}',
            "key",
        ),
    ],
)
def test_what_is_no_manifest_is_refused(text, message):
    with pytest.raises(ManifestError, match=message):
        Manifest.from_json(text)


def test_an_unknown_stage_is_refused():
    data = json.loads(example().to_json()) | {"stage": "bake"}
    with pytest.raises(ManifestError, match="bake"):
        Manifest.from_json(json.dumps(data))


@pytest.mark.parametrize("path", ["../passages.parquet", "a/b", "", "..", "c\\d"])
def test_a_shard_path_cannot_leave_its_directory(path):
    with pytest.raises(ManifestError, match="plain file name"):
        ShardRecord(path, 1, 1, "", "")


def test_digest_tells_values_apart_and_not_their_order_of_keys():
    assert digest_of({"a": 1, "b": [1, 2]}) == digest_of({"b": [1, 2], "a": 1})
    assert digest_of({"a": [1, 2]}) != digest_of({"a": [2, 1]})
    assert digest_of({"a": 1}) != digest_of({"a": "1"})


def test_a_manifests_digest_changes_with_a_shard():
    changed = example(shards=(ShardRecord("x", 1, 1, "cd" * 32, "f"),))
    assert changed.digest != example().digest
