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
import logging
import os
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import torch
import transformers
from transformers import BatchEncoding
from transformers.models.dpr.modeling_dpr import DPRQuestionEncoderOutput
from transformers.models.rag.retrieval_rag import CustomHFIndex, Index, LegacyIndex

from rag_ops.errors import InputError
from rag_ops.generation.contexts import ContextFormat, encode_contexts
from rag_ops.models import checkpoints, dense_head
from rag_ops.models.encoder import pool
from rag_ops.models.loading import (
    attach_dense,
    check_size,
    load_encoder_tokenizer,
    load_part,
    longest_input,
    rag_tokenizer,
    whole,
)
from rag_ops.models.prompting import PROMPT_IDS, QuestionPrompt, encoder_note
from rag_ops.models.sentence_encoders import EncoderConfig
from rag_ops.models.weights import REPORTED
from rag_ops.retrieval.corpus import check_question_encoder
from rag_ops.retrieval.passage_index import PassageIndex
from rag_ops.storage import store
from schemas.passages import Passage

__all__ = ["AutoTokenizer", "RagRetriever", "RagTokenForGeneration", "RagTokenizer"]

logger = logging.getLogger("ragbeam")
INDEX_VARIABLE = "RAGBEAM_INDEX"
DUMMY = ("facebook/wiki_dpr", "psgs_w100.nq.no_index")  # on the hub: dataset and configuration
DUMMY_ROWS = 10_000


class RagTokenizer(transformers.RagTokenizer):
    """The pair of tokenizers, with the method that transformers 5 has dropped."""

    @classmethod
    def from_pretrained(cls, pretrained_model_name_or_path: str | os.PathLike[str], **kwargs: Any) -> RagTokenizer:
        """Both tokenizers of a RAG model: a directory, URL or hub id. No code of the model's own runs.

        Args:
            pretrained_model_name_or_path: the model.
            kwargs: `config`, a RagConfig, if it is not the model's own; others are taken for transformers' sake.
        """
        name, config = os.fspath(pretrained_model_name_or_path), kwargs.get("config")
        has_config = config is not None and os.path.isdir(name)  # tokenizers may lie without a model
        sides = rag_tokenizer(name if has_config else checkpoints.find_model(name), config)
        return cls(sides.question_encoder, sides.generator)

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


class AutoTokenizer(transformers.AutoTokenizer):
    """Transformers' class, which loads RAG models as our `RagTokenizer`."""

    @classmethod
    def from_pretrained(cls, pretrained_model_name_or_path: Any, *inputs: Any, **kwargs: Any) -> Any:
        """See transformers' method of this name; `subfolder` may name one side of a RAG model."""
        if not _is_rag(pretrained_model_name_or_path):
            found = super().from_pretrained(pretrained_model_name_or_path, *inputs, **kwargs)
            if not isinstance(found, transformers.RagTokenizer):
                return found
        both = RagTokenizer.from_pretrained(pretrained_model_name_or_path)
        sides = {"question_encoder_tokenizer": both.question_encoder, "generator_tokenizer": both.generator}
        return sides.get(kwargs.get("subfolder", ""), both)


def _is_rag(directory: str | os.PathLike[str]) -> bool:
    if not os.path.isfile(os.path.join(directory, "config.json")):
        return False
    return checkpoints.read_config(os.fspath(directory))["model_type"] == "rag"


class RagbeamIndex(Index):
    """A ragbeam index as transformers wants it: rows and order of our own search, vectors as embed stored them.

    Args:
        url: output directory of `ragbeam index`.

    Raises:
        InputError: there is none, or its vectors are cut to --dimensions, which a model of transformers does not do.
    """

    def __init__(self, url: str):
        self.passages = PassageIndex(url)
        if whole := self.passages.manifest.info.get("encoder_dimension"):
            raise InputError(
                "the index has the first dimensions of vectors alone, and this model gives whole ones",
                value=f"{self.passages.dimension} of {whole}, in {url}",
                expected=f"an index of vectors of {whole} numbers",
                remedy="embed without --dimensions, or answer with ragbeam answer, which cuts the questions' vectors",
            )
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
        return rows, self.passages.vectors(rows)

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
        """See RagbeamIndex."""
        scores = np.asarray(question_hidden_states, np.float32) @ self._vectors.T
        rows = np.argsort(-scores, axis=1, kind="stable")[:, :n_docs]
        return rows, self._vectors[rows]

    def get_doc_dicts(self, doc_ids: np.ndarray) -> list[dict]:
        """See RagbeamIndex."""
        return [_columns([self._passages[row] for row in rows]) for rows in doc_ids]


class RagRetriever(transformers.RagRetriever):
    """Transformers' retriever over our index; contexts keep the question whole and are padded to the longest."""

    @classmethod
    def from_pretrained(
        cls, retriever_name_or_path: str | os.PathLike[str], indexed_dataset: Any = None, **kwargs: Any
    ) -> RagRetriever:
        """A retriever with a RAG model's configuration and tokenizers.

        Args:
            retriever_name_or_path: the model: a directory, URL or hub id.
            indexed_dataset: a `datasets.Dataset` with a FAISS index "embeddings"; by default as configured.
            kwargs: `config`, or settings of it that replace the model's.

        Raises:
            InputError: the model, or the index that the configuration names, is missing, or the model's question
                encoder does not go with that index (`check_question_encoder`).
        """
        name, config = os.fspath(retriever_name_or_path), kwargs.pop("config", None)
        alone = config is not None and os.path.isdir(name) and not os.path.isfile(os.path.join(name, "config.json"))
        directory = name if alone else checkpoints.find_model(name)  # tokenizers may lie without a model
        if config is None:
            config = transformers.RagConfig.from_pretrained(directory, **kwargs)
        sides = RagTokenizer.from_pretrained(retriever_name_or_path, config=config)
        index = None
        if indexed_dataset is not None:
            config.index_name = "custom"
            index = CustomHFIndex(config.retrieval_vector_size, indexed_dataset)
        retriever = cls(config, sides.question_encoder, sides.generator, index)
        if not alone and isinstance(retriever.index, RagbeamIndex):
            check_question_encoder(directory, retriever.index.passages.manifest.info)
        return retriever

    def retrieve(self, question_hidden_states: np.ndarray, n_docs: int) -> tuple[np.ndarray, np.ndarray, list[dict]]:
        """Passages of questions, whatever the index: vectors, times the model's score scale; rows; titles and texts.

        Inner products with these vectors are scaled scores. Shapes and types are those of transformers' method.
        """
        vectors, rows, passages = super().retrieve(question_hidden_states, n_docs)
        return vectors * np.asarray(checkpoints.score_scale(self.config), vectors.dtype), rows, passages

    @staticmethod
    def _build_index(config: Any) -> Index:
        if config.index_name == "custom":
            return CustomHFIndex.load_from_disk(config.retrieval_vector_size, config.passages_path, config.index_path)
        if url := config.index_path or os.environ.get(INDEX_VARIABLE):
            for name in (LegacyIndex.PASSAGE_FILENAME, LegacyIndex.INDEX_FILENAME + ".index.dpr"):
                if store.exists(store.join(url, name)):
                    raise InputError(
                        "the index is DPR's own, which transformers unpickles and ragbeam does not",
                        value=store.join(url, name),
                        expected="the output directory of ragbeam index, or of ragbeam import",
                        remedy="ragbeam import makes one of DPR's index and psgs_w100.tsv",
                    )
            return RagbeamIndex(url)
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
        form = ContextFormat.of(self.config, self.config.generator, prefix)
        passages = [Passage("", doc["title"][n], doc["text"][n]) for doc in docs for n in range(n_docs)]
        questions = [text for text in input_strings for _ in range(n_docs)]
        contexts = encode_contexts(self.generator_tokenizer, form, passages, questions)
        ids = [ids for ids, _ in contexts]
        padded = self.generator_tokenizer.pad({"input_ids": ids}, return_tensors=return_tensors)
        return padded["input_ids"], padded["attention_mask"]


class OurRagModel(transformers.RagPreTrainedModel):
    """What our RAG models have before transformers' own classes: they load whole, with any question encoder.

    Attributes:
        ARCHITECTURE: name of the class, as config.json has it.
    """

    ARCHITECTURE = checkpoints.RAG_TOKEN

    def __init__(self, config: Any = None, question_encoder: Any = None, generator: Any = None, **options: Any):
        super().__init__(config, question_encoder, generator, **options)
        trained_as = getattr(self.config, "architectures", None) or [self.ARCHITECTURE]
        if self.ARCHITECTURE not in trained_as:
            logger.warning(
                "a %s is used as a %s: it was trained to choose its answers by another rule",
                " ".join(trained_as),
                self.ARCHITECTURE,
            )
        ours = getattr(self.config, checkpoints.OUR_KEY, None) or {}
        if ours.get("question_encoder"):
            rag: Any = self.rag
            encoder, encoding = rag.question_encoder, EncoderConfig.from_dict(ours["question_encoder"])
            if encoding.dense and dense_head.of(encoder) is None:
                dense_head.attach(encoder, dense_head.made(encoding.dense))  # to be filled from the model's files
            hook_questions(encoder, encoding, ours.get(PROMPT_IDS))

    @classmethod
    def from_pretrained(cls, pretrained_model_name_or_path: Any, *inputs: Any, **kwargs: Any) -> Any:
        """See transformers' method of this name. Weights that the model's files lack are never drawn at random.

        Raises:
            InputError: a weight is missing, or has another shape (unless `ignore_mismatched_sizes` is given), or the
                configuration asks for more than files and memory hold.
        """
        what, where = "the RAG model", str(pretrained_model_name_or_path)
        if os.path.isdir(where) and "config" not in kwargs:
            checkpoints.refuse_causal(where, where, "RagTokenGenerator.load takes it, and ragbeam answer")
            check_size(what, where, torch.float32)
        may_differ = kwargs.get("ignore_mismatched_sizes")
        wants_report = kwargs.get("output_loading_info")
        found: Any = super().from_pretrained(pretrained_model_name_or_path, *inputs, **{**kwargs, **REPORTED})
        model, report = found
        whole(what, where, (model, {**report, "mismatched_keys": ()} if may_differ else report))
        return (model, report) if wants_report else model

    @classmethod
    def from_pretrained_question_encoder_generator(
        cls,
        question_encoder_pretrained_model_name_or_path: Any = None,
        generator_pretrained_model_name_or_path: Any = None,
        retriever: Any = None,
        **kwargs: Any,
    ) -> Any:
        """A model of a question encoder and a generator, each a directory, URL or hub id, or a loaded model.

        Args:
            question_encoder_pretrained_model_name_or_path: a DPR question encoder or a sentence-transformers model.
            generator_pretrained_model_name_or_path: any `AutoModelForSeq2SeqLM`.
            retriever: a `RagRetriever`.
            kwargs: as transformers has them; `question_encoder_model` and `generator_model` are loaded models.

        Raises:
            InputError: one is missing or lacks weights, or the encoder's files don't say how it pools.
        """
        encoding = directory = None
        model = kwargs.get("question_encoder_model")
        if model is None and question_encoder_pretrained_model_name_or_path is not None:
            directory = checkpoints.find_model(os.fspath(question_encoder_pretrained_model_name_or_path))
        elif model is not None and model.config.model_type != "dpr" and os.path.isdir(model.config.name_or_path):
            directory = model.config.name_or_path  # where it was loaded from
        if directory is not None:
            encoding = checkpoints.encoder_config(directory, "question")
            if model is None:
                _load_part(kwargs, "question_encoder", checkpoints.weights_directory(directory))
        if generator_pretrained_model_name_or_path is not None and kwargs.get("generator_model") is None:
            _load_part(kwargs, "generator", checkpoints.find_model(os.fspath(generator_pretrained_model_name_or_path)))
        made: Any = super().from_pretrained_question_encoder_generator(None, None, retriever, **kwargs)
        if directory is not None and encoding is not None:
            made.config.retrieval_vector_size = checkpoints.dimension(directory)
            ours = encoder_note(encoding, load_encoder_tokenizer(directory) if encoding.prompt else None)
            setattr(made.config, checkpoints.OUR_KEY, ours)
            if encoding.dense and dense_head.of(made.rag.question_encoder) is None:
                attach_dense(made.rag.question_encoder, directory)
            hook_questions(made.rag.question_encoder, encoding, ours.get(PROMPT_IDS))
        return made


class RagTokenForGeneration(OurRagModel, transformers.RagTokenForGeneration):
    """Transformers' model, with any question encoder that ragbeam knows: the configuration says how it pools."""


def _load_part(kwargs: dict[str, Any], side: str, directory: str) -> None:
    """Puts a side's model into `kwargs` for the options of its loading that are there."""
    names = [name for name in kwargs if name.startswith(side + "_")]
    options = {name.removeprefix(side + "_"): kwargs.pop(name) for name in names}
    options.pop("model", None)
    kwargs[side + "_model"] = load_part(side, directory, options)


def hook_questions(encoder: Any, encoding: EncoderConfig, prompt: Any = None) -> None:
    """Lets a question encoder read a prompt before each question, and give what DPR's gives: one vector a question.

    Args:
        encoder: changed in place; what an earlier call had it do, it does no longer.
        encoding: pooling, normalisation and prompt.
        prompt: the prompt's token ids, as JSON (`QuestionPrompt`).
    """
    for handle in getattr(encoder, "question_hooks", ()):
        handle.remove()
    hooks, handles = _Hooks(encoding, prompt), []
    if encoding.prompt:
        handles.append(encoder.register_forward_pre_hook(hooks.insert, with_kwargs=True))
    if encoding.pooling != "pooler":  # DPR's gives its vectors itself
        handles.append(encoder.register_forward_hook(hooks.pool, with_kwargs=True))
    encoder.question_hooks = tuple(handles)


def ask_behind(model: OurRagModel, encoding: EncoderConfig, note: Mapping[str, Any]) -> None:
    """Has a model put another prompt before its questions, and its configuration say so.

    Args:
        model: changed in place.
        encoding: how its questions are encoded from now on.
        note: the entry of `encoder_note` for that.
    """
    config: Any = model.config
    others = dict(getattr(config, checkpoints.OUR_KEY, None) or {})
    others.pop(PROMPT_IDS, None)
    setattr(config, checkpoints.OUR_KEY, {**others, **note})
    rag: Any = model.rag
    hook_questions(rag.question_encoder, encoding, note.get(PROMPT_IDS))


def _ids_and_mask(positional: Any, named: Any) -> tuple[torch.Tensor, torch.Tensor]:
    ids = named["input_ids"] if "input_ids" in named else positional[0]
    mask = named.get("attention_mask")
    return ids, torch.ones_like(ids) if mask is None else mask


@dataclasses.dataclass(frozen=True)
class _Hooks:
    """Forward hooks that insert the prompt and pool; in a class, because a closure cannot be pickled."""

    encoding: EncoderConfig
    prompt: Any

    def insert(self, module: Any, positional: Any, named: Any) -> tuple[tuple[()], dict[str, Any]]:
        prompt = QuestionPrompt.from_json(self.prompt, self.encoding.prompt)
        limit = min(self.encoding.max_tokens, longest_input(module, self.encoding.max_tokens))
        ids, mask = prompt.insert(*_ids_and_mask(positional, named), limit)
        return (), {**named, "input_ids": ids, "attention_mask": mask}

    def pool(self, module: Any, positional: Any, named: Any, output: Any) -> DPRQuestionEncoderOutput:
        return DPRQuestionEncoderOutput(
            pooler_output=pool(output, _ids_and_mask(positional, named)[1], self.encoding, dense_head.of(module))
        )


def _columns(passages: Sequence[Passage]) -> dict[str, list[str]]:
    return {
        "id": [passage.passage_id for passage in passages],
        "title": [passage.heading for passage in passages],
        "text": [passage.text for passage in passages],
    }
