"""ZIM files, made by libzim's own writer."""

import sys

import pytest

from rag_ops.articles.article import Article
from rag_ops.articles.splitting import Cutting, cut_article
from rag_ops.errors import InputError
from rag_ops.storage import store
from tests import wikis
from tests.rag_ops.articles.test_wiki_format import read


@pytest.fixture(scope="module")
def zim(tmp_path_factory):
    pytest.importorskip("libzim")
    path = tmp_path_factory.mktemp("zim") / "w.zim"
    return wikis.write_zim(path, [*wikis.ZIM_PAGES, ("Talk", "Talk:Ulm", "<p>Why?</p>")], Ulma="Ulm", Ulmas="Ulm")


def test_pages_redirects_and_what_is_no_page(zim):
    found, dropped, splits = read([zim], captions=True)
    assert len(splits) == 1
    articles = {one.article_id: one for one in found if isinstance(one, Article)}
    assert sorted(articles) == ["Bonn", "Köln", "Ulm"]
    passages = [(one.kind, one.section, one.text) for one in cut_article(articles["Ulm"], Cutting())]
    assert passages == [*wikis.PASSAGES, wikis.CAPTION]
    assert dict(dropped) == {"disambiguation": 1, "namespace": 1, "redirect": 2}


def test_several_splits_share_a_file(zim):
    whole, dropped, _ = read([zim])
    found, again, splits = read([zim], split_bytes=5_000)
    assert len(splits) > 2
    assert found == whole
    assert again == dropped


def test_the_language_is_that_of_the_metadata_unless_one_is_given(tmp_path):
    pytest.importorskip("libzim")
    page = "<p>a</p><h2>Einzelnachweise</h2><p>b</p>"
    path = wikis.write_zim(tmp_path / "w.zim", [("A", "A", page)], language="deu,fra")
    assert [one.text for one in read([path])[0]] == ["a"]
    assert [one.text for one in read([path], language="fr")[0]] == ["a\nb"]


def test_without_libzim_the_extra_is_named(tmp_path, monkeypatch):
    (tmp_path / "w.zim").write_bytes(b"ZIM\x04")
    monkeypatch.setitem(sys.modules, "libzim.reader", None)
    with pytest.raises(InputError, match=r"pip install 'ragbeam\[zim\]'"):
        read([tmp_path / "w.zim"])


def test_a_cut_file_is_one_line(zim, tmp_path):
    data = zim.read_bytes()
    for size in (len(data) // 2, 100):
        (tmp_path / "w.zim").write_bytes(data[:size])
        with pytest.raises(InputError, match="the ZIM file is cut or damaged"):
            read([tmp_path / "w.zim"])


def test_a_file_elsewhere_is_refused(zim):
    store.write_bytes("memory://zims", "w.zim", zim.read_bytes())
    with pytest.raises(InputError, match="read in place"):
        read(["memory://zims/w.zim"])
