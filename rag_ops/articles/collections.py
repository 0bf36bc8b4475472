"""Collections of passages and of questions with their paragraphs, as their publishers have them.

What has ids that relevance judgements name (BEIR, Pyserini, and MS MARCO in `formats`) is a collection of passages
already: each row is kept whole, with its id, as those of psgs_w100.tsv are. Other collections have articles, which are
split.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator
from typing import Any

from rag_ops.articles import containers
from rag_ops.articles.article import Article, Split
from rag_ops.articles.options import InputOptions
from rag_ops.articles.source_format import Cut, Format, Row
from rag_ops.articles.text_files import Text
from rag_ops.articles.wiki_format import first_keys
from rag_ops.errors import InputError
from rag_ops.storage import store
from rag_ops.storage.compression import COMPRESSIONS
from schemas.passages import Passage

_LINK = re.compile(r"</?a(?: [^>]*)?>")
_EVIDENCE = re.compile(r"(?:^|/)evidence/(?:wikipedia|web)/(?:[^?#]*/)?[^/?#]*\.txt(?:\.\w+)?(?:[?#]|$)")


class Collection(Format):
    """Rows in JSON, one a line or one document, in Parquet or in Arrow. Subclasses say what texts are in a row.

    Attributes:
        needs: names of a row, by alternatives: all of one of these sets must be there.
        shows: likewise, of what tells the format from others; none if nothing does.
        columns: what is read of Parquet and Arrow; empty for all.
        whole: whether each text is a passage, kept with its id, also without text.
    """

    needs: tuple[frozenset[str], ...] = ()
    shows: tuple[frozenset[str], ...] = ()
    columns: tuple[str, ...] = ()
    whole = False
    in_archives = True

    def texts(self, row: dict[str, Any], source: Callable[[], str], options: InputOptions) -> Iterator[dict[str, Any]]:
        """Yields the articles or passages of a row, under the names that the flags say.

        Raises:
            InputError: they are not where the format has them; `source` says in which row.
        """
        yield row

    def shown_by(self, keys: set[str]) -> bool:
        return any(names <= keys for names in self.shows)

    def cuts(self, url: str, options: InputOptions) -> Iterator[Cut]:
        cut = list(containers.cuts(url, options))
        keys = first_keys(containers.rows(Split(0, self.name, url), self.columns or None))
        if keys and not any(names <= set(keys) for names in self.needs):
            wanted = " or ".join(", ".join(sorted(names)) for names in self.needs)
            raise InputError(
                f"the file is no {self.name}",
                value=f"{url} has {', '.join(map(str, keys))[:300]}",
                expected=f"rows with {wanted}",
                remedy="check --format; auto goes by the file",
            )
        yield from cut

    def rows(self, split: Split, options: InputOptions) -> Iterator[Row]:
        for source, row in containers.rows(split, self.columns or None):
            for text in self.texts(row, source, options):
                yield source, text

    def language(self, url: str, options: InputOptions) -> str:
        return containers.language(url)

    def kept(self, article: Article) -> Article | Passage | None:
        if self.whole:
            return Passage(article.article_id, article.title, article.text, article.section)
        return super().kept(article)


class Beir(Collection):
    """corpus.jsonl of BEIR: `_id`, `title`, `text`, `metadata`. https://github.com/beir-cellar/beir"""

    name, whole = "beir", True
    needs = (frozenset(("_id", "text")),)
    shows = (frozenset(("_id", "text", "metadata")),)


class Pyserini(Collection):
    """Pyserini's JSON collections: `id`, `contents`. https://github.com/castorini/pyserini"""

    name, whole = "pyserini", True
    needs = shows = (frozenset(("id", "contents")),)


class Kilt(Collection):
    """KILT's knowledge source: `wikipedia_id`, `wikipedia_title`, `text` (a list of paragraphs)."""

    name = "kilt"
    needs = shows = (frozenset(("wikipedia_id", "wikipedia_title", "text")),)
    columns = ("_id", "wikipedia_id", "wikipedia_title", "text")


class Squad(Collection):
    """Paragraphs of SQuAD and of what has its form: articles with `paragraphs`, or rows with their `context` (MRQA).

    A paragraph has no id of its own: it gets one made from title and text, and is kept once however many questions ask
    about it.
    """

    name, checks_ids = "squad", False
    needs = (frozenset(("paragraphs",)), frozenset(("context", "question")), frozenset(("context", "qas")))
    shows = (
        frozenset(("title", "paragraphs")),
        frozenset(("title", "context", "question", "answers")),
        frozenset(("context", "qas")),
    )
    columns = ("title", "context", "question", "answers", "paragraphs", "qas")

    def texts(self, row: dict[str, Any], source: Callable[[], str], options: InputOptions) -> Iterator[dict[str, Any]]:
        if row.keys() == {"header"}:  # the first line of MRQA's files
            return
        paragraphs = row.get("paragraphs", [row])
        for paragraph in paragraphs if isinstance(paragraphs, list) else [paragraphs]:
            text = paragraph.get("context") if isinstance(paragraph, dict) else None
            if not isinstance(text, str):
                raise _no_text("a paragraph of SQuAD has no context", source, paragraph)
            yield {options.title_column: row.get("title"), options.text_column: text}


class Hotpotqa(Collection):
    """Paragraphs that HotpotQA gives with its questions, and the Wikipedia that it was made from.

    With a question they are `context`, pairs of a title and sentences; the datasets library has an object of `title`
    and `sentences` instead. Such a paragraph gets an id made from its text. The Wikipedia has articles with `id`,
    `title` and `text`: sentences of the introduction, or paragraphs of sentences with links as HTML, of which the first
    is the title.
    https://hotpotqa.github.io/wiki-readme.html
    """

    name, checks_ids = "hotpotqa", False
    needs = (frozenset(("context", "question")), frozenset(("id", "title", "text")))
    shows = (
        frozenset(("context", "question", "supporting_facts")),
        frozenset(("id", "url", "title", "text", "charoffset")),
    )
    columns = ("context", "question", "supporting_facts", "id", "title", "text")

    def texts(self, row: dict[str, Any], source: Callable[[], str], options: InputOptions) -> Iterator[dict[str, Any]]:
        if "context" not in row and "text" in row:
            text = _introduction(row["text"], row.get("title"), source)
            yield {options.id_column: row.get("id"), options.title_column: row.get("title"), options.text_column: text}
            return
        context = row.get("context")
        if isinstance(context, dict):
            titles, sentences = context.get("title"), context.get("sentences")
            if not isinstance(titles, list) or not isinstance(sentences, list) or len(titles) != len(sentences):
                raise _no_text("the context of a question has not a list of sentences for each title", source, context)
            context = list(zip(titles, sentences, strict=True))
        for pair in context if isinstance(context, list) else [context]:
            if not isinstance(pair, (list, tuple)) or len(pair) != 2 or not _is_paragraph(pair):
                raise _no_text("the context of a question is no list of titles and sentences", source, pair)
            yield {options.title_column: pair[0], options.text_column: "".join(pair[1])}


class Triviaqa(Collection):
    """TriviaQA's files of evidence, an article each as `text` reads them, and its documents in the datasets library.

    There `entity_pages` and `search_results` are each an object of lists, `title` and `wiki_context` or
    `search_context`. The publisher's own JSON names the files, which are not part of it, so it is refused as a corpus.
    https://nlp.cs.washington.edu/triviaqa/
    """

    name, checks_ids = "triviaqa", False
    needs = (frozenset(("entity_pages",)), frozenset(("search_results",)), frozenset(("QuestionId",)))
    shows = (frozenset(("question_id", "entity_pages")), frozenset(("QuestionId", "Question")))
    columns = ("question_id", "entity_pages", "search_results", "QuestionId", "Question")

    def named_by(self, url: str) -> bool:
        return _EVIDENCE.search(url) is not None

    def cuts(self, url: str, options: InputOptions) -> Iterator[Cut]:
        return Text().cuts(url, options) if _is_text(url) else super().cuts(url, options)

    def rows(self, split: Split, options: InputOptions) -> Iterator[Row]:
        return Text().rows(split, options) if _is_text(split.url) else super().rows(split, options)

    def language(self, url: str, options: InputOptions) -> str:
        return "" if _is_text(url) else super().language(url, options)

    def texts(self, row: dict[str, Any], source: Callable[[], str], options: InputOptions) -> Iterator[dict[str, Any]]:
        if "QuestionId" in row:
            raise InputError(
                "TriviaQA's questions name files of evidence, and have no texts",
                value=source(),
                expected="the files, or rows of the datasets library with entity_pages",
                remedy="give the files: --input 'evidence/wikipedia/*.txt'",
            )
        for name, key in (("entity_pages", "wiki_context"), ("search_results", "search_context")):
            found = row.get(name) or {}
            titles, texts = (found.get(one) for one in ("title", key)) if isinstance(found, dict) else (None, None)
            titles, texts = titles if found else [], texts if found else []
            if not isinstance(titles, list) or not isinstance(texts, list) or len(titles) != len(texts):
                raise _no_text(f"{name} of a question has not a {key} for each title", source, found)
            for title, text in zip(titles, texts, strict=True):
                yield {options.title_column: title, options.text_column: text}


def _introduction(text: Any, title: Any, source: Callable[[], str]) -> str:
    r"""The text of an article of HotpotQA's Wikipedia.

    >>> _introduction(["A river.", " It is long."], "Elbe", str)
    'A river. It is long.'
    >>> _introduction([["Elbe"], ["A <a href=\"river\">river</a>.", " Long."], ["It ends."]], "Elbe", str)
    'A river. Long.\nIt ends.'
    """
    paragraphs = text if isinstance(text, list) and any(isinstance(one, list) for one in text) else [text]
    if not all(isinstance(one, list) and all(isinstance(part, str) for part in one) for one in paragraphs):
        raise _no_text("the text of an article is no list of sentences", source, text)
    if paragraphs is not text:
        return "".join(text)
    joined = [_LINK.sub("", "".join(one)) for one in paragraphs]
    return "\n".join(joined[1:] if joined[0].strip() == title else joined)


def _is_text(url: str) -> bool:
    name = store.name_of(url).lower()
    return any(name.endswith(f".txt{suffix}") for suffix in ("", *COMPRESSIONS))


def _is_paragraph(pair: Any) -> bool:
    title, sentences = pair
    texts = isinstance(sentences, list) and all(isinstance(sentence, str) for sentence in sentences)
    return isinstance(title, str) and texts


def _no_text(what: str, source: Callable[[], str], value: Any) -> InputError:
    return InputError(what, value=f"{source()}: {str(value)[:80]}", remedy="check --format")
