"""A question file with every kind of good and bad row, and what must come out for each; for tests and benchmarks."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Callable
from pathlib import Path

from pipelines.transforms.inference import NOT_ENCODED
from rag_ops.questions.blocks import reason_of
from rag_ops.questions.files import NO_OBJECT, NOT_JSON
from rag_ops.questions.reading import EMPTY, MAX_QUESTION_CHARS, NO_TEXT, TOO_LONG, UNREADABLE

LONG_EVERY, TOO_LONG_EVERY = 5_000, 40_000  # rows: a megabyte each, and over the limit
# The tests' tokenizer gives this one, the last of its vocabulary, a number that their models have no vector for.
FAILING_EVERY, FAILS_IN_THE_MODEL = 200, ")"


@dataclasses.dataclass(frozen=True)
class Expected:
    """A row that must come out: its id where the file gives one, its question where told, why it has no answer."""

    question_id: str | None
    question: str | None
    reason: str | None


def _json(question: object, **more: object) -> bytes:
    return json.dumps({"question": question, **more}, ensure_ascii=False).encode("utf-8", "surrogatepass")


# For row n: the line, and what it must become. Every word is one that a tiny tokenizer knows, or none at all.
KINDS: dict[str, Callable[[int], tuple[bytes, str | None, str | None]]] = {
    "plain": lambda n: (_json(f"what is the moon {n}", id=f"r{n}"), f"what is the moon {n}", None),
    "plain again": lambda n: (_json(f"who was king {n}", id=f"r{n}", answer=["ice"]), f"who was king {n}", None),
    "and again": lambda n: (_json(f"how many {n}?", id=f"r{n}"), f"how many {n}?", None),
    "repeated question": lambda n: (_json("who was king", id=f"r{n}"), "who was king", None),
    "repeated id": lambda n: (_json(f"where is {n}", id="same"), f"where is {n}", None),
    "no id": lambda n: (_json(f"when was {n}"), f"when was {n}", None),
    "latin-1": lambda n: (f'{{"question": "caf\xe9 {n}", "id": "r{n}"}}'.encode("latin-1"), f"café {n}", None),
    "windows": lambda n: (f'{{"question": "\x93ice\x94 {n}", "id": "r{n}"}}'.encode("latin-1"), f"“ice” {n}", None),
    "emoji": lambda n: (_json(f"🙂👩‍👩‍👧 who {n}", id=f"r{n}"), f"🙂👩‍👩‍👧 who {n}", None),
    "right to left": lambda n: (_json(f"שלום מי {n} من", id=f"r{n}"), f"שלום מי {n} من", None),
    "zeros": lambda n: (_json(f"ice\0{n}", id=f"r{n}"), f"ice {n}", None),
    "raw controls": lambda n: (f'{{"question": "a\x07b\x00 {n}", "id": "r{n}"}}'.encode(), f"a b  {n}", None),
    "lone surrogate": lambda n: (f'{{"question": "sun \\ud800 {n}", "id": "r{n}"}}'.encode(), f"sun   {n}", None),
    "formula": lambda n: (_json(f"=cmd|' /C calc'!A{n}", id=f"r{n}"), f"=cmd|' /C calc'!A{n}", None),
    "markup": lambda n: (_json(f"<script>{n}</script>", id=f"../{n}"), f"<script>{n}</script>", None),
    "odd id": lambda n: (_json(f"why {n}", id={"a": [n]}), f"why {n}", None),
    "empty": lambda n: (_json("", id=f"r{n}"), "", EMPTY),
    "spaces": lambda n: (_json(" \t\u3000", id=f"r{n}"), "", EMPTY),
    "controls alone": lambda n: (_json("\x00\x01\x1b", id=f"r{n}"), "", EMPTY),
    "nothing to see": lambda n: (_json("\u200b\u200e\ufeff", id=f"r{n}"), "", EMPTY),
    "null": lambda n: (_json(None, id=f"r{n}"), "", EMPTY),
    "no question": lambda n: (json.dumps({"id": f"r{n}"}).encode(), "", EMPTY),
    "number": lambda n: (_json(n, id=f"r{n}"), "", NO_TEXT),
    "list": lambda n: (_json([f"who {n}"], id=f"r{n}"), "", NO_TEXT),
    "object": lambda n: (_json({"text": n}, id=f"r{n}"), "", NO_TEXT),
    "cut": lambda n: (f'{{"question": "who was {n}'.encode(), f'{{"question": "who was {n}', NOT_JSON),
    "no object": lambda n: (f'["who is {n}"]'.encode(), f'["who is {n}"]', NO_OBJECT),
    "odd answers": lambda n: (_json(f"who won {n}", id=f"r{n}", answer={"start": n}), f"who won {n}", None),
    "no bytes of any encoding": lambda n: (b'{"question": "ice \x81\xff\x8d", "id": "r%d"}' % n, None, UNREADABLE),
}


def write(path: Path, rows: int) -> list[Expected]:
    """Writes `rows` rows of JSONL, with a byte order mark and Windows' line ends, some lines blank.

    Returns:
        What must come out, in order.
    """
    expected = []
    kinds = list(KINDS.values())
    with path.open("wb") as file:
        file.write(b"\xef\xbb\xbf")
        for number in range(rows):
            if number % TOO_LONG_EVERY == 17:
                line, question, reason = _json("x" * (MAX_QUESTION_CHARS + 1), id=f"r{number}"), None, TOO_LONG
            elif number % LONG_EVERY == 11:
                text = f"moon {number} " + "the river of ice " * 61_681  # a megabyte
                line, question, reason = _json(text, id=f"r{number}"), text.strip(), None
            elif number % FAILING_EVERY == 23:
                text = f"who {number} {FAILS_IN_THE_MODEL}"
                line, question, reason = _json(text, id=f"r{number}"), text, NOT_ENCODED
            else:
                line, question, reason = kinds[number % len(kinds)](number)
            given = None
            if reason not in (NOT_JSON, NO_OBJECT):
                given = json.loads(line.decode("cp1252", "replace"), strict=False).get("id")
            shown = None if given is None else str(given)
            expected.append(Expected(shown, question, reason))
            file.write(line + b"\r\n" + (b"  \r\n" if number % 97 == 0 else b""))
    return expected


def differences(found: list[dict], expected: list[Expected]) -> list[str]:
    """What is not as it must be, of rows of the answers' table without their passages."""
    problems = [] if len(found) == len(expected) else [f"{len(found)} rows came out for {len(expected)}"]
    for number, (row, wanted) in enumerate(zip(found, expected, strict=False)):
        reason = reason_of(row["error"]) if row["error"] else None
        same_id = wanted.question_id is None or row["question_id"] == wanted.question_id
        same_question = wanted.question is None or row["question"] == wanted.question
        if (reason, same_id, same_question, row["answer"] is None) != (wanted.reason, True, True, reason is not None):
            shown = {name: str(row[name])[:80] for name in ("question_id", "question", "answer", "error")}
            problems.append(f"row {number}: {shown}, not {str(wanted)[:200]}")
    return problems
