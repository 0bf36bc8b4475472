"""Dumps: every page exactly once, whatever the compression and wherever the cuts."""

import bz2
import gzip
import itertools
import lzma
import random
import re
import tracemalloc
from collections import Counter

import pytest
import zstandard

from rag_ops.articles.dump import Page, cut_dump, drop_reason, read_pages, read_site
from rag_ops.errors import InputError
from rag_ops.storage import compression, store

HEAD = '<mediawiki xmlns="http://www.mediawiki.org/xml/export-0.11/" xml:lang="en">\n'
HEAD += "  <siteinfo><sitename>W</sitename></siteinfo>\n"


def page_xml(number: int) -> str:
    body = f"Text of page {number}: &lt;page&gt; &amp; é日本 " + "word " * (number * 37 % 211)
    return (
        f"  <page>\n    <title>Title {number} &amp; é</title>\n    <ns>0</ns>\n    <id>{number}</id>\n    <revision>\n"
        f"      <id>{9000 + number}</id>\n      <contributor><id>7</id></contributor>\n"
        f'      <text bytes="1" xml:space="preserve">{body}</text>\n    </revision>\n  </page>\n'
    )


PAGES = [page_xml(number) for number in range(1, 121)]
DUMP = (HEAD + "".join(PAGES) + "</mediawiki>\n").encode()
EXPECTED = [(str(number), f"Title {number} & é") for number in range(1, 121)]


def multistream(pages_each: int = 10) -> tuple[bytes, list[int]]:
    """A dump as Wikimedia makes it, and the offset of every stream with pages."""
    data, offsets = bz2.compress(HEAD.encode()), []
    for start in range(0, len(PAGES), pages_each):
        offsets.append(len(data))
        data += bz2.compress("".join(PAGES[start : start + pages_each]).encode())
    return data + bz2.compress(b"</mediawiki>\n"), offsets


def parallel_bz2(piece_bytes: int) -> bytes:
    """A dump as pbzip2 makes it: streams that know nothing of pages."""
    pieces = (DUMP[start : start + piece_bytes] for start in range(0, len(DUMP), piece_bytes))
    return b"".join(bz2.compress(piece) for piece in pieces)


def read_all(url: str, cuts: list[tuple[int, int | None]]) -> list[tuple[str, str]]:
    return [(page.page_id, page.title) for start, end in cuts for page in read_pages(url, start, end)]


def test_fields_are_the_pages_own_and_not_the_revisions(tmp_path):
    (tmp_path / "d.xml").write_bytes(DUMP)
    first = next(read_pages(str(tmp_path / "d.xml")))
    assert (first.page_id, first.namespace, first.title, first.redirect) == ("1", 0, "Title 1 & é", False)
    assert first.wikitext.startswith("Text of page 1: <page> & é日本 word")


@pytest.mark.parametrize("suffix", [".xml", ".xml.gz", ".xml.bz2", ".xml.zst", ".xml.xz"])
def test_a_whole_file(tmp_path, suffix):
    compress = {".xml": bytes, ".xml.gz": gzip.compress, ".xml.bz2": bz2.compress, ".xml.xz": lzma.compress}
    path = tmp_path / f"d{suffix}"
    path.write_bytes(compress.get(suffix, zstandard.ZstdCompressor().compress)(DUMP))
    assert read_all(str(path), cut_dump(str(path), 1 << 30)) == EXPECTED


@pytest.mark.parametrize("kind", ["plain", "multistream", "pbzip2", "tiny streams"])
def test_every_page_comes_once_whatever_the_cuts(tmp_path, kind):
    data = {
        "plain": DUMP,
        "multistream": multistream()[0],
        "pbzip2": parallel_bz2(5000),
        "tiny streams": parallel_bz2(23),  # "<page>" and "</page>" themselves lie across streams
    }[kind]
    path = tmp_path / ("d.xml" if kind == "plain" else "d.xml.bz2")
    path.write_bytes(data)
    generator = random.Random(0)
    for _ in range(25):
        inner = sorted(generator.sample(range(1, len(data)), generator.randint(0, 9)))
        cuts = list(itertools.pairwise([0, *inner, None]))
        assert read_all(str(path), cuts) == EXPECTED, cuts


def test_cuts_at_every_byte_of_a_page_tag(tmp_path):
    path = tmp_path / "d.xml"
    path.write_bytes(DUMP)
    place = DUMP.index(b"<page>", 3000)
    for cut in range(place - 2, place + 9):
        assert read_all(str(path), [(0, cut), (cut, None)]) == EXPECTED
        begun = len([match for match in re.finditer(b"<page>", DUMP) if match.start() < cut])
        assert len(list(read_pages(str(path), 0, cut))) == begun


def test_a_split_of_some_bytes_of_a_tag_has_its_page(tmp_path):
    path = tmp_path / "d.xml"
    path.write_bytes(DUMP)
    place = DUMP.index(b"<page>", 3000)
    for first, last in itertools.combinations(range(place - 3, place + 9), 2):
        assert read_all(str(path), [(0, first), (first, last), (last, None)]) == EXPECTED, (first, last)


def test_a_small_read_size_changes_nothing(tmp_path, monkeypatch):
    monkeypatch.setattr(compression, "READ_BYTES", 17)
    for name, data in (("d.xml", DUMP[:6000] + b"</mediawiki>"), ("d.xml.bz2", multistream()[0])):
        if name == "d.xml":
            cut = DUMP.rindex(b"<page>", 0, 6000)
            data = DUMP[:cut] + b"</mediawiki>"
        path = tmp_path / name
        path.write_bytes(data)
        count = data.count(b"<page>") if name == "d.xml" else 120
        assert len(read_all(str(path), [(0, 1000), (1000, 2000), (2000, None)])) == count


@pytest.mark.parametrize("companion", ["none", "txt.bz2", "txt"])
def test_a_multistream_dump_is_cut_at_its_streams(tmp_path, companion):
    data, offsets = multistream()
    path = tmp_path / "enwiki-multistream.xml.bz2"
    path.write_bytes(data)
    index = "".join(f"{offsets[n // 10]}:{n + 1}:Title {n + 1}\n" for n in range(120)).encode()
    if companion != "none":
        written = bz2.compress(index) if companion == "txt.bz2" else index
        (tmp_path / f"enwiki-multistream-index.{companion}").write_bytes(written)
    cuts = cut_dump(str(path), 1500)
    assert len(cuts) > 3
    if companion != "none":
        assert {start for start, _ in cuts} <= {0, *offsets}
    assert read_all(str(path), cuts) == EXPECTED


def test_a_broken_companion_is_named(tmp_path):
    (tmp_path / "d-multistream.xml.bz2").write_bytes(multistream()[0])
    (tmp_path / "d-multistream-index.txt").write_text("no offsets here\n")
    with pytest.raises(InputError, match=r"d-multistream-index\.txt"):
        cut_dump(str(tmp_path / "d-multistream.xml.bz2"), 1000)


def test_a_single_stream_says_so(tmp_path, caplog):
    path = tmp_path / "d.xml.bz2"
    path.write_bytes(bz2.compress(DUMP))
    with caplog.at_level("INFO"):
        assert cut_dump(str(path), 100) == [(0, None)]
    assert "single compressed stream" in caplog.text


def revision(date: str, number: int, text: str) -> str:
    written = f"<timestamp>{date}</timestamp>" if date else ""
    return f"<revision><id>{number}</id>{written}<text>{text}</text></revision>"


@pytest.mark.parametrize(
    "revisions",
    [
        [
            ("2002-02-25T15:43:11Z", 10, "old"),
            ("2011-01-01T00:00:00Z", 7, "newest"),
            ("2010-12-31T23:59:59Z", 30, "newer"),
        ],
        [("2010-01-01T00:00:00Z", 10, "older id"), ("2010-01-01T00:00:00Z", 11, "newest")],
        [("", 9, "old"), ("", 10, "newest")],
        [("", 99, "of no date"), ("2001-01-01T00:00:00Z", 1, "newest")],
        [("yesterday", 99, "of no date that is one"), ("2001-01-01T00:00:00Z", 1, "newest")],
    ],
)
def test_the_latest_of_several_revisions_counts_in_whatever_order_they_stand(tmp_path, revisions):
    for order in itertools.permutations(revisions):
        page = "<page><title>A</title><ns>0</ns><id>1</id>" + "".join(itertools.starmap(revision, order)) + "</page>"
        (tmp_path / "d.xml").write_text(f"<mediawiki>{page}</mediawiki>")
        assert [page.wikitext for page in read_pages(str(tmp_path / "d.xml"))] == ["newest"]


def test_a_revision_is_known_by_its_date_and_id(tmp_path):
    pages = ["".join(["<page><title>A</title><ns>0</ns><id>1</id>", text, "</page>"]) for text in (
        revision("2024-05-01T10:20:30Z", 77, "x"), revision("", 77, "x"), "<revision><id>no number</id></revision>", "",
    )]  # fmt: skip
    (tmp_path / "d.xml").write_bytes(dump_of(*pages))
    found = [(page.date, page.revision) for page in read_pages(str(tmp_path / "d.xml"))]
    assert found == [(20240501102030, 77), (-1, 77), (-1, -1), (-1, -1)]


def test_many_revisions_take_the_memory_of_two(tmp_path):
    revisions = [revision(f"20{n:02}-01-01T00:00:00Z", n, f"{n} " + "x" * 2_000_000) for n in range(30)]
    (tmp_path / "d.xml").write_bytes(dump_of(f"<page><title>A</title><ns>0</ns><id>1</id>{''.join(revisions)}</page>"))
    del revisions
    (page,), peak = peak_of_reading(tmp_path / "d.xml")
    assert page.wikitext.startswith("29 ")
    assert peak < 20 << 20


OLD_HEAD = """<mediawiki xmlns="http://www.mediawiki.org/xml/export-0.3/" version="0.3" xml:lang="fr"><siteinfo>
<base>http://fr.wikipedia.org/wiki/Accueil</base><namespaces><namespace key="0" />
<namespace key="1">Discuter</namespace><namespace key="10">Modèle</namespace></namespaces></siteinfo>"""


@pytest.mark.parametrize("suffix", [".xml", ".xml.bz2"])
def test_a_dump_without_ns_tells_namespaces_by_the_titles_in_every_split(tmp_path, suffix):
    titles = [
        "Ampère",
        "Discuter:Ampère",
        "Modèle:Unité",
        "2001 : l'Odyssée",
        "User:X",
        "Alien: le retour",
        "Portail:Y",
    ] * 20
    pages = [small_page(n, title=title).replace("<ns>0</ns>", "") for n, title in enumerate(titles, 1)]
    path = tmp_path / f"d{suffix}"
    if suffix == ".xml":
        path.write_text(OLD_HEAD + "".join(pages) + "</mediawiki>")
    else:
        parts = [OLD_HEAD, *("".join(pages[start : start + 7]) for start in range(0, 140, 7)), "</mediawiki>"]
        path.write_bytes(b"".join(bz2.compress(part.encode()) for part in parts))
    cuts = cut_dump(str(path), 900)
    assert len(cuts) > 3
    found = [page.namespace for start, end in cuts for page in read_pages(str(path), start, end)]
    assert found == [0, 1, 10, 0, 2, 0, 0] * 20
    assert read_site(str(path)).wiki == "fr.wikipedia.org"


def test_a_dump_with_neither_ns_nor_siteinfo_has_english_namespaces(tmp_path):
    titles = ["Ampere", "Talk:Ampere", "Portal:Physics", "Star Wars: A New Hope"]
    pages = [small_page(n, title=title).replace("<ns>0</ns>", "") for n, title in enumerate(titles, 1)]
    (tmp_path / "d.xml").write_bytes(dump_of(*pages))
    assert [page.namespace for page in read_pages(str(tmp_path / "d.xml"))] == [0, 1, 100, 0]


@pytest.mark.parametrize("between", ["", "\n", '<?xml version="1.0"?>\n', "\n<!-- the second -->\n"])
@pytest.mark.parametrize("kind", ["plain", "streams"])
def test_dumps_that_follow_one_another_in_a_file_are_read_as_one(tmp_path, between, kind):
    first = HEAD + "".join(PAGES[:50]) + "</mediawiki>"
    second = between + HEAD + "".join(PAGES[50:]) + "</mediawiki>\n"
    path = tmp_path / ("d.xml" if kind == "plain" else "d.xml.bz2")
    data = (first + second).encode()
    if kind == "streams":
        data = b"".join(bz2.compress(data[start : start + 700]) for start in range(0, len(data), 700))
    path.write_bytes(data)
    place = len(first.encode())
    cuts = [[], *([place + step] for step in range(-14, 14)), [1000, place - 3, place + 5], [place - 11, place + 200]]
    for inner in cuts if kind == "plain" else [[], [1000], [2000, 3000]]:
        assert read_all(str(path), list(itertools.pairwise([0, *inner, None]))) == EXPECTED, inner


@pytest.mark.parametrize("cuts", [[(0, None)], [(0, 700), (700, None)]])
def test_dumps_of_two_wikis_in_one_file_are_refused(tmp_path, cuts):
    def dump(wiki: str) -> bytes:
        head = f"<mediawiki><siteinfo><dbname>{wiki}</dbname></siteinfo>"
        return (head + "".join(small_page(number) for number in range(1, 9)) + "</mediawiki>").encode()

    (tmp_path / "d.xml").write_bytes(dump("enwiki") + dump("enwiki"))
    assert len(read_all(str(tmp_path / "d.xml"), cuts)) == 16
    (tmp_path / "d.xml").write_bytes(dump("enwiki") + dump("frwiki"))
    with pytest.raises(InputError, match=r"two wikis.*enwiki and frwiki"):
        read_all(str(tmp_path / "d.xml"), cuts)


def test_bytes_after_a_dump_that_begin_no_other_are_an_error(tmp_path):
    for junk in (b"junk", b"<html></html>", b"</mediawiki>", HEAD.encode()):
        (tmp_path / "d.xml").write_bytes(DUMP + junk)
        with pytest.raises(InputError, match=r"not well-formed|not a MediaWiki export|cut"):
            read_all(str(tmp_path / "d.xml"), [(0, None)])


@pytest.mark.parametrize("suffix", [".zst", ".xz"])
def test_a_cut_dump_of_one_stream_is_never_taken_for_a_whole_one(tmp_path, suffix):
    data = zstandard.ZstdCompressor().compress(DUMP) if suffix == ".zst" else lzma.compress(DUMP)
    path = tmp_path / f"d.xml{suffix}"
    for length in (10, len(data) // 2, len(data) - 3):
        path.write_bytes(data[:length])
        with pytest.raises(InputError, match="cut"):
            read_all(str(path), [(0, None)])
    path.write_bytes(DUMP)
    with pytest.raises(InputError, match=f"not {suffix[1:]}.*check its name"):
        read_all(str(path), [(0, None)])


def test_a_deleted_text_is_empty(tmp_path):
    page = '<page><title>A</title><ns>0</ns><id>1</id><revision><text deleted="deleted" /></revision></page>'
    (tmp_path / "d.xml").write_text(f"<mediawiki>{page}</mediawiki>")
    (found,) = read_pages(str(tmp_path / "d.xml"))
    assert drop_reason(found) == "empty"


def dump_of(*pages: str) -> bytes:
    return ("<mediawiki>" + "".join(pages) + "</mediawiki>").encode()


def small_page(number: int, text: str = "Some text.", title: str | None = None) -> str:
    shown = title or f"T{number}"
    return f"<page><title>{shown}</title><ns>0</ns><id>{number}</id><revision><text>{text}</text></revision></page>"


def peak_of_reading(path) -> tuple[list[Page], int]:
    """The pages, and the most that Python held while it read them, in bytes."""
    tracemalloc.start()
    try:
        return list(read_pages(str(path))), tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()


@pytest.mark.parametrize("size", [10 << 20, 40 << 20])
def test_a_page_that_is_too_long_is_told_and_not_kept_in_memory(tmp_path, size):
    path = tmp_path / "d.xml"
    path.write_bytes(dump_of(small_page(1), small_page(2, "long text " * (size // 10)), small_page(3)))
    pages, peak = peak_of_reading(path)
    assert [(page.page_id, page.too_long, drop_reason(page)) for page in pages] == [
        ("1", False, None),
        ("2", True, "too_long"),
        ("3", False, None),
    ]
    assert peak < 30 << 20


def test_a_long_title_is_too_long_as_every_passage_would_carry_it(tmp_path):
    path = tmp_path / "d.xml"
    path.write_bytes(dump_of(small_page(1, title="t" * 2000), small_page(2, title="t" * 255)))
    assert [drop_reason(page) for page in read_pages(str(path))] == ["too_long", None]


def test_a_long_revision_before_a_short_one_does_not_count(tmp_path):
    page = small_page(1, "x" * (5 << 20)).replace("</page>", "<revision><text>short</text></revision></page>")
    (tmp_path / "d.xml").write_bytes(dump_of(page))
    (found,) = read_pages(str(tmp_path / "d.xml"))
    assert (found.wikitext, found.too_long) == ("short", False)


BOMB = "".join(f'<!ENTITY a{n} "{f"&a{n - 1};" * 10}">' for n in range(1, 20))


@pytest.mark.parametrize(
    ("data", "message"),
    [
        (f'<!DOCTYPE m [<!ENTITY a0 "lol">{BOMB}]>'.encode() + dump_of(small_page(1, "&a19;")), "document type"),
        (b'<!DOCTYPE m SYSTEM "file:///etc/passwd">' + dump_of(small_page(1)), "document type"),
        (
            b'<!DOCTYPE m [<!ENTITY x SYSTEM "file:///etc/passwd">]>' + dump_of(small_page(1, "&x;")),
            "document type",
        ),
        (b'<!DOCTYPE m [<!ENTITY % x SYSTEM "file:///etc/passwd"> %x;]>' + dump_of(small_page(1)), "document type"),
        (dump_of(small_page(1, "&x;")), "not well-formed"),
        (dump_of("<a>" * 100_000), "deep"),
        (dump_of(small_page(1, "<b>" * 100_000)), "deep"),
        (dump_of("<!--" + "x" * (40 << 20) + "-->"), "tag or comment"),
        (dump_of("<page a='" + "x" * (40 << 20) + "'/>"), "tag or comment"),
        (dump_of(small_page(1).replace("<id>1</id>", "<id> </id>")), "lacks a field"),
        (dump_of(small_page(1).replace("<ns>0</ns>", "<ns>five</ns>")), "lacks a field"),
        (dump_of(small_page(1, "\x01")), "not well-formed"),
        (dump_of(small_page(1)).replace(b"Some", b"\xff\xfe"), "not well-formed"),
        (dump_of(small_page(1)).decode().encode("utf-16"), "not UTF-8"),
        (dump_of(small_page(1)).decode().encode("utf-16-le"), "not UTF-8"),
    ],
)
def test_hostile_xml_is_refused_in_one_line_and_nothing_outside_is_read(tmp_path, data, message):
    (tmp_path / "d.xml").write_bytes(data)
    with pytest.raises(InputError, match=message) as caught:
        list(read_pages(str(tmp_path / "d.xml")))
    assert "d.xml" in str(caught.value)
    assert "\n" not in str(caught.value)
    assert "root:" not in str(caught.value)


@pytest.mark.parametrize("suffix", [".bz2", ".gz"])
def test_some_bytes_that_unpack_to_gigabytes_do_not_fill_the_memory(tmp_path, suffix):
    data = dump_of(small_page(1), small_page(2, "0" * (100 << 20)), small_page(3))
    path = tmp_path / f"d.xml{suffix}"
    path.write_bytes(bz2.compress(data) if suffix == ".bz2" else gzip.compress(data, 1))
    del data
    pages, peak = peak_of_reading(path)
    assert [page.too_long for page in pages] == [False, True, False]
    assert peak < 40 << 20


@pytest.mark.parametrize(
    ("page", "reason"),
    [
        (Page("1", 1, "Talk:A", False, "x"), "namespace"),
        (Page("1", 0, "A", True, "x"), "redirect"),
        (Page("1", 0, "A", False, "#redirect [[B]]"), "redirect"),
        (Page("1", 0, "A", False, " \n"), "empty"),
        (Page("1", 0, "A", False, "may mean {{disambig}}"), "disambiguation"),
        (Page("1", 0, "A", False, "is a letter"), None),
        (Page("1", 0, "Q42", False, '{"labels": {}}', model="wikibase-item"), "content_model"),
    ],
)
def test_reasons_for_dropping(page, reason):
    assert drop_reason(page) == reason


def test_the_excerpt_has_106_articles_of_which_8_are_disambiguation_pages(excerpt):
    reasons = Counter(drop_reason(page) for page in read_pages(excerpt))
    assert reasons == {None: 98, "disambiguation": 8, "redirect": 99, "namespace": 1}


def test_a_dump_is_read_from_any_file_system(tmp_path):
    store.write_bytes("memory://dumps", "d.xml.bz2", multistream()[0])
    url = "memory://dumps/d.xml.bz2"
    assert read_all(url, cut_dump(url, 1000)) == EXPECTED


@pytest.mark.parametrize("place", [0.001, 0.2, 0.5, 0.99])
@pytest.mark.parametrize("kind", ["multistream", "single"])
def test_a_cut_bz2_is_an_error_in_whichever_split_it_ends(tmp_path, place, kind):
    data = multistream()[0] if kind == "multistream" else bz2.compress(DUMP)
    path = tmp_path / "d.xml.bz2"
    path.write_bytes(data[: int(len(data) * place)])
    with pytest.raises(InputError, match=r"cut|not bz2"):
        read_all(str(path), [(0, 900), (900, 2000), (2000, None)])
