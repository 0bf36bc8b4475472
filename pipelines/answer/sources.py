"""Where the answer job's passages come from: an index that is searched, or a file of what was found elsewhere."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from pipelines.answer.options import AnswerOptions
from pipelines.transforms.passage_texts import Texts
from rag_ops.defaults import TITLE_SECTION
from rag_ops.models import checkpoints
from rag_ops.questions.reading import Question, read_questions
from rag_ops.retrieval.corpus import Corpus, open_corpus
from rag_ops.retrieval.kinds import kind_of
from rag_ops.retrieval.retrieved import Reading, Retrieved, is_output, open_retrieved
from rag_ops.storage import manifests, store, verify

SCORES, SCALED, UNIFORM = "scores", "scaled", "uniform"  # what the weights of passages are made from


@dataclasses.dataclass(frozen=True)
class IndexSource:
    """Passages are found in an index.

    Attributes:
        options: options of the job.
        corpus: the index and its passages.
    """

    options: AnswerOptions
    corpus: Corpus
    prior = SCORES

    @property
    def texts(self) -> Texts | None:
        """The index's passages."""
        return Texts(self.corpus.passages_url, self.corpus.passages, manifests.reads_sections(self.corpus.index))

    @property
    def digest(self) -> str:
        """What is said of the rows as `index_digest`."""
        return self.corpus.index.digest

    @property
    def known(self) -> Mapping[str, Any] | None:
        """What the vectors were made with."""
        return self.corpus.index.info

    @property
    def config(self) -> dict[str, Any]:
        """What it adds to the configuration."""
        return self.options.search.config(self.corpus.index.info.get("search", {}))

    @property
    def info(self) -> dict[str, Any]:
        """What it adds to the manifest's info."""
        return {}

    @property
    def inputs(self) -> dict[str, str]:
        """Name to URL of what is read."""
        return {"index": str(self.options.index)}

    @property
    def places(self) -> list[str]:
        """URLs that workers read."""
        more = [self.options.embeddings] if self.options.embeddings else []
        return [self.corpus.index_url, self.corpus.passages_url, *more]

    def questions(self, files: Sequence[str], scratch: str) -> Iterator[Question]:
        """The questions of some files; `scratch` is a directory for working files."""
        return read_questions(files, self.options.reading)

    def index_bytes(self, questions: int) -> float:
        """Memory of the largest index shard with the search of so many questions."""
        info, shard_bytes = self.corpus.index.info, max(shard.bytes for shard in self.corpus.index.shards)
        return shard_bytes + kind_of(info["spec"])(info["spec"], info["dimension"]).search_bytes(questions)

    def check_unchanged(self) -> None:
        """Raises if index or passages have changed since they were opened."""
        self.corpus.check_unchanged()

    def check_digests(self) -> None:
        """Checks the SHA-256 of every file that the job reads."""
        self.corpus.check_digests(embeddings=self.options.rescore is not None)


@dataclasses.dataclass(frozen=True)
class RetrievedSource:
    """Passages were found elsewhere.

    Attributes:
        options: options of the job.
        retrieved: the files that name them.
        texts: where texts are found by passage id; None if the files have them.
        prior: what the weights of passages are made from: `prior_of`.
    """

    options: AnswerOptions
    retrieved: Retrieved
    texts: Texts | None
    prior: str
    known = None

    @property
    def digest(self) -> str:
        """What is said of the rows as `index_digest`."""
        return self.retrieved.digest

    @property
    def config(self) -> dict[str, Any]:
        """What it adds to the configuration."""
        found = {"retrieved": self.retrieved.names, "retrieved_digest": self.retrieved.digest, "prior": self.prior}
        if self.texts is not None:
            found |= {"passages_digest": self.texts.passages.digest, "contexts": self.options.contexts}
        return found

    @property
    def info(self) -> dict[str, Any]:
        """What it adds to the manifest's info."""
        return {"retrieved_as": self.retrieved.kind, "prior": self.prior}

    @property
    def inputs(self) -> dict[str, str]:
        """Name to URL of what is read."""
        files = {f"retrieved_{number}": url for number, url in enumerate(self.retrieved.urls)}
        return files | ({"passages": self.texts.url} if self.texts is not None else {})

    @property
    def places(self) -> list[str]:
        """URLs that workers read."""
        return [self.texts.url] if self.texts is not None else []

    def questions(self, files: Sequence[str], scratch: str) -> Iterator[Question]:
        """The questions with their passages; `scratch` is a directory for working files."""
        return self._reading(files).questions(scratch)

    def check(self, files: Sequence[str]) -> None:
        """Checks what the beginnings of the files show."""
        self._reading(files).check()

    def _reading(self, files: Sequence[str]) -> Reading:
        where = (self.texts.url, self.texts.passages) if self.texts is not None else (None, None)
        options, scored = self.options, self.prior != UNIFORM
        return Reading(self.retrieved, files, options.reading, options.kept, scored, *where)

    def index_bytes(self, questions: int) -> float:
        """No index is in memory."""
        return 0.0

    def check_unchanged(self) -> None:
        """Raises if the passages have changed since they were opened."""
        if self.texts is not None:
            manifests.check_unchanged(self.texts.url, self.texts.passages)
        if self.retrieved.manifest is not None:
            manifests.check_unchanged(self.retrieved.directory, self.retrieved.manifest)

    def check_digests(self) -> None:
        """Checks the SHA-256 of every file that the job reads."""
        if self.texts is not None:
            verify.check_digests(self.texts.url, self.texts.passages)
        if self.retrieved.manifest is not None:
            verify.check_digests(self.retrieved.directory, self.retrieved.manifest)


Source = IndexSource | RetrievedSource


def open_source(options: AnswerOptions, question_files: Sequence[str]) -> Source:
    """Opens what the options name.

    Raises:
        InputError: it is missing, malformed, or does not go together.
    """
    if options.index is not None:
        return IndexSource(options, open_corpus(options.index, options.passages, options.embeddings))
    texts = None
    if options.passages is not None:
        passages = manifests.read_manifest(options.passages, "chunk")
        texts = Texts(options.passages, passages, options.contexts == TITLE_SECTION)
    retrieved = open_retrieved(options.retrieved)
    source = RetrievedSource(options, retrieved, texts, prior_of(options, retrieved))
    source.check(question_files)
    return source


def prior_of(options: AnswerOptions, retrieved: Retrieved) -> str:
    """What the weights of passages found elsewhere are made from.

    Their scores as they are, if the user says so, or if the files say that the model's own question encoder gave them;
    their scores by --score_scale, if it is given; else nothing: all passages of a question count alike.
    """
    if options.generation.score_scale is not None:
        return SCALED
    if options.prior is not None:
        return options.prior
    if (encoder := retrieved.encoder_digest) is None:
        return UNIFORM
    directory = checkpoints.find_model(options.model)
    # A search by one encoder for both sides names that, a search by --model the whole model.
    own = encoder == checkpoints.context_digest(directory) or encoder == checkpoints.model_digest(directory)
    return SCORES if own else UNIFORM


def found_files(options: AnswerOptions) -> list[str]:
    """The files of --retrieved; none for a stage's output, whose manifest is compared instead."""
    urls = [url for url in options.retrieved if not is_output(url)]
    return [found for url in urls for found in store.expand(url, "file of --retrieved")]
