"""Which page a passage is of: by the passages of a corpus, or by the form of its id."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence, Set

import pyarrow as pa
import pyarrow.compute as pc

from rag_ops.errors import InputError
from rag_ops.evaluation.figures import RowSet
from rag_ops.evaluation.page_judgements import FindPage, PageJudgements
from rag_ops.evaluation.qrels import Judgements
from rag_ops.evaluation.ranking import page_of
from rag_ops.questions.provenance import Page
from rag_ops.storage import store
from rag_ops.storage.manifests import read_manifest
from rag_ops.storage.parquet import open_parquet

LOOKED_AT = 100  # passages that show whether ids have chunk's form


def pages_by_id(sets: Sequence[RowSet]) -> Callable[[str], str | None] | None:
    """`page_of`, if the first passages of every set have ids that chunk made; else None, for pages are not known."""
    for one in sets:
        ids = [passage["id"] for passage in _first_passages(one)]
        if not ids or not all(map(page_of, ids)):
            return None
    return page_of


def pages_of_corpus(url: str, sets: Sequence[RowSet], judgements: Judgements) -> Callable[[str], str | None]:
    """The ids of the pages of all passages that were found or judged, as the output of chunk has them.

    Args:
        url: output of chunk.
        sets: what was found; read once for its passages' ids, which are held in memory.
        judgements: what was judged.

    Raises:
        InputError: it is no output of chunk, or has no passage of those found.
    """
    pages = _corpus_pages(url, sets, judgements.passages)
    return lambda passage: pages[passage].page_id if passage in pages else None


def find_pages(url: str | None, sets: Sequence[RowSet], judgements: PageJudgements) -> FindPage:
    """The pages of passages for judgements of pages: as the output of chunk has them, else by their ids.

    Args:
        url: output of chunk; None if there is none.
        sets: as for `pages_of_corpus`.
        judgements: what was judged.

    Raises:
        InputError: as `pages_of_corpus`; or the judgements have titles alone, and what was found has none.
    """
    if url:
        return _corpus_pages(url, sets, set()).get
    for one in sets:
        if judgements.need_titles and not any(passage["title"] for passage in _first_passages(one)):
            raise InputError(
                "--qrels names pages by their titles, which the passages found do not have",
                value=one.url,
                expected="--passages DIR, the output of chunk that they come from",
            )
    return lambda passage: Page(page_of(passage) or passage, "")


def _corpus_pages(url: str, sets: Sequence[RowSet], judged: Set[str]) -> dict[str, Page]:
    manifest = read_manifest(url, "chunk")
    found = {
        passage["id"] for one in sets for group in one.groups() for row in group for passage in row["passages"] or ()
    }
    wanted = pa.array(sorted(found | judged), pa.string())
    pages: dict[str, Page] = {}
    for shard in manifest.shards:
        with open_parquet(store.join(url, shard.path), shard.rows) as parquet:
            for batch in parquet.iter_batches(columns=["id", "article_id", "title"]):
                here = batch.filter(pc.is_in(batch.column("id"), value_set=wanted))
                ids, article_ids, titles = (here.column(name).to_pylist() for name in ("id", "article_id", "title"))
                pages.update(zip(ids, map(Page, article_ids, titles), strict=True))
    if not found & pages.keys():
        raise InputError(
            "--passages has none of the passages found",
            value=url,
            expected=f"the corpus that they come from, with {min(found, default='their ids')}",
        )
    return pages


def _first_passages(one: RowSet) -> Iterable[dict[str, str]]:
    count = 0
    for group in one.groups():
        for row in group:
            for passage in row["passages"] or ():
                if count == LOOKED_AT:
                    return
                count += 1
                yield passage
