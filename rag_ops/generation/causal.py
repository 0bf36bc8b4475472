"""Any causal generator: Llama, Qwen, Gemma, SmolLM, GPT-2 and others, through their own modules in transformers.

A row is a prompt, that of one passage. Rows end in one column, so that all answers begin in the next: a row of a batch
is padding, then what stands before the question, whose keys and values `Prefixes` has, then its own tokens, which are
read here. So columns are as far apart as positions in a prompt alone, and windows and relative positions are right.

Where a prompt's parts do not add up to the whole (recurrent layers keep no keys; `check` finds out), prompts are read
whole, by transformers' own cache.
"""

from __future__ import annotations

import copy
import dataclasses
import inspect
import logging
from collections.abc import Sequence
from typing import Any

import torch
import transformers
from transformers.cache_utils import Cache, DynamicCache, DynamicLayer, DynamicSlidingWindowLayer

from rag_ops import machine
from rag_ops.compute.packed_linear import pack_linears
from rag_ops.errors import InputError
from rag_ops.generation.bart import of_targets
from rag_ops.generation.batch_memory import SCORED_ROWS
from rag_ops.generation.grouped_attention import share_heads
from rag_ops.generation.passage_files import PassageFiles, States
from rag_ops.generation.prefixes import Key, Prefixes
from rag_ops.generation.prompts import Prompt
from rag_ops.generation.reading import SHARED, pad_rows

MAX_DIFFERENCE = 1e-4  # between logarithms of probabilities in float32, by a prompt's parts and by the whole of it
ROUNDINGS = 8  # the same in other dtypes, in units of their own rounding of the largest logit
logger = logging.getLogger("ragbeam")


class _Layer(DynamicLayer):
    """Keys and values of one layer in the place that they need at last, (rows, heads, columns, width).

    Args:
        columns: number of columns.
        own: which of the first columns to be written are a row's own, bool (rows, columns); others stay as they are.
        length: columns that are filled.
        padding: how many columns the longest padding before a row has.
    """

    _layer_type = None
    keys: Any
    values: Any

    def __init__(self, columns: int, own: torch.Tensor, length: int, padding: int):
        super().__init__()
        self._padding = padding
        self._columns, self._rows, self.length = columns, len(own), length
        self._own: torch.Tensor | None = own

    def lazy_initialization(self, key_states: torch.Tensor, value_states: torch.Tensor) -> None:
        """Makes room; see the parent class."""
        self.dtype, self.device = key_states.dtype, key_states.device
        shapes = [(self._rows, part.shape[-3], self._columns, part.shape[-1]) for part in (key_states, value_states)]
        self.keys, self.values = key_states.new_empty(shapes[0]), value_states.new_empty(shapes[1])
        for part in (self.keys, self.values):  # hidden, but numbers: what is not one would spread
            part[:, :, : self._padding] = 0
        self.is_initialized = True

    def put(self, row: int, begin: int, keys: torch.Tensor, values: torch.Tensor) -> None:
        """Writes what was read before, (heads, tokens, width), into a row, from a column on."""
        if not self.is_initialized:
            self.lazy_initialization(keys, values)
        place = slice(begin, begin + keys.shape[1])
        self.keys[row, :, place], self.values[row, :, place] = keys, values

    def update(self, key_states: torch.Tensor, value_states: torch.Tensor, *_: Any, **__: Any) -> Any:
        """Appends columns; see the parent class."""
        if not self.is_initialized:
            self.lazy_initialization(key_states, value_states)
        place = slice(self.length, self.length + key_states.shape[-2])
        for held, new in ((self.keys, key_states), (self.values, value_states)):
            if self._own is not None:
                new = torch.where(self._own[:, None, :, None], new, held[:, :, place])
            held[:, :, place] = new
        self._own, self.length = None, place.stop
        return self.keys[:, :, : place.stop], self.values[:, :, : place.stop]

    def get_seq_length(self) -> int:
        """Number of columns that are filled."""
        return self.length

    def choose(self, places: torch.Tensor, begin: int) -> None:
        """Takes other rows, in the columns from `begin` on if there are as many as before."""
        if not self.is_initialized:  # of a layer that takes another's
            return
        if begin and len(places) == len(self.keys):
            part = slice(begin, self.length)
            self.keys[:, :, part], self.values[:, :, part] = self.keys[places, :, part], self.values[places, :, part]
        else:
            self.keys, self.values = self.keys[places], self.values[places]

    def close_gaps(self, count: int, gaps: torch.Tensor, places: torch.Tensor) -> None:
        """Keeps the first so many rows, with those from other places in some of them."""
        if not self.is_initialized:
            return
        for part in (self.keys, self.values):
            part[gaps, :, : self.length] = part[places, :, : self.length]
        self.keys, self.values = self.keys[:count], self.values[:count]


class _Widened(torch.nn.Module):
    """A float32 output layer behind layers in another dtype."""

    def __init__(self, layer: torch.nn.Module):
        super().__init__()
        self.layer = layer

    def forward(self, states: torch.Tensor) -> torch.Tensor:
        return self.layer(states.float())


@dataclasses.dataclass
class CausalCache:
    """What the next step reads, a row for each beam of each prompt.

    Attributes:
        inner: keys and values.
        mask: 1 for columns that hold a token, int64 (N * K, columns); all of them from the answer on.
        lengths: tokens of each prompt, int64 (N * K,).
        prompt: column that answers begin in.
        first: logits of the first token, float (N, vocabulary); None from then on.
        taken: number of tokens that answers have.
        beams: number of beams, K.
    """

    inner: Any
    mask: torch.Tensor
    lengths: torch.Tensor
    prompt: int
    first: torch.Tensor | None
    taken: int = 0
    beams: int = 1

    def reorder(self, parents: torch.Tensor) -> None:
        """See `DecoderCache`."""
        rows = torch.arange(len(parents), device=parents.device)[:, None] * self.beams
        same, self.beams = parents.shape[1] == self.beams, parents.shape[1]
        self._select((rows + parents).flatten(), begin=self.prompt if same else 0)

    def keep(self, rows: torch.Tensor) -> None:
        """See `DecoderCache`."""
        beams = torch.arange(self.beams, device=rows.device)
        self._select((rows[:, None] * self.beams + beams).flatten())

    def _select(self, places: torch.Tensor, begin: int = 0) -> None:
        self.mask, self.lengths = self.mask[places], self.lengths[places]
        if self.first is not None:
            self.first = self.first[places]
        count = len(places)
        gaps = (places != torch.arange(count, device=places.device)).nonzero()[:, 0]
        closes = bool((places[gaps] >= count).all()) and not begin  # nothing is taken from where something is put
        for layer in self.inner.layers:
            if not isinstance(layer, _Layer):
                layer.reorder_cache(places)
            elif closes:
                layer.close_gaps(count, gaps, places[gaps])
            else:
                layer.choose(places, begin)


class Causal:
    """A causal generator. Its "states" of a prompt are the token ids, and the mask is `SHARED` for the first of them.

    Args:
        model: any `AutoModelForCausalLM` in evaluation mode; on a CPU its linear layers
            may be packed in place.
        passage_bytes: bytes of keys and values that are held for questions to come.
        narrow: whether to compute a float32 model in bfloat16, but for its logits, from which tokens are chosen.
        head: token ids that prompts begin with, which are read once for all passages.
    """

    def __init__(self, model: Any, passage_bytes: int, narrow: bool = False, head: Sequence[int] = ()):
        if narrow:
            wide = copy.deepcopy(model.get_output_embeddings())
            model.to(torch.bfloat16)
            model.set_output_embeddings(_Widened(wide))
        self._dtype = torch.bfloat16 if narrow else next(model.parameters()).dtype
        self._model, self._device = model, next(model.parameters()).device.type
        self._head, self._head_states = tuple(head), States()
        both = (model, model.base_model)
        self._takes: dict[Any, Any] = {one: inspect.signature(one.forward).parameters for one in both}
        self.shares = keeps_keys(model)
        self._masks_steps = True  # recurrent layers have nothing to mask but the prompt
        self.prefixes = Prefixes(self._read_prefixes, passage_bytes, self._device, self._headed)
        if self._device == "cpu":
            share_heads(model)
        if self.shares:  # recurrent layers look into their matrices
            pack_linears(model)

    def encode(self, ids: torch.Tensor, mask: torch.Tensor) -> torch.Tensor:
        """The token ids, int64 (N, tokens, 1)."""
        return ids[..., None]

    def start(self, states: torch.Tensor, mask: torch.Tensor, longest: int, beams: int = 1) -> CausalCache:
        """See `Generator`; it reads the prompts. `beams` is not needed."""
        ids, lengths = states[..., 0], (mask > 0).sum(1)
        shared = (mask == SHARED).sum(1) if self.shares else torch.zeros_like(lengths)
        last, own = int(lengths.max()), int((lengths - shared).max())
        columns = torch.arange(last, device=ids.device)
        begins = (last - lengths)[:, None]
        filled = torch.zeros((len(ids), last + longest), dtype=torch.long, device=ids.device)
        filled[:, :last] = columns >= begins
        filled[:, last:] = 1
        block = columns[last - own :]
        places = (block - begins).clamp_min(0)
        is_own = block >= begins + shared[:, None]
        tokens = ids.gather(1, places) * is_own
        if self.shares:
            inner = self._filled(ids, shared.tolist(), begins[:, 0].tolist(), last, last + longest, is_own)
        else:
            inner = DynamicCache(config=self._model.config)
        logits = self._forward(tokens, filled[:, :last], places, inner)
        return CausalCache(inner, filled, lengths, last, logits)

    def step(self, tokens: torch.Tensor, cache: CausalCache) -> torch.Tensor:
        """See `Generator`. Before the first token comes the prompt: `tokens` is then passed over."""
        if cache.first is not None:
            logits, cache.first = cache.first[:, None], None
            return logits
        ends = cache.prompt + cache.taken + 1
        places = (cache.lengths + cache.taken)[:, None]
        mask = cache.mask[:, :ends] if self._masks_steps else None
        logits = self._forward(tokens.reshape(-1, 1), mask, places, cache.inner)
        cache.taken += 1
        return logits.view(*tokens.shape, -1)

    def log_probs_of(self, tokens: torch.Tensor, states: torch.Tensor, mask: torch.Tensor) -> torch.Tensor:
        """See `ScoringGenerator`. Answers go through as beams do, as many at once as make `SCORED_ROWS` rows."""
        at_once = max(1, SCORED_ROWS // len(states))
        return torch.cat([self._log_probs_of(part, states, mask) for part in tokens.split(at_once, 1)], 1)

    def _log_probs_of(self, tokens: torch.Tensor, states: torch.Tensor, mask: torch.Tensor) -> torch.Tensor:
        (rows, answers, length), found = tokens.shape, []
        cache = self.start(states, mask, length - 1, answers)
        for place in range(length - 1):
            logits = self.step(tokens[:, : answers if place else 1, place], cache)
            if not place:  # all begin alike, so one is computed
                logits = logits.expand(-1, answers, -1)
                cache.reorder(torch.zeros((rows, answers), dtype=torch.long, device=tokens.device))
            found.append(of_targets(logits, tokens[:, :, place + 1]))
        return torch.stack(found, -1)

    def check(self, prompts: Sequence[Prompt], pad_id: int) -> str | None:
        """Compares prompts that are read together with each read alone, and stops sharing if that changes anything.

        Args:
            prompts: some, of different lengths.
            pad_id: filler.

        Returns:
            Why prompts are read whole, or None if they are not.

        Raises:
            InputError: a prompt read beside others gives other answers than alone, even so.
        """
        whole = [self._alone(prompt) for prompt in prompts]
        why = None if self.shares else "it has layers that keep no keys and values"
        if self.shares and not any(prompt.shared for prompt in prompts):
            self.shares, why = False, "its prompts begin with the question"
        if self.shares and (off := self._difference(prompts, whole, pad_id)):
            self.shares, why = False, f"passage and question read apart give {off}"
        if not self.shares and self._difference(prompts, whole, pad_id):
            self._masks_steps = False
        if not self.shares and (off := self._difference(prompts, whole, pad_id)):
            raise InputError(
                f"the generator computes otherwise beside longer prompts: {off}",
                value=self._model.config.model_type,
                expected="a model that passes over padding",
                remedy="use another generator",
            )
        self.prefixes.forget()
        return why

    def _difference(self, prompts: Sequence[Prompt], whole: Sequence[torch.Tensor], pad_id: int) -> str:
        """What differs between prompts together and alone, as words; empty if nothing does."""
        ids, mask = pad_rows(prompts, pad_id, self._device)
        try:
            cache = self.start(self.encode(ids, mask), mask, 2)
            first = self.step(ids[:, :1], cache)
            taken = torch.stack([logits[:1].argmax(-1) for logits in whole])
            both = torch.cat([first, self.step(taken, cache)], 1)
        except Exception as error:  # of a model that takes its cache otherwise: whatever it raises
            machine.check(error)
            return f"an error ({type(error).__name__})"
        found, alone = both.float().log_softmax(-1), torch.stack(list(whole))
        off = float((found - alone.log_softmax(-1)).abs().max())
        largest = max(1.0, float(alone.abs().max()))
        most = MAX_DIFFERENCE if self._dtype == torch.float32 else ROUNDINGS * torch.finfo(self._dtype).eps * largest
        return "" if off <= most else f"probabilities that differ by {off:.2g} in their logarithms"

    def _alone(self, prompt: Prompt) -> torch.Tensor:
        """Logits of two tokens after one prompt, read whole and without a cache, float32 (2, vocabulary)."""
        ids, rows = list(prompt), []
        for _ in range(2):
            given = torch.tensor([ids], device=self._device)
            rows.append(self._model(input_ids=given, use_cache=False).logits[0, -1].float())
            ids.append(int(rows[-1].argmax()))
        return torch.stack(rows)

    def _filled(
        self, ids: torch.Tensor, shared: list[int], begins: list[int], last: int, columns: int, is_own: torch.Tensor
    ) -> Cache:
        """A cache with what stands before the questions."""
        keys = [tuple(row[:count]) for row, count in zip(ids.tolist(), shared, strict=True)]
        rows: dict[Key, list[int]] = {}
        for row, key in enumerate(keys):
            rows.setdefault(key, []).append(row)
        made = (columns, is_own, last - is_own.shape[1], max(begins))
        layers = [_Layer(*made) for _ in range(_layers(self._model))]
        for key, states in self.prefixes.get([key for key in rows if key]):
            head = self._headed(key)
            for row in rows[key]:
                for layer, pair in zip(layers, self._head_states if head else (), strict=False):
                    layer.put(row, begins[row], *pair)
                for layer, pair in zip(layers, states, strict=False):
                    layer.put(row, begins[row] + head, *pair)
        return Cache(layers=[*layers])

    def keep_in(self, url: str, model: str, most_bytes: int) -> None:
        """From now on looks for what it read of passages in files too, and writes it there.

        Args:
            url: directory or fsspec URL.
            model: digest of the model.
            most_bytes: bytes that the directory may hold.
        """
        kernels = torch.__version__, transformers.__version__, torch.backends.cpu.get_cpu_capability()
        how = (model, self._dtype, self._device, torch.get_num_threads(), self._head, kernels)
        self.prefixes.files = PassageFiles(url, repr(how), self._device, most_bytes)

    def _headed(self, key: Key) -> int:
        """How many tokens a prefix begins with that are the head of all prompts: all of it, or none."""
        size = len(self._head)
        return size if size < len(key) and key[:size] == self._head else 0

    def _read_prefixes(self, keys: Sequence[Key]) -> list[States]:
        """What comes behind the head in prefixes that have it, and all of others."""
        found: dict[Key, States] = {}
        for head in {self._headed(key) for key in keys}:
            if head and not self._head_states:
                [self._head_states] = self._read([self._head], [])
            alike = [key for key in keys if self._headed(key) == head]
            before = self._head_states if head else []
            found |= zip(alike, self._read([key[head:] for key in alike], before), strict=True)
        return [found[key] for key in keys]

    def _read(self, keys: Sequence[Key], before: States) -> list[States]:
        """Keys and values of token ids that stand behind others, of which they are known."""
        ids, mask = pad_rows(keys, 0, self._device)
        layers = [DynamicLayer() for _ in range(_layers(self._model))]
        for layer, pair in zip(layers, before, strict=False):
            layer.update(*(part.expand(len(keys), *part.shape) for part in pair))
        start = before[0][0].shape[1] if before else 0
        places = (torch.arange(ids.shape[1], device=ids.device) + start).expand_as(ids)
        mask = torch.cat([mask.new_ones((len(keys), start)), mask], 1)
        self._run(self._model.base_model, ids, mask, places, Cache(layers=[*layers]))  # logits are for nobody
        used: list[Any] = [layer for layer in layers if layer.is_initialized]
        return [
            [tuple(part[row, :, start : start + len(key)].clone() for part in (one.keys, one.values)) for one in used]
            for row, key in enumerate(keys)
        ]

    def _forward(self, ids: torch.Tensor, mask: torch.Tensor | None, places: torch.Tensor, inner: Any) -> torch.Tensor:
        """Logits after the last of some tokens, (rows, vocabulary)."""
        return self._run(self._model, ids, mask, places, inner).logits[:, -1]

    def _run(self, model: Any, ids: torch.Tensor, mask: torch.Tensor | None, places: torch.Tensor, inner: Any) -> Any:
        """What the model, or its layers alone, gives for some tokens; `inner` has their keys and values then."""
        takes = self._takes[model]
        cache = "cache_params" if "cache_params" in takes else "past_key_values"
        given = {"input_ids": ids, "attention_mask": mask, cache: inner, "use_cache": True}
        more = {"position_ids": places, "logits_to_keep": 1}
        return model(**given, **{name: value for name, value in more.items() if name in takes})


def keeps_keys(model: Any) -> bool:
    """Whether all layers of a model keep keys and values of each token."""
    known = (DynamicLayer, DynamicSlidingWindowLayer)
    return all(type(layer) in known for layer in DynamicCache(config=model.config).layers)


def _layers(model: Any) -> int:
    return len(DynamicCache(config=model.config).layers)
