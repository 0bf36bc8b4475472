"""Articles into passages: disjoint blocks of words, as DPR cuts Wikipedia (Karpukhin et al. 2020, section 4.1), or
windows of sentences; rows of tables and infoboxes in passages of their own.
"""

from __future__ import annotations

import bisect
import dataclasses
import hashlib
import re
from collections.abc import Iterable, Iterator
from functools import partial

from rag_ops import settings
from rag_ops.articles.article import Article
from rag_ops.articles.sentences import sentences
from rag_ops.articles.words import count_words, is_spaced, split_unspaced
from rag_ops.errors import InputError
from rag_ops.markup.parts import Part
from schemas.passages import CAPTION, INFOBOX, PROSE, TABLE

ORDER = (PROSE, INFOBOX, TABLE, CAPTION)  # of an article's passages: ids of prose stay what they are without the others
WHOLE = "whole"
UNITS = ("words", "sentences", WHOLE)
_PARTS = re.compile(r"\w+")
setting = partial(settings.setting, group="articles")


@dataclasses.dataclass(frozen=True)
class Cutting:
    """How articles are cut into passages."""

    passage_words: int = setting(100, "words of a passage, or the most of a sentence", at_most=100_000)
    passage_overlap: int = setting(0, "words that a passage repeats from the one before")
    passage_unit: str = setting(
        "words",
        "what a passage of prose is: words, a window of sentences, or the whole article, whose id it keeps",
        choices=UNITS,
    )
    window_sentences: int = setting(
        6, "sentences of a passage, with --passage_unit sentences", at_least=1, at_most=1000
    )
    window_stride: int = setting(3, "sentences from a passage's first to that of the next", at_least=1, at_most=1000)

    def __post_init__(self) -> None:
        check_lengths(self.passage_words, self.passage_overlap)
        settings.check(self)
        if self.window_stride > self.window_sentences:
            raise InputError(
                "--window_stride leaves sentences out",
                value=self.window_stride,
                expected=f"1 to {self.window_sentences}, no more than --window_sentences",
            )
        if self.passage_overlap and self.passage_unit != "words":
            raise InputError(
                "--passage_overlap is for passages of words",
                value=self.passage_overlap,
                remedy="windows of sentences overlap by --window_stride",
            )


def cut_article(article: Article, cutting: Cutting) -> Iterator[Part]:
    """Yields the passages of an article: those of its prose, then those of infoboxes, tables and captions.

    Prose runs on over the borders of sections, and the section of a passage is that of its first word. No other passage
    is cut from two parts.
    """
    prose = [part for part in article.parts if part.kind == PROSE]
    starts, sections, position = [0], [prose[0].section if prose else article.section], 0
    for part in prose:
        starts.append(position)
        sections.append(part.section)
        position += sum(map(len, words := part.text.split())) + len(words)
    for start, text in cut_text(article.text, cutting):
        yield Part(PROSE, sections[bisect.bisect_right(starts, start) - 1], text)
    for kind in ORDER[1:]:
        for part in article.parts:
            if part.kind == kind:
                for text in join_lines(part.text.split("\n"), cutting.passage_words):
                    yield Part(kind, part.section, text)


def cut_text(text: str, cutting: Cutting) -> Iterator[tuple[int, str]]:
    """Yields passages of a text, each with the character at which it begins, words joined by single spaces."""
    if cutting.passage_unit == WHOLE:
        return iter([(0, whole)] if (whole := " ".join(text.split())) else [])
    if cutting.passage_unit == "words":
        return cut_words(text, cutting.passage_words, cutting.passage_overlap)
    return _windows(text, cutting)


def split_words(text: str, words: int, overlap: int = 0) -> Iterator[str]:
    """Blocks of `words` words of `text`, joined by single spaces; the last block is as short as it is.

    A word is what stands between spaces; in scripts without spaces it is a number of characters, and blocks end with
    sentences where they can (`words.split_unspaced`). Each block repeats the last `overlap` words of the one before; a
    block that would only repeat is not made.

    >>> list(split_words("a b  c\\nd e", words=2))
    ['a b', 'c d', 'e']
    >>> list(split_words("a b c d e", words=3, overlap=1))
    ['a b c', 'c d e']
    """
    return (block for _, block in cut_words(text, words, overlap))


def cut_words(text: str, words: int, overlap: int = 0) -> Iterator[tuple[int, str]]:
    """The same blocks, each with the character at which it begins in the text of single spaces.

    >>> list(cut_words("a b  c\\nd e", words=2))
    [(0, 'a b'), (4, 'c d'), (8, 'e')]
    """
    if not is_spaced(text):
        yield from split_unspaced(text, words, overlap)
        return
    tokens = text.split()
    step, position = words - overlap, 0
    for start in range(0, max(len(tokens) - overlap, min(len(tokens), 1)), step):
        yield position, " ".join(tokens[start : start + words])
        position += sum(map(len, tokens[start : start + step])) + step


def _windows(text: str, cutting: Cutting) -> Iterator[tuple[int, str]]:
    """Windows of sentences; a sentence of too many words is cut into several."""
    found = [piece for sentence in sentences(text) for piece in split_words(sentence, cutting.passage_words)]
    whole, position, places = " ".join(text.split()), 0, list[int]()
    for piece in found:
        places.append(whole.index(piece, position))
        position = places[-1] + len(piece)
    last = max(len(found) - cutting.window_sentences + cutting.window_stride, 1) if found else 0
    for start in range(0, last, cutting.window_stride):
        yield places[start], " ".join(found[start : start + cutting.window_sentences])


def join_lines(lines: Iterable[str], words: int) -> Iterator[str]:
    """Passages of whole lines, as many as have `words` words together; a line that has more is cut by itself.

    In the rows of a table each number and name between punctuation counts as a word, for tokenizers part them there.

    >>> list(join_lines(["City: Bonn", "City: Ulm; Area: 118.69", "x"], words=6))
    ['City: Bonn', 'City: Ulm; Area: 118.69\\nx']
    """
    buffer: list[str] = []
    size = 0.0
    for line in lines:
        length = max(count_words(line), len(_PARTS.findall(line)))
        if buffer and size + length > words:
            yield "\n".join(buffer)
            buffer, size = [], 0.0
        if length > words:
            yield from _cut_line(line, words)
        else:
            buffer.append(line)
            size += length
    if buffer:
        yield "\n".join(buffer)


def _cut_line(line: str, words: int) -> Iterator[str]:
    """Cuts a line between its words so that no part has more, by the count of rows, unless it is one word."""
    if not is_spaced(line):
        yield from split_words(line, words)
        return
    part: list[str] = []
    size = 0
    for word in line.split():
        length = max(1, len(_PARTS.findall(word)))
        if part and size + length > words:
            yield " ".join(part)
            part, size = [], 0
        part.append(word)
        size += length
    if part:
        yield " ".join(part)


def check_lengths(words: int, overlap: int) -> None:
    """Checks --passage_words and --passage_overlap.

    Raises:
        InputError: fewer than one word, or an overlap that leaves no new word in a passage.
    """
    if words < 1:
        raise InputError("--passage_words is too small", value=words, expected="1 or more (DPR and RAG use 100)")
    if not 0 <= overlap < words:
        raise InputError(
            "--passage_overlap is out of range", value=overlap, expected=f"0 to {words - 1}, below --passage_words"
        )


def shard_of(article_id: str, num_shards: int) -> int:
    """The shard of an article: a hash of its id, so it depends on neither the other articles nor the workers.

    >>> [shard_of(str(number), 4) for number in range(8)]
    [1, 2, 0, 1, 2, 0, 0, 2]
    """
    return int.from_bytes(hashlib.blake2b(article_id.encode(), digest_size=8).digest(), "big") % num_shards
