"""RAG-Token answers: p(y|x) = prod over t of sum over z of p(z|x) p(y_t|x, z, y_<t) (Lewis et al. 2020, 2.1)."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import torch
from torch.nn.utils.rnn import pad_sequence

from rag_ops import heap
from rag_ops.compute import batching
from rag_ops.compute.batching import token_batches
from rag_ops.compute.devices import pick_device, pick_dtype, torch_threads
from rag_ops.generation.beams import beam_search
from rag_ops.generation.contexts import ContextFormat, encode_contexts
from rag_ops.generation.decoding import Batch, Constraints, Hypothesis
from rag_ops.generation.extractive import Source, Vocabulary
from rag_ops.generation.greedy import greedy
from rag_ops.generation.seq2seq import generator_of
from rag_ops.generation.settings import GenerationSettings
from rag_ops.generation.special_tokens import SpecialTokens, special_tokens
from rag_ops.generation.spelling import respell
from rag_ops.models import checkpoints
from rag_ops.models.encoder import MAX_TEXT_CHARS
from rag_ops.models.loading import load_rag, rag_tokenizer
from rag_ops.questions.failures import MODEL_FAILED, NO_HIT
from schemas.passages import Passage

Contexts = Sequence[tuple[list[int], bool]]  # for one question: token ids of each context, and whether it was cut
BATCH_TOKENS = {"cpu": 8192, "cuda": 131_072}  # context tokens of a batch of questions
ENCODER_TOKENS = {"cpu": 1024, "cuda": 65_536}  # tokens of one encoder batch: on a CPU, what its caches hold


@dataclasses.dataclass(frozen=True)
class Token:
    """One token of an answer: its text, log p(y_t | x, y_<t), and p(z | x, y_1..t) for each passage."""

    text: str
    log_probability: float
    posterior: list[float]


@dataclasses.dataclass(frozen=True)
class Answer:
    """The answer to one question.

    Attributes:
        text: decoded without special tokens, spelt as the settings say; None with an error.
        score: marginal log-probability of its tokens, the end token and forced ones included, as the model gives them;
            natural logarithm.
        posterior: for each passage given, the mean over the answer's tokens of p(z | x, y_1..t); sums to 1.
        truncated: whether a context was cut.
        error: why there is no answer, or None.
        tokens: tokens of the answer as generated, with the end token if there is one.
        token_ids: ids of these tokens.
        others: text and score of the next best answers, best first.
    """

    text: str | None
    score: float | None
    posterior: list[float]
    truncated: bool
    error: str | None = None
    tokens: Sequence[Token] = ()
    token_ids: Sequence[int] = ()
    others: Sequence[tuple[str, float]] = ()


class RagTokenGenerator:
    """The generator of a RAG-Token model, with its tokenizers; answers blocks of questions.

    Args:
        model: the composed model; its generator is taken over, and is not to be used otherwise.
        tokenizer: pair of tokenizers of the model.
        settings: settings of decoding.
        device: "cpu" or "cuda".
        threads: torch threads.
        dtype: "float32", "bfloat16" or "float16", of the weights and the arithmetic; probabilities are float32.
    """

    def __init__(
        self,
        model: Any,
        tokenizer: Any,
        settings: GenerationSettings,
        device: str,
        threads: int,
        dtype: str = "float32",
    ):
        config, generator = model.config, model.rag.generator.to(device, pick_dtype(dtype, device)).eval()
        self._questions, self._answers = tokenizer.question_encoder, tokenizer.generator
        self._settings, self._device, self._threads = settings, device, threads
        prefix = getattr(generator.config, "prefix", None)
        form = ContextFormat.of(config, generator.config, prefix, settings.max_combined_length)
        self._form = dataclasses.replace(form, keep_question=settings.truncation == "question")
        uncased = is_uncased(self._answers)
        self._spelt_by_passages = settings.spelling == "passages" or (
            settings.spelling == "auto" and (uncased or settings.extractive)
        )
        self._vocabulary = Vocabulary(self._answers, uncased) if settings.extractive else None
        self._scale = settings.score_scale or checkpoints.score_scale(config)
        chosen = special_tokens(model.generation_config, config)
        if settings.forced_tokens == "none":
            chosen = chosen.unforced()
        self._pad_id, self._constraints = chosen.pad, constraints_of(chosen, settings, self._answers)
        self._generator = generator_of(generator)
        heap.hold()

    @classmethod
    def load(
        cls,
        directory: str,
        settings: GenerationSettings,
        *,
        device: str = "auto",
        threads: int = 2,
        dtype: str = "auto",
    ) -> RagTokenGenerator:
        """Loads a RAG-Token model from a local directory in Hugging Face's layout.

        Args:
            directory: see `checkpoints.find_model`.
            settings: settings of decoding.
            device: "auto", "cpu" or "cuda".
            threads: torch threads.
            dtype: one of `devices.DTYPES`, or "auto": float32 on a CPU, bfloat16 on a GPU.

        Raises:
            InputError: it is no RAG-Token model, or lacks a part.
            JobError: the device is absent.
        """
        device = pick_device(device)
        tokenizer = rag_tokenizer(directory)
        model = load_rag(directory, pick_dtype(dtype, device))
        return cls(model, tokenizer, settings, device, threads, dtype)

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

        A batch that does not fit in memory is halved. A question that fails alone gets the error in its answer, and
        the others' answers are those of a block without it (`batching.in_batches`).

        Args:
            questions: questions as asked.
            passages: passages of each question, best first; a question without any gets an error.
            scores: inner products, float32 (questions, k); the first len(passages[i]) of row i count.
            batch_tokens: context tokens of a batch; by default what suits the device.
            on_rows: called after each batch with its number of questions.

        Returns:
            One answer a question, in the order given.

        Raises:
            JobError: the machine failed, or has no memory for one question alone.
        """
        answers = [Answer(None, None, [], False, NO_HIT) for _ in questions]
        answerable = [number for number, found in enumerate(passages) if found]
        on_rows(len(questions) - len(answerable))
        contexts, failures = batching.one_by_one(
            len(answerable), lambda places: self._contexts(questions, passages, [answerable[place] for place in places])
        )
        places = sorted(contexts)
        sizes = [len(contexts[place]) * max(len(ids) for ids, _ in contexts[place]) for place in places]

        def work(batch: np.ndarray) -> list[Answer]:
            chosen = [places[number] for number in batch]
            rows, sources = [answerable[place] for place in chosen], None
            if self._vocabulary is not None:
                texts = ([part for one in passages[row] for part in (one.heading, one.text)] for row in rows)
                sources = [Source(parts, self._vocabulary) for parts in texts]
            return self._answer_batch([contexts[place] for place in chosen], [scores[row] for row in rows], sources)

        with torch_threads(self._threads), torch.inference_mode():
            found, failed = batching.in_batches(sizes, batch_tokens or BATCH_TOKENS[self._device], work, on_rows)
        for number, answer in found.items():
            row = answerable[places[number]]
            answers[row] = spelt_as(passages[row], answer) if self._spelt_by_passages else answer
        for place, reason in (failures | {places[number]: reason for number, reason in failed.items()}).items():
            answers[answerable[place]] = Answer(None, None, [], False, f"{MODEL_FAILED} ({reason})")
        return answers

    def _contexts(
        self, questions: Sequence[str], passages: Sequence[Sequence[Passage]], numbers: Sequence[int]
    ) -> list[Contexts]:
        """Token ids of some questions' contexts, best passage first."""
        asked = as_tokenizer_sees(self._questions, [questions[number] for number in numbers])
        pairs = [(passage, text) for number, text in zip(numbers, asked, strict=True) for passage in passages[number]]
        encoded = iter(encode_contexts(self._answers, self._form, [p for p, _ in pairs], [text for _, text in pairs]))
        return [[next(encoded) for _ in passages[number]] for number in numbers]

    def _answer_batch(
        self, contexts: Sequence[Contexts], scores: Sequence[np.ndarray], sources: Sequence[Source] | None = None
    ) -> list[Answer]:
        answers = []
        for best, given in zip(self._decode(contexts, scores, sources), contexts, strict=True):
            written = self._answers.batch_decode([one.tokens for one in best], skip_special_tokens=True)
            first, posterior = best[0], best[0].posterior[:, : len(given)]
            pieces = self._answers.batch_decode([[token] for token in first.tokens])
            tokens = [
                Token(text, float(log_probability), shares.tolist())
                for text, log_probability, shares in zip(pieces, first.log_probs, posterior, strict=True)
            ]
            score, mean = float(first.log_probs.sum()), posterior.mean(0).tolist()
            if math.isnan(score):
                answers.append(Answer(None, None, [], False, f"{MODEL_FAILED} (its scores are not numbers)"))
                continue
            rest = zip(written[1:], best[1:], strict=True)
            others = [(text.strip(), float(one.log_probs.sum())) for text, one in rest]
            cut = any(was_cut for _, was_cut in given)
            answers.append(Answer(written[0].strip(), score, mean, cut, None, tokens, first.tokens, others))
        return answers

    def _decode(
        self, contexts: Sequence[Contexts], scores: Sequence[np.ndarray], sources: Sequence[Source] | None = None
    ) -> list[list[Hypothesis]]:
        """The best sequences of each question of a batch."""
        ids, mask, doc_scores = self._pad(contexts, scores)
        log_prior = (doc_scores * self._scale).log_softmax(-1)
        states = self._encode(ids, mask)
        batch = Batch(self._generator, states, mask.flatten(0, 1), log_prior, self._constraints, sources)
        if self._settings.num_beams == 1:
            return [[one] for one in greedy(batch)]
        return beam_search(batch, self._settings)

    def _pad(
        self, contexts: Sequence[Contexts], scores: Sequence[np.ndarray]
    ) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
        """Context ids and mask, (questions, docs, tokens), and scores, (questions, docs), on the device."""
        docs = max(map(len, contexts))
        # A missing passage is filled by the first one, and its probability is 0.
        rows = [torch.tensor(found[doc if doc < len(found) else 0][0]) for found in contexts for doc in range(docs)]
        ids = pad_sequence(rows, True, self._pad_id).view(len(contexts), docs, -1)
        mask = pad_sequence([torch.ones_like(row) for row in rows], True).view_as(ids)
        doc_scores = torch.full((len(contexts), docs), float("-inf"))
        for row, found in enumerate(contexts):
            doc_scores[row, : len(found)] = torch.from_numpy(np.array(scores[row][: len(found)], np.float32))
        return ids.to(self._device), mask.to(self._device), doc_scores.to(self._device)

    def _encode(self, ids: torch.Tensor, mask: torch.Tensor) -> torch.Tensor:
        """The encoder's states of padded contexts, (questions * docs, tokens, width), each computed at its own length.

        Contexts go through the encoder shortest first, in batches that are padded to their longest; the rest of a row
        is 0, which the mask hides.
        """
        flat_ids, flat_mask = ids.flatten(0, 1), mask.flatten(0, 1)
        lengths = flat_mask.sum(1)
        states: Any = None
        for batch in token_batches(lengths.tolist(), ENCODER_TOKENS[self._device]):
            rows = torch.from_numpy(batch).to(self._device)
            longest = int(lengths[rows].max())
            part = self._generator.encode(flat_ids[rows, :longest], flat_mask[rows, :longest])
            if states is None:
                states = part.new_zeros((*flat_ids.shape, part.shape[-1]))
            states[rows, :longest] = part
        return states


def as_tokenizer_sees(tokenizer: Any, questions: Sequence[str]) -> list[str]:
    """The questions as the question tokenizer decodes them: lower case for DPR, as the generator learned them."""
    if not questions:
        return []
    limit = min(getattr(tokenizer, "model_max_length", 512), 512)
    encoded = tokenizer([question[:MAX_TEXT_CHARS] for question in questions], truncation=True, max_length=limit)
    return tokenizer.batch_decode(encoded["input_ids"], skip_special_tokens=True)


def spelt_as(passages: Sequence[Passage], answer: Answer) -> Answer:
    """The answer with its texts as the passages spell them, those first that it owes most to; all else stays."""
    if answer.text is None:
        return answer
    likely = sorted(range(len(passages)), key=lambda doc: -answer.posterior[doc])
    sources = [part for doc in likely for part in (passages[doc].text, passages[doc].heading)]
    others = [(respell(text, sources), score) for text, score in answer.others]
    return dataclasses.replace(answer, text=respell(answer.text, sources), others=others)


def is_uncased(tokenizer: Any) -> bool:
    """Whether a tokenizer lower-cases its input, so that its text has no capitals."""
    capital, small = (tokenizer(word, add_special_tokens=False)["input_ids"] for word in ("Paris", "paris"))
    return capital == small


def constraints_of(tokens: SpecialTokens, settings: GenerationSettings, tokenizer: Any) -> Constraints:
    """The constraints of decoding; only the special tokens come from the model.

    Args:
        tokens: special tokens of the model.
        settings: settings of decoding.
        tokenizer: tokenizer of the generator, for forbidden words.
    """
    forbidden = {
        tuple(tokenizer(form, add_special_tokens=False)["input_ids"])
        for word in settings.forbidden_words
        for form in (word, " " + word)  # a byte-level tokenizer knows a word at the beginning and one after a space
    }
    return Constraints(
        tokens.start,
        tokens.ends,
        settings.max_new_tokens,
        settings.min_length,
        settings.no_repeat_ngram_size,
        tuple(sorted(sequence for sequence in forbidden if sequence)),
        tokens.first,
        tokens.last,
    )
