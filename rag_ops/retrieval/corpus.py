"""Opens an index with its passages, and checks beforehand that a model goes with them."""

from __future__ import annotations

import dataclasses
import functools
from collections.abc import Iterable, Mapping
from typing import Any

from rag_ops.errors import InputError
from rag_ops.models import checkpoints
from rag_ops.models.sentence_encoders import EncoderChanges, EncoderConfig
from rag_ops.storage import store, verify
from rag_ops.storage.manifests import check_embeddings, check_passages, check_unchanged, find_manifest, read_manifest
from schemas.manifest import Manifest


@dataclasses.dataclass(frozen=True)
class Corpus:
    """An index and the passages that it was made from, checked to go together."""

    index_url: str
    index: Manifest
    passages_url: str
    passages: Manifest
    embeddings_url: str

    @functools.cached_property
    def embeddings(self) -> Manifest:
        """The embeddings that the index was made from.

        Raises:
            InputError: they are missing, or others by now.
        """
        _check_readable("embeddings", self.embeddings_url)
        return check_embeddings(self.index, self.embeddings_url)

    def check_digests(self, *, embeddings: bool) -> None:
        """Checks the SHA-256 of every file that answering reads, with or without those of `embeddings`.

        Raises:
            InputError: one differs.
        """
        verify.check_digests(self.index_url, self.index)
        verify.check_digests(self.passages_url, self.passages)
        if embeddings:
            verify.check_digests(self.embeddings_url, self.embeddings)

    def check_unchanged(self) -> None:
        """Checks, at the end of a job, that index and passages are what they were at its beginning.

        Raises:
            JobError: one was written anew or removed.
        """
        check_unchanged(self.index_url, self.index)
        check_unchanged(self.passages_url, self.passages)


def open_corpus(index_url: str, passages_url: str | None = None, embeddings_url: str | None = None) -> Corpus:
    """Opens an index and its passages.

    Args:
        index_url: output directory of index.
        passages_url: where its passages are; by default where its manifest says.
        embeddings_url: where its embeddings are; by default where its manifest says.

    Raises:
        InputError: one is missing, or the passages have changed since.
    """
    index = read_manifest(index_url, "index")
    if passages_url is None:
        passages_url = store.resolve_url(index.inputs["passages"], index_url)
        _check_readable("passages", passages_url)
    embeddings_url = embeddings_url or store.resolve_url(index.inputs["embeddings"], index_url)
    return Corpus(index_url, index, passages_url, check_passages(index, passages_url), embeddings_url)


def _check_readable(stage: str, url: str) -> None:
    """Checks that what the index's manifest names can be read: no manifest keeps a password or a signature."""
    if store.is_local(url):
        return
    try:
        if find_manifest(url) is not None:
            return
        why = "it is not there"
    except InputError:
        raise
    except Exception as error:  # of the store's client: they have no class in common
        why = str(error)
    raise InputError(
        f"the {stage} that the index names cannot be read ({why})",
        value=url,
        expected="an address that needs no password or signature, which no manifest keeps",
        remedy=f"give answer the whole one, --{stage} URL, or copy them beside the index",
    )


def question_changes(made_with: Mapping[str, Any], query_prefix: str | None = None) -> EncoderChanges:
    """What the passages' vectors, and --query_prefix, ask of the encoder of their questions.

    Args:
        made_with: `info` of the manifest of the embeddings or the index; if it says that vectors were cut to their
            first dimensions (`encoder_dimension`), questions' are cut likewise.
        query_prefix: text before each question, "" for none; None for the model's own prompt.
    """
    cut = "encoder_dimension" in made_with
    return EncoderChanges(query_prefix, int(made_with["dimension"]) if cut else None)


def prefix_config(directory: str, query_prefix: str | None) -> dict[str, str]:
    """What --query_prefix adds to a configuration: nothing if it is the prompt that the model's digest stands for.

    Args:
        directory: local; an encoder of questions or a RAG model.
        query_prefix: see `question_changes`.
    """
    if query_prefix is None or query_prefix == checkpoints.encoder_config(directory, "question").prompt:
        return {}
    return {"query_prefix": query_prefix}


def check_question_encoder(
    directory: str, made_with: Mapping[str, Any], query_prefix: str | None = None
) -> EncoderConfig:
    """Checks, from configuration files alone, that an encoder of questions goes with the passages' vectors.

    Args:
        directory: local; an encoder or a RAG model.
        made_with: `info` of the manifest of the embeddings or the index.
        query_prefix: see `question_changes`.

    Returns:
        How questions are encoded.

    Raises:
        InputError: it differs in dimension, normalisation, pooling or the digest of the passages' encoder; or passages
            had a prefix that their model does not name, and neither model nor `query_prefix` says what stands before a
            question.
    """
    encoder = checkpoints.encoder_config(directory, "question")
    checks: list[tuple[str, Any, Any]] = [
        ("dimension", checkpoints.dimension(directory), made_with.get("encoder_dimension", made_with["dimension"])),
        ("normalisation", encoder.normalize, made_with["normalize"]),
        ("pooling", encoder.pooling, made_with["pooling"]),
    ]
    if (digest := checkpoints.context_digest(directory)) is not None:
        checks.append(("context encoder's digest", digest, made_with["encoder_digest"]))
    _check_same(checks, made_with)
    changed = checkpoints.encoder_config(directory, "question", question_changes(made_with, query_prefix))
    if query_prefix is None and not encoder.prompt and made_with.get("passage_prefix"):
        raise InputError(
            "the passages were encoded behind a prefix, and nothing says what stands before a question",
            value=f"--passage_prefix {made_with['passage_prefix']!r}",
            expected="the prefix that the encoder was trained with",
            remedy="give --query_prefix TEXT ('' for none), or register it as prompt \"query\" of the encoder",
        )
    return changed


def check_model(name: str, made_with: Mapping[str, Any] | None, query_prefix: str | None = None) -> str:
    """Checks, from configuration files alone, that a RAG model's question encoder goes with the passages' vectors.

    Args:
        name: directory, URL or hub id of the RAG model.
        made_with: `info` of the manifest of the embeddings or the index; None if nothing is searched.
        query_prefix: see `question_changes`.

    Returns:
        The model's digest.

    Raises:
        InputError: no RAG-Token model, or its question encoder differs; see `check_question_encoder`.
    """
    directory = checkpoints.find_model(name)
    checkpoints.check_rag(directory, name)
    if made_with is not None:
        check_question_encoder(directory, made_with, query_prefix)
    return checkpoints.model_digest(directory)


def _check_same(checks: Iterable[tuple[str, Any, Any]], made_with: Mapping[str, Any]) -> None:
    for what, found, expected in checks:
        if found != expected:
            raise InputError(
                f"the model's question encoder does not go with the passages' vectors: its {what} differs",
                value=found,
                expected=f"{expected}, as {made_with['encoder']} made the vectors",
                remedy="embed with the encoder that belongs to the model, or use a model that belongs to the vectors",
            )
