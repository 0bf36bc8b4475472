"""Passages without answers, to be evaluated: an output directory of ragbeam search, or a TREC run."""

from __future__ import annotations

import dataclasses
import itertools
import math
from collections.abc import Iterator
from typing import Any, ClassVar

import pyarrow as pa

from rag_ops.errors import InputError
from rag_ops.evaluation.figures import AnswerSet, RowSet
from rag_ops.retrieval.retrieved_files import run_hits
from rag_ops.storage import store
from rag_ops.storage.manifests import find_manifest, read_manifest
from rag_ops.storage.parquet import open_parquet
from schemas.manifest import Manifest

SEARCH = "search"  # the stage whose directories hold passages alone
GROUP_QUESTIONS = 256
_QUESTION = ("question_id", "question", "gold_answers", "truncated", "error")
_PASSAGE = ("passage_id", "title", "section", "text", "score")


def open_set(url: str) -> RowSet:
    """Opens an output directory of ragbeam answer or of ragbeam search.

    Raises:
        InputError: it is neither, or not whole.
    """
    manifest = find_manifest(url)
    return HitSet.open(url) if manifest is not None and manifest.stage == SEARCH else AnswerSet.open(url)


@dataclasses.dataclass(frozen=True)
class HitSet:
    """One output directory of ragbeam search."""

    answered: ClassVar[bool] = False
    texts: ClassVar[bool] = True

    url: str
    manifest: Manifest

    @classmethod
    def open(cls, url: str) -> HitSet:
        """Opens the directory.

        Raises:
            InputError: it is no whole output of ragbeam search.
        """
        return cls(url, read_manifest(url, SEARCH))

    @property
    def rows(self) -> int:
        """The number of questions, or 0 if the manifest does not say it."""
        return int(self.manifest.info.get("questions") or 0)

    @property
    def n_docs(self) -> int:
        """The number of passages that were looked for."""
        return int(self.manifest.config["n_docs"])

    kept = n_docs

    def groups(self) -> Iterator[Iterator[dict[str, Any]]]:
        """The questions, in order, with their passages; see `RowSet`."""
        for shard in self.manifest.shards:
            questions = self._questions(store.join(self.url, shard.path))
            while first := next(questions, None):
                yield itertools.chain([first], itertools.islice(questions, GROUP_QUESTIONS - 1))

    def question_files(self) -> list[tuple[str, int]]:
        """None: hits do not name their file."""
        return []

    def _questions(self, url: str) -> Iterator[dict[str, Any]]:
        row: dict[str, Any] | None = None
        with open_parquet(url) as parquet:
            for batch in parquet.iter_batches(columns=["rank", *_QUESTION, *_PASSAGE], batch_size=1000):
                for cells in pa.Table.from_batches([batch]).to_pylist():
                    if row is None or cells["rank"] in (None, 1):
                        if row is not None:
                            yield row
                        row = {name: cells[name] for name in _QUESTION} | _no_answer()
                    if cells["rank"] is not None:
                        row["passages"].append(
                            {**{name: cells[name] for name in _PASSAGE}, "id": cells["passage_id"], "posterior": None}
                        )
        if row is not None:
            yield row


class RunSet:
    """A TREC run: question id, Q0, passage id, rank, score and tag of each passage. All of it is held in memory.

    Args:
        url: the file; it may be compressed.

    Raises:
        InputError: it is missing or empty, a line is no ranked passage, or a score is no finite number.
    """

    answered: ClassVar[bool] = False
    texts: ClassVar[bool] = False

    def __init__(self, url: str):
        self._url = url
        self._passages: dict[str, list[tuple[str, float]]] = {}
        for hit in run_hits(url):
            if hit.score is None or not math.isfinite(hit.score):
                raise InputError(
                    "a score of --run is no number",
                    value=f"{url}, line {hit.line}: {hit.score}",
                    expected="a finite one",
                    remedy="mend or remove the line",
                )
            self._passages.setdefault(hit.question_id, []).append((hit.passage_id, hit.score))
        if not self._passages:
            raise InputError(
                "--run has no passages", value=url, expected="lines of question, Q0, passage, rank, score and tag"
            )

    @property
    def url(self) -> str:
        """The file."""
        return self._url

    @property
    def rows(self) -> int:
        """The number of questions."""
        return len(self._passages)

    @property
    def n_docs(self) -> int:
        """The most passages of a question."""
        return max(map(len, self._passages.values()))

    kept = n_docs

    def groups(self) -> Iterator[Iterator[dict[str, Any]]]:
        """The questions with their passages, which have no texts; see `RowSet`."""
        yield (
            {"question_id": question_id, "question": "", "gold_answers": None, "truncated": False, "error": None}
            | _no_answer([_passage(*one) for one in passages])
            for question_id, passages in self._passages.items()
        )

    def question_files(self) -> list[tuple[str, int]]:
        """None: a run does not name any."""
        return []


def _no_answer(passages: list[dict[str, Any]] | None = None) -> dict[str, Any]:
    return {"answer": "", "score": None, "tokens": [], "passages": [] if passages is None else passages}


def _passage(passage_id: str, score: float) -> dict[str, Any]:
    return {"id": passage_id, "title": "", "section": "", "text": "", "score": score, "posterior": None}
