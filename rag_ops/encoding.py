"""Texts to vectors: any DPR checkpoint or sentence-transformers directory, in length-sorted token-budget batches."""

from __future__ import annotations

import dataclasses
import functools
import os
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import numpy as np
import torch
from transformers import AutoConfig, AutoModel, AutoTokenizer, DPRContextEncoder, DPRQuestionEncoder

from rag_ops import isolating, memory
from rag_ops.checkpoints import EncoderConfig, encoder_config, read_config
from rag_ops.devices import pick_device, torch_threads
from rag_ops.errors import InputError, JobError
from rag_ops.isolating import token_batches as token_batches  # where other modules look for it
from rag_ops.loading import OWN_CLASSES, loading
from rag_ops.packing import pack_linears

WINDOW_ROWS = 4096  # rows tokenised and length-sorted together: bounds memory, and leaves under 1% padding
MAX_TEXT_CHARS = 1 << 16  # of a text; 512 tokens are some 2,500, and a megabyte takes seconds and gigabytes to tokenise
RAG_ENCODER_PREFIX = "rag.question_encoder."


@dataclasses.dataclass
class Tokens:
    """Tokenised rows: ragged ids and token types, and which rows were cut."""

    ids: list[list[int]]
    types: list[list[int]] | None
    truncated: np.ndarray  # bool (rows,)


def _joined(rows: Sequence[tuple[list[int], list[int] | None, bool]]) -> Tokens:
    types = [types for _, types, _ in rows if types is not None]
    truncated = np.array([cut for _, _, cut in rows], dtype=bool)
    return Tokens([ids for ids, _, _ in rows], types if len(types) == len(rows) and rows else None, truncated)


class Encoder:
    """A loaded encoder.

    Attributes:
        config: pooling, normalisation, longest input.
        dimension: numbers of a vector.
    """

    def __init__(self, model: Any, tokenizer: Any, config: EncoderConfig, device: str, threads: int):
        self.config = config
        self._model = model.to(device).eval()
        pack_linears(self._model)
        memory.keep()
        self._tokenizer = tokenizer
        self._device = device
        self._threads = threads
        self._ahead = ThreadPoolExecutor(1)  # tokenises; one for all calls, for each new thread would grow the heap
        self.dimension = _dimension(model)

    @classmethod
    def load(
        cls, directory: str, *, role: str, device: str = "auto", threads: int = 2, max_tokens: int | None = None
    ) -> Encoder:
        """Loads the encoder in a local directory: a DPR checkpoint, a sentence-transformers directory, or a RAG model.

        Args:
            directory: see `checkpoints.find_model`.
            role: "context" or "question".
            device: "auto", "cpu" or "cuda".
            threads: torch threads on a CPU.
            max_tokens: cuts inputs shorter than the model's own limit does.

        Raises:
            InputError: not an encoder, or the wrong side of a DPR pair.
            JobError: the device is absent.
        """
        config = encoder_config(directory, role)
        model = load_encoder_model(directory, role)
        config = dataclasses.replace(config, max_tokens=_limit(config, model, max_tokens))
        subfolder = "question_encoder_tokenizer" if read_config(directory)["model_type"] == "rag" else ""
        with loading("the encoder's tokenizer", directory):
            tokenizer = AutoTokenizer.from_pretrained(directory, subfolder=subfolder, **OWN_CLASSES)
        return cls(model, tokenizer, config, pick_device(device), threads)

    def tokenize(self, texts: Sequence[str], pairs: Sequence[str] | None = None) -> Tokens:
        """Token ids of texts, or of (title, text) pairs, cut to the model's length, the longer side of a pair first.

        Of a text only the first `MAX_TEXT_CHARS` are looked at, which is more than any model's length.
        """
        encoded = self._tokenizer(
            [text[:MAX_TEXT_CHARS] for text in texts],
            [text[:MAX_TEXT_CHARS] for text in pairs] if pairs is not None else None,
            truncation=True,
            max_length=self.config.max_tokens,
            padding=False,
            return_attention_mask=False,
        )
        ids = encoded["input_ids"]
        types = encoded.get("token_type_ids")
        if self.config.zero_token_types:
            types = None
        cut = np.array([bool(encoding.overflowing) for encoding in encoded.encodings or []], dtype=bool)
        long = np.array([len(text) > MAX_TEXT_CHARS for text in texts], dtype=bool)
        if pairs is not None:
            long |= np.array([len(text) > MAX_TEXT_CHARS for text in pairs], dtype=bool)
        return Tokens(ids, types, cut | long if len(cut) else long)

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
        """Vectors of texts, or of (title, text) pairs.

        A batch that does not fit the memory is halved; a row that fails alone does not touch the others
        (`isolating.in_batches`).

        Args:
            texts: questions, or passages' titles.
            pairs: passages' texts, as many.
            batch_tokens: tokens of a batch; by default what suits the device.
            dtype: of the result; the model computes in float32.
            on_rows: told after each batch how many rows it had.
            on_failure: told of each row that cannot be encoded, and why; its vector is 0. By default that is an error.

        Returns:
            Vectors, `dtype` (rows, dimension), in the order given; and whether each text was cut, bool (rows,).

        Raises:
            JobError: a row cannot be encoded and there is no `on_failure`; or the device failed.
        """
        budget = batch_tokens or (65_536 if self._device == "cuda" else 4096)
        vectors = np.empty((len(texts), self.dimension), dtype=dtype)
        truncated = np.zeros(len(texts), dtype=bool)
        starts = range(0, len(texts), WINDOW_ROWS)

        def window(start: int) -> tuple[dict[int, Any], dict[int, str]]:
            chosen, others = texts[start : start + WINDOW_ROWS], pairs[start : start + WINDOW_ROWS] if pairs else None
            return isolating.one_by_one(len(chosen), lambda rows: self._tokenize_rows(chosen, others, rows))

        def fail(row: int, reason: str) -> None:
            vectors[row] = 0
            if on_failure is None:
                raise JobError("a text cannot be encoded", value=f"row {row} ({reason}): {texts[row][:80]}")
            on_failure(row, reason)

        with torch_threads(self._threads), torch.inference_mode():
            pending = self._ahead.submit(window, 0) if len(texts) else None
            for start in starts:
                assert pending is not None
                tokenised, failures = pending.result()
                if start + WINDOW_ROWS < len(texts):  # tokenised while the device works on this window
                    pending = self._ahead.submit(window, start + WINDOW_ROWS)
                numbers = np.array(sorted(tokenised), np.int64)
                tokens = _joined([tokenised[number] for number in numbers])
                truncated[start + numbers] = tokens.truncated
                found: dict[int, np.ndarray]
                found, failed = isolating.in_batches(
                    [len(ids) for ids in tokens.ids], budget, functools.partial(self._encode_batch, tokens), on_rows
                )
                for place, vector in found.items():
                    vectors[start + numbers[place]] = vector
                failures = failures | {int(numbers[place]): reason for place, reason in failed.items()}
                for place, reason in sorted(failures.items()):
                    fail(start + place, reason)
        for row in np.flatnonzero(~np.isfinite(vectors).all(axis=1)).tolist():
            fail(row, f"its vector is not finite in {np.dtype(dtype).name}")
        return vectors, truncated

    def _tokenize_rows(
        self, texts: Sequence[str], pairs: Sequence[str] | None, rows: np.ndarray
    ) -> list[tuple[list[int], list[int] | None, bool]]:
        """Ids, token types and whether it was cut, of some of the texts or pairs."""
        tokens = self.tokenize(
            [texts[row] for row in rows], [pairs[row] for row in rows] if pairs is not None else None
        )
        types = tokens.types if tokens.types is not None else [None] * len(rows)
        return list(zip(tokens.ids, types, tokens.truncated.tolist(), strict=True))

    def _encode_batch(self, tokens: Tokens, rows: np.ndarray) -> np.ndarray:
        length = max(len(tokens.ids[row]) for row in rows)
        ids = torch.full((len(rows), length), self._tokenizer.pad_token_id or 0, dtype=torch.long)
        mask = torch.zeros((len(rows), length), dtype=torch.long)
        types = torch.zeros((len(rows), length), dtype=torch.long)
        for place, row in enumerate(rows):
            count = len(tokens.ids[row])
            ids[place, :count] = torch.tensor(tokens.ids[row])
            mask[place, :count] = 1
            if tokens.types is not None:
                types[place, :count] = torch.tensor(tokens.types[row])
        inputs = {"input_ids": ids.to(self._device), "attention_mask": mask.to(self._device)}
        if tokens.types is not None or self.config.zero_token_types:
            inputs["token_type_ids"] = types.to(self._device)
        pooled = pool(self._model(**inputs), inputs["attention_mask"], self.config)
        return pooled.float().cpu().numpy()


def pool(output: Any, mask: torch.Tensor, config: EncoderConfig) -> torch.Tensor:
    """One vector a text from an encoder's output.

    Args:
        output: a transformers model output.
        mask: 1 for tokens, 0 for padding, (rows, tokens).
        config: pooling and normalisation.

    Returns:
        (rows, dimension), in the model's dtype.
    """
    if config.pooling == "pooler":
        vectors = output.pooler_output
    elif config.pooling == "cls":
        vectors = output.last_hidden_state[:, 0]
    else:
        states = output.last_hidden_state
        weights = mask.unsqueeze(-1).to(states.dtype)
        if config.pooling == "mean":
            vectors = (states * weights).sum(1) / weights.sum(1).clamp(min=1e-9)
        else:
            vectors = states.masked_fill(weights == 0, float("-inf")).amax(1)
    return torch.nn.functional.normalize(vectors, dim=-1) if config.normalize else vectors


def load_encoder_model(directory: str, role: str) -> Any:
    """The bare encoder model of a local directory, in float32; of a RAG model its question encoder alone."""
    model_type = read_config(directory)["model_type"]
    with loading("the encoder", directory):
        if model_type == "rag":
            return _question_encoder_of_rag(directory)
        if model_type == "dpr":
            kind = DPRContextEncoder if role == "context" else DPRQuestionEncoder
            return kind.from_pretrained(directory, dtype=torch.float32)
        return AutoModel.from_pretrained(directory, dtype=torch.float32, **OWN_CLASSES)


def _question_encoder_of_rag(directory: str) -> Any:
    config = AutoConfig.from_pretrained(directory, **OWN_CLASSES).question_encoder
    model = DPRQuestionEncoder(config) if config.model_type == "dpr" else AutoModel.from_config(config, **OWN_CLASSES)
    state = {
        name[len(RAG_ENCODER_PREFIX) :]: tensor for name, tensor in read_weights(directory, RAG_ENCODER_PREFIX).items()
    }
    missing, _ = model.load_state_dict(state, strict=False)
    if missing := [name for name in missing if "position_ids" not in name]:
        raise InputError(
            "the RAG model lacks weights of its question encoder", value=missing[0], expected="a whole checkpoint"
        )
    return model.float()


def read_weights(directory: str, prefix: str) -> dict[str, torch.Tensor]:
    """The tensors of a checkpoint whose names start with `prefix`: from safetensors, or torch files without pickle."""
    from safetensors import safe_open

    names = sorted(os.listdir(directory))
    tensors: dict[str, torch.Tensor] = {}
    for name in [name for name in names if name.endswith(".safetensors")]:
        with safe_open(os.path.join(directory, name), framework="pt") as file:
            tensors |= {key: file.get_tensor(key) for key in file.keys() if key.startswith(prefix)}  # noqa: SIM118
    if not tensors:
        for name in [name for name in names if name.startswith("pytorch_model") and name.endswith(".bin")]:
            state = torch.load(os.path.join(directory, name), map_location="cpu", weights_only=True)
            tensors |= {key: tensor for key, tensor in state.items() if key.startswith(prefix)}
    return tensors


def _limit(config: EncoderConfig, model: torch.nn.Module, max_tokens: int | None) -> int:
    positions = getattr(model.config, "max_position_embeddings", config.max_tokens)
    limit = min(config.max_tokens, positions)
    return min(limit, max_tokens) if max_tokens else limit


def _dimension(model: Any) -> int:
    config = model.config
    return int(getattr(config, "projection_dim", 0) or config.hidden_size)
