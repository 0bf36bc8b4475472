"""Inputs by their names: formats, globs and directories, and what stands before ids."""

import pytest

from rag_ops.articles.options import InputOptions
from rag_ops.articles.reading import expand_inputs, format_of, plan_splits
from rag_ops.errors import InputError
from rag_ops.storage import store
from tests.rag_ops.articles.test_reading import ROWS, jsonl, psgs


def test_files_of_one_stem_are_told_apart_by_their_whole_names(tmp_path):
    (tmp_path / "a.jsonl").write_bytes(jsonl(ROWS[:1]))
    (tmp_path / "a.tsv").write_bytes(psgs(ROWS[:1]))
    splits = plan_splits([str(tmp_path)], InputOptions(prefix_ids=True))
    assert [split.prefix for split in splits] == ["a.jsonl:", "a.tsv:"]


@pytest.mark.parametrize(
    ("name", "kind"),
    [
        ("enwiki-latest-pages-articles.xml", "mediawiki"),
        ("enwiki-latest-pages-articles1.xml-p10p30302.bz2", "mediawiki"),
        ("d.XML.GZ", "mediawiki"),
        ("memory://b/x.jsonl.zst", "jsonl"),
        ("x.ndjson", "jsonl"),
        ("x.parquet", "parquet"),
        ("psgs_w100.tsv.gz", "psgs"),
    ],
)
def test_formats_by_name(name, kind):
    assert format_of(name, InputOptions()) == kind
    assert format_of(name, InputOptions(format="hf")) == "hf"


@pytest.mark.parametrize("options", [{"format": "docx"}, {"split_bytes": 0}])
def test_options_check_themselves(options):
    with pytest.raises(InputError, match=r"--\w+"):
        InputOptions(**options)


def test_globs_and_directories_are_sorted_and_an_index_is_no_dump(tmp_path):
    for name in ("b.jsonl", "a.jsonl", "_hidden.jsonl", "d-multistream-index.txt"):
        (tmp_path / name).write_bytes(jsonl(ROWS[:1]))
    names = ["a.jsonl", "b.jsonl"]
    assert [url.rsplit("/", 1)[1] for url in expand_inputs([str(tmp_path / "*.jsonl")], InputOptions())][-2:] == names
    assert [url.rsplit("/", 1)[1] for url in expand_inputs([str(tmp_path)], InputOptions())] == names


def test_a_glob_on_another_file_system_keeps_its_scheme():
    for name in ("y.jsonl", "x.jsonl"):
        store.write_bytes("memory://globbed", name, jsonl(ROWS[:1]))
    found = expand_inputs(["memory://globbed/*.jsonl"], InputOptions())
    assert found == ["memory://globbed/x.jsonl", "memory://globbed/y.jsonl"]


def test_the_language_of_a_dump_is_the_one_that_is_given_before_its_own(tmp_path):
    (tmp_path / "d.xml").write_text(
        '<mediawiki xml:lang="lv"><siteinfo><dbname>ltgwiki</dbname></siteinfo></mediawiki>'
    )
    sites = [InputOptions(language=code).site_of(str(tmp_path / "d.xml")) for code in (None, "ltg", "ZH-yue")]
    assert [(site.wiki, site.code) for site in sites] == [("ltgwiki", code) for code in ("lv", "ltg", "zh-yue")]
    with pytest.raises(InputError, match="--language is no code of a language"):
        InputOptions(language="Latgalian!")


@pytest.mark.parametrize("options", [InputOptions(), InputOptions(format="mediawiki")])
def test_an_archive_is_refused_with_the_command_that_unpacks_it(options):
    with pytest.raises(InputError, match=r"an archive.*7z x -so FILE \| zstd"):
        format_of("dumps/enwiki-history.xml.7z", options)
