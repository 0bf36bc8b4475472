"""Pages that question sets name, in the forms in which they are published."""

import pytest

from rag_ops.questions.provenance import Page, evidence_of

ULM, BONN = Page("", "Ulm"), Page("", "Bonn")


@pytest.mark.parametrize(
    ("value", "expected"),
    [
        ([["Ulm", 0], ["Bonn", 1], ["Ulm", 2]], ((ULM, BONN),)),
        ({"title": ["Bonn", "Bonn", ""], "sent_id": [0, 1, 2]}, ((BONN,),)),
        ([[], [None, 1], ["Ulm", 0]], ((ULM,),)),
        ([{"answer": "x", "provenance": [{"wikipedia_id": "7", "title": "Ulm"}]}], ((Page("7", "Ulm"),),)),
        (
            [{"provenance": [{"wikipedia_id": 7}, {"title": "Bonn"}, {}, 5]}, {"answer": "y"}, {"provenance": None}],
            ((Page("7", ""), BONN),),
        ),
        ([{"provenance": [{"title": "Ulm"}]}, {"provenance": [{"title": "Bonn"}]}], ((ULM,), (BONN,))),
        ([{"provenance": [{"title": "Ulm"}]}, {"provenance": [{"title": "Ulm"}]}], ((ULM,),)),
        ([], ()),
        ([{"answer": "x"}], ()),
        ("me", None),
        (["me"], None),
        ({"answer": "x"}, None),
        (None, None),
    ],
)
def test_sets_of_pages(value, expected):
    assert evidence_of(value) == expected
