"""The layout of the stages; a manifest's info: values of wrong types are refused with the manifest, and named."""

import json

import pytest

from schemas.layout import INDEX, STAGES
from schemas.manifest import Manifest, ManifestError


def test_every_stage_has_its_schema_and_reads_an_earlier_one():
    assert list(STAGES) == ["chunk", "embed", "index", "answer"]
    for place, stage in enumerate(STAGES.values()):
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
        ("index", {"trained": 3}, "its info.trained is 3, which is no str or NoneType"),
        ("answer", {"model_digest": None}, "its info.model_digest is None, which is no str"),
    ],
)
def test_a_value_of_another_type_is_named(stage, info, clause):
    assert STAGES[stage].wrong_info(info) == clause
    text = Manifest(stage, "f", {}, {}, (), info).to_json()
    with pytest.raises(ManifestError) as refused:
        Manifest.from_json(text)
    assert clause in str(refused.value)


def test_what_is_right_or_unknown_passes():
    info = {"dimension": 3, "normalize": False, "trained": None, "search": {"nprobe": 4}, "later_version": [1]}
    assert INDEX.wrong_info(info) is None
    assert Manifest.from_json(Manifest("index", "f", {}, {}, (), info).to_json()).info == info


def test_info_that_is_no_object_is_refused():
    data = json.loads(Manifest("index", "f", {}, {}, (), {}).to_json()) | {"info": [1]}
    with pytest.raises(ManifestError, match="info"):
        Manifest.from_json(json.dumps(data))
