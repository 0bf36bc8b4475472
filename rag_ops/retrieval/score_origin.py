"""Where the scores of a search come from, as its manifest and its TREC run say it."""

from __future__ import annotations

import re

from schemas.manifest import Manifest

DENSE = "dense"  # `scores` in a search's info: inner products of the question encoder's vectors and the passages'
_DENSE_TAG = re.compile(r"ragbeam-dense-([0-9a-f]{32})")


def dense_encoder(manifest: Manifest) -> str | None:
    """The digest of the question encoder whose inner products the scores of a search are; None if they are others.

    Scores of words, of a fusion and of a reranker are no inner products.
    """
    return manifest.info.get("encoder_digest") if manifest.info.get("scores") == DENSE else None


def run_tag(manifest: Manifest) -> str:
    """The tag of a TREC run of a search, the last cell of its lines: it tells inner products from other scores."""
    encoder = dense_encoder(manifest)
    return "ragbeam" if encoder is None else f"ragbeam-dense-{encoder}"


def encoder_of_tag(tag: str) -> str | None:
    """The digest of the question encoder that a run's tag names.

    >>> encoder_of_tag("ragbeam-dense-" + "ab" * 16)
    'abababababababababababababababab'
    >>> encoder_of_tag("bm25") is None
    True
    """
    found = _DENSE_TAG.fullmatch(tag.strip())
    return found[1] if found else None
