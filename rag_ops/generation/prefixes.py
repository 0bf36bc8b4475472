"""Keys and values of what stands before the question in causal prompts: each read once, as far as memory goes."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable, Iterator, Sequence

from rag_ops.compute.batching import token_batches
from rag_ops.generation.passage_files import PassageFiles, States

# Tokens of what is read together. On a CPU that is one passage, whose matrices fill it: its keys and values are then
# the same bytes whatever else a batch holds, and whether or not they had to be computed again.
READ_TOKENS = {"cpu": 1, "cuda": 65_536}

Key = tuple[int, ...]


class Prefixes:
    """A store of keys and values by token ids, of which those unused for longest go first.

    Args:
        compute: function from token ids, of some prefixes that are read together, to their states.
        most_bytes: bytes that are held at most; what a batch is being filled with comes on top.
        device: "cpu" or "cuda".
        headed: function from a prefix to how many of its first tokens its states leave out.

    Attributes:
        computed: how many prefixes were computed.
        again: how many of these were computed before, and had to go.
        files: where those are looked for that are not held, and written that are computed; None for nowhere.
    """

    def __init__(
        self,
        compute: Callable[[Sequence[Key]], list[States]],
        most_bytes: int,
        device: str,
        headed: Callable[[Key], int] = lambda key: 0,
    ):
        self._compute, self._most_bytes, self._device, self._headed = compute, most_bytes, device, headed
        self.files: PassageFiles | None = None
        self._held: OrderedDict[Key, States] = OrderedDict()
        self._bytes, self._seen = 0, set[Key]()
        self.computed = self.again = 0

    def forget(self) -> None:
        """Lets go of everything, and begins to count again."""
        self._held.clear()
        self._seen.clear()
        self._bytes = self.computed = self.again = 0

    def get(self, keys: Sequence[Key]) -> Iterator[tuple[Key, States]]:
        """The states of prefixes, each once, those first that are held."""
        missing = []
        for key in dict.fromkeys(keys):
            if key in self._held:
                self._held.move_to_end(key)
                yield key, self._held[key]
            elif self.files and (states := self.files.read(key, len(key) - self._headed(key))):
                self._hold(key, states)
                yield key, states
            else:
                missing.append(key)
        for batch in token_batches([len(key) for key in missing], READ_TOKENS[self._device]):
            chosen = [missing[place] for place in batch]
            for key, states in zip(chosen, self._compute(chosen), strict=True):
                self.computed += 1
                self.again += key in self._seen
                self._seen.add(key)
                if self.files:
                    self.files.write(key, states)
                self._hold(key, states)
                yield key, states

    def _hold(self, key: Key, states: States) -> None:
        size = _bytes(states)
        if size > self._most_bytes:
            return
        while self._bytes + size > self._most_bytes:
            self._bytes -= _bytes(self._held.popitem(last=False)[1])
        self._held[key] = states
        self._bytes += size


def _bytes(states: States) -> int:
    return sum(part.nbytes for pair in states for part in pair)
