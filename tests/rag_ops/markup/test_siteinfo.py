"""What the head of a dump says: namespaces of any language, and nothing raised for heads that say nothing."""

import copy

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
    assert (site.wiki, site.code) == ("de.wikipedia.org", "de")
    titles = ["Diskussion:Ampere", "benutzer_Diskussion: X", "Talk:X", "Portal:Physik", "Draft:X", "Wikipedia:X", "X:Y"]
    assert [site.namespace_of(title) for title in titles] == [1, 3, 1, 100, 0, 0, 0]
    assert site.apparatus >= {"datei", "kategorie", "file", "image", "category"}


@pytest.mark.parametrize(
    "head",
    [b"", b"no XML <at all", b"<mediawiki><page><siteinfo><dbname>x</dbname></siteinfo>", b"<mediawiki><siteinfo/>"],
)
def test_a_head_that_says_nothing_leaves_english_names(head):
    site = read_head([head])
    assert site == SiteInfo()
    titles = ["Portal:Physics", "Wikipedia talk:X", "Image:A.jpg", "Ben-Hur: A Tale", ":Talk:X", "Talk"]
    assert [site.namespace_of(title) for title in titles] == [100, 5, 6, 0, 0, 0]


@pytest.mark.parametrize(
    ("head", "wiki", "code"),
    [
        (b'<mediawiki xml:lang="lv"><siteinfo><dbname>ltgwiki</dbname></siteinfo>', "ltgwiki", "lv"),
        (b"<mediawiki><siteinfo><dbname>zh_yuewiki</dbname></siteinfo>", "zh_yuewiki", "zh-yue"),
        (b"<mediawiki><siteinfo><base>https://pt.m.wikipedia.org/x</base></siteinfo>", "pt.m.wikipedia.org", "pt"),
        (b"<mediawiki><siteinfo><sitename>Ours</sitename></siteinfo>", "Ours", "en"),
    ],
)
def test_the_language_is_the_roots_or_that_of_the_database_or_host(head, wiki, code):
    site = read_head([head])
    assert (site.wiki, site.code) == (wiki, code)


def test_a_wiktionary_tells_titles_apart_by_the_case_of_their_first_letter():
    head = b"<mediawiki><siteinfo><dbname>enwiktionary</dbname><case>%b</case></siteinfo>"
    cases = [b"case-sensitive", b"first-letter"]
    assert [read_head([head % case]).case_sensitive for case in cases] == [True, False]


def test_a_site_survives_json_and_copying_and_can_be_a_key():
    site = read_head([GERMAN])
    assert SiteInfo.from_json(site.to_json()) == site == copy.deepcopy(site)
    assert "\n" not in site.to_json()
    assert {site: 1}[SiteInfo.from_json(site.to_json())] == 1


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
