"""The model card of facebook/rag-token-base on today's libraries: its two snippets run with the import line changed.

    from rag_ops import AutoTokenizer, RagRetriever, RagTokenForGeneration, RagTokenizer

These are thin subclasses of transformers' own. They add what transformers 5 has dropped (`prepare_seq2seq_batch`, the
card's dummy index) and what it never had: retrieval from a ragbeam index, questions that survive truncation, and
question encoders that pool otherwise than DPR.

Where the passages come from, by the configuration's `index_name`:

- "custom" with `passages_path`: a `datasets` directory and a FAISS file, as transformers opens them.
- any other with `index_path`: that ragbeam index, small ("exact") or full ("legacy", "compressed").
- any other without: the index that the environment variable RAGBEAM_INDEX names; with `use_dummy_dataset` and no such
  variable, the first 10,000 passages of wiki_dpr from the Hugging Face hub, as the card's dummy index had them.
"""

from __future__ import annotations

import dataclasses
import os
from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
import transformers
from transformers import AutoTokenizer, BatchEncoding
from transformers.models.dpr.modeling_dpr import DPRQuestionEncoderOutput
from transformers.models.rag.retrieval_rag import CustomHFIndex, Index

from rag_ops import checkpoints
from rag_ops.checkpoints import EncoderConfig
from rag_ops.contexts import ContextFormat, Passage, encode_contexts
from rag_ops.encoding import pool
from rag_ops.errors import InputError
from rag_ops.passage_index import PassageIndex

__all__ = ["AutoTokenizer", "RagRetriever", "RagTokenForGeneration", "RagTokenizer"]

INDEX_VARIABLE = "RAGBEAM_INDEX"
DUMMY = ("facebook/wiki_dpr", "psgs_w100.nq.no_index")  # on the hub: dataset and configuration
DUMMY_ROWS = 10_000


class RagTokenizer(transformers.RagTokenizer):
    """The pair of tokenizers, with the method that transformers 5 has dropped."""

    def prepare_seq2seq_batch(
        self,
        src_texts: str | Sequence[str],
        tgt_texts: str | Sequence[str] | None = None,
        max_length: int | None = None,
        max_target_length: int | None = None,
        padding: Any = "longest",
        return_tensors: str | None = None,
        truncation: bool = True,
        **options: Any,
    ) -> BatchEncoding:
        """Questions by the question encoder's tokenizer, and answers, as `labels`, by the generator's.

        Arguments and result are those of transformers 4's method of this name.
        """

        def encode(tokenizer: Any, texts: Any, limit: int | None) -> BatchEncoding:
            limit = limit if limit is not None else tokenizer.model_max_length
            settings = {"padding": padding, "truncation": truncation, "return_tensors": return_tensors, **options}
            return tokenizer(texts, max_length=limit, **settings)

        inputs = encode(self.question_encoder, src_texts, max_length)
        if tgt_texts is not None:
            inputs["labels"] = encode(self.generator, tgt_texts, max_target_length)["input_ids"]
        return inputs


class BeamIndex(Index):
    """A ragbeam index as transformers wants it: rows and order of our own search, vectors as embed stored them.

    Args:
        url: output directory of `ragbeam index`.
        scale: what vectors are multiplied by, so that inner products with them are scaled scores.
    """

    def __init__(self, url: str, scale: float = 1.0):
        self.passages, self._scale = PassageIndex(url), scale
        self._initialized = False

    def init_index(self) -> None:
        """Opens all shards."""
        self._initialized = bool(self.passages.shards)

    def is_initialized(self) -> bool:
        """Whether the shards are open."""
        return self._initialized

    def get_top_docs(self, question_hidden_states: np.ndarray, n_docs: int = 5) -> tuple[np.ndarray, np.ndarray]:
        """Rows, int64 (questions, n_docs), best first, and their vectors, float32 (questions, n_docs, dimension)."""
        rows = self.passages.search(np.asarray(question_hidden_states, np.float32), n_docs).rows
        return rows, self.passages.vectors(rows) * self._scale

    def get_doc_dicts(self, doc_ids: np.ndarray) -> list[dict]:
        """For each question the columns id, title and text of its passages."""
        return [_columns(self.passages.passages(rows)) for rows in np.asarray(doc_ids)]


class HubIndex(Index):
    """The first passages of wiki_dpr, read from the Hugging Face hub, searched exactly: the card's dummy index."""

    def __init__(self, rows: int = DUMMY_ROWS):
        self._rows = rows
        self._passages: list[Passage] = []
        self._vectors = np.empty((0, 0), np.float32)

    def init_index(self) -> None:
        """Reads passages and vectors.

        Raises:
            InputError: the hub cannot be reached.
        """
        from datasets import load_dataset

        try:
            found = list(load_dataset(*DUMMY, split="train", streaming=True).take(self._rows))
        except Exception as error:  # datasets, its hub client and the network raise errors of their own
            raise InputError(
                f"the card's dummy index cannot be read from the hub ({type(error).__name__})",
                value=DUMMY[0],
                expected="a network, or an index of your own",
                remedy=f"set config.index_path or {INDEX_VARIABLE} to the output of ragbeam index",
            ) from error
        self._passages = [Passage(str(row["id"]), row["title"], row["text"]) for row in found]
        self._vectors = np.asarray([row["embeddings"] for row in found], np.float32)

    def is_initialized(self) -> bool:
        """Whether the passages are here."""
        return bool(self._passages)

    def get_top_docs(self, question_hidden_states: np.ndarray, n_docs: int = 5) -> tuple[np.ndarray, np.ndarray]:
        """See BeamIndex."""
        scores = np.asarray(question_hidden_states, np.float32) @ self._vectors.T
        rows = np.argsort(-scores, axis=1, kind="stable")[:, :n_docs]
        return rows, self._vectors[rows]

    def get_doc_dicts(self, doc_ids: np.ndarray) -> list[dict]:
        """See BeamIndex."""
        return [_columns([self._passages[row] for row in rows]) for rows in doc_ids]


class RagRetriever(transformers.RagRetriever):
    """Transformers' retriever over our index; contexts keep the question whole and are padded to the longest."""

    @staticmethod
    def _build_index(config: Any) -> Index:
        if config.index_name == "custom":
            return CustomHFIndex.load_from_disk(config.retrieval_vector_size, config.passages_path, config.index_path)
        if url := config.index_path or os.environ.get(INDEX_VARIABLE):
            return BeamIndex(url, checkpoints.score_scale(config))
        if config.use_dummy_dataset:
            return HubIndex()
        raise InputError(
            "the model's configuration names no index",
            value=f"index_name {config.index_name!r}",
            expected="index_path, the output directory of ragbeam index",
            remedy=f"set config.index_path or {INDEX_VARIABLE}",
        )

    def postprocess_docs(
        self, docs: list[dict], input_strings: list[str], prefix: str | None, n_docs: int, return_tensors: Any = None
    ) -> tuple[Any, Any]:
        """Token ids and mask of all contexts, (questions * n_docs, tokens)."""
        config = self.config
        form = ContextFormat(config.title_sep, config.doc_sep, prefix or "", config.max_combined_length)
        passages = [Passage("", doc["title"][n], doc["text"][n]) for doc in docs for n in range(n_docs)]
        questions = [text for text in input_strings for _ in range(n_docs)]
        contexts = encode_contexts(self.generator_tokenizer, form, passages, questions)
        padded = self.generator_tokenizer.pad(
            {"input_ids": [ids for ids, _ in contexts]}, return_tensors=return_tensors
        )
        return padded["input_ids"], padded["attention_mask"]


class RagTokenForGeneration(transformers.RagTokenForGeneration):
    """Transformers' model, with any question encoder that ragbeam knows: the configuration tells how it pools."""

    def __init__(self, config: Any = None, question_encoder: Any = None, generator: Any = None, **options: Any):
        super().__init__(config, question_encoder, generator, **options)
        ours = getattr(self.config, checkpoints.OUR_KEY, None) or {}
        if encoding := ours.get("question_encoder"):
            pool_questions(self.rag.question_encoder, EncoderConfig(**encoding))

    @classmethod
    def from_pretrained_question_encoder_generator(  # type: ignore[override]
        cls, question_encoder: str, generator: str, **options: Any
    ) -> Any:
        """A model of a question encoder and a generator, each a directory, URL or hub id.

        Raises:
            InputError: one is missing, or the encoder's files don't tell how it pools.
        """
        directory = checkpoints.find_model(question_encoder)
        encoding = checkpoints.encoder_config(directory, "question")
        model: Any = super().from_pretrained_question_encoder_generator(
            directory, checkpoints.find_model(generator), **options
        )
        model.config.retrieval_vector_size = checkpoints.dimension(directory)
        setattr(model.config, checkpoints.OUR_KEY, {"question_encoder": dataclasses.asdict(encoding)})
        pool_questions(model.rag.question_encoder, encoding)
        return model


def pool_questions(encoder: Any, encoding: EncoderConfig) -> None:
    """Lets a question encoder that is no DPR give what DPR's gives: one vector a question, first in its output.

    Args:
        encoder: changed in place, for good.
        encoding: pooling and normalisation.
    """
    if encoding.pooling == "pooler" or getattr(encoder, "gives_vectors", False):
        return

    def vectors(_module: Any, positional: Any, named: Any, output: Any) -> DPRQuestionEncoderOutput:
        ids = named["input_ids"] if "input_ids" in named else positional[0]
        mask = named.get("attention_mask")
        mask = torch.ones_like(ids) if mask is None else mask
        return DPRQuestionEncoderOutput(pooler_output=pool(output, mask, encoding))

    encoder.register_forward_hook(vectors, with_kwargs=True)
    encoder.gives_vectors = True


def _columns(passages: Sequence[Passage]) -> dict[str, list[str]]:
    return {
        "id": [passage.passage_id for passage in passages],
        "title": [passage.title for passage in passages],
        "text": [passage.text for passage in passages],
    }
