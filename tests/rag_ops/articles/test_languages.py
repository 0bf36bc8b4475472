"""The language that an input says, for the manifest: by what its format has, and never by a part of its articles."""

import json

import pyarrow as pa
import pytest

from rag_ops.articles.formats import FORMATS
from rag_ops.articles.options import InputOptions
from rag_ops.articles.reading import plan_splits
from tests import wikis

READ = InputOptions()
GERMAN = {"in_language": {"identifier": "de"}, "is_part_of": {"identifier": "dewiki"}}
FORMS = {
    "enterprise.ndjson": (wikis.write_json, [row | GERMAN for row in wikis.ARTICLES]),
    "enterprise.json.tar.gz": (
        lambda path, rows: wikis.write_archive(path, {"a.ndjson": rows[:2], "b.ndjson": rows[2:]}),
        [row | GERMAN for row in wikis.ARTICLES],
    ),
    "structured.jsonl": (wikis.write_json, [row | GERMAN for row in wikis.STRUCTURED]),
    "packed.parquet": (
        lambda path, rows: wikis.write_parquet(path, rows, packed=True),
        [row | GERMAN for row in wikis.STRUCTURED],
    ),
    "finewiki.parquet": (wikis.write_parquet, [row | {"in_language": "de"} for row in wikis.FINEWIKI]),
    "by-wiki.jsonl": (
        wikis.write_json,
        [row | {"in_language": None, "wikiname": "dewiki"} for row in wikis.FINEWIKI],
    ),
}


def pages(*codes: str) -> list[dict]:
    return [
        {"id": str(n), "title": str(n), "text": "Ulm.", "url": f"https://{code}.wikipedia.org/wiki/{n}"}
        for n, code in enumerate(codes)
    ]


def write_arrow(path, rows):
    table = pa.Table.from_pylist(rows)
    with pa.ipc.new_stream(path, table.schema) as stream:
        stream.write_table(table)
    return path


ROWS = {"pages.jsonl": wikis.write_json, "pages.parquet": wikis.write_parquet, "pages.arrow": write_arrow}


def language(path, **more) -> str:
    reading = InputOptions(**more)
    (kind,) = {split.format for split in plan_splits([str(path)], reading)}
    return FORMATS[kind].language(str(path), reading)


@pytest.mark.parametrize("name", FORMS)
def test_articles_of_wikis_say_their_language(name, tmp_path):
    write, rows = FORMS[name]
    assert language(write(tmp_path / name, rows)) == "de"
    mixed = [*rows[:1], {**rows[1], "in_language": {"identifier": "fr"}}]
    if "finewiki" in name or "wiki." in name:
        mixed[1] = {**rows[1], "in_language": "fr"}
    path = tmp_path / f"mixed-{name}"
    assert language(wikis.write_json(path, mixed) if name.endswith("jsonl") else write(path, mixed)) == ""


@pytest.mark.parametrize("name", ROWS)
def test_addresses_of_a_wikipedia_say_it_where_all_name_one(name, tmp_path):
    write = ROWS[name]
    assert language(write(tmp_path / name, pages("de", "de"))) == "de"
    assert language(write(tmp_path / name, pages("simple", "simple"))) == "en"
    assert language(write(tmp_path / name, pages("de", "fr"))) == ""
    assert language(write(tmp_path / name, [*pages("de"), {**pages("de")[0], "url": "https://[no"}])) == ""
    assert language(write(tmp_path / name, [{"text": "Ulm."}])) == ""


def test_a_zim_file_says_one_or_several(tmp_path):
    pytest.importorskip("libzim")
    for said, code in (("deu", "de"), ("deu,fra", ""), ("ltg", "ltg")):
        path = wikis.write_zim(tmp_path / f"{said}.zim", wikis.ZIM_PAGES[:1], language=said)
        assert language(path) == code


def test_a_dump_and_a_dataset(tmp_path):
    (tmp_path / "w.xml").write_text("<mediawiki xml:lang='fr'><siteinfo/></mediawiki>")
    assert FORMATS["mediawiki"].language(str(tmp_path / "w.xml"), READ) == "fr"
    for name, config, code in (
        ("wikimedia/wikipedia", "20231101.de", "de"),
        ("wikimedia/structured-wikipedia", "20240916.fr", "fr"),
        ("HuggingFaceFW/finewiki", "it", "it"),
        ("HuggingFaceFW/finewiki", "simple", "en"),
        ("wikimedia/wikipedia", "20231101.nothing", ""),
        ("squad", "de", ""),
        ("wikitext", "plain_text", ""),
    ):
        assert FORMATS["hf"].language(name, InputOptions(format="hf", dataset_config=config)) == code, (name, config)


def test_formats_that_know_nothing_say_nothing(tmp_path):
    (tmp_path / "a.tsv").write_text("1\tUlm is a city.\n")
    (tmp_path / "a.txt").write_text("Ulm is a city.")
    (tmp_path / "corpus.jsonl").write_text(json.dumps({"_id": "1", "text": "Ulm", "metadata": {}}) + "\n")
    assert [language(tmp_path / "a.tsv", format=form) for form in ("auto", "msmarco")] == ["", ""]
    assert language(tmp_path / "a.txt", format="text") == ""
    assert language(tmp_path / "corpus.jsonl") == ""
