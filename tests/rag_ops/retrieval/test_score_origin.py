"""Only inner products of an encoder are told as its own; scores of words, fusions and rerankers are not."""

import pytest

from rag_ops.retrieval.score_origin import dense_encoder, encoder_of_tag, run_tag
from schemas.manifest import Manifest

DIGEST = "0123456789abcdef" * 2


def searched(**info) -> Manifest:
    return Manifest("search", "f" * 32, {}, {}, (), info)


def test_a_dense_searchs_run_names_its_encoder():
    manifest = searched(scores="dense", encoder_digest=DIGEST)
    assert dense_encoder(manifest) == DIGEST
    assert encoder_of_tag(run_tag(manifest)) == DIGEST


@pytest.mark.parametrize("info", [{"encoder_digest": DIGEST}, {"scores": "rrf", "encoder_digest": DIGEST}, {}])
def test_other_scores_are_no_encoders(info):
    assert dense_encoder(searched(**info)) is None
    assert run_tag(searched(**info)) == "ragbeam"
    assert encoder_of_tag("ragbeam") is None


@pytest.mark.parametrize("tag", ["ragbeam-dense-", f"ragbeam-dense-{DIGEST}x", f"a-ragbeam-dense-{DIGEST}", ""])
def test_another_tag_names_none(tag):
    assert encoder_of_tag(tag) is None
