"""Articles into passages: disjoint blocks of words, as DPR cuts Wikipedia (Karpukhin et al. 2020, section 4.1)."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator

from rag_ops.articles.words import is_spaced, split_unspaced
from rag_ops.errors import InputError


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
    if not is_spaced(text):
        yield from split_unspaced(text, words, overlap)
        return
    tokens = text.split()
    step = words - overlap
    for start in range(0, max(len(tokens) - overlap, min(len(tokens), 1)), step):
        yield " ".join(tokens[start : start + words])


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
