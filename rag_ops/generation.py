"""RAG-Token answers: p(y|x) = prod over t of sum over z of p(z|x) p(y_t|x, z, y_<t) (Lewis et al. 2020, 2.1)."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import torch
from transformers import GenerationConfig, RagTokenForGeneration, RagTokenizer
from transformers.modeling_outputs import BaseModelOutput

from rag_ops.bart import BartDecoder
from rag_ops.beams import beam_search
from rag_ops.contexts import ContextFormat, Passage, encode_contexts
from rag_ops.encoding import pick_device, token_batches, torch_threads
from rag_ops.errors import InputError
from rag_ops.greedy import Limits, greedy

Contexts = Sequence[tuple[list[int], bool]]  # of one question: token ids of each context, and whether it was cut
ENCODER_TOKENS = {"cpu": 2048, "cuda": 65_536}  # of one encoder batch
NO_HIT = "no passage was found for the question"


@dataclasses.dataclass(frozen=True)
class GenerationSettings:
    """Every setting of decoding, pinned: none is inherited from a model's files or a library's defaults.

    Attributes:
        num_beams: 1 for greedy decoding.
        min_length: shortest sequence in tokens, counting the decoder's start token, as transformers does.
        max_new_tokens: longest answer in tokens, the end token included.
        length_penalty: a beam's score is its log-probability over length to this power.
        no_repeat_ngram_size: n-grams of this many tokens come once in an answer; 0 for no such rule.
        max_combined_length: longest context in tokens; None for the model's own.
    """

    num_beams: int = 1
    min_length: int = 1
    max_new_tokens: int = 50
    length_penalty: float = 1.0
    no_repeat_ngram_size: int = 0
    max_combined_length: int | None = None


@dataclasses.dataclass(frozen=True)
class Answer:
    """The answer to one question.

    Attributes:
        text: decoded without special tokens; None with an error.
        score: marginal log-probability of its tokens, the end token included; natural logarithm.
        posterior: for each passage given, the mean over the answer's tokens of p(z | x, y_1..t); sums to 1.
        truncated: whether a context was cut.
        error: why there is none.
        token_ids: the answer's tokens as generated, without the start token, with the end token where there is one.
    """

    text: str | None
    score: float | None
    posterior: list[float]
    truncated: bool
    error: str | None = None
    token_ids: Sequence[int] = ()


class RagTokenGenerator:
    """The generator of a RAG-Token model, with its tokenizers; answers blocks of questions.

    Args:
        model: the composed model.
        tokenizer: its pair of tokenizers.
        settings: of decoding.
        device: "cpu" or "cuda".
        threads: torch threads.
    """

    def __init__(self, model: Any, tokenizer: Any, settings: GenerationSettings, device: str, threads: int):
        self._model = model.to(device).eval()
        self._generator = model.rag.generator
        self._questions, self._answers = tokenizer.question_encoder, tokenizer.generator
        self._settings, self._device, self._threads = settings, device, threads
        config = model.config
        self._form = ContextFormat(
            config.title_sep,
            config.doc_sep,
            getattr(self._generator.config, "prefix", None) or "",
            settings.max_combined_length or config.max_combined_length,
        )
        self._generation = generation_config(self._generator.config, settings)
        self._decoder = BartDecoder(self._generator) if BartDecoder.fits(self._generator) else None
        self._states = torch.empty(0)  # of the last batch's contexts: decoding makes them, scoring needs them again
        self._generator.get_encoder().register_forward_hook(self._keep_states)

    @classmethod
    def load(
        cls, directory: str, settings: GenerationSettings, *, device: str = "auto", threads: int = 2
    ) -> RagTokenGenerator:
        """Loads a RAG-Token model from a local directory in Hugging Face's layout, in float32.

        Raises:
            InputError: it is no RAG model, or lacks a part.
            JobError: the device is absent.
        """
        try:
            model = RagTokenForGeneration.from_pretrained(directory, dtype=torch.float32)
            tokenizer = RagTokenizer.from_pretrained(directory)
        except (OSError, ValueError, KeyError) as error:
            raise InputError(f"the RAG model cannot be loaded ({error})", value=directory) from error
        return cls(model, tokenizer, settings, pick_device(device), threads)

    def answer(
        self,
        questions: Sequence[str],
        passages: Sequence[Sequence[Passage]],
        scores: np.ndarray,
        *,
        batch_tokens: int | None = None,
        on_rows: Callable[[int], None] = lambda rows: None,
    ) -> list[Answer]:
        """Answers questions from their retrieved passages.

        Args:
            questions: as asked.
            passages: of each question, best first; a question without any gets an error.
            scores: inner products, float32 (questions, k); the first len(passages[i]) of row i count.
            batch_tokens: context tokens of a batch; by default what suits the device.
            on_rows: told after each batch how many questions it had.

        Returns:
            One answer a question, in the order given.
        """
        answers = [Answer(None, None, [], False, NO_HIT) for _ in questions]
        answerable = [number for number, found in enumerate(passages) if found]
        contexts = self._contexts(questions, passages, answerable)
        budget = batch_tokens or (131_072 if self._device == "cuda" else 8192)
        sizes = [len(contexts[number]) * max(len(ids) for ids, _ in contexts[number]) for number in answerable]
        with torch_threads(self._threads), torch.inference_mode():
            for batch in token_batches(sizes, budget):
                numbers = [answerable[place] for place in batch]
                found = self._answer_batch(
                    [contexts[number] for number in numbers], [scores[number] for number in numbers]
                )
                for number, answer in zip(numbers, found, strict=True):
                    answers[number] = answer
                on_rows(len(numbers))
        return answers

    def _contexts(
        self, questions: Sequence[str], passages: Sequence[Sequence[Passage]], answerable: Sequence[int]
    ) -> dict[int, Contexts]:
        """Token ids of each answerable question's contexts, best passage first."""
        asked = self._as_tokenizer_sees([questions[number] for number in answerable])
        pairs = [
            (passage, text) for number, text in zip(answerable, asked, strict=True) for passage in passages[number]
        ]
        encoded = iter(encode_contexts(self._answers, self._form, [p for p, _ in pairs], [text for _, text in pairs]))
        return {number: [next(encoded) for _ in passages[number]] for number in answerable}

    def _as_tokenizer_sees(self, questions: Sequence[str]) -> list[str]:
        """The questions as the question tokenizer decodes them: lower case for DPR, as the generator learned them."""
        if not questions:
            return []
        limit = min(getattr(self._questions, "model_max_length", 512), 512)
        ids = self._questions(list(questions), truncation=True, max_length=limit)["input_ids"]
        return self._questions.batch_decode(ids, skip_special_tokens=True)

    def _answer_batch(self, contexts: Sequence[Contexts], scores: Sequence[np.ndarray]) -> list[Answer]:
        ids, mask, doc_scores = self._pad(contexts, scores)
        if self._decoder is not None:
            inputs = (self._decoder, self._encode(ids, mask), mask.flatten(0, 1), doc_scores, self._limits())
            if self._settings.num_beams == 1:
                found = greedy(*inputs)
            else:
                penalty = self._settings.length_penalty
                found = beam_search(*inputs, beams=self._settings.num_beams, length_penalty=penalty)
            tokens, token_scores, posteriors = found.tokens, found.scores.numpy(), found.posterior.numpy()
        else:
            tokens, token_scores, posteriors = self._generate(ids, mask, doc_scores)
        texts = self._answers.batch_decode(tokens, skip_special_tokens=True)
        return [
            Answer(
                text.strip(),
                float(token_scores[row]),
                posteriors[row, : len(contexts[row])].tolist(),
                any(cut for _, cut in contexts[row]),
                token_ids=tokens[row],
            )
            for row, text in enumerate(texts)
        ]

    def _limits(self) -> Limits:
        settings, config = self._settings, self._generation
        return Limits(
            config.decoder_start_token_id,
            config.eos_token_id,
            settings.max_new_tokens,
            settings.min_length,
            settings.no_repeat_ngram_size,
        )

    def _pad(
        self, contexts: Sequence[Contexts], scores: Sequence[np.ndarray]
    ) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
        """Context ids and mask, (questions, docs, tokens), and scores, (questions, docs), on the device."""
        docs = max(map(len, contexts))
        length = max(len(ids) for found in contexts for ids, _ in found)
        ids = torch.full((len(contexts), docs, length), self._generation.pad_token_id, dtype=torch.long)
        mask = torch.zeros_like(ids)
        doc_scores = torch.full((len(contexts), docs), float("-inf"))
        for row, found in enumerate(contexts):
            for doc in range(docs):
                # A missing passage is filled by the first one, and its probability is 0.
                tokens = found[doc if doc < len(found) else 0][0]
                ids[row, doc, : len(tokens)] = torch.tensor(tokens)
                mask[row, doc, : len(tokens)] = 1
            doc_scores[row, : len(found)] = torch.from_numpy(np.asarray(scores[row][: len(found)], np.float32))
        return ids.to(self._device), mask.to(self._device), doc_scores.to(self._device)

    def _encode(self, ids: torch.Tensor, mask: torch.Tensor) -> torch.Tensor:
        """The encoder's states of padded contexts, (questions * docs, tokens, width), each computed at its own length.

        Contexts go through the encoder shortest first, in batches that are padded to their longest; the rest of a row
        is 0, which the mask hides.
        """
        flat_ids, flat_mask = ids.flatten(0, 1), mask.flatten(0, 1)
        lengths = flat_mask.sum(1)
        states = None
        for batch in token_batches(lengths.tolist(), ENCODER_TOKENS[self._device]):
            rows = torch.from_numpy(batch).to(self._device)
            longest = int(lengths[rows].max())
            part = self._generator.get_encoder()(
                input_ids=flat_ids[rows, :longest], attention_mask=flat_mask[rows, :longest]
            ).last_hidden_state
            if states is None:
                states = part.new_zeros((*flat_ids.shape, part.shape[-1]))
            states[rows, :longest] = part
        assert states is not None
        return states

    def _generate(
        self, ids: torch.Tensor, mask: torch.Tensor, doc_scores: torch.Tensor
    ) -> tuple[list[list[int]], np.ndarray, np.ndarray]:
        """Tokens, scores and posteriors by transformers' own decoding: beams, and generators without a fast path."""
        docs = doc_scores.shape[1]
        sequences = self._model.generate(
            context_input_ids=ids.flatten(0, 1),
            context_attention_mask=mask.flatten(0, 1),
            doc_scores=doc_scores,
            n_docs=docs,
            generation_config=self._generation,
        )
        real = self._real_tokens(sequences[:, 1:])
        token_scores, posteriors = self._score(mask, doc_scores, sequences, real)
        tokens = [sequences[row, 1:][real[row] > 0].tolist() for row in range(len(sequences))]
        return tokens, token_scores, posteriors

    def _score(
        self,
        mask: torch.Tensor,
        doc_scores: torch.Tensor,
        sequences: torch.Tensor,
        real: torch.Tensor,
    ) -> tuple[np.ndarray, np.ndarray]:
        """Marginal log-probability of each sequence, and the mean posterior over its passages.

        Args:
            mask: 1 for tokens of the contexts of the batch just decoded, (questions, docs, tokens).
            doc_scores: (questions, docs).
            sequences: decoder start token, answer, end token, padding; (questions, length).
            real: 1 for answer and end token, 0 for padding; (questions, length - 1).
        """
        questions, docs = doc_scores.shape
        logits = self._generator(
            encoder_outputs=BaseModelOutput(last_hidden_state=self._states),
            attention_mask=mask.flatten(0, 1),
            decoder_input_ids=sequences[:, :-1].repeat_interleave(docs, dim=0),
            use_cache=False,
        ).logits
        targets = sequences[:, 1:]
        log_probs = logits.float().log_softmax(-1).view(questions, docs, targets.shape[1], -1)
        chosen = log_probs.gather(-1, targets[:, None, :, None].expand(-1, docs, -1, -1)).squeeze(-1)
        joint = doc_scores.log_softmax(-1)[:, :, None] + chosen  # log p(z|x) + log p(y_t|x,z,y_<t)
        marginal = (joint.logsumexp(1) * real).sum(1)
        posterior = (joint.softmax(1) * real[:, None]).sum(-1) / real.sum(1, keepdim=True)
        return marginal.cpu().numpy(), posterior.cpu().numpy()

    def _keep_states(self, _module: Any, _inputs: Any, output: Any) -> None:
        self._states = output.last_hidden_state

    def _real_tokens(self, targets: torch.Tensor) -> torch.Tensor:
        """1 up to and with the first end token, 0 after it; float (questions, length)."""
        ended = (targets == self._generation.eos_token_id).cumsum(1)
        return ((ended - (targets == self._generation.eos_token_id).long()) == 0).float()


def generation_config(config: Any, settings: GenerationSettings) -> GenerationConfig:
    """Transformers' settings from ours; only the special tokens' ids come from the model.

    Raises:
        InputError: the model does not name its end or start token.
    """
    start = getattr(config, "decoder_start_token_id", None)
    start = start if start is not None else getattr(config, "bos_token_id", None)
    eos, pad = getattr(config, "eos_token_id", None), getattr(config, "pad_token_id", None)
    if start is None or eos is None:
        raise InputError(
            "the generator's configuration lacks a token",
            value=f"start {start}, end {eos}",
            expected="both as token ids",
        )
    return GenerationConfig(
        bos_token_id=getattr(config, "bos_token_id", None),
        eos_token_id=eos,
        pad_token_id=pad if pad is not None else eos,
        decoder_start_token_id=start,
        forced_bos_token_id=None,
        forced_eos_token_id=None,
        do_sample=False,
        num_beams=settings.num_beams,
        min_length=settings.min_length,
        max_length=settings.max_new_tokens + 1,
        length_penalty=settings.length_penalty,
        no_repeat_ngram_size=settings.no_repeat_ngram_size,
        early_stopping=False,
        use_cache=True,
    )
