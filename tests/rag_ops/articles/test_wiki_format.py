"""What the formats of wikis share: the same article in each gives the same parts; reasons; wrong files are one line."""

import json

import pytest

from rag_ops.articles import wiki_format
from rag_ops.articles.article import Article, NoArticle
from rag_ops.articles.dropped import Dropped
from rag_ops.articles.formats import FORMATS
from rag_ops.articles.options import FORMATS as NAMES
from rag_ops.articles.options import InputOptions
from rag_ops.articles.reading import plan_splits, read_split
from rag_ops.articles.splitting import Cutting, cut_article
from rag_ops.errors import InputError
from tests import wikis


def read(paths, **options):
    reading, dropped = InputOptions(**options), Dropped()
    splits = plan_splits([str(path) for path in paths], reading)
    return [one for split in splits for one in read_split(split, reading, dropped)], dropped, splits


WRITTEN = {
    "a.ndjson": ("enterprise", lambda path: wikis.write_json(path, wikis.ARTICLES)),
    "a.json": ("enterprise", lambda path: wikis.write_json(path, wikis.ARTICLES)),
    "enwiki-NS0-ENTERPRISE-HTML.json.tar.gz": (
        "enterprise",
        lambda path: wikis.write_archive(path, {"a_0.ndjson": wikis.ARTICLES[:2], "a_1.ndjson": wikis.ARTICLES[2:]}),
    ),
    "fine.parquet": ("finewiki", lambda path: wikis.write_parquet(path, wikis.FINEWIKI)),
    "fine.jsonl": ("finewiki", lambda path: wikis.write_json(path, wikis.FINEWIKI)),
    "s.jsonl": ("structured", lambda path: wikis.write_json(path, wikis.STRUCTURED)),
    "s.tar.gz": (
        "structured",
        lambda path: wikis.write_archive(
            path, {"s_0.ndjson": wikis.STRUCTURED[:2], "s_1.ndjson": wikis.STRUCTURED[2:]}
        ),
    ),
    "s.parquet": ("structured", lambda path: wikis.write_parquet(path, wikis.STRUCTURED)),
    "packed.parquet": ("structured", lambda path: wikis.write_parquet(path, wikis.STRUCTURED, packed=True)),
}


def test_the_names_of_formats_are_told_once_more_than_they_must():
    assert tuple(FORMATS) == NAMES


@pytest.mark.parametrize("name", WRITTEN)
def test_an_article_has_the_same_passages_in_every_format(name, tmp_path):
    kind, write = WRITTEN[name]
    found, dropped, splits = read([write(tmp_path / name)])
    assert {split.format for split in splits} == {kind}
    first = found[0]
    assert (first.article_id, first.title, first.date, first.revision) == ("1", "Ulm", 20240501100000, 1001)
    passages = [(one.kind, one.section, one.text) for one in cut_article(first, Cutting())]
    assert passages == wikis.PASSAGES
    assert [one.title for one in found if isinstance(one, Article) and one.text] == (
        ["Ulm", "Bonn"] if kind == "enterprise" else ["Ulm", "Bonn", "Köln"]
    )
    assert dropped["disambiguation"] == 1
    assert sum(isinstance(one, NoArticle) for one in found) == sum(dropped.values()) - dropped["namespace"]
    again, _, several = read([tmp_path / name], split_bytes=1)
    assert again == found
    assert len(several) > 1 or name.endswith("gz")


@pytest.mark.parametrize("name", ["a.ndjson", "fine.parquet", "s.jsonl"])
def test_tables_and_captions_as_they_are_wanted(name, tmp_path):
    path = WRITTEN[name][1](tmp_path / name)
    prose = [one.kind for one in read([path], tables="drop")[0][0].parts]
    assert set(prose) == {"prose"}
    kinds = [one.kind for one in read([path], captions=True)[0][0].parts]
    assert kinds == ["prose", "prose", "infobox", "table", *["caption"] * (name == "a.ndjson")]


def test_the_language_is_the_articles_own_unless_one_is_given(tmp_path):
    page = "<p>a</p><h2>Einzelnachweise</h2><p>b</p>"
    known = {"in_language": {"identifier": "de"}}, {"in_language": None, "is_part_of": {"identifier": "dewiki"}}, {}
    rows = [wikis.article(n, "A", page, **more) for n, more in enumerate(known)]
    path = wikis.write_json(tmp_path / "a.ndjson", rows)
    assert [one.text for one in read([path])[0]] == ["a", "a", "a\nb"]
    assert [one.text for one in read([path], language="fr")[0]] == ["a\nb"] * 3


def test_ids_of_several_wikis_get_their_wikis_names(tmp_path):
    german = [{**row, "wikiname": "dewiki", "in_language": "de"} for row in wikis.FINEWIKI]
    paths = [tmp_path / "a.ndjson", tmp_path / "b.parquet"]
    wikis.write_json(paths[0], wikis.ARTICLES), wikis.write_parquet(paths[1], german)
    assert {one.article_id.split(":")[0] for one in read(paths)[0]} == {"enwiki", "dewiki"}


def test_reasons_of_pages_that_are_at_fault(tmp_path, monkeypatch):
    deep: list = []
    for _ in range(60):
        deep = [{"type": "section", "name": "x", "has_parts": deep}]
    rows = [{**wikis.STRUCTURED[1], "sections": deep}, {**wikis.STRUCTURED[1], "name": "x" * 1001}]
    found, dropped, _ = read([wikis.write_json(tmp_path / "s.jsonl", rows)])
    assert dict(dropped) == {"too_complex": 1, "too_long": 1}
    assert dropped.titles["too_complex"] == ["Bonn"]
    monkeypatch.setattr("rag_ops.markup.html.MAX_TAGS", 3)
    found, dropped, _ = read([wikis.write_json(tmp_path / "a.ndjson", wikis.ARTICLES[:1])])
    assert dict(dropped) == {"too_complex": 1}
    assert found == [NoArticle("1", 20240501100000, 1001)]


def test_what_no_file_can_hold_goes(tmp_path):
    (tmp_path / "a.ndjson").write_text(json.dumps(wikis.article(1, "A\ud800", "<p>b\ud800\u0000c</p>")) + "\n")
    [one] = read([tmp_path / "a.ndjson"])[0]
    assert (one.title, one.text) == ("A\ufffd", "b\ufffd c")


WRONG = [
    ("a.tar.gz", lambda p: wikis.write_archive(p, {"a.txt": [{}]}), "enterprise", "the archive has no NDJSON"),
    ("a.tar.gz", lambda p: wikis.write_archive(p, {"a.txt": [{}]}), "auto", "an archive cannot be read as it is"),
    ("a.tar.gz", lambda p: p.write_bytes(b"no archive"), "enterprise", "the archive cannot be read"),
    ("a.ndjson", lambda p: wikis.write_json(p, [{"name": "x"}]), "enterprise", "have no article_body"),
    ("a.ndjson", lambda p: p.write_text("[1]"), "enterprise", "JSON array and not JSONL"),
    ("a.parquet", lambda p: wikis.write_parquet(p, [{"text": "x"}]), "finewiki", "have no title, page_id, wikiname"),
    (
        "a.parquet",
        lambda p: wikis.write_parquet(p, [{"text": "x"}]),
        "structured",
        "have no name, identifier, sections",
    ),
    ("a.parquet", lambda p: p.write_bytes(b"PAR1"), "structured", "not a whole Parquet file"),
    ("a.ndjson", lambda p: wikis.write_json(p, wikis.ARTICLES), "jsonl", "give --format enterprise, or none"),
    ("a.parquet", lambda p: wikis.write_parquet(p, wikis.FINEWIKI), "parquet", "give --format finewiki, or none"),
    ("a.jsonl", lambda p: wikis.write_json(p, wikis.STRUCTURED), "enterprise", "give --format structured, or none"),
    ("a.xml", lambda p: p.write_text("<mediawiki>"), "zim", "not a ZIM file"),
    ("a.zim", lambda p: p.write_bytes(b"ZIM\x04" + b"x" * 500), "mediawiki", "give --format zim, or none"),
    ("a.zim", lambda p: p.write_bytes(b"ZIM\x04" + b"x" * 500), "auto", "the ZIM file is cut or damaged"),
    ("a.zim", lambda p: p.write_bytes(b"PK"), "auto", "not a ZIM file"),
]


@pytest.mark.parametrize(("name", "write", "kind", "message"), WRONG)
def test_a_wrong_file_is_one_line(name, write, kind, message, tmp_path):
    if "ZIM" in message:
        pytest.importorskip("libzim")
    write(tmp_path / name)
    with pytest.raises(InputError, match=message) as caught:
        read([tmp_path / name], format=kind)
    assert name in str(caught.value)
    assert "\n" not in str(caught.value)


BROKEN = [
    {"identifier": True},
    {"identifier": None},
    {"name": 3},
    {"name": ""},
]


@pytest.mark.parametrize("fault", BROKEN)
def test_a_line_that_cannot_be_read_is_told_by_its_number(fault, tmp_path):
    for name, rows in (("a.ndjson", wikis.ARTICLES), ("s.jsonl", wikis.STRUCTURED)):
        path = wikis.write_json(tmp_path / name, [rows[0], {**rows[1], **fault}])
        with pytest.raises(InputError, match=f"{name}, line 2"):
            read([path])


def test_a_line_of_an_archive_is_told_with_its_file(tmp_path):
    files = {"a_0.ndjson": wikis.ARTICLES[:1], "a_1.ndjson": [wikis.ARTICLES[0], {**wikis.ARTICLES[1], "name": 1}]}
    with pytest.raises(InputError, match=r"a\.tar\.gz, a_1\.ndjson, line 2"):
        read([wikis.write_archive(tmp_path / "a.tar.gz", files)])


@pytest.mark.parametrize("value", [None, 3, [3], {"identifier": []}, "{", [[[]]], {"has_parts": [None, 3]}])
def test_anything_may_stand_where_something_nested_should(value, tmp_path):
    names = ("sections", "infoboxes", "tables", "in_language", "is_part_of", "version", "description", "date_modified")
    rows = [{**wikis.STRUCTURED[0], name: value} for name in names]
    assert len(read([wikis.write_json(tmp_path / "s.jsonl", rows)])[0]) == len(rows)
    rows = [{**wikis.FINEWIKI[0], name: value} for name in ("infoboxes", "in_language", "version", "text")]
    assert len(read([wikis.write_json(tmp_path / "f.jsonl", rows)])[0]) == len(rows)
    names = ("article_body", "namespace", "in_language", "is_part_of", "version", "templates", "date_modified")
    rows = [wikis.ARTICLES[1], *({**wikis.ARTICLES[1], name: value} for name in names)]
    assert len(read([wikis.write_json(tmp_path / "a.ndjson", rows)])[0]) == len(rows)
    assert wiki_format.unpacked("{") is None
