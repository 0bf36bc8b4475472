"""chunk on the real excerpt, and on every kind of input: counts, limits, same bytes."""

import bz2
import contextlib
import itertools
import json
import shutil

import pyarrow as pa
import pyarrow.parquet
import pytest

from pipelines.chunk.job import named
from rag_ops.articles.article import Split
from rag_ops.articles.words import is_spaced
from rag_ops.storage import store
from rag_ops.storage.manifests import read_manifest
from rag_ops.storage.parquet import read_parquet
from rag_ops.storage.stages import write_shard
from tests import wikis
from tests.pipelines.workspace import digests, fails, ragbeam, write_articles
from tests.rag_ops.articles.test_dump import multistream


@pytest.fixture(scope="module")
def chunked(tmp_path_factory, excerpt):
    directory = tmp_path_factory.mktemp("excerpt") / "passages"
    ragbeam("chunk", "--input", excerpt, "--output", directory)
    return directory


def read(directory) -> pa.Table:
    shards = read_manifest(str(directory), "chunk").shards
    return pa.concat_tables(read_parquet(store.join(str(directory), shard.path)) for shard in shards)


def test_the_excerpt_gives_98_articles_and_tells_what_it_dropped(chunked):
    info = read_manifest(str(chunked), "chunk").info
    assert info["articles"] == 98
    assert info["dropped"] == {"disambiguation": 8, "namespace": 1, "redirect": 99}
    assert json.loads((chunked / "run.json").read_text())["info"] == info


def test_passages_have_at_most_100_words_and_no_markup(chunked):
    table = read(chunked)
    assert len(set(table["article_id"].to_pylist())) == 98
    last_of_article = 0
    for row in table.to_pylist():
        assert not any(mark in row["text"] for mark in ("|", "{{", "[[", "<ref")), row
        assert not any(mark in row["section"] for mark in ("|", "{{", "[[", "<ref")), row
        if row["kind"] == "prose" and is_spaced(row["text"]):
            words = row["text"].split(" ")
            assert 1 <= len(words) <= 100
            last_of_article += len(words) < 99  # a character of another script is less than a word
    assert last_of_article <= 98, "only the last passage of an article is short"
    assert len(set(table["id"].to_pylist())) == table.num_rows > 4000


def test_prose_comes_first_and_is_the_same_without_tables(chunked, excerpt, tmp_path):
    ragbeam("chunk", "--input", excerpt, "--output", tmp_path / "p", "--tables", "drop")
    plain, whole = read(tmp_path / "p").to_pylist(), read(chunked).to_pylist()
    assert [row for row in whole if row["kind"] == "prose"] == plain
    kinds = read_manifest(str(chunked), "chunk").info["kinds"]
    assert kinds == {kind: sum(row["kind"] == kind for row in whole) for kind in ("infobox", "prose", "table")}
    assert min(kinds.values()) > 50
    order = ["prose", "infobox", "table"]
    for before, after in itertools.pairwise(whole):
        if before["article_id"] == after["article_id"]:
            assert order.index(before["kind"]) <= order.index(after["kind"])
            assert after["position"] == before["position"] + 1


def test_a_section_that_the_input_has_is_taken_over(tmp_path):
    row = {"id": "1", "title": "Ulm", "text": "It has a minster.", "section": "Sights > Churches"}
    (tmp_path / "a.jsonl").write_text(json.dumps(row) + "\n" + json.dumps({**row, "id": "2", "section": 7}))
    pa.parquet.write_table(pa.Table.from_pylist([row]), tmp_path / "a.parquet")
    (tmp_path / "a.tsv").write_text("id\tsection\ttext\ttitle\n1\tSights > Churches\tIt has a minster.\tUlm\n")
    for name in ("jsonl", "parquet", "tsv"):
        ragbeam("chunk", "--input", tmp_path / f"a.{name}", "--output", tmp_path / name)
        rows = read(tmp_path / name).to_pylist()
        sections = {row["article_id"]: row["section"] for row in rows}
        assert sections == {"1": "Sights > Churches", **({"2": ""} if name == "jsonl" else {})}
        assert {row["kind"] for row in rows} == {"prose"}


def test_captions_and_windows_of_sentences_are_passages_if_asked_for(tmp_path):
    text = "[[File:A.png|thumb|A fine view]] One is. Two is. Three is.\n== B ==\nFour is. Five is.".replace("<", "")
    page = f"<page><title>A</title><ns>0</ns><id>1</id><revision><text>{text}</text></revision></page>"
    (tmp_path / "d.xml").write_text(f"<mediawiki>{page}</mediawiki>")
    flags = ["--captions", "--passage_unit", "sentences", "--window_sentences", 2, "--window_stride", 2]
    ragbeam("chunk", "--input", tmp_path / "d.xml", "--output", tmp_path / "p", *flags)
    assert [(row["id"], row["kind"], row["section"], row["text"]) for row in read(tmp_path / "p").to_pylist()] == [
        ("1:0", "prose", "", "One is. Two is."),
        ("1:1", "prose", "", "Three is. Four is."),
        ("1:2", "prose", "B", "Five is."),
        ("1:3", "caption", "", "A fine view"),
    ]


@pytest.mark.usefixtures("warm_workers")
def test_pages_of_the_excerpt_give_the_same_bytes_in_other_processes(tmp_path, some_pages):
    command = ["chunk", "--input", some_pages, "--num_shards", 3, "--output"]
    ragbeam(*command, tmp_path / "usual")
    for workers in (1, 2):
        processes = ["--direct_running_mode=multi_processing", f"--direct_num_workers={workers}"]
        ragbeam(*command, tmp_path / str(workers), *processes)
        assert digests(tmp_path / str(workers), "chunk") == digests(tmp_path / "usual", "chunk")


def test_a_multistream_dump_gives_what_its_plain_xml_gives(tmp_path):
    data, _ = multistream()
    (tmp_path / "d.xml.bz2").write_bytes(data)
    (tmp_path / "d.xml").write_bytes(bz2.decompress(data))
    for name, extra in (("a", ["d.xml"]), ("b", ["d.xml.bz2"]), ("c", ["d.xml.bz2", "--split_bytes", 700])):
        ragbeam("chunk", "--input", tmp_path / extra[0], *extra[1:], "--output", tmp_path / name, "--num_shards", 3)
    assert digests(tmp_path / "a", "chunk") == digests(tmp_path / "b", "chunk") == digests(tmp_path / "c", "chunk")


def test_an_article_that_comes_twice_is_kept_once_and_counted(tmp_path, capsys):
    write_articles(tmp_path / "a.jsonl")
    shutil.copy(tmp_path / "a.jsonl", tmp_path / "b.jsonl")
    ragbeam("chunk", "--input", tmp_path / "a.jsonl", tmp_path / "b.jsonl", "--output", tmp_path / "p")
    assert "30 duplicate id" in capsys.readouterr().out
    ragbeam("chunk", "--input", tmp_path / "a.jsonl", "--output", tmp_path / "once")
    assert [digest for _, digest in digests(tmp_path / "p", "chunk")] == [
        d for _, d in digests(tmp_path / "once", "chunk")
    ]


def test_files_whose_ids_begin_anew_are_refused_and_both_read_with_prefix_ids(tmp_path, capsys):
    for name, word in (("a", "first"), ("b", "second")):
        rows = [{"id": number, "title": f"T{number}", "text": f"{word} text {number}"} for number in range(5)]
        (tmp_path / f"{name}.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    arguments = ("chunk", "--input", tmp_path / "a.jsonl", tmp_path / "b.jsonl", "--output", tmp_path / "p")
    code, line = fails(capsys, *arguments)
    assert code == 2
    assert all(part in line for part in ("two articles have one id", "a.jsonl and", "b.jsonl", "--prefix_ids"))
    ragbeam(*arguments, "--prefix_ids")
    table = read(tmp_path / "p")
    assert sorted(table["id"].to_pylist()) == [f"{name}:{number}:0" for name in "ab" for number in range(5)]
    assert {text.split()[0] for text in table["text"].to_pylist()} == {"first", "second"}


@pytest.mark.parametrize("workers", [1, 2])
@pytest.mark.usefixtures("warm_workers")
def test_a_page_for_each_revision_gives_the_latest_whatever_splits_and_workers(tmp_path, workers):
    pages = []
    for year in (2004, 2001, 2003, 2002):
        for number in range(1, 30):
            body = "#REDIRECT [[Elsewhere]]" if (number % 5, year) == (0, 2004) else f"Page {number} as of {year}."
            pages.append(
                f"<page><title>T{number}</title><ns>0</ns><id>{number}</id><revision><id>{number * 5000 - year}</id>"
                f"<timestamp>{year}-06-01T00:00:00Z</timestamp><text>{body}</text></revision></page>"
            )
    (tmp_path / "d.xml").write_text(f"<mediawiki>{''.join(pages)}</mediawiki>")
    mode = ("--direct_running_mode=multi_processing", f"--direct_num_workers={workers}") if workers > 1 else ()
    for split_bytes in (700, 1 << 20) if workers == 1 else (4000,):
        output = tmp_path / str(split_bytes)
        ragbeam("chunk", "--input", tmp_path / "d.xml", "--output", output, "--split_bytes", split_bytes, *mode)
        kept = [number for number in range(1, 30) if number % 5]
        assert sorted(read(output)["text"].to_pylist()) == sorted(f"Page {number} as of 2004." for number in kept)
        info = read_manifest(str(output), "chunk").info
        assert info["articles"] == len(kept)
        assert info["dropped"] == {"duplicate_id": 29 * 3, "redirect": 5}


def test_a_german_dump_shows_neither_files_nor_categories(tmp_path):
    head = '<siteinfo><namespaces><namespace key="6">Datei</namespace><namespace key="14">Kategorie</namespace>'
    page = (
        "<page><title>Haus</title><id>1</id><revision><text>[[Datei:H.jpg|mini|Ein Haus]]Ein [[Bau]].[[Kategorie:Bau]]"
    )
    other = "<page><title>Datei:H.jpg</title><id>2</id><revision><text>Ein Bild."
    end = "</text></revision></page>"
    text = f"<mediawiki>{head}</namespaces></siteinfo>{page}{end}{other}{end}</mediawiki>"
    (tmp_path / "d.xml").write_text(text)
    ragbeam("chunk", "--input", tmp_path / "d.xml", "--output", tmp_path / "p")
    assert read(tmp_path / "p")["text"].to_pylist() == ["Ein Bau."]
    assert read_manifest(str(tmp_path / "p"), "chunk").info["dropped"] == {"namespace": 1}


def test_a_changed_input_is_read_again(tmp_path):
    write_articles(tmp_path / "a.jsonl", count=5)
    ragbeam("chunk", "--input", tmp_path / "a.jsonl", "--output", tmp_path / "p")
    before = digests(tmp_path / "p", "chunk")
    write_articles(tmp_path / "a.jsonl", count=6)
    ragbeam("chunk", "--input", tmp_path / "a.jsonl", "--output", tmp_path / "p")
    assert digests(tmp_path / "p", "chunk") != before
    assert read_manifest(str(tmp_path / "p"), "chunk").info["articles"] == 6


def test_a_resumed_run_writes_only_what_is_missing(tmp_path, monkeypatch, capsys):
    write_articles(tmp_path / "a.jsonl", count=40)
    lines = (tmp_path / "a.jsonl").read_text().splitlines(keepends=True)
    (tmp_path / "a.jsonl").write_text("".join([*lines, *lines[:6]]))
    arguments = ("chunk", "--input", tmp_path / "a.jsonl", "--num_shards", 6)
    ragbeam(*arguments, "--output", tmp_path / "once")
    written: list[str] = []

    def third_time_fails(url, name, fingerprint, write):
        if len(written) == 2:
            raise OSError("no space left")
        written.append(name)
        return write_shard(url, name, fingerprint, write)

    with monkeypatch.context() as patch:
        patch.setattr("pipelines.chunk.job.write_shard", third_time_fails)
        fails(capsys, *arguments, "--output", tmp_path / "p")
    first, written[:] = set(written), []
    with monkeypatch.context() as patch:
        patch.setattr("pipelines.chunk.job.write_shard", lambda *given: written.append(given[1]) or write_shard(*given))
        ragbeam(*arguments, "--output", tmp_path / "p")
    assert (len(first), len(written), len({*first, *written})) == (2, 4, 6)
    assert digests(tmp_path / "p", "chunk") == digests(tmp_path / "once", "chunk")
    info = read_manifest(str(tmp_path / "p"), "chunk").info
    assert info == read_manifest(str(tmp_path / "once"), "chunk").info
    assert info["dropped"]["duplicate_id"] == 6
    assert json.loads((tmp_path / "p" / "run.json").read_text())["shards"] == {"total": 6, "made": 4, "reused": 2}


def test_another_dataset_of_the_same_name_is_read_again(tmp_path, capsys):
    for folder, count in (("a", 5), ("b", 6)):
        (tmp_path / folder / "wiki").mkdir(parents=True)
        write_articles(tmp_path / folder / "wiki" / "train.jsonl", count=count)

    def chunk(folder: str) -> int:
        ragbeam("chunk", "--format", "hf", "--input", tmp_path / folder / "wiki", "--output", tmp_path / "p")
        manifest = read_manifest(str(tmp_path / "p"), "chunk")
        assert manifest.inputs == {"input_0": str(tmp_path / folder / "wiki")}
        return manifest.info["articles"]

    assert [chunk("a"), chunk("b")] == [5, 6]
    write_articles(tmp_path / "b" / "wiki" / "train.jsonl", count=7)
    assert chunk("b") == 7
    capsys.readouterr()
    assert chunk("b") == 7
    assert "all reused" in capsys.readouterr().out


@pytest.mark.parametrize("given", ["corpus (1) [new]", "corpus (1) [new]/*.jsonl"])
def test_a_directory_whose_name_looks_like_a_pattern_is_the_one_that_is_read(tmp_path, given):
    (tmp_path / "corpus (1) [new]").mkdir()
    (tmp_path / "corpus (1) n").mkdir()
    write_articles(tmp_path / "corpus (1) [new]" / "a.jsonl", count=3)
    write_articles(tmp_path / "corpus (1) n" / "a.jsonl", count=5)
    ragbeam("chunk", "--input", tmp_path / given, "--output", tmp_path / "out[1]", "--num_shards", 1)
    assert read_manifest(str(tmp_path / "out[1]"), "chunk").info["articles"] == 3


def test_a_dataset_of_the_hub_is_recorded_by_its_url():
    split = Split(0, "hf", "wikimedia/wikipedia", 0, 1, 4)
    assert named(split) == "hf://datasets/wikimedia/wikipedia"


def test_python_m_runs_a_job_too(tmp_path):
    import subprocess
    import sys

    write_articles(tmp_path / "a.jsonl", count=3)
    command = [sys.executable, "-m", "pipelines.chunk", "--input", "a.jsonl", "--output", "p", "--passage-words=7"]
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, check=True)
    assert "from 3 articles" in done.stdout
    assert read_manifest(str(tmp_path / "p"), "chunk").config["passage_words"] == 7


def test_hostile_pages_are_dropped_and_named_and_the_others_come_out(tmp_path, capsys):
    pages = {
        "Sound": "Some ''text'' of a page.",
        "Ten megabytes": "words " * 1_800_000,
        "Templates without end": "{{" * 100_000,
        "A title " + "of many words " * 200: "text",
        "Headings": "=a" * 100_000,
        "Last": "More text.",
    }
    text = "".join(
        f"<page><title>{title}</title><ns>0</ns><id>{number}</id><revision><text>{body}</text></revision></page>"
        for number, (title, body) in enumerate(pages.items(), 1)
    )
    (tmp_path / "d.xml").write_text(f"<mediawiki>{text}</mediawiki>")
    ragbeam("chunk", "--input", tmp_path / "d.xml", "--output", tmp_path / "out", "--split_bytes", 1 << 20)
    assert sorted(read(tmp_path / "out")["title"].to_pylist()) == ["Last", "Sound"]
    info = json.loads((tmp_path / "out" / "run.json").read_text())["info"]
    assert info["articles"] == 2
    assert info["dropped"] == {"too_complex": 2, "too_long": 2}
    named = {reason: sorted(titles) for reason, titles in info["dropped_titles"].items()}
    assert named["too_complex"] == ["Headings", "Templates without end"]
    assert [title[:13].strip() for title in named["too_long"]] == ["A title of ma", "Ten megabytes"]
    assert max(map(len, named["too_long"])) == 200
    assert "dropped: 2 too complex, 2 too long" in capsys.readouterr().out
    steps = json.loads((tmp_path / "out" / "run.json").read_text())["steps"]
    assert (steps["ReadSplits"]["dropped_too_complex"], steps["ReadSplits"]["dropped_too_long"]) == (2, 2)


@pytest.mark.usefixtures("warm_workers")
def test_snapshots_of_a_wiki_give_the_same_bytes_by_any_workers_and_are_counted(tmp_path):
    inputs = [
        wikis.write_archive(tmp_path / "a.tar.gz", {"a.ndjson": wikis.ARTICLES[:2], "b.ndjson": wikis.ARTICLES[2:]}),
        wikis.write_json(tmp_path / "b.ndjson", wikis.ARTICLES),
        wikis.write_parquet(tmp_path / "c.parquet", wikis.FINEWIKI),
        wikis.write_parquet(tmp_path / "d.parquet", wikis.STRUCTURED, packed=True),
    ]
    with contextlib.suppress(ImportError):
        inputs.append(wikis.write_zim(tmp_path / "e.zim", wikis.ZIM_PAGES, Ulma="Ulm"))
    command = ["chunk", "--input", *inputs, "--prefix_ids", "--captions", "--num_shards", 2]
    ragbeam(*command, "--output", tmp_path / "one")
    workers = ("--direct_running_mode=multi_processing", "--direct_num_workers=2", "--split_bytes", 1000)
    ragbeam(*command, "--output", tmp_path / "two", *workers)
    assert digests(tmp_path / "one", "chunk") == digests(tmp_path / "two", "chunk")
    info = json.loads((tmp_path / "two" / "run.json").read_text())["info"]
    count = len(inputs) - 4
    assert info["articles"] == 2 * 2 + 2 * 3 + 3 * count
    assert info["kinds"] == {"caption": 2 + count, "infobox": 4 + count, "prose": 10 + 3 * count, "table": 4 + count}
    assert info["dropped"] == {"disambiguation": 4 + count, "empty": 2, "namespace": 2, "redirect": 2 + count}
    ulm = [row for row in read(tmp_path / "one").to_pylist() if row["title"] == "Ulm" and row["kind"] == "table"]
    assert {(row["section"], row["text"]) for row in ulm} == {("History", "Year: 1900; People: 42,982")}
    before = (tmp_path / "one" / "manifest.json").stat().st_mtime_ns
    ragbeam(*command, "--output", tmp_path / "one")
    assert (tmp_path / "one" / "manifest.json").stat().st_mtime_ns == before


def test_an_older_revision_in_another_snapshot_is_left_out(tmp_path):
    older = wikis.article(1, "Ulm", "<p>It was a village.</p>", date_modified="2020-05-01T10:00:00Z")
    inputs = [wikis.write_json(tmp_path / "a.ndjson", [older]), wikis.write_json(tmp_path / "b.ndjson", wikis.ARTICLES)]
    ragbeam("chunk", "--input", *inputs, "--output", tmp_path / "out")
    texts = read(tmp_path / "out")["text"].to_pylist()
    assert "Ulm is a city. Founded in 854." in texts
    assert "It was a village." not in texts
