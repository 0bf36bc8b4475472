"""Helpers of the pipeline tests: a small corpus, and the command line run in this process."""

from __future__ import annotations

import hashlib
import json
from pathlib import Path

from pipelines.cli import main
from rag_ops import storage
from rag_ops.stages import read_manifest

TOPICS = ["moon", "sun", "river", "king", "city", "war", "ice"]


def write_articles(path: Path, count: int = 30, words: int = 120) -> None:
    """A JSONL file of articles of different lengths; article n speaks of topic n modulo 7 and of its own number."""
    with path.open("w") as file:
        for number in range(count):
            topic = TOPICS[number % 7]
            body = f"the {topic} {number} is in the river " * (1 + words * (number % 5) // 35)
            file.write(json.dumps({"id": number, "title": f"{topic} {number}", "text": body.strip()}) + "\n")


def write_questions(path: Path, extra: list[dict] | None = None) -> list[dict]:
    """A JSONL file of questions with a duplicate and an empty one; returns its rows."""
    rows = [
        {"id": f"q{n}", "question": f"what is the {topic} {n}", "answer": [topic]} for n, topic in enumerate(TOPICS)
    ]
    rows += [{"id": "again", "question": rows[0]["question"]}, {"id": "empty", "question": "  "}, *(extra or [])]
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return rows


def ragbeam(*arguments: object) -> None:
    """Runs a command that must succeed."""
    assert main([str(argument) for argument in arguments]) == 0


def fails(capsys, *arguments: object) -> tuple[int, str]:
    """Runs a command that must fail; returns its exit code and the one line that it wrote to stderr."""
    capsys.readouterr()
    code = main([str(argument) for argument in arguments])
    lines = [line for line in capsys.readouterr().err.splitlines() if line]
    errors = [line for line in lines if line.startswith("ragbeam: error:")]
    assert len(errors) == 1, lines
    assert "Traceback" not in "\n".join(lines)
    return code, errors[0]


def digests(url: object, stage: str) -> list[tuple[str, str]]:
    """Name and SHA-256 of every shard of a stage, computed anew from the files."""
    found = []
    for shard in read_manifest(str(url), stage).shards:
        data = storage.open_read(storage.join(str(url), shard.path)).read()
        assert hashlib.sha256(data).hexdigest() == shard.sha256
        found.append((shard.path, shard.sha256))
    return found
