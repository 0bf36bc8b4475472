"""RAG-Token answers: p(y|x) = prod over t of sum over z of p(z|x) p(y_t|x, z, y_<t) (Lewis et al. 2020, 2.1).

Those of RAG-Sequence, the paper's other model, come the same way: see `rag_sequence`.
"""

from __future__ import annotations

import dataclasses
import logging
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import torch

from rag_ops import heap
from rag_ops.compute import batching, processor
from rag_ops.compute.devices import pick_device, pick_dtype, torch_threads
from rag_ops.defaults import ANSWER_BATCH_TOKENS, LAZY_BATCH_TOKENS
from rag_ops.errors import InputError
from rag_ops.generation.answer import Answer, Contexts, chosen, spelt_as, written
from rag_ops.generation.bart import Bart
from rag_ops.generation.beams import beam_search
from rag_ops.generation.causal import Causal
from rag_ops.generation.choices import Targets, choose, targets_of
from rag_ops.generation.contexts import ContextFormat, encode_contexts
from rag_ops.generation.decoding import Batch, Constraints, Hypothesis
from rag_ops.generation.extractive import Source, Vocabulary
from rag_ops.generation.generator import Generator
from rag_ops.generation.greedy import greedy
from rag_ops.generation.lazy import LazyGreedy, pays, sums_behind
from rag_ops.generation.prompts import Prompt, PromptFormat
from rag_ops.generation.rag_sequence import Ranking, rag_sequence
from rag_ops.generation.reading import States, encode, pad_rows
from rag_ops.generation.seq2seq import generator_of
from rag_ops.generation.settings import GenerationSettings
from rag_ops.generation.special_tokens import SpecialTokens, sequence_tokens, special_tokens
from rag_ops.generation.stops import Stops
from rag_ops.models import checkpoints
from rag_ops.models.causal import CausalRag, load_causal_rag
from rag_ops.models.encoder import MAX_TEXT_CHARS
from rag_ops.models.loading import load_rag, rag_tokenizer
from rag_ops.questions.choices import BAD_CHOICES
from rag_ops.questions.failures import MODEL_FAILED, NO_HIT
from rag_ops.questions.gold_answers import UnreadableError
from schemas.passages import Passage

logger = logging.getLogger("ragbeam")
Work = Callable[[Sequence[int]], list[dict[int, Answer]]]
MIN_PROMPT_TOKENS = 32


class RagTokenGenerator:
    """The generator of a RAG model, RAG-Token or RAG-Sequence, with its tokenizers; answers blocks of questions.

    Args:
        model: the composed model, or a `CausalRag`; its generator is taken over, and is not to be used otherwise.
        tokenizer: pair of tokenizers of the model.
        settings: settings of decoding.
        device: "cpu" or "cuda".
        threads: torch threads.
        dtype: "float32", "bfloat16" or "float16", of the weights and the arithmetic; probabilities are float32. With
            lazy decoding it has to be "float32", which "auto" then means.

    Raises:
        InputError: lazy decoding is asked for, and dtype or generator are others than it can prove a token with; or a
            setting is not for this kind of generator, its prompt template fails, or its weights are for another
            decoding.
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
        config = model.config
        named, forced = getattr(config, "architectures", None), settings.any_architecture
        self._decoding = checkpoints.decoding_of(named, config.name_or_path, settings.decoding, forced)
        settings.check_decoding(self._decoding)
        stored, narrow = _dtypes(settings.dtype(dtype), device)
        generator = model.rag.generator.to(device, stored).eval()
        self._questions, self._answers = tokenizer.question_encoder, tokenizer.generator
        self._settings, self._device, self._threads = settings, device, threads
        causal = isinstance(model, CausalRag)
        settings.check_generator(causal)
        if causal and settings.template is None:
            settings = dataclasses.replace(settings, template=checkpoints.prompt_template(config))
        prefix = getattr(generator.config, "prefix", None)
        form = ContextFormat.of(config, generator.config, prefix, settings.max_combined_length)
        self._form = dataclasses.replace(form, keep_question=settings.truncation == "question")
        self._prompts = prompts_of(self._answers, generator.config, form.max_tokens, settings) if causal else None
        uncased = is_uncased(self._answers)
        self._spelt_by_passages = settings.spelling == "passages" or (
            settings.spelling == "auto" and (uncased or settings.extractive)
        )
        self._vocabulary = Vocabulary(self._answers, uncased, spaced=causal) if settings.extractive else None
        self._scale = settings.score_scale or checkpoints.score_scale(config)
        if self._decoding == "token":
            special = special_tokens(model.generation_config, config)
        else:
            special = sequence_tokens(generator.generation_config, generator.config)
        if settings.forced_tokens == "none":
            special = special.unforced()
        self._pad_id, self._constraints = special.pad, constraints_of(special, settings, self._answers)
        head = self._prompts.head if self._prompts else ()
        self._causal = Causal(generator, settings.passage_bytes, narrow, head) if causal else None
        self._generator: Generator = self._causal or generator_of(generator, narrow)
        if self._causal and self._prompts:
            self._constraints = stopping(self._constraints, self._answers, settings.stop or self._prompts.stops)
            self._check_causal(self._causal, self._prompts)
        self._ranking = Ranking.of(config, special, settings.num_beams)
        if settings.closed_set:
            self._check_choices(settings.closed_set)
        self._bart = _bart_of(self._generator) if settings.lazy else None
        self._error = self._bart.probability_error(self._form.max_tokens) if self._bart else 0.0
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
        """Loads a RAG model from a local directory in Hugging Face's layout.

        Args:
            directory: see `checkpoints.find_model`.
            settings: settings of decoding.
            device: "auto", "cpu" or "cuda".
            threads: torch threads.
            dtype: one of `devices.DTYPES`, or "auto": float32 on a CPU, bfloat16 on a GPU. In bfloat16 on a CPU the
                generator's logits and the mixture stay in float32.

        Raises:
            InputError: it is no RAG model, lacks a part, or its weights are not for the decoding.
            JobError: the device is absent, or the processor has no instructions for bfloat16.
        """
        checkpoints.read_decoding(directory, directory, settings.decoding, settings.any_architecture)
        device = pick_device(device)
        tokenizer = rag_tokenizer(directory)
        load = load_causal_rag if checkpoints.is_causal_rag(directory) else load_rag
        model = load(directory, _dtypes(settings.dtype(dtype), device)[0])
        made = cls(model, tokenizer, settings, device, threads, dtype)
        if made._causal and settings.passage_cache:
            with torch_threads(threads):
                digest, most_bytes = checkpoints.model_digest(directory), settings.passage_cache_bytes
                made._causal.keep_in(settings.passage_cache, digest, most_bytes)
        return made

    def answer(
        self,
        questions: Sequence[str],
        passages: Sequence[Sequence[Passage]],
        scores: np.ndarray,
        *,
        choices: Sequence[Sequence[str] | None] | None = None,
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
            choices: for each question the only answers that it may have, or None for those of the settings, if any: the
                likeliest is its answer, and settings of decoding do not count for it.
            batch_tokens: context tokens of a batch; by default what suits the device.
            on_rows: called after each batch with its number of questions.

        Returns:
            One answer a question, in the order given.

        Raises:
            JobError: the machine failed, or has no memory for one question alone.
        """
        docs = max(map(len, passages), default=0)
        how: dict[str, Any] = {"choices": choices, "batch_tokens": batch_tokens, "on_rows": on_rows}
        return self.answer_by_docs(questions, passages, scores, [docs], **how)[docs]

    def answer_by_docs(
        self,
        questions: Sequence[str],
        passages: Sequence[Sequence[Passage]],
        scores: np.ndarray,
        n_docs: Sequence[int],
        *,
        choices: Sequence[Sequence[str] | None] | None = None,
        batch_tokens: int | None = None,
        on_rows: Callable[[int], None] = lambda rows: None,
    ) -> dict[int, list[Answer]]:
        """Answers questions from the first so many of their passages, for several numbers; each is encoded once.

        Args:
            questions, passages, scores, choices, batch_tokens: as in `answer`.
            n_docs: numbers of passages.
            on_rows: called after each batch with its number of answers.

        Returns:
            For each number the answers that `answer` gives from so many passages, one a question, in the order given.

        Raises:
            JobError: the machine failed, or has no memory for one question alone.
        """
        if self._causal:
            self._causal.prefixes.forget()  # what is computed together depends on the block alone
        answers = {n: [Answer(None, None, [], False, NO_HIT) for _ in questions] for n in n_docs}
        most = max(n_docs)
        passages = [found[:most] for found in passages]
        sets = [own or self._settings.closed_set for own in choices or [None] * len(questions)]
        targets, unfit = self._targets(sets)
        answerable = [number for number, found in enumerate(passages) if found and number not in unfit]
        for number, reason in unfit.items():
            for found in answers.values():
                found[number] = Answer(None, None, [], False, reason)
        on_rows((len(questions) - len(answerable)) * len(answers))
        contexts, failures = batching.one_by_one(
            len(answerable), lambda places: self._contexts(questions, passages, [answerable[place] for place in places])
        )
        sizes = {place: len(own) * max(len(ids) for ids, _ in own) for place, own in contexts.items()}
        alike = {place: max(self._own_tokens(ids) for ids, _ in own) for place, own in contexts.items()}

        def work(places: Sequence[int]) -> list[dict[int, Answer]]:
            rows = [answerable[place] for place in places]
            given, own_scores = [contexts[place] for place in places], [scores[row] for row in rows]
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
            return [{n: by_docs[n][number] for n in answers} for number in range(len(rows))]

        def work_choosing(places: Sequence[int]) -> list[dict[int, Answer]]:
            rows = [answerable[place] for place in places]
            given, own_scores = [contexts[place] for place in places], [scores[row] for row in rows]
            states, closed = self._read(given), [sets[row] or () for row in rows]
            by_docs = {}
            for n in answers:
                parts = [found[:n] for found in given]
                batch = self._batch(parts, own_scores, None, states.first(n))
                found = choose(batch, [targets[row] for row in rows], self._decoding != "token")
                by_docs[n] = chosen(self._answers, found, parts, closed)
            return [{n: by_docs[n][number] for n in answers} for number in range(len(rows))]

        def work_lazily(places: Sequence[int]) -> list[dict[int, Answer]]:
            rows = [answerable[place] for place in places]
            sources = self._sources([passages[row] for row in rows])
            found = self._answer_lazily([contexts[place] for place in places], [scores[row] for row in rows], sources)
            return [{most: answer} for answer in found]

        by_place: dict[int, dict[int, Answer]] = {}

        def in_batches(
            places: Sequence[int], work: Callable[[Sequence[int]], list[dict[int, Answer]]], budget: int
        ) -> None:
            results, failed = batching.in_batches(
                [sizes[place] for place in places],
                batch_tokens or budget,
                lambda batch: work([places[number] for number in batch]),
                lambda rows: on_rows(rows * len(answers)),
                [alike[place] for place in places] if self._shares else None,
            )
            by_place.update({places[number]: found for number, found in results.items()})
            failures.update({places[number]: reason for number, reason in failed.items()})

        lazy, closed = set[int](), {place for place in contexts if answerable[place] in targets}
        if self._bart and len(answers) == 1:  # for several numbers the states of all passages are there
            free = contexts.keys() - closed
            lazy = {place for place in free if self._pays(scores[answerable[place]][: len(contexts[place])])}
        with torch_threads(self._threads), torch.inference_mode():
            in_batches(sorted(closed), work_choosing, ANSWER_BATCH_TOKENS[self._device])
            in_batches(sorted(contexts.keys() - lazy - closed), work, ANSWER_BATCH_TOKENS[self._device])
            in_batches(sorted(lazy), work_lazily, LAZY_BATCH_TOKENS[self._device])
        for place, by_docs in by_place.items():
            row = answerable[place]
            for n, answer in by_docs.items():
                answers[n][row] = spelt_as(passages[row][:n], answer) if self._spelt_by_passages else answer
        for place, reason in failures.items():
            row = answerable[place]
            for n in answers:
                if len(answers) > 1:  # fewer passages may do: the one that fails may not be among them
                    alone = ([questions[row]], [passages[row][:n]], scores[row : row + 1])
                    answers[n][row] = self.answer(*alone, choices=[sets[row]])[0]
                else:
                    answers[n][row] = Answer(None, None, [], False, f"{MODEL_FAILED} ({reason})")
        return answers

    @property
    def _shares(self) -> bool:
        """Whether what stands before the question is read apart, once."""
        return bool(self._causal and self._causal.shares)

    def _own_tokens(self, ids: Sequence[int]) -> int:
        """How many tokens of a context are read for one question alone."""
        return len(ids) - (ids.shared if self._shares and isinstance(ids, Prompt) else 0)

    def _pays(self, scores: np.ndarray) -> bool:
        """Whether lazy decoding may pay for a question, by the scores of its passages."""
        weights = np.exp((scores - scores.max()).astype(np.float64) * self._scale)
        priors = -np.sort(-weights / weights.sum())
        return bool(np.isfinite(priors).all()) and pays(sums_behind(priors.tolist()), self._error)

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
        return States(self._encode(ids, mask).unflatten(0, shape), mask.unflatten(0, shape))

    def _encode(self, ids: torch.Tensor, mask: torch.Tensor) -> torch.Tensor:
        """The encoder's states of padded contexts; see `reading.encode`."""
        return encode(self._generator, ids, mask)

    def _contexts(
        self, questions: Sequence[str], passages: Sequence[Sequence[Passage]], numbers: Sequence[int]
    ) -> list[Contexts]:
        """Token ids of some questions' contexts, best passage first."""
        if self._prompts is not None:
            found = [(passage, questions[number]) for number in numbers for passage in passages[number]]
            texts = [question[:MAX_TEXT_CHARS] for _, question in found]
            prompts = iter(self._prompts.encode([passage for passage, _ in found], texts))
            return [[next(prompts) for _ in passages[number]] for number in numbers]
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
        found = self._decode(contexts, scores, sources, states or self._read(contexts))
        return written(self._answers, found, contexts, self._constraints.stops)

    def _answer_lazily(
        self, contexts: Sequence[Contexts], scores: Sequence[np.ndarray], sources: Sequence[Source] | None = None
    ) -> list[Answer]:
        """The answers to a batch, from as few of its contexts as prove them."""

        def read(pairs: Sequence[tuple[int, int]]) -> tuple[torch.Tensor, torch.Tensor]:
            rows = [contexts[question][doc][0] for question, doc in pairs]
            ids, mask = pad_rows(rows, self._pad_id, self._device)
            return self._encode(ids, mask), mask

        prior = self._log_prior(contexts, scores)
        assert self._bart is not None
        search = LazyGreedy(self._bart, read, prior, self._constraints, sources, self._error)
        found = [[one] for one in search.decode(self._settings.exact_scores)]
        return written(self._answers, found, contexts)

    def _decode(
        self,
        contexts: Sequence[Contexts],
        scores: Sequence[np.ndarray],
        sources: Sequence[Source] | None,
        states: States,
    ) -> list[list[Hypothesis]]:
        """The best sequences of each question of a batch."""
        batch = self._batch(contexts, scores, sources, states)
        if self._decoding != "token":
            return rag_sequence(batch, self._settings, self._decoding == "sequence-fast", self._ranking)
        if self._settings.num_beams == 1:
            return [[one] for one in greedy(batch)]
        return beam_search(batch, self._settings)

    @property
    def passages_computed(self) -> tuple[int, int]:
        """How many passages a causal generator read for the last block of questions, and how many of these again."""
        return (self._causal.prefixes.computed, self._causal.prefixes.again) if self._causal else (0, 0)

    def _check_causal(self, generator: Causal, prompts: PromptFormat) -> None:
        """Finds out whether passages may be read once for all questions; says so if not."""
        short, long = (
            Passage("", "Moon", "It orbits the Earth."),
            Passage("", "Sun", "The Sun is a star, as others are."),
        )
        asked = ["what orbits the earth", "who was the first to walk on the moon, and when"]
        pairs = [(passage, question) for passage in (short, long) for question in asked]
        encoded = prompts.encode([passage for passage, _ in pairs], [question for _, question in pairs])
        with torch_threads(self._threads), torch.inference_mode():
            why = generator.check([prompt for prompt, _ in encoded], self._pad_id)
        if why:
            logger.warning("passages are read anew for each question: %s", why)

    def _batch(
        self,
        contexts: Sequence[Contexts],
        scores: Sequence[np.ndarray],
        sources: Sequence[Source] | None,
        states: States,
    ) -> Batch:
        """Questions with their passages, as searches see them."""
        read, mask = states.states.flatten(0, 1), states.mask.flatten(0, 1)
        return Batch(self._generator, read, mask, self._log_prior(contexts, scores), self._constraints, sources)

    def _targets(self, sets: Sequence[Sequence[str] | None]) -> tuple[dict[int, Targets], dict[int, str]]:
        """The tokens of the choices of each question that has some, and why those of others do not do."""
        found: dict[tuple[str, ...], Targets | str] = {}
        for own in sets:
            if own and (key := tuple(own)) not in found:
                try:
                    found[key] = self._targets_of(key)
                except UnreadableError as error:
                    found[key] = f"{BAD_CHOICES} ({error})"
        by_row = {row: found[tuple(own)] for row, own in enumerate(sets) if own}
        return (
            {row: one for row, one in by_row.items() if not isinstance(one, str)},
            {row: one for row, one in by_row.items() if isinstance(one, str)},
        )

    def _targets_of(self, choices: Sequence[str]) -> Targets:
        encode = self._prompts.encode_answers if self._prompts else None
        return targets_of(self._answers, choices, self._constraints, encode)

    def _check_choices(self, choices: Sequence[str]) -> None:
        """Refuses choices of all questions that the tokenizer cannot tell apart, or that are too long."""
        try:
            self._targets_of(choices)
        except UnreadableError as error:
            raise InputError(
                f"--choices does not go with the model or --max_new_tokens ({error})",
                value=self._settings.choices,
                remedy="write it otherwise, or raise --max_new_tokens",
            ) from error

    def _log_prior(self, contexts: Sequence[Contexts], scores: Sequence[np.ndarray]) -> torch.Tensor:
        """Logarithms of p(z|x), float32 (questions, docs), on the device; -inf for a passage that only fills up."""
        doc_scores = torch.full((len(contexts), max(map(len, contexts))), -torch.inf)
        for row, found in enumerate(contexts):
            doc_scores[row, : len(found)] = torch.from_numpy(np.array(scores[row][: len(found)], np.float32))
        return (doc_scores.to(self._device) * self._scale).log_softmax(-1)


def _dtypes(wanted: str, device: str) -> tuple[torch.dtype, bool]:
    """The dtype of a generator's weights as loaded, and whether it computes in bfloat16 all the same (`Bart`).

    Raises:
        JobError: the processor has no instructions for bfloat16.
    """
    dtype = pick_dtype(wanted, device)
    if device == "cpu" and dtype == torch.bfloat16:
        processor.check("bfloat16")
        return torch.float32, True
    return dtype, False


def _bart_of(generator: Generator) -> Bart:
    """The generator, if lazy decoding knows how exactly it computes.

    Raises:
        InputError: it does not.
    """
    if not isinstance(generator, Bart):
        raise InputError(
            "--lazy knows no bound of rounding for this generator",
            value=type(generator).__name__,
            expected="a BART as it comes",
            remedy="leave out --lazy",
        )
    return generator


def prompts_of(tokenizer: Any, config: Any, longest: int, settings: GenerationSettings) -> PromptFormat:
    """The prompts of a causal generator, which leave room for the answer.

    Args:
        tokenizer: tokenizer of the generator.
        config: its configuration.
        longest: longest prompt.
        settings: settings of decoding.

    Raises:
        InputError: there is no room, or the template fails.
    """
    config = config.get_text_config()
    positions = getattr(config, "max_position_embeddings", None)
    rope = getattr(config, "rope_parameters", None) or {}
    if rope.get("rope_type") in ("dynamic", "longrope"):  # whose angles change for all tokens where a text grows longer
        positions = rope.get("original_max_position_embeddings") or positions
    room = min(longest, (positions or longest + settings.max_new_tokens) - settings.max_new_tokens)
    if room < MIN_PROMPT_TOKENS:
        raise InputError(
            "--max_new_tokens leaves no room for a prompt",
            value=f"{settings.max_new_tokens}, so that {room} tokens are left",
            expected=f"{MIN_PROMPT_TOKENS} tokens or more",
        )
    return PromptFormat(tokenizer, settings.template, room, settings.truncation == "question")


def stopping(constraints: Constraints, tokenizer: Any, texts: Sequence[str]) -> Constraints:
    """The constraints, with texts that end an answer."""
    if not texts:
        return constraints
    stops = Stops(tokenizer, texts)
    ends = (*constraints.ends, *(token for token in stops.ends if token not in constraints.ends))
    return dataclasses.replace(constraints, ends=ends, stops=stops)


def as_tokenizer_sees(tokenizer: Any, questions: Sequence[str]) -> list[str]:
    """The questions as the question tokenizer decodes them: lower case for DPR, as the generator learned them."""
    if not questions:
        return []
    limit = min(getattr(tokenizer, "model_max_length", 512), 512)
    encoded = tokenizer([question[:MAX_TEXT_CHARS] for question in questions], truncation=True, max_length=limit)
    return tokenizer.batch_decode(encoded["input_ids"], skip_special_tokens=True)


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
