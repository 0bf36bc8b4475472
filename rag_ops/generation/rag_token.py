"""RAG-Token answers: p(y|x) = prod over t of sum over z of p(z|x) p(y_t|x, z, y_<t) (Lewis et al. 2020, 2.1)."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import torch

from rag_ops import heap
from rag_ops.compute import batching
from rag_ops.compute.devices import pick_device, pick_dtype, torch_threads
from rag_ops.generation.beams import beam_search
from rag_ops.generation.contexts import ContextFormat, encode_contexts
from rag_ops.generation.decoding import Batch, Constraints, Hypothesis
from rag_ops.generation.extractive import Source, Vocabulary
from rag_ops.generation.greedy import greedy
from rag_ops.generation.reading import States, encode, pad_rows
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
        docs = max(map(len, passages), default=0)
        found = self.answer_by_docs(questions, passages, scores, [docs], batch_tokens=batch_tokens, on_rows=on_rows)
        return found[docs]

    def answer_by_docs(
        self,
        questions: Sequence[str],
        passages: Sequence[Sequence[Passage]],
        scores: np.ndarray,
        n_docs: Sequence[int],
        *,
        batch_tokens: int | None = None,
        on_rows: Callable[[int], None] = lambda rows: None,
    ) -> dict[int, list[Answer]]:
        """Answers questions from the first so many of their passages, for several numbers; each is encoded once.

        Args:
            questions, passages, scores, batch_tokens: as in `answer`.
            n_docs: numbers of passages.
            on_rows: called after each batch with its number of answers.

        Returns:
            For each number the answers that `answer` gives from so many passages, one a question, in the order given.

        Raises:
            JobError: the machine failed, or has no memory for one question alone.
        """
        answers = {n: [Answer(None, None, [], False, NO_HIT) for _ in questions] for n in n_docs}
        most = max(n_docs)
        passages = [found[:most] for found in passages]
        answerable = [number for number, found in enumerate(passages) if found]
        on_rows((len(questions) - len(answerable)) * len(answers))
        contexts, failures = batching.one_by_one(
            len(answerable), lambda places: self._contexts(questions, passages, [answerable[place] for place in places])
        )
        places = sorted(contexts)
        sizes = [len(contexts[place]) * max(len(ids) for ids, _ in contexts[place]) for place in places]

        def work(batch: np.ndarray) -> list[dict[int, Answer]]:
            chosen = [places[number] for number in batch]
            rows = [answerable[place] for place in chosen]
            given, own_scores = [contexts[place] for place in chosen], [scores[row] for row in rows]
            states = self._read(given)
            by_docs = {
                n: self._answer_batch(
                    [found[:n] for found in given],
                    own_scores,
                    self._sources([passages[row][:n] for row in rows]),
                    states.first(n),
                )
                for n in answers
            }
            return [{n: by_docs[n][place] for n in answers} for place in range(len(rows))]

        def count(rows: int) -> None:
            on_rows(rows * len(answers))

        with torch_threads(self._threads), torch.inference_mode():
            results, failed = batching.in_batches(sizes, batch_tokens or BATCH_TOKENS[self._device], work, count)
        for number, by_docs in results.items():
            row = answerable[places[number]]
            for n, answer in by_docs.items():
                answers[n][row] = spelt_as(passages[row][:n], answer) if self._spelt_by_passages else answer
        failures |= {places[number]: reason for number, reason in failed.items()}
        for place, reason in failures.items():
            row = answerable[place]
            for n in answers:
                if len(answers) > 1:  # fewer passages may do: the one that fails may not be among them
                    answers[n][row] = self.answer([questions[row]], [passages[row][:n]], scores[row : row + 1])[0]
                else:
                    answers[n][row] = Answer(None, None, [], False, f"{MODEL_FAILED} ({reason})")
        return answers

    def _sources(self, passages: Sequence[Sequence[Passage]]) -> list[Source] | None:
        """The texts that each question's answer must stand in; None if it need not."""
        if self._vocabulary is None:
            return None
        texts = ([part for one in found for part in (one.heading, one.text)] for found in passages)
        return [Source(parts, self._vocabulary) for parts in texts]

    def _read(self, contexts: Sequence[Contexts]) -> States:
        """The encoder's states of all contexts of a batch; a missing one is filled by the question's first."""
        docs = max(map(len, contexts))
        rows = [found[doc if doc < len(found) else 0][0] for found in contexts for doc in range(docs)]
        ids, mask = pad_rows(rows, self._pad_id, self._device)
        shape = (len(contexts), docs)
        return States(encode(self._generator, ids, mask).unflatten(0, shape), mask.unflatten(0, shape))

    def _contexts(
        self, questions: Sequence[str], passages: Sequence[Sequence[Passage]], numbers: Sequence[int]
    ) -> list[Contexts]:
        """Token ids of some questions' contexts, best passage first."""
        asked = as_tokenizer_sees(self._questions, [questions[number] for number in numbers])
        pairs = [(passage, text) for number, text in zip(numbers, asked, strict=True) for passage in passages[number]]
        encoded = iter(encode_contexts(self._answers, self._form, [p for p, _ in pairs], [text for _, text in pairs]))
        return [[next(encoded) for _ in passages[number]] for number in numbers]

    def _answer_batch(
        self,
        contexts: Sequence[Contexts],
        scores: Sequence[np.ndarray],
        sources: Sequence[Source] | None = None,
        states: States | None = None,
    ) -> list[Answer]:
        """The answers to a batch; `states` are those of the contexts, if they are there already."""
        answers = []
        decoded = self._decode(contexts, scores, sources, states or self._read(contexts))
        for best, given in zip(decoded, contexts, strict=True):
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
        self,
        contexts: Sequence[Contexts],
        scores: Sequence[np.ndarray],
        sources: Sequence[Source] | None,
        states: States,
    ) -> list[list[Hypothesis]]:
        """The best sequences of each question of a batch."""
        log_prior = self._log_prior(contexts, scores)
        read, mask = states.states.flatten(0, 1), states.mask.flatten(0, 1)
        batch = Batch(self._generator, read, mask, log_prior, self._constraints, sources)
        if self._settings.num_beams == 1:
            return [[one] for one in greedy(batch)]
        return beam_search(batch, self._settings)

    def _log_prior(self, contexts: Sequence[Contexts], scores: Sequence[np.ndarray]) -> torch.Tensor:
        """Logarithms of p(z|x), float32 (questions, docs), on the device; -inf for a passage that only fills up."""
        doc_scores = torch.full((len(contexts), max(map(len, contexts))), -torch.inf)
        for row, found in enumerate(contexts):
            doc_scores[row, : len(found)] = torch.from_numpy(np.array(scores[row][: len(found)], np.float32))
        return (doc_scores.to(self._device) * self._scale).log_softmax(-1)


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
