"""The demo's questions: enough, distinct, and answered by the articles that they are about."""

import json
from collections import Counter

import pytest

from pipelines.demo import command
from rag_ops.articles import dump
from rag_ops.markup.wikitext import to_text


@pytest.fixture(scope="module")
def questions():
    with open(command.QUESTIONS, encoding="utf-8") as file:
        return [json.loads(line) for line in file]


def test_there_are_enough_and_none_twice(questions):
    assert len(questions) >= 40
    assert Counter(row["id"] for row in questions).most_common(1)[0][1] == 1
    assert Counter(row["question"].lower() for row in questions).most_common(1)[0][1] == 1
    assert len({row["title"] for row in questions}) > 30
    assert all(row["answer"] and all(row["answer"]) for row in questions)


def test_each_answer_stands_in_its_article(questions, excerpt):
    texts = {page.title: page.wikitext for page in dump.read_pages(excerpt)}
    for row in questions:
        text = to_text(texts[row["title"]])
        assert any(answer in text for answer in row["answer"]), row
