"""Pages that are no articles, by their markup."""

import pytest

from rag_ops.markup.pages import is_disambiguation, is_redirect


def test_redirects():
    assert is_redirect("#REDIRECT [[A]]")
    assert is_redirect("\n #redirect[[A]]")
    assert not is_redirect("A #redirect")


@pytest.mark.parametrize(
    ("title", "text", "expected"),
    [
        ("Ada", "may refer to {{disambiguation|geo}}", True),
        ("Ada", "{{Hndis}}", True),
        ("Aa River", "{{geodis}}", True),
        ("A (disambiguation)", "", True),
        ("X", "{{Template:Disambig}}", True),
        ("X", "{{Chinese title disambiguation}}", True),
        ("Art", "{{other uses|Art (disambiguation)}}", False),
        ("X", "{{disambiguation needed|date=May 2016}}", False),
        ("X", "[[word-sense disambiguation]] {{cite|title=Disambiguation}}", False),
    ],
)
def test_disambiguation_pages(title, text, expected):
    assert is_disambiguation(title, text) is expected
