"""What a split's file of pages holds comes back as it was, in its order, with what was dropped."""

import pytest

from rag_ops.articles import page_files
from rag_ops.articles.article import Article, NoArticle
from rag_ops.articles.dropped import Dropped


@pytest.mark.parametrize("batch_chars", [1, 1000, 4 << 20])
def test_pages_come_back(tmp_path, monkeypatch, batch_chars):
    monkeypatch.setattr(page_files, "BATCH_CHARS", batch_chars)
    pages = [Article(f"a:{n}", f"Title {n}", f"text \n é日 {n}" * 50, n, n * 2) for n in range(20)]
    pages[3:3] = [NoArticle("a:x", 5, 6), Article("a:y", "", "")]
    dropped = Dropped()
    dropped["redirect"] = 4
    dropped.name("too_long", "A page")

    assert not page_files.have_pages(str(tmp_path), "p.arrow")
    page_files.write_pages(str(tmp_path), "p.arrow", iter(pages), dropped)
    assert page_files.have_pages(str(tmp_path), "p.arrow")
    again = Dropped()
    assert list(page_files.read_pages(str(tmp_path), "p.arrow", again)) == pages
    assert (again, again.titles) == (dropped, {"too_long": ["A page"]})
    page_files.remove_pages(str(tmp_path), "p.arrow")
    assert not page_files.have_pages(str(tmp_path), "p.arrow")
    assert not list(tmp_path.glob("p.arrow*"))


def test_a_file_of_no_pages(tmp_path):
    page_files.write_pages(str(tmp_path), "p.arrow", iter([]), Dropped())
    assert list(page_files.read_pages(str(tmp_path), "p.arrow", Dropped())) == []


def test_counts_of_templates_forget_the_rarest_alone(monkeypatch):
    monkeypatch.setattr("rag_ops.articles.dropped.MOST_TEMPLATES", 10)
    dropped = Dropped()
    for number in range(100):
        dropped.lose({"Often": 2, f"Once {number}": 1})
        assert len(dropped.templates) <= 11
    assert dropped.templates.most_common(1) == [("Often", 200)]
