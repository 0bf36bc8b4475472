"""What a search reads: an index of vectors, one of words, or both, over the same passages."""

from __future__ import annotations

import dataclasses
from typing import Any

from pipelines.search.options import SearchOptions
from pipelines.transforms.passage_texts import Texts
from rag_ops.errors import InputError
from rag_ops.retrieval.bm25 import Bm25Corpus, open_bm25
from rag_ops.retrieval.corpus import Corpus, open_corpus
from rag_ops.retrieval.kinds import kind_of
from rag_ops.storage.manifests import read_manifest, reads_sections
from schemas.layout import BM25


@dataclasses.dataclass(frozen=True)
class Sources:
    """The indexes that are searched, at least one of them: of vectors, and of words."""

    dense: Corpus | None
    words: Bm25Corpus | None

    @property
    def texts(self) -> Texts:
        """The passages."""
        if self.dense is not None:
            return Texts(self.dense.passages_url, self.dense.passages, reads_sections(self.dense.index))
        assert self.words is not None
        return Texts(self.words.passages_url, self.words.passages, sections=False)

    @property
    def digests(self) -> dict[str, str]:
        """The digests of the indexes, by name: what is found depends on them."""
        dense = {} if self.dense is None else {"index_digest": self.dense.index.digest}
        return dense | ({} if self.words is None else {"bm25_digest": self.words.index.digest})

    @property
    def inputs(self) -> dict[str, str]:
        """Name to URL of what is read."""
        found = {"passages": self.texts.url}
        if self.dense is not None:
            found["index"] = self.dense.index_url
        if self.words is not None:
            found["bm25"] = self.words.index_url
        return found

    def shard_bytes(self, questions: int) -> float:
        """Memory of the largest shard of an index, with the search of so many questions."""
        sizes = [0.0]
        if self.dense is not None:
            info = self.dense.index.info
            search = kind_of(info["spec"])(info["spec"], info["dimension"]).search_bytes(questions)
            sizes.append(max(shard.bytes for shard in self.dense.index.shards) + search)
        if self.words is not None:
            sizes.append(max(shard.bytes for shard in self.words.index.shards))
        return max(sizes)

    def check_unchanged(self) -> None:
        """Raises if an index or the passages have changed since they were opened."""
        for one in (self.dense, self.words):
            if one is not None:
                one.check_unchanged()

    def check_digests(self, *, embeddings: bool) -> None:
        """Checks the SHA-256 of every file that the search reads, with or without those of the embeddings."""
        if self.dense is not None:
            self.dense.check_digests(embeddings=embeddings)
        if self.words is not None:
            self.words.check_digests()


def open_sources(options: SearchOptions) -> Sources:
    """Opens the indexes that the options name.

    Raises:
        InputError: one is missing or malformed, or the two are over different passages.
    """
    dense = words = None
    if options.index is not None:
        dense = open_corpus(options.index, options.passages, options.embeddings)
    if options.bm25 is not None:
        given: dict[str, Any] = read_manifest(options.bm25, BM25.name).info  # type: ignore[assignment]
        if dense is not None and given["passages_digest"] != dense.passages.digest:
            raise InputError(
                "--index and --bm25 are over different passages",
                value=options.bm25,
                expected=f"passages of digest {dense.passages.digest}, not {given['passages_digest']}",
                remedy="make both from the same passages",
            )
        words = open_bm25(options.bm25, options.passages if dense is None else dense.passages_url)
    return Sources(dense, words)
