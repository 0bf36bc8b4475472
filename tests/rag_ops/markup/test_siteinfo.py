"""What the head of a dump says: namespaces of any language, and nothing raised for heads that say nothing."""

import pytest

from rag_ops.markup.siteinfo import SiteInfo, read_head

GERMAN = b"""<?xml version="1.0"?>
<mediawiki xmlns="http://www.mediawiki.org/xml/export-0.3/" xml:lang="de"><siteinfo><sitename>Wikipedia</sitename>
<base>http://de.wikipedia.org/wiki/Wikipedia:Hauptseite</base><namespaces><namespace key="-2">Media</namespace>
<namespace key="0" /><namespace key="1">Diskussion</namespace><namespace key="3">Benutzer Diskussion</namespace>
<namespace key="6">Datei</namespace><namespace key="14">Kategorie</namespace><namespace key="100">Portal</namespace>
</namespaces></siteinfo><page><title>Talk</title></page>"""


@pytest.mark.parametrize("piece_bytes", [1, 7, 100_000])
def test_namespaces_of_another_language(piece_bytes):
    site = read_head(GERMAN[start : start + piece_bytes] for start in range(0, len(GERMAN), piece_bytes))
    assert site.wiki == "de.wikipedia.org"
    titles = ["Diskussion:Ampere", "benutzer_Diskussion: X", "Talk:X", "Portal:Physik", "Draft:X", "Wikipedia:X", "X:Y"]
    assert [site.namespace_of(title) for title in titles] == [1, 3, 1, 100, 0, 0, 0]
    assert site.apparatus() >= {"datei", "kategorie", "media", "file", "image", "category"}


@pytest.mark.parametrize(
    "head",
    [b"", b"no XML <at all", b"<mediawiki><page><siteinfo><dbname>x</dbname></siteinfo>", b"<mediawiki><siteinfo/>"],
)
def test_a_head_that_says_nothing_leaves_english_names(head):
    site = read_head([head])
    assert site == SiteInfo()
    titles = ["Portal:Physics", "Wikipedia talk:X", "Image:A.jpg", "Ben-Hur: A Tale", ":Talk:X", "Talk"]
    assert [site.namespace_of(title) for title in titles] == [100, 5, 6, 0, 0, 0]


def test_no_more_than_a_megabyte_is_read():
    def endless():
        yield b"<mediawiki><siteinfo>"
        for _ in range(3):
            yield b"<x></x>" * 100_000
        raise AssertionError("read on")

    assert read_head(endless()) == SiteInfo()


def test_a_document_type_is_not_looked_into():
    bomb = b'<!DOCTYPE m [<!ENTITY a "aaaa">]><mediawiki><siteinfo><dbname>&a;</dbname></siteinfo>'
    assert read_head([bomb]) == SiteInfo()
