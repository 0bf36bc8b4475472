"""chunk expands a dump's calls by the templates that stand anywhere in it, with the same bytes however it is cut."""

import bz2
import json
from pathlib import Path

import pyarrow as pa
import pytest

from pipelines.chunk import templates
from rag_ops.articles import dump
from rag_ops.articles.options import InputOptions
from rag_ops.articles.reading import plan_splits
from rag_ops.storage import store
from rag_ops.storage.manifests import read_manifest
from rag_ops.storage.parquet import read_parquet
from tests.pipelines.workspace import digests, fails, ragbeam
from tests.suspicious import suspicious

LATGALIAN = Path(__file__).parents[4] / "shared" / "data" / "wiki" / "ltgwiki-2017.xml.bz2"
HEAD = (
    '<mediawiki xml:lang="de"><siteinfo><dbname>{}wiki</dbname><namespaces><namespace key="0"/>'
    '<namespace key="10">Vorlage</namespace></namespaces></siteinfo>'
)
TEMPLATES = {
    "Vorlage:Geboren": "geboren {{Tag|{{{1}}}}} in [[{{{2}}}]]<noinclude>{{Doku}}</noinclude>",
    "Vorlage:Tag": "am {{#time:j. n. Y|{{{1}}}}}",
    "Vorlage:Zwei": "#WEITERLEITUNG [[Vorlage:Mehrdeutig]]",
    "Vorlage:Mehrdeutig": "{| class=box\n| Dies ist eine Seite mit vielen Zielen.\n|}__DISAMBIG__",
    "Vorlage:Kasten": '<div class="infobox">{{{name}}}, ein Kasten</div>',
    "Vorlage:Lua": "{{#invoke:Zahl|schreib|{{{1}}}}}",
}


def page(number, title, text, namespace=0, revision=1):
    escaped = text.replace("&", "&amp;").replace("<", "&lt;").replace(">", "&gt;")
    return (
        f"<page><title>{title}</title><ns>{namespace}</ns><id>{number}</id><revision><id>{revision}</id>"
        f"<timestamp>2020-01-01T00:00:{revision:02d}Z</timestamp><text>{escaped}</text></revision></page>\n"
    )


def wiki(name="de", pages_of=TEMPLATES, count=12):
    """A dump whose templates stand behind the articles that call them, and before others."""
    call = "{{Kasten|name=Person {0}}}\n'''Person {0}''' ({{geboren|1879-03-{0:02d}|Ulm}}) zahlte {{Lua|5}} Mark."
    articles = [
        page(number, f"Person {number}", call.replace("{0}", str(number)).replace("{0:02d}", f"{number:02d}"))
        for number in range(1, count)
    ]
    articles.append(page(90, "Ulm", "'''Ulm''' ist:\n* eine Stadt\n{{zwei}}"))
    pages = [page(100 + number, title, text, 10) for number, (title, text) in enumerate(pages_of.items())]
    return HEAD.format(name) + "".join([*articles[:6], *pages, *articles[6:]]) + "</mediawiki>"


def chunk(path, output, *more):
    paths = path if isinstance(path, list) else [path]
    ragbeam("chunk", "--input", *paths, "--output", output, "--num_shards", 3, *more)
    return digests(output, "chunk")


def texts(output):
    shards = read_manifest(str(output), "chunk").shards
    table = pa.concat_tables(read_parquet(store.join(str(output), shard.path)) for shard in shards)
    return dict(zip(table["title"].to_pylist(), table["text"].to_pylist(), strict=True))


@pytest.fixture(scope="module")
def chunked(tmp_path_factory):
    directory = tmp_path_factory.mktemp("wiki")
    (directory / "d.xml").write_text(wiki())
    chunk(directory / "d.xml", directory / "p")
    return directory


def test_calls_are_expanded_wherever_their_templates_stand(chunked):
    found = texts(chunked / "p")
    assert found["Person 3"] == "Person 3 (geboren am 3. 3. 1879 in Ulm) zahlte Mark."
    assert found["Person 11"] == "Person 11 (geboren am 11. 3. 1879 in Ulm) zahlte Mark."


def test_a_disambiguation_page_is_known_by_its_template_and_dropped_templates_are_counted(chunked):
    info = read_manifest(str(chunked / "p"), "chunk").info
    assert (info["articles"], info["dropped"]) == (11, {"disambiguation": 1, "namespace": 6})
    assert info["dropped_templates"] == {"Kasten": 11, "Lua": 11}
    run = json.loads((chunked / "p" / "run.json").read_text())
    assert run["info"] == info
    assert run["steps"]["MergeTemplates"]["rows_out"] == 6
    assert run["steps"]["ReadSplits"]["dropped_disambiguation"] == 1


def test_nothing_of_the_collection_is_left(chunked):
    assert {path.name.partition("-")[0] for path in (chunked / "p").iterdir()} == {
        "passages",
        "manifest.json",
        "run.json",
    }


@pytest.mark.parametrize("split_bytes", [900, 2500])
def test_any_cuts_give_the_same_bytes(chunked, tmp_path, split_bytes):
    assert chunk(chunked / "d.xml", tmp_path / "p", "--split_bytes", split_bytes) == digests(chunked / "p", "chunk")
    assert read_manifest(str(tmp_path / "p"), "chunk").info == read_manifest(str(chunked / "p"), "chunk").info


@pytest.mark.usefixtures("warm_workers")
def test_two_workers_and_bz2_give_the_same_bytes(chunked, tmp_path):
    (tmp_path / "d.xml.bz2").write_bytes(bz2.compress(wiki().encode()))
    mode = ("--direct_running_mode=multi_processing", "--direct_num_workers=2")
    assert [digest for _, digest in chunk(tmp_path / "d.xml.bz2", tmp_path / "p", *mode)] == [
        digest for _, digest in digests(chunked / "p", "chunk")
    ]


def test_without_templates_calls_are_dropped_and_the_output_is_another(chunked, tmp_path, capsys):
    chunk(chunked / "d.xml", tmp_path / "p", "--templates", "none")
    assert texts(tmp_path / "p")["Person 3"] == "Person 3 zahlte Mark."
    assert fails(capsys, "chunk", "--input", chunked / "d.xml", "--output", tmp_path / "p", "--num_shards", 3)[0] == 2
    code, line = fails(capsys, "chunk", "--input", chunked / "d.xml", "--output", tmp_path / "q", "--templates", "all")
    assert code == 2
    assert "--templates" in line


def test_each_wiki_has_its_own_templates(tmp_path):
    (tmp_path / "a.xml").write_text(wiki("aa", count=2))
    (tmp_path / "b.xml").write_text(wiki("bb", {**TEMPLATES, "Vorlage:Tag": "am Tag {{{1}}}"}, count=3))
    chunk([tmp_path / "a.xml", tmp_path / "b.xml"], tmp_path / "p")
    shards = read_manifest(str(tmp_path / "p"), "chunk").shards
    rows = [row for shard in shards for row in read_parquet(store.join(str(tmp_path / "p"), shard.path)).to_pylist()]
    assert {row["article_id"]: row["text"].split(" in ")[0] for row in rows} == {
        "aawiki:1": "Person 1 (geboren am 1. 3. 1879",
        "bbwiki:1": "Person 1 (geboren am Tag 1879-03-01",
        "bbwiki:2": "Person 2 (geboren am Tag 1879-03-02",
    }


def test_what_an_earlier_run_read_is_not_read_again(chunked, tmp_path, monkeypatch):
    reading, read = InputOptions(split_bytes=900), []
    splits = plan_splits([str(chunked / "d.xml")], reading)
    (wiki_read,) = templates.wikis_of(splits, reading)
    names = templates.names_of([wiki_read])
    real = templates.MediaWiki.articles

    def counted(self, split, *rest):
        read.append(split.ordinal)
        return real(self, split, *rest)

    def collect():
        read.clear()
        for split in splits:
            templates.read_dump(split, reading, str(tmp_path), names)
        return read

    monkeypatch.setattr(templates.MediaWiki, "articles", counted)
    assert len(collect()) == len(splits) > 3
    assert collect() == []
    (tmp_path / templates.file_name("run", splits[2])).unlink()
    assert collect() == [2]
    templates.merge_templates(wiki_read, str(tmp_path))
    assert not list(tmp_path.glob("run-*"))
    assert collect() == []
    templates.forget(splits[1], str(tmp_path), names)
    assert collect() == [1]


@pytest.mark.skipif(not LATGALIAN.exists(), reason="the dump is not here")
def test_a_whole_wikipedia_comes_out_clean(tmp_path):
    chunk(LATGALIAN, tmp_path / "p")
    found = read_manifest(str(tmp_path / "p"), "chunk")
    assert found.info["dropped"]["disambiguation"] == 7
    shards = [read_parquet(store.join(str(tmp_path / "p"), shard.path)) for shard in found.shards]
    rows = pa.concat_tables(shards).to_pylist()
    site = dump.read_site(str(LATGALIAN))
    names = [name for name, number in site.namespaces.items() if number in (-2, 6, 10, 14)]
    places, words = suspicious((row["text"] for row in rows), names)
    assert words > 80_000
    assert 1000 * places.total() / words < 1.0, places
    firsts = {row["title"]: row["text"] for row in rows if row["position"] == 0}
    for title, name in {
        "Austreja": "Österreich",
        "Igauneja": "Eesti Vabariik",
        "Grekeja": "Ελλάδα",
        "Eura": "евро",
    }.items():
        assert f": {name}" in firsts[title][:200]
