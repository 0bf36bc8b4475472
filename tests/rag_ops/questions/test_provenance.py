"""Pages that question sets name, in the forms in which they are published."""

import pytest

from rag_ops.questions.provenance import Page, pages_of

ULM, BONN = Page("", "Ulm"), Page("", "Bonn")


@pytest.mark.parametrize(
    ("row", "expected"),
    [
        ({"supporting_facts": [["Ulm", 0], ["Bonn", 1], ["Ulm", 2]]}, (ULM, BONN)),
        ({"supporting_facts": {"title": ["Bonn", "Bonn"], "sent_id": [0, 1]}}, (BONN,)),
        ({"supporting_facts": [5, [], [None, 1], ["Ulm", 0]]}, (ULM,)),
        ({"output": [{"answer": "x", "provenance": [{"wikipedia_id": "7", "title": "Ulm"}]}]}, (Page("7", "Ulm"),)),
        (
            {"output": [{"provenance": [{"wikipedia_id": 7}, {"title": "Bonn"}, {}]}, {"answer": "y"}]},
            (Page("7", ""), BONN),
        ),
        ({"output": []}, ()),
        ({"question": "who?", "answer": "me"}, None),
        ({"instruction": "say", "output": "x"}, None),
    ],
)
def test_pages(row, expected):
    assert pages_of(row) == expected
