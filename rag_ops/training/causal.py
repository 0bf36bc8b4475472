"""Training of a RAG-Token model with a causal generator, whole or through a low-rank adapter, by its marginal loss.

Each passage of a question is a prompt of its own, as in answering, and the answer stands behind every one of them:
p(y|x) = prod over t of sum over z of p(z|x) p(y_t | prompt of z, y_<t). Only tokens of answers carry a loss.
"""

from __future__ import annotations

import copy
import inspect
import os
from collections.abc import Sequence
from types import SimpleNamespace
from typing import Any

import numpy as np
import torch
from safetensors.torch import load_file, save_file
from torch.nn.utils.rnn import pad_sequence
from transformers.pytorch_utils import Conv1D

from rag_ops.errors import InputError
from rag_ops.generation.causal import keeps_keys
from rag_ops.generation.contexts import ContextFormat
from rag_ops.generation.prompts import Prompt, PromptFormat
from rag_ops.generation.rag_token import prompts_of
from rag_ops.generation.settings import GenerationSettings
from rag_ops.generation.special_tokens import special_tokens
from rag_ops.interop.model_card import RagTokenizer, hook_questions
from rag_ops.models import adapters, checkpoints
from rag_ops.models.causal import CausalRag, load_causal_rag, write_causal_rag
from rag_ops.models.encoder import MAX_TEXT_CHARS
from rag_ops.models.loading import load_encoder
from rag_ops.models.prompting import PROMPT_IDS
from rag_ops.models.sentence_encoders import EncoderConfig
from rag_ops.training.data import encode_questions
from rag_ops.training.settings import FinetuneSettings
from rag_ops.training.trainer import MarginalTrainer
from schemas.passages import Passage

NO_LABEL = -100  # fills up the labels of shorter answers
ALPHA = 2  # what an adapter's matrices are multiplied by, times its rank and over it
LEARNED = "learned.safetensors"  # in a checkpoint: the parameters that learn


def marginal_loss(
    logits: torch.Tensor, log_prior: torch.Tensor, labels: torch.Tensor, ends: Sequence[int], smoothing: float = 0.0
) -> torch.Tensor:
    """-log p(y|x) of each question, smoothed over the vocabulary as the RAG paper's code does, float32 (questions,).

    Args:
        logits: of each token of the answer behind each passage's prompt, (questions, docs, tokens, vocabulary).
        log_prior: logarithms of p(z|x), (questions, docs).
        labels: token ids of the answers, int64 (questions, tokens), `NO_LABEL` for none.
        ends: tokens of which each ends an answer: all of them count for the last one.
        smoothing: share of the loss that is spread.
    """
    marginal = (logits.float().log_softmax(-1) + log_prior[:, :, None, None]).logsumexp(1)
    there = labels != NO_LABEL
    found = marginal.gather(2, labels.clamp_min(0)[..., None])[..., 0]
    if len(ends) > 1:
        is_end = torch.isin(labels, labels.new_tensor(ends))
        found = torch.where(is_end, marginal[..., list(ends)].logsumexp(-1), found)
    smoothed = (1 - smoothing) * found
    if smoothing:
        smoothed = smoothed + smoothing * marginal.mean(-1)
    return -(smoothed * there).sum(1)


class TrainableCausalRag(torch.nn.Module):
    """A RAG-Token model with a causal generator; names of parameters, and arguments, as in transformers' class.

    Args:
        model: the model without its question encoder; taken over.
        question_encoder: its question encoder, which gives one vector a question, first in its output.
        tokenizer: pair of tokenizers of the model.
        settings: settings of the training.
        adapter: the adapter that it goes on with, if it is to learn through one.

    Attributes:
        retriever: the `RagRetriever` of a ragbeam index.
        prompts: its prompts.
        ends: tokens of which each ends an answer.
    """

    def __init__(
        self,
        model: CausalRag,
        question_encoder: Any,
        tokenizer: Any,
        settings: FinetuneSettings,
        adapter: adapters.Adapter | None = None,
    ):
        super().__init__()
        self.config, self.generation_config = model.config, model.generation_config
        generator = model.rag.generator
        self._takes = inspect.signature(generator.forward).parameters
        self._together = keeps_keys(generator)  # else rows must not be padded
        longest = ContextFormat.of(self.config, generator.config, None).max_tokens
        template = checkpoints.prompt_template(self.config)
        decoding = GenerationSettings(max_new_tokens=settings.max_answer_tokens, template=template)
        self.prompts: PromptFormat = prompts_of(tokenizer.generator, generator.config, longest, decoding)
        special = special_tokens(self.generation_config, self.config)
        self.ends, self._pad = special.ends, special.pad
        self._adapted = settings.adapter_rank is not None
        self.rag: Any = torch.nn.Module()
        self.rag.question_encoder = question_encoder
        rank = settings.adapter_rank
        self.rag.generator = _adapted(generator, rank, adapter) if rank is not None else generator
        self.retriever: Any = None

    @classmethod
    def load(cls, directory: str, tokenizer: RagTokenizer, settings: FinetuneSettings) -> TrainableCausalRag:
        """Loads a model from a local directory, in float32, with the prompt template of the settings, if they have one.

        If it is to learn through an adapter and has one, it goes on with that.

        Raises:
            InputError: it cannot be loaded, its prompt template fails, or its adapter has another rank.
        """
        rank = settings.adapter_rank
        model, adapter = load_causal_rag(directory, torch.float32, merged=rank is None), None
        if rank is not None and checkpoints.check_adapter(directory):
            adapter = adapters.read(os.path.join(directory, checkpoints.ADAPTER), model.rag.generator)
            if adapter.rank != rank:
                raise InputError(
                    "the model has an adapter of another rank, which training would go on with",
                    value=f"--adapter_rank {rank}",
                    expected=f"--adapter_rank {adapter.rank}",
                )
        ours = dict(getattr(model.config, checkpoints.OUR_KEY, None) or {})
        if settings.template is not None:
            ours[checkpoints.PROMPT] = settings.template
        setattr(model.config, checkpoints.OUR_KEY, ours)
        encoder = load_encoder(directory, "question")
        if ours.get("question_encoder"):
            hook_questions(encoder, EncoderConfig.from_dict(ours["question_encoder"]), ours.get(PROMPT_IDS))
        return cls(model, encoder, tokenizer, settings, adapter)

    @property
    def question_encoder(self) -> Any:
        """The question encoder."""
        return self.rag.question_encoder

    @property
    def device(self) -> torch.device:
        """Where the model is."""
        return next(self.parameters()).device

    def train(self, mode: bool = True) -> TrainableCausalRag:
        """See torch; a question encoder that does not learn drops nothing out: it finds what answering will find."""
        super().train(mode)
        if not any(parameter.requires_grad for parameter in self.question_encoder.parameters()):
            self.question_encoder.eval()
        return self

    def set_retriever(self, retriever: Any) -> None:
        """Sets what passages come from."""
        self.retriever = retriever

    def forward(
        self,
        input_ids: torch.Tensor,
        attention_mask: torch.Tensor,
        labels: torch.Tensor,
        questions: Sequence[str],
        n_docs: int,
    ) -> SimpleNamespace:
        """The losses of questions over the passages that are retrieved for them now, `loss`, float32 (questions,).

        Args:
            input_ids, attention_mask: questions for the question encoder, int64 (questions, tokens).
            labels: see `marginal_loss`.
            questions: their texts, for the prompts.
            n_docs: passages of each.
        """
        vectors = self.question_encoder(input_ids, attention_mask=attention_mask)[0].float()
        index = self.retriever.index.passages
        rows = index.search(vectors.detach().cpu().numpy(), n_docs).rows
        scores = (vectors[:, None] * torch.from_numpy(index.vectors(rows)).to(vectors.device)).sum(-1)
        scores = scores * checkpoints.score_scale(self.config)
        real = rows >= 0
        real[:, 0] = True
        scores = scores.masked_fill(torch.from_numpy(~real).to(scores.device), -torch.inf)
        rows = np.where(real, rows, rows[:, :1])  # a missing passage is filled by the question's first
        found = [passage for own in rows for passage in index.passages(own)]
        prompts = self._prompts(found, [question for question in questions for _ in range(n_docs)])
        logits = self._logits(prompts, labels.repeat_interleave(n_docs, 0)).unflatten(0, (-1, n_docs))
        smoothing = self.config.label_smoothing
        return SimpleNamespace(loss=marginal_loss(logits, scores.log_softmax(-1), labels, self.ends, smoothing))

    def _prompts(self, passages: Sequence[Passage], questions: Sequence[str]) -> list[Prompt]:
        try:
            return [ids for ids, _ in self.prompts.encode(passages, [one[:MAX_TEXT_CHARS] for one in questions])]
        except ValueError as error:
            raise InputError(f"a prompt cannot be made ({error})", remedy="mend the template of --prompt") from error

    def _logits(self, prompts: Sequence[Prompt], labels: torch.Tensor) -> torch.Tensor:
        """Logits of each token of answers behind prompts, (rows, tokens, vocabulary).

        Args:
            prompts: rows; they end in one column.
            labels: (rows, tokens).
        """
        if len(prompts) > 1 and not self._together:
            rows = [self._logits([prompt], labels[row : row + 1]) for row, prompt in enumerate(prompts)]
            return torch.cat(rows)
        last, count = max(map(len, prompts)), labels.shape[1]
        ids = labels.new_full((len(prompts), last + count - 1), self._pad)
        for row, prompt in enumerate(prompts):
            ids[row, last - len(prompt) : last] = labels.new_tensor(prompt)
        ids[:, last:] = labels.where(labels != NO_LABEL, self._pad)[:, :-1]
        begins = labels.new_tensor([last - len(prompt) for prompt in prompts])[:, None]
        columns = torch.arange(ids.shape[1], device=ids.device)
        given = {"input_ids": ids, "attention_mask": (columns >= begins).long(), "use_cache": False}
        more = {"position_ids": (columns - begins).clamp_min(0), "logits_to_keep": count}
        more = {name: value for name, value in more.items() if name in self._takes}
        return self.rag.generator(**given, **more).logits[:, -count:]

    def for_answers(self) -> CausalRag:
        """A copy as it is now, to be answered with."""
        generator = copy.deepcopy(self.rag.generator)
        merged = generator.merge_and_unload() if self._adapted else generator
        return CausalRag(self.config, self.generation_config, merged)

    def save_pretrained(self, output: str) -> None:
        """Writes the model to a local directory, without its tokenizers: `load_causal_rag` reads it.

        An adapter lies beside the generator that it changes, in PEFT's own layout.
        """
        generator, ours = self.rag.generator, dict(getattr(self.config, checkpoints.OUR_KEY, None) or {})
        ours.pop(checkpoints.ADAPTER, None)
        if self._adapted:
            from peft import get_peft_model_state_dict

            config = generator.peft_config["default"].to_dict()
            adapters.write(config, get_peft_model_state_dict(generator), os.path.join(output, checkpoints.ADAPTER))
            ours[checkpoints.ADAPTER] = True
            generator = copy.deepcopy(generator).unload()
        setattr(self.config, checkpoints.OUR_KEY, ours)
        write_causal_rag(self.config, self.generation_config, self.question_encoder, generator, output)


def _adapted(generator: Any, rank: int, adapter: adapters.Adapter | None) -> Any:
    """A generator that learns through a low-rank adapter: a given one, or a new one.

    A new one is of all matrices but the output layer's.
    """
    from peft import LoraConfig, get_peft_model, set_peft_model_state_dict

    wanted: dict[str, Any] = {"r": rank, "lora_alpha": ALPHA * rank, "target_modules": "all-linear"}
    if adapter is not None:
        wanted |= {"lora_alpha": adapter.alpha, "target_modules": list(adapter.matrices)}
    turned = any(isinstance(module, Conv1D) for module in generator.modules())
    found = get_peft_model(generator, LoraConfig(**wanted, fan_in_fan_out=turned, task_type="CAUSAL_LM"))
    if adapter is not None:
        set_peft_model_state_dict(found, adapter.weights)
    return found


class CausalCollator:
    """Makes a batch of tensors from questions with answers, as `TrainableCausalRag` takes them.

    Labels are the answer's tokens, as generation would write them, and the end token.
    """

    def __init__(self, tokenizer: RagTokenizer, model: TrainableCausalRag, settings: FinetuneSettings):
        self._tokenizer, self._settings = tokenizer, settings
        self._prompts, self._end = model.prompts, model.ends[0]

    def __call__(self, questions: Sequence[dict[str, Any]]) -> dict[str, Any]:
        """`input_ids`, `attention_mask` and `labels`, int64 (questions, tokens), and `questions`, their texts."""
        asked = [question["question"] for question in questions]
        encoded = encode_questions(self._tokenizer.question_encoder, asked, self._settings)
        answers = self._prompts.encode_answers([question["answers"][0].strip() for question in questions])
        rows = [torch.tensor([*ids[: self._settings.max_answer_tokens - 1], self._end]) for ids in answers]
        labels = pad_sequence(rows, batch_first=True, padding_value=NO_LABEL)
        return {
            "input_ids": encoded["input_ids"],
            "attention_mask": encoded["attention_mask"],
            "labels": labels,
            "questions": asked,
        }


class CausalTrainer(MarginalTrainer):
    """The Trainer of `TrainableCausalRag`; a checkpoint holds what learns."""

    def for_answers(self, model: Any) -> Any:
        """See `MarginalTrainer`."""
        return model.for_answers()

    def _save(self, output_dir: str | None = None, state_dict: Any = None) -> None:
        """Writes the parameters that learn; the Trainer writes all else of a checkpoint."""
        directory = output_dir or str(self.args.output_dir)
        model: Any = self.model
        os.makedirs(directory, exist_ok=True)
        learned = {name: one.detach().contiguous() for name, one in model.named_parameters() if one.requires_grad}
        save_file(learned, os.path.join(directory, LEARNED))

    def _load_from_checkpoint(self, resume_from_checkpoint: str, model: Any = None) -> None:
        """Reads what `_save` wrote."""
        own: Any = self.model
        own.load_state_dict(load_file(os.path.join(resume_from_checkpoint, LEARNED)), strict=False)
