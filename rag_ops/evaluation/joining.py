"""How the rows of two runs over the same questions are joined."""

from __future__ import annotations

import hashlib

DIGEST_BYTES = 12


class RowKeys:
    """Gives each row of a run its key: rows of two runs with the same key are one question's.

    They have the same question id and the same question, and of several such rows the same number among them, in the
    runs' order. So an id that stands for another question in the other run is another row.

    Args:
        by_question: whether the question counts; a TREC run has none, so that its rows are joined by id alone.
    """

    def __init__(self, by_question: bool = True):
        self._by_question = by_question
        self._seen: dict[bytes, int] = {}

    def next(self, question_id: str, question: str) -> bytes:
        """The key of the next row, 16 bytes.

        >>> keys, others = RowKeys(), RowKeys()
        >>> first, again = keys.next("1", "who"), keys.next("1", "who")
        >>> others.next("1", "where") in (first, again), others.next("1", "who") == first
        (False, True)
        """
        what = f"{question_id}\0{question}" if self._by_question else question_id
        key = hashlib.blake2b(what.encode("utf-8", "surrogatepass"), digest_size=DIGEST_BYTES).digest()
        self._seen[key] = self._seen.get(key, -1) + 1
        return key + self._seen[key].to_bytes(4, "big")
