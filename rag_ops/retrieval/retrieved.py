"""Questions with the passages that another search found for them, as `ragbeam answer --retrieved` takes them."""

from __future__ import annotations

import dataclasses
import hashlib
import itertools
from collections.abc import Iterable, Iterator, Mapping, Sequence

import numpy as np

from rag_ops.errors import InputError
from rag_ops.questions.columns import QuestionOptions
from rag_ops.questions.found import Found
from rag_ops.questions.reading import Question, question_of, read_questions
from rag_ops.retrieval import retrieved_files
from rag_ops.retrieval.hit_spill import HitSpill, best
from rag_ops.retrieval.passage_rows import SEVERAL, UNKNOWN, rows_of
from rag_ops.retrieval.retrieved_files import JSON, PARQUET, RUN, Hit, Record
from rag_ops.retrieval.score_origin import dense_encoder, encoder_of_tag
from rag_ops.storage import manifests, store
from schemas.layout import SEARCH
from schemas.manifest import FILE_NAME, Manifest, digest_of

# What a question's error begins with; details follow in brackets.
NO_QUESTION = "the passages are of a question whose text is not known"
SAME_ID = "several questions have the same id, and the passages go by ids"
NO_SCORE = "a passage has no finite score"
NO_PASSAGE_TEXT = "a passage has no text"
UNKNOWN_PASSAGE, SAME_PASSAGE = "a passage is not in --passages", "several passages have the same id in --passages"
TWICE = "a passage is found twice for the question"
MAX_SCORE = float(np.finfo(np.float32).max)


@dataclasses.dataclass(frozen=True)
class Retrieved:
    """Files of passages found elsewhere, all of one kind.

    Attributes:
        urls: the files, in order.
        kind: `RUN`, `PARQUET` or `JSON`.
        digests: SHA-256 of each file.
        manifest: of the output of ragbeam search, if the files are its shards; else None.
        directory: where that manifest is.
        encoder_digest: digest of the question encoder whose inner products the scores are; None if the files don't say
            that they are any.
    """

    urls: tuple[str, ...]
    kind: str
    digests: tuple[str, ...]
    manifest: Manifest | None = None
    directory: str = ""
    encoder_digest: str | None = None

    @property
    def digest(self) -> str:
        """Digest (32 hex digits) of what the files hold, in order."""
        return digest_of(list(self.digests))

    @property
    def names(self) -> list[str]:
        """The files' own names."""
        return [store.name_of(url) for url in self.urls]


def is_output(url: str) -> bool:
    """Whether a URL is the output directory of a stage, finished or not: it is read by its manifest alone."""
    return store.is_directory(url) and any(store.exists(store.join(url, n)) for n in (FILE_NAME, store.INCOMPLETE))


def open_retrieved(urls: Sequence[str]) -> Retrieved:
    """Recognises files of passages by what is in them.

    Args:
        urls: files, globs, directories of files, or one output directory of ragbeam search.

    Raises:
        InputError: there are none, one is of no known kind, or they are of several.
    """
    for url in urls:
        if is_output(url):
            if len(urls) > 1:
                raise InputError("--retrieved names an output directory beside others", value=url, expected="it alone")
            manifest = manifests.read_manifest(url, SEARCH.name)
            shards = tuple(store.join(url, shard.path) for shard in manifest.shards)
            digests = tuple(shard.sha256 for shard in manifest.shards)
            return Retrieved(shards, PARQUET, digests, manifest, url, dense_encoder(manifest))
    files = [found for url in urls for found in store.expand(url, "file of --retrieved")]
    kinds = {url: retrieved_files.kind_of(url) for url in files}
    if len(set(kinds.values())) > 1:
        one = files[0]
        other = next(url for url in files if kinds[url] != kinds[one])
        raise InputError(
            "files of --retrieved are of different kinds",
            value=f"{one} ({kinds[one]}), {other} ({kinds[other]})",
            expected="files of one kind",
        )
    kind = kinds[files[0]]
    encoders = {encoder_of_tag(retrieved_files.tag_of(url)) for url in files} if kind == RUN else {None}
    encoder = encoders.pop() if len(encoders) == 1 else None
    return Retrieved(tuple(files), kind, tuple(map(store.sha256_of, files)), encoder_digest=encoder)


@dataclasses.dataclass(frozen=True)
class Reading:
    """How passages found elsewhere are read.

    Attributes:
        retrieved: the files.
        question_files: question files that name the questions' texts by id; without any, the passages' files do.
        options: how these are read.
        kept: number of passages of a question, from the first.
        scored: whether scores count, so that each passage must have one.
        passages_url, passages: where texts are found by passage id; None if the files have them.
    """

    retrieved: Retrieved
    question_files: Sequence[str]
    options: QuestionOptions
    kept: int
    scored: bool
    passages_url: str | None = None
    passages: Manifest | None = None

    def check(self) -> None:
        """Checks what can be known before anything is read in full.

        Raises:
            InputError: texts of questions or of passages cannot come from anywhere.
        """
        if self.retrieved.kind == RUN:
            for flag, given in (("--questions", self.question_files), ("--passages", self.passages_url)):
                if not given:
                    raise InputError(
                        f"a TREC run needs {flag}: it has ids alone",
                        value=self.retrieved.urls[0],
                        expected="question files" if flag == "--questions" else "the output of ragbeam chunk",
                    )
        elif not self.question_files:
            next(self._records(), None)

    def questions(self, scratch: str) -> Iterator[Question]:
        """Yields all questions, in order, with their passages; one that cannot be answered comes with its error.

        These are the rows of the question files, and then, each with an error, the questions of other ids that the
        passages name; without question files they are the questions of the passages' files.

        Args:
            scratch: directory for working files.

        Raises:
            InputError: a file is damaged, or none of its questions or of its passages is known.
        """
        grouped = self._by_id(scratch) if self.question_files else None
        rows: Mapping[str, int] = {}
        if self.passages is not None and self.passages_url is not None:
            ids = (hit.passage_id for _, hits in self._pairs(grouped) for hit in hits)
            rows = rows_of(ids, self.passages_url, self.passages)
            if rows and not any(row != UNKNOWN for row in rows.values()):
                raise InputError(
                    "--passages has none of the passages of --retrieved",
                    value=next(iter(rows)),
                    expected="ids of its passages",
                    remedy=f"give the passages that were searched, not {self.passages_url}",
                )
        for question, hits in self._pairs(grouped):
            yield self._with(question, hits, rows) if question.error is None else question

    def _pairs(self, grouped: _ById | None) -> Iterator[tuple[Question, list[Hit]]]:
        if grouped is not None:
            yield from grouped.pairs()
            return
        for where, row, hits in self._records():
            yield question_of(where, row), best(hits, self.kept)

    def _records(self) -> Iterator[Record]:
        read = retrieved_files.json_records if self.retrieved.kind == JSON else retrieved_files.parquet_records
        return itertools.chain.from_iterable(read(url, self.options) for url in self.retrieved.urls)

    def _hits(self) -> Iterator[Hit]:
        for url in self.retrieved.urls:
            if self.retrieved.kind == RUN:
                yield from retrieved_files.run_hits(url)
            elif self.retrieved.kind == PARQUET:
                yield from retrieved_files.parquet_hits(url)
            else:
                for _, _, hits in retrieved_files.json_records(url, self.options):
                    yield from hits

    def _by_id(self, scratch: str) -> _ById:
        by_id = _ById(self.question_files, self.options, HitSpill(scratch, self.kept))
        by_id.add(self._hits())
        return by_id

    def _with(self, question: Question, hits: Sequence[Hit], rows: Mapping[str, int]) -> Question:
        """The question with its passages, or with the error that one of them is."""
        found: list[Found] = []
        seen: set[str] = set()
        for hit in hits:
            row = rows.get(hit.passage_id, UNKNOWN) if self.passages is not None else -1
            if problem := hit.problem or self._problem(hit, row, seen):
                return dataclasses.replace(question, error=problem)
            seen.add(hit.passage_id)
            score = float(np.float32(hit.score)) if _is_score(hit.score) and hit.score is not None else 0.0
            if self.passages is not None:
                found.append(Found(hit.passage_id, score, row=row))
            else:
                found.append(Found(hit.passage_id, score, hit.title, hit.section, hit.text))
        return dataclasses.replace(question, found=tuple(found))

    def _problem(self, hit: Hit, row: int, seen: set[str]) -> str | None:
        if hit.passage_id in seen and (hit.passage_id or self.passages is not None):
            return f"{TWICE} ({hit.passage_id})"
        if self.scored and not _is_score(hit.score):
            return f"{NO_SCORE} ({hit.passage_id or f'number {hit.rank}'})"
        if self.passages is not None and row < 0:
            return f"{SAME_PASSAGE if row == SEVERAL else UNKNOWN_PASSAGE} ({hit.passage_id})"
        if self.passages is None and not (hit.text or "").strip():
            return f"{NO_PASSAGE_TEXT} ({hit.passage_id or f'number {hit.rank}'})"
        return None


def _is_score(score: float | None) -> bool:
    return score is not None and abs(score) <= MAX_SCORE  # nor is NaN


class _ById:
    """Hits of questions that question files name: joined by id, in the files' order.

    Args:
        files: question files.
        options: how they are read.
        spill: what the hits go to.
    """

    def __init__(self, files: Sequence[str], options: QuestionOptions, spill: HitSpill):
        self._files, self._options, self._spill = files, options, spill
        self._ordinals: dict[str, int] = {}  # of ids
        self._texts: dict[str, bytes] = {}  # digest of each id's first text
        self._several: set[str] = set()  # ids of several texts
        self._others: dict[str, None] = {}  # ids that no question file has
        for question in read_questions(files, options):
            self._ordinals.setdefault(question.question_id, len(self._ordinals))
            if question.error is None:
                text = hashlib.blake2b(question.question.encode(), digest_size=8).digest()
                if self._texts.setdefault(question.question_id, text) != text:
                    self._several.add(question.question_id)

    def add(self, hits: Iterable[Hit]) -> None:
        """Adds all hits.

        Raises:
            InputError: there are some, and none is of a question of the files.
        """
        known = False
        for hit in hits:
            if (ordinal := self._ordinals.get(hit.question_id)) is None:
                self._others[hit.question_id] = None
            else:
                known = True
                self._spill.add(ordinal, hit)
        if self._others and not known:
            raise InputError(
                "--questions has none of the questions of --retrieved",
                value=next(iter(self._others)),
                expected=f"ids as {next(iter(self._ordinals), 'none')!r}",
                remedy="give the question files of that search, or name the column of ids with --question_id_column",
            )

    def pairs(self) -> Iterator[tuple[Question, list[Hit]]]:
        """Yields every row of the question files with its hits; then each id that they lack, with an error."""
        for question in read_questions(self._files, self._options):
            if question.error is None and question.question_id in self._several:
                question = dataclasses.replace(question, error=f"{SAME_ID} ({question.question_id}, {question.source})")
            yield question, [] if question.error else self._spill.of(self._ordinals[question.question_id])
        for question_id in self._others:
            yield Question(question_id, "", None, f"{NO_QUESTION} ({question_id})", "--retrieved"), []
