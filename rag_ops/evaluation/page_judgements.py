"""Judgements that question sets carry themselves: the pages where answers stand, by KILT and HotpotQA.

A passage counts for its page. Titles say whether two pages are the same, since dumps of other days, and corpora without
Wikipedia's ids, have them too; ids do where a judgement or a passage has no title.
"""

from __future__ import annotations

import dataclasses
import html
import itertools
import unicodedata
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from rag_ops.errors import InputError
from rag_ops.evaluation.qrels import FORMS, Judgements, is_of_judgements, read_qrels
from rag_ops.evaluation.ranking import trec_order
from rag_ops.questions import files
from rag_ops.questions.columns import QuestionOptions
from rag_ops.questions.provenance import Evidence, Page, evidence_of
from rag_ops.questions.reading import question_of
from rag_ops.storage import store

FindPage = Callable[[str], Page | None]  # the page of a passage, by the passage's id


@dataclasses.dataclass(frozen=True)
class PageJudgements:
    """The pages where answers stand.

    Attributes:
        by_question: sets of pages by question id; the pages of any one set are enough. Never empty, nor is any of its
            members.
    """

    by_question: Mapping[str, Evidence]

    @property
    def questions(self) -> Sequence[str]:
        """The ids of the judged questions."""
        return list(self.by_question)

    @property
    def passages(self) -> set[str]:
        """None: it is pages that are judged."""
        return set()

    @property
    def count(self) -> int:
        """The number of judged pairs of question and page."""
        return sum(len(set(itertools.chain.from_iterable(sets))) for sets in self.by_question.values())

    @property
    def need_titles(self) -> bool:
        """Whether no judged page has an id, so that pages are known by their titles alone."""
        return not any(page.page_id for sets in self.by_question.values() for pages in sets for page in pages)


def read_judgements(urls: Sequence[str], reading: QuestionOptions) -> Judgements | PageJudgements:
    """Reads judgements of passages, as `read_qrels`, or question sets that name pages.

    Args:
        urls: the files, all of passages or all of pages. Held in memory.
        reading: how question sets are read; their ids are those with which the questions are asked.

    Raises:
        InputError: as `read_qrels`; or some judge passages and some pages, a question set names no pages, or a question
            stands twice with other pages.
    """
    of_pages = []
    for url in urls:
        names = files.record_columns(url)
        of_pages.append(names is not None and not is_of_judgements(names))
    if not any(of_pages):
        return read_qrels(urls)
    if not all(of_pages):
        raise InputError(
            "some files of --qrels judge passages and some name pages", value=" ".join(urls), expected="one of the two"
        )
    found: dict[str, Evidence] = {}
    for url in urls:
        named = False
        for row in files.rows_of(url, reading):
            evidence = evidence_of(row.evidence)
            if row.problem or not evidence:
                continue
            named = True
            question_id = question_of(f"{store.name_of(url)}:{row.number}", row).question_id
            if found.setdefault(question_id, evidence) != evidence:
                raise InputError(
                    "a question of --qrels stands twice, with other pages",
                    value=f"{url}, line {row.number}: question {question_id}",
                    expected="each question's pages once",
                )
        if not named:
            raise InputError("a file of --qrels names no pages where answers stand", value=url, expected=FORMS)
    return PageJudgements(found)


def ranked_pages(
    passages: Sequence[Mapping[str, Any]], ranking: Sequence[tuple[str, float]], evidence: Evidence, find: FindPage
) -> tuple[list[str], list[set[str]], int]:
    """The pages of a question's passages and of its judgements, under names by which they can be compared.

    Args:
        passages: passages with `id` and `title`.
        ranking: the same with their scores.
        evidence: the sets of pages that are judged.
        find: the page of a passage as its corpus has it; None if it is not known, and what it has no title for has the
            passage's own.

    Returns:
        The pages found, best first, each at its best passage; the sets; and how many passages are of a judged page.
    """
    judged = _Names(evidence)
    names: dict[str, str] = {}
    for passage in passages:
        page = find(passage["id"]) or Page("", "")
        page = Page(page.page_id, passage["title"] or page.title)
        names[passage["id"]] = judged.name(page) or f"other {_plain(page.title) or page.page_id or passage['id']}"
    pages = list(dict.fromkeys(names[passage] for passage in trec_order(ranking)))
    of_judged = sum(names[passage["id"]] in judged.all for passage in passages)
    return pages, judged.sets, of_judged


class _Names:
    """Names of the judged pages of a question, those of one title or one id the same."""

    def __init__(self, evidence: Evidence):
        self._by_title: dict[str, str] = {}
        self._by_id: dict[str, str] = {}
        self._without_title: set[str] = set()
        self.sets = [{self._named(page) for page in pages} for pages in evidence]
        self.all = set().union(*self.sets)

    def _named(self, page: Page) -> str:
        title = _plain(page.title)
        new = f"title {title}" if title else f"page {page.page_id}"
        name = self._by_title.get(title) or self._by_id.get(page.page_id) or new
        if title:
            self._by_title[title] = name
        else:
            self._without_title.add(page.page_id)
        if page.page_id:
            self._by_id[page.page_id] = name
        return name

    def name(self, page: Page) -> str | None:
        """The name of a page that is judged, else None."""
        title = _plain(page.title)
        if title in self._by_title:
            return self._by_title[title]
        return self._by_id.get(page.page_id) if not title or page.page_id in self._without_title else None


def _plain(title: str) -> str:
    """A title as MediaWiki compares them: no entities, one space for spaces and underscores, a capital at its start.

    >>> _plain("simon_&amp;  Garfunkel")
    'Simon & Garfunkel'
    """
    title = " ".join(unicodedata.normalize("NFC", html.unescape(title)).replace("_", " ").split())
    return title[:1].upper() + title[1:]
