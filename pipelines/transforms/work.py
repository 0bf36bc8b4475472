"""The working directory of a job over questions: blocks, vectors, texts and results lie there between its steps."""

from __future__ import annotations

import dataclasses

from rag_ops.storage import store


@dataclasses.dataclass(frozen=True)
class Work:
    """A job's working directory: named by the run's fingerprint, so no other run's files are in it."""

    url: str

    @classmethod
    def of(cls, output: str, fingerprint: str) -> Work:
        """The working directory of a run that writes to `output`."""
        return cls(store.join(output, store.INCOMPLETE, f"work-{fingerprint[:16]}"))

    def name(self, kind: str, number: int, suffix: str = "parquet") -> str:
        """The file name of part `number` of a kind: vectors, texts."""
        return f"{kind}-{number:05d}.{suffix}"

    def path(self, name: str) -> str:
        """The URL of a file."""
        return store.join(self.url, name)
