"""Encodes texts as vectors, with DPR checkpoints and sentence-transformers directories, and batches by a row's length.

A vector must not depend on which other texts are encoded beside it, or a refreshed corpus could not keep the vectors of
its unchanged passages byte for byte. Matrix kernels choose their order of summation by the shape of the whole batch: in
batches cut by length alone, a third of MiniLM's float16 vectors changed when other rows were left out. Here the shape
follows from the row's own length: it is padded to the next multiple of `STEP_TOKENS`, and the number of rows follows
from that; if too few rows have that length, empty ones fill the batch. What remains to ask is that kernels treat a
row alike wherever in a batch of one shape it lies. Those of torch on CPUs do, in all that was tried, but they do not
promise it: so embed --previous computes a sample anew and compares, and with `batch_tokens=1` each row is alone.
On a CPU each batch is computed by one thread, several side by side, so the number of threads decides nothing either.

On a GPU nothing waits for a batch but the one who takes its vectors: a thread tokenises some windows ahead, another
fills page-locked arrays and queues copies and kernels, and the vectors come back into page-locked arrays of their own.
"""

from __future__ import annotations

import contextlib
import dataclasses
import inspect
import itertools
import logging
from collections import deque
from collections.abc import Callable, Generator, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from typing import Any

import numpy as np
import torch

from rag_ops import heap, machine
from rag_ops.compute import batching, processor
from rag_ops.compute.attention import never_look_at_masks
from rag_ops.compute.devices import pick_device, pick_dtype, torch_threads
from rag_ops.compute.packed_linear import pack_linears
from rag_ops.defaults import ENCODER_BATCH_ROWS, ENCODER_BATCH_TOKENS
from rag_ops.errors import JobError
from rag_ops.models import dense_head
from rag_ops.models.bert_layers import Linear, Place, pack_layers
from rag_ops.models.checkpoints import encoder_config
from rag_ops.models.loading import load_encoder, load_encoder_tokenizer, longest_input
from rag_ops.models.sentence_encoders import UNCHANGED, EncoderChanges, EncoderConfig

logger = logging.getLogger(__name__)
# Rows tokenised together, and how many times that: bounds memory. Few together, for each lot holds the interpreter for
# some milliseconds, and the device runs out of work if its queue is not filled in that time.
WINDOW_ROWS, WINDOWS_AHEAD = 512, 8
STEP_TOKENS = 8  # rows are padded to a multiple: 3% of a passage, and no more shapes than kernels keep
BATCHES_AHEAD = 3  # batches that are queued behind the one that a GPU works on
# Characters of a text; 512 tokens are some 2,500, and a megabyte takes seconds and gigabytes to tokenise
MAX_TEXT_CHARS = 1 << 16


def batch_shape(tokens: int, budget_tokens: int, limit: int, most_rows: int = 64) -> tuple[int, int]:
    """The shape (rows, tokens) of the batch that a row is computed in: it depends only on the row's length.

    Args:
        tokens: number of tokens of the row.
        budget_tokens: most tokens of a batch; a single longer row is a batch of its own.
        limit: longest input of the model.
        most_rows: most rows of a batch.

    >>> batch_shape(130, 512, limit=256), batch_shape(9, 512, limit=256), batch_shape(47, 512, limit=47)
    ((3, 136), (32, 16), (10, 47))
    """
    length = min(-(-max(tokens, 1) // STEP_TOKENS) * STEP_TOKENS, max(limit, tokens))
    return max(1, min(budget_tokens // length, most_rows)), length


@dataclasses.dataclass(frozen=True)
class Tokens:
    """A tokenised text: its token ids, their types if the model has them, and whether it was cut."""

    ids: list[int]
    types: list[int] | None
    truncated: bool


Batch = list[tuple[int, Tokens]]  # texts that are computed together, each with its number among all
# Vectors by place in the batch; for the other places why there is none; and what waits until the vectors are there.
Encoded = tuple[dict[int, np.ndarray], dict[int, str], Callable[[], None]]


class Encoder:
    """A loaded encoder.

    Attributes:
        config: pooling, normalisation, longest input, prefix.
        dimension: numbers of a vector.
    """

    def __init__(self, model: Any, tokenizer: Any, config: EncoderConfig, device: str, threads: int):
        self.config = config
        head = dense_head.take(model)  # neither packed nor cast
        self._head = None if head is None else head.to(device).eval()
        self._model = model.to(device).eval()
        if device != "cpu":
            never_look_at_masks(self._model)
        self._takes_types = "token_type_ids" in inspect.signature(model.forward).parameters
        pack_linears(self._model)
        heap.hold()
        self._tokenizer = tokenizer
        self._device = device
        # One pool for all calls, for each new thread would grow the heap: the first tokenises, the second computes.
        self._ahead = ThreadPoolExecutor(1)
        self._at_once = threads if device == "cpu" else 1
        self._most_rows = ENCODER_BATCH_ROWS[device]
        self._queued = 2 * self._at_once if device == "cpu" else 1 + BATCHES_AHEAD
        self._workers = ThreadPoolExecutor(self._at_once, initializer=torch.set_num_threads, initargs=(1,))
        self.dimension = config.dimension(int(getattr(model.config, "projection_dim", 0) or model.config.hidden_size))

    @classmethod
    def load(
        cls,
        directory: str,
        *,
        role: str,
        device: str = "auto",
        threads: int = 2,
        max_tokens: int | None = None,
        dtype: str = "auto",
        linears: Mapping[Place, Linear] | None = None,
        changes: EncoderChanges = UNCHANGED,
    ) -> Encoder:
        """Loads the encoder in a local directory: a DPR checkpoint, a sentence-transformers directory, or a RAG model.

        Args:
            directory: see `checkpoints.find_model`.
            role: "context" or "question".
            device: "auto", "cpu" or "cuda".
            threads: torch threads on a CPU.
            max_tokens: cuts inputs shorter than the model's own limit does.
            dtype: "float32", "bfloat16" or "float16", of the weights and the arithmetic; "int8" is bfloat16 but for
                `linears`; "auto" is bfloat16 for passages on a GPU, else float32.
            linears: what computes some of the matrices, for int8: see `quantisation`.
            changes: a prefix in place of the model's prompt, and the number of dimensions that are kept.

        Raises:
            InputError: not an encoder, the wrong side of a DPR pair, or one that gives fewer dimensions.
            JobError: the device is absent, or the processor has no instructions for the dtype.
        """
        config, device = encoder_config(directory, role, changes), pick_device(device)
        if device == "cpu":
            processor.check(dtype)
        elif dtype == "int8":
            raise JobError("int8 is for CPUs", value=f"--device {device}", remedy="give --device cpu")
        tokenizer = load_encoder_tokenizer(directory)
        if device == "cpu" and dtype in processor.INSTRUCTIONS:
            model = load_encoder(directory, role)
            if not pack_layers(model, linears or {}):
                head = dense_head.take(model)
                dense_head.attach(model.to(torch.bfloat16), head)
        else:
            model = load_encoder(directory, role, pick_dtype(dtype, device if role == "context" else "cpu"))
        limits = config.max_tokens, longest_input(model, config.max_tokens), max_tokens or config.max_tokens
        config = dataclasses.replace(config, max_tokens=min(limits))
        return cls(model, tokenizer, config, device, threads)

    def tokenize(self, texts: Sequence[str], pairs: Sequence[str] | None = None) -> list[Tokens]:
        """Token ids of texts, or of (title, text) pairs, cut to the model's length, the longer side of a pair first.

        The encoder's prompt comes before each text, or title.
        Of a text only the first `MAX_TEXT_CHARS` are looked at, which is more than any model's length.
        """
        parts = [texts] if pairs is None else [texts, pairs]
        given = [[text[:MAX_TEXT_CHARS] for text in part] for part in parts]
        given[0] = [self.config.prompt + text for text in given[0]]
        limit = self.config.max_tokens
        encoded = self._tokenizer(*given, truncation=True, max_length=limit, padding=False, return_attention_mask=False)
        types = encoded.get("token_type_ids") if self._takes_types and not self.config.zero_token_types else None
        if encoded.encodings is None:  # of a slow tokenizer
            full = self._tokenizer(*given, truncation=False, padding=False)["input_ids"]
            cut = [len(row) > limit for row in full]
        else:
            cut = [bool(encoding.overflowing) for encoding in encoded.encodings]
        for part in parts:
            cut = [was_cut or len(text) > MAX_TEXT_CHARS for was_cut, text in zip(cut, part, strict=True)]
        return list(map(Tokens, encoded["input_ids"], types or [None] * len(texts), cut))

    def encode(
        self,
        texts: Sequence[str],
        pairs: Sequence[str] | None = None,
        *,
        batch_tokens: int | None = None,
        dtype: Any = np.float32,
        on_rows: Callable[[int], None] = lambda rows: None,
        on_failure: Callable[[int, str], None] | None = None,
    ) -> tuple[np.ndarray, np.ndarray]:
        """Encodes texts, or (title, text) pairs, as vectors.

        A batch that does not fit in memory is halved; a row that fails alone does not affect the others.

        Args:
            texts: questions, or passages' titles.
            pairs: passages' texts, as many.
            batch_tokens: most tokens of a batch; by default what suits the device.
            dtype: dtype of the result; pooled and normalised in float32, whatever the model computes in.
            on_rows: called after each batch with its number of rows.
            on_failure: called with each row that cannot be encoded, and why; its vector is 0. None raises.

        Returns:
            The vectors, `dtype` (rows, dimension), in the order given; and whether each text was cut, bool (rows,).
            A row's vector is the same bytes whatever the other rows are.

        Raises:
            JobError: a text cannot be encoded and there is no `on_failure`, and its `row` says which; or the
                machine failed.
        """
        budget = batch_tokens or ENCODER_BATCH_TOKENS[self._device]
        vectors = np.empty((len(texts), self.dimension), dtype=dtype)
        truncated = np.zeros(len(texts), dtype=bool)
        running: deque[tuple[Batch, Future[Encoded]]] = deque()

        def fail(row: int, reason: str) -> None:
            vectors[row] = 0
            if on_failure is None:
                raise JobError(f"a text cannot be encoded ({reason})", value=f"row {row}: {texts[row][:80]}", row=row)
            on_failure(row, reason)

        def take() -> None:
            batch, result = running.popleft()
            found, failed, wait = result.result()
            wait()
            for place, vector in found.items():
                vectors[batch[place][0]] = vector
            for place, reason in sorted(failed.items()):
                fail(batch[place][0], reason)
            on_rows(len(batch))

        batches = contextlib.closing(self._batches(texts, pairs, budget, truncated, fail))
        with torch_threads(1), batches as cut:
            try:
                for shape, batch in cut:
                    running.append((batch, self._workers.submit(self._encode_rows, [row for _, row in batch], shape)))
                    while len(running) > self._queued:
                        take()
                while running:
                    take()
            finally:
                for _, left in running:
                    left.cancel()
        for row in np.flatnonzero(~np.isfinite(vectors).all(axis=1)).tolist():
            fail(row, f"its vector is not finite in {np.dtype(dtype).name}")
        return vectors, truncated

    def encode_alone(self, title: str, text: str) -> np.ndarray:
        """The vector of a passage in a batch of its own, without padding, float32 (dimension,); for a CPU."""
        (row,) = self.tokenize([title], [text])
        return self._encode_batch([row], (1, len(row.ids)))[0]

    def _batches(
        self,
        texts: Sequence[str],
        pairs: Sequence[str] | None,
        budget: int,
        truncated: np.ndarray,
        fail: Callable[[int, str], None],
    ) -> Generator[tuple[tuple[int, int], Batch], None, None]:
        """Yields full batches of rows of one shape, then what is left; notes what was cut, reports what failed."""
        waiting: dict[tuple[int, int], Batch] = {}

        def chosen(places: np.ndarray, start: int) -> list[Tokens]:
            numbers = (start + places).tolist()
            return self.tokenize(
                [texts[n] for n in numbers], [pairs[n] for n in numbers] if pairs is not None else None
            )

        def window(start: int) -> tuple[dict[int, Tokens], dict[int, str]]:
            count = min(WINDOW_ROWS, len(texts) - start)
            return batching.one_by_one(count, lambda places: chosen(places, start))

        starts = iter(range(0, len(texts), WINDOW_ROWS))
        pending: deque[tuple[int, Future[tuple[dict[int, Tokens], dict[int, str]]]]] = deque()

        def look_ahead(windows: int) -> None:
            pending.extend((start, self._ahead.submit(window, start)) for start in itertools.islice(starts, windows))

        try:
            look_ahead(WINDOWS_AHEAD)
            while pending:
                start, result = pending.popleft()
                tokenised, failed = result.result()
                look_ahead(1)
                for place, reason in sorted(failed.items()):
                    fail(start + place, reason)
                for place, row in sorted(tokenised.items()):
                    truncated[start + place] = row.truncated
                    shape = batch_shape(len(row.ids), budget, self.config.max_tokens, self._most_rows)
                    batch = waiting.setdefault(shape, [])
                    batch.append((start + place, row))
                    if len(batch) == shape[0]:
                        yield shape, waiting.pop(shape)
        finally:
            for _, result in pending:
                result.cancel()
        yield from sorted(waiting.items(), key=lambda item: item[0])

    def _encode_rows(self, batch: Sequence[Tokens], shape: tuple[int, int]) -> Encoded:
        """The vectors of a batch, which on a GPU may be on their way."""
        found, failed = batching.one_by_one(
            len(batch), lambda places: self._within_memory([batch[place] for place in places], shape)
        )
        return found, failed, self._arrival()

    def _arrival(self) -> Callable[[], None]:
        """What waits until all that this thread has queued on the device is done.

        Raises:
            JobError: the device failed meanwhile.
        """
        if self._device == "cpu":
            return lambda: None
        event = torch.cuda.Event(blocking=True)
        event.record()

        def wait() -> None:
            try:
                event.synchronize()
            except Exception as error:
                machine.check(error)
                raise

        return wait

    def _within_memory(self, batch: Sequence[Tokens], shape: tuple[int, int]) -> Sequence[np.ndarray] | np.ndarray:
        """The vectors of a batch; of halves of its shape, if it does not fit in memory."""
        try:
            return self._encode_batch(batch, shape)
        except Exception as error:
            if shape[0] == 1 or not machine.is_out_of_memory(error):
                raise
        # Outside of the handler, whose traceback holds the batch's tensors.
        if self._device == "cuda":
            torch.cuda.empty_cache()
        logger.warning("a batch of %d rows of %d tokens is halved: no memory", *shape)
        half = -(-shape[0] // 2)
        parts = [batch[start : start + half] for start in range(0, len(batch), half)]
        return [vector for part in parts for vector in self._within_memory(part, (half, shape[1]))]

    def _encode_batch(self, batch: Sequence[Tokens], shape: tuple[int, int]) -> np.ndarray:
        """The vectors of a batch, float32; on a GPU they come once what `_arrival` gave has waited."""
        with torch.inference_mode():
            given = self._inputs(batch, shape)
            inputs = {name: tensor.to(self._device, non_blocking=True) for name, tensor in given.items()}
            pooled = pool(self._model(**inputs), inputs["attention_mask"], self.config, self._head)[: len(batch)]
            return self._host(pooled.shape, torch.float32).copy_(pooled, non_blocking=True).numpy()

    def _inputs(self, batch: Sequence[Tokens], shape: tuple[int, int]) -> dict[str, torch.Tensor]:
        """The model's inputs, int64 (rows, tokens), in the machine's memory."""
        ids, mask = self._host(shape), self._host(shape)
        lengths = np.zeros((shape[0], 1), np.int64)
        lengths[: len(batch), 0] = [len(row.ids) for row in batch]
        taken = np.arange(shape[1]) < lengths
        ids.fill_(self._tokenizer.pad_token_id or 0)
        ids.numpy()[taken] = [number for row in batch for number in row.ids]
        mask.copy_(torch.from_numpy(taken))
        mask[len(batch) :, 0] = 1  # an empty row has one token to attend to
        inputs = {"input_ids": ids, "attention_mask": mask}
        if batch[0].types is not None or self.config.zero_token_types:
            inputs["token_type_ids"] = types = self._host(shape).zero_()
            if batch[0].types is not None:
                types.numpy()[taken] = [number for row in batch for number in row.types or ()]
        return inputs

    def _host(self, shape: Sequence[int], dtype: torch.dtype = torch.long) -> torch.Tensor:
        """A new tensor in the machine's memory, page-locked if a GPU is to copy it while other work goes on."""
        return torch.empty(shape, dtype=dtype, pin_memory=self._device == "cuda")


def pool(
    output: Any, mask: torch.Tensor, config: EncoderConfig, head: Callable[[torch.Tensor], torch.Tensor] | None = None
) -> torch.Tensor:
    """One vector a text from an encoder's output: pooled, through Dense modules, cut to its dimensions, normalised.

    Args:
        output: a transformers model output.
        mask: 1 for tokens, 0 for padding, (rows, tokens).
        config: pooling, dimensions and normalisation.
        head: the encoder's Dense modules, float32; None if it has none.

    Returns:
        float32 (rows, dimension), also of a model in lower precision.
    """
    if config.pooling == "pooler":
        vectors = output.pooler_output.float()
    else:
        vectors = _pool_states(output.last_hidden_state.float(), mask, config.pooling)
    if head is not None:
        vectors = head(vectors)
    if config.dimensions is not None:
        vectors = vectors[:, : config.dimensions]
    return torch.nn.functional.normalize(vectors, dim=-1) if config.normalize else vectors


def _pool_states(states: torch.Tensor, mask: torch.Tensor, pooling: str) -> torch.Tensor:
    """(rows, tokens, width) to (rows, width); padding may be on either side."""
    rows = torch.arange(len(states), device=states.device)
    first = mask.int().argmax(1)
    if pooling == "cls":
        return states[rows, first]
    if pooling == "lasttoken":
        return states[rows, mask.shape[1] - 1 - mask.flip(1).int().argmax(1)]
    weights = mask.unsqueeze(-1).to(states.dtype)
    if pooling == "max":
        return states.masked_fill(weights == 0, float("-inf")).amax(1)
    if pooling == "weightedmean":
        places = torch.arange(1, mask.shape[1] + 1, device=states.device) - first[:, None]
        weights = weights * places.unsqueeze(-1).to(states.dtype)
    total, number = (states * weights).sum(1), weights.sum(1).clamp(min=1e-9)
    return total / (number.sqrt() if pooling == "mean_sqrt_len_tokens" else number)
