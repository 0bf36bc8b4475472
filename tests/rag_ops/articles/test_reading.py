"""Inputs other than dumps: every row once, whatever the splits; errors with file and line."""

import bz2
import csv
import gzip
import hashlib
import io
import itertools
import json
import lzma
import os
import random

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import zstandard

from rag_ops.articles import lines, options, reading, tsv
from rag_ops.articles import psgs as psgs_format
from rag_ops.articles.dropped import Dropped
from rag_ops.articles.formats import FORMATS
from rag_ops.articles.options import InputOptions
from rag_ops.articles.reading import plan_splits, read_split
from rag_ops.errors import InputError
from rag_ops.storage import compression, store

ROWS = [{"id": n, "title": f"Title {n}", "text": f"Tëxt of {n}. " * (n % 13 + 1)} for n in range(200)]
EXPECTED = [(str(row["id"]), row["title"], row["text"]) for row in ROWS]
COMPRESS = {
    "": lambda data: data,
    ".gz": gzip.compress,
    ".bz2": bz2.compress,
    ".zst": zstandard.ZstdCompressor().compress,
    ".xz": lzma.compress,
}


def jsonl(rows: list[dict]) -> bytes:
    return "".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows).encode()


def read(path, **more) -> tuple[list[tuple[str, str, str]], Dropped]:
    settings = InputOptions(**more)
    dropped = Dropped()
    splits = plan_splits([str(path)], settings)
    assert [split.ordinal for split in splits] == list(range(len(splits)))
    found = [article for split in splits for article in read_split(split, settings, dropped)]
    return [(a.article_id if hasattr(a, "article_id") else a.passage_id, a.title, a.text) for a in found], dropped


@pytest.mark.parametrize("suffix", COMPRESS)
@pytest.mark.parametrize("split_bytes", [1, 50, 777, 1 << 20])
def test_jsonl_gives_every_row_once_in_order(tmp_path, suffix, split_bytes):
    path = tmp_path / f"a.jsonl{suffix}"
    path.write_bytes(COMPRESS[suffix](jsonl(ROWS if split_bytes > 1 else ROWS[:10])))
    assert read(path, split_bytes=split_bytes)[0] == (EXPECTED if split_bytes > 1 else EXPECTED[:10])


def test_jsonl_with_a_byte_order_mark_blank_lines_and_no_last_line_end(tmp_path):
    path = tmp_path / "a.jsonl"
    path.write_bytes(b"\xef\xbb\xbf" + jsonl(ROWS[:3]).replace(b"\n", b"\r\n\r\n").rstrip())
    assert read(path)[0] == EXPECTED[:3]


def test_empty_texts_are_dropped_and_counted(tmp_path):
    path = tmp_path / "a.jsonl"
    path.write_bytes(jsonl([ROWS[0], {"id": 7, "title": "t", "text": " "}, {"id": 8, "title": "t", "text": None}]))
    found, dropped = read(path)
    assert found == EXPECTED[:1]
    assert dropped == {"empty": 2}


@pytest.mark.parametrize("form", ["jsonl", "parquet", "hf"])
@pytest.mark.parametrize(
    ("row", "expected"),
    [
        ({"_id": "d1", "title": "T", "text": "B", "metadata": {"a": 1}}, ("d1", "T", "B")),
        ({"id": "d1", "contents": "B"}, ("d1", "", "B")),
        ({"pid": 7, "passage": "B"}, ("7", "", "B")),
        ({"_id": "1", "wikipedia_id": "1", "wikipedia_title": "T", "text": ["T\n", "B\n"]}, ("1", "T", "T\nB")),
        ({"title": "T", "text": "B"}, (hashlib.sha256(b"T\0B").hexdigest()[:32], "T", "B")),
    ],
)
def test_corpora_without_titles_or_ids_and_with_names_in_common_use(tmp_path, form, row, expected):
    if form == "parquet":
        pq.write_table(pa.Table.from_pylist([row, row]), tmp_path / "a.parquet")
        assert read(tmp_path / "a.parquet")[0] == [expected, expected]
        return
    (tmp_path / "a.jsonl").write_bytes(jsonl([row, row]))
    assert read(tmp_path if form == "hf" else tmp_path / "a.jsonl", format=form)[0] == [expected, expected]


def test_one_row_without_a_title_does_not_end_a_job(tmp_path):
    (tmp_path / "a.jsonl").write_bytes(jsonl([{"_id": "a", "title": "T", "text": "B"}, {"_id": "b", "text": "C"}]))
    assert read(tmp_path / "a.jsonl")[0] == [("a", "T", "B"), ("b", "", "C")]


@pytest.mark.parametrize("split_bytes", [10, 1 << 20])
def test_a_collection_of_ids_and_raw_texts_keeps_its_quotes(tmp_path, split_bytes):
    texts = ["The unit of current.", 'Ayn Rand wrote "Atlas".', '"No," he said.', '"All of it is quoted."', '5" and 6"']
    rows = [(str(n), "", texts[n % 5]) for n in range(60)]
    (tmp_path / "collection.tsv").write_text("".join(f"{number}\t{text}\n" for number, _, text in rows))
    assert read(tmp_path / "collection.tsv", split_bytes=split_bytes)[0] == rows


@pytest.mark.parametrize("order", list(itertools.permutations(["id", "title", "text"])))
@pytest.mark.parametrize("quoting", [csv.QUOTE_MINIMAL, csv.QUOTE_ALL])
def test_a_tsv_with_quoted_line_ends_is_the_same_in_any_splits(tmp_path, order, quoting):
    rows = [{"id": str(n), "title": f"T {n}", "text": f'line "{n}"\n\tmore ,\n' + "end" * (n % 5)} for n in range(80)]
    with open(tmp_path / "a.tsv", "w", newline="") as file:
        writer = csv.DictWriter(file, order, delimiter="\t", lineterminator="\n", quoting=quoting)
        writer.writeheader()
        writer.writerows(rows)
    expected = [(row["id"], row["title"], row["text"]) for row in rows]
    counts = set()
    for split_bytes in (1, 37, 500, 1001, 1 << 20):
        assert read(tmp_path / "a.tsv", split_bytes=split_bytes)[0] == expected
        counts.add(len(plan_splits([str(tmp_path / "a.tsv")], InputOptions(split_bytes=split_bytes))))
    assert {1, 81} < counts


def test_a_larger_input_has_larger_splits_and_no_more_of_them(tmp_path, monkeypatch):
    (tmp_path / "a.tsv").write_text("".join(f"{n}\tsome words\tT\n" for n in range(2000)))
    (tmp_path / "b.tsv").write_text("".join(f"{n}\tsome words\tT\n" for n in range(2000, 4000)))
    monkeypatch.setattr(options, "SPLIT_BYTES", 100)
    monkeypatch.setattr(reading, "SPLIT_BYTES", 100)
    names = [str(tmp_path / name) for name in ("a.tsv", "b.tsv")]
    for files in (names[:1], names):
        splits = plan_splits(files, InputOptions())
        assert 200 <= len(splits) <= reading.USUAL_SPLITS + len(files)
        rows = sum(1 for split in splits for _ in read_split(split, InputOptions(), Dropped()))
        assert rows == 2000 * len(files)
    assert len(plan_splits(names[:1], InputOptions(split_bytes=100))) > 300


@pytest.mark.parametrize("broken", [0.0, 0.002, 0.1])
def test_cuts_of_a_quoted_tsv_are_those_of_a_pass_over_all_of_it(tmp_path, monkeypatch, broken):
    monkeypatch.setattr(tsv, "MAX_RECORD_BYTES", 400)
    monkeypatch.setattr(psgs_format, "LINE_BYTES", 100)
    chance, sure, path = random.Random(5), 0, tmp_path / "a.tsv"
    for _ in range(40):
        ends = ["\n" if chance.random() < broken else " " for _ in range(200)]
        rows = [f'{n}\t"some ""words""{end}{"more " * chance.randrange(12)}"\tT\n' for n, end in enumerate(ends)]
        path.write_text("id\ttext\ttitle\n" + "".join(rows) + chance.choice(["", '9\t"last', '9\t"a"\tT']))
        options = InputOptions(split_bytes=500)
        cuts = list(FORMATS["psgs"].cuts(str(path), options))
        starts = psgs_format._sure_starts(str(path), 500, path.stat().st_size)
        assert starts is None or starts == [start for start, _ in cuts]
        sure += starts is not None
        with monkeypatch.context() as patched:
            patched.setattr(psgs_format, "_sure_starts", lambda *_: None)
            assert list(FORMATS["psgs"].cuts(str(path), options)) == cuts
        assert len(cuts) > 10
    assert (sure == 40, sure == 0) == (broken == 0, broken == 0.1)


def test_a_line_longer_than_what_is_looked_at_before_a_cut_takes_the_pass(tmp_path, monkeypatch):
    monkeypatch.setattr(tsv, "MAX_RECORD_BYTES", 400)
    monkeypatch.setattr(psgs_format, "LINE_BYTES", 100)
    path = tmp_path / "a.tsv"
    path.write_text("id\ttext\ttitle\n" + "".join(f'{n}\t"{"word " * 150}"\tT\n' for n in range(20)))
    assert psgs_format._sure_starts(str(path), 500, path.stat().st_size) is None
    assert len(list(FORMATS["psgs"].cuts(str(path), InputOptions(split_bytes=500)))) == 20


def test_a_bad_line_of_a_tsv_in_splits_is_told_by_its_number_in_the_file(tmp_path):
    good = "".join(f'{n}\t"line {n}\nmore"\tT\n' for n in range(20))
    (tmp_path / "a.tsv").write_text("id\ttext\ttitle\n" + good + "only\ttwo\n" + good)
    with pytest.raises(InputError, match=r"2 columns.*line 42"):
        read(tmp_path / "a.tsv", split_bytes=100)


def test_a_header_again_in_the_middle_is_no_passage(tmp_path):
    (tmp_path / "a.tsv").write_text("text\tid\none two\t1\ntext\tid\nthree four\t2\n")
    assert read(tmp_path / "a.tsv")[0] == [("1", "", "one two"), ("2", "", "three four")]


def test_ids_that_begin_anew_in_each_file_get_its_name_before_them(tmp_path):
    names = ["x/a.jsonl", "x/y/a.jsonl", "x/b.tsv.gz", "x/c.parquet"]
    for name in names:
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
    (tmp_path / names[0]).write_bytes(jsonl(ROWS[:1]))
    (tmp_path / names[1]).write_bytes(jsonl(ROWS[:1]))
    (tmp_path / names[2]).write_bytes(gzip.compress(psgs(ROWS[:1])))
    pq.write_table(pa.Table.from_pylist(ROWS[:1]), tmp_path / names[3])
    settings = InputOptions(prefix_ids=True)
    splits = plan_splits([str(tmp_path / name) for name in names], settings)
    found = [article for split in splits for article in read_split(split, settings, Dropped())]
    ids = [article.passage_id if hasattr(article, "passage_id") else article.article_id for article in found]
    assert ids == ["a:0", "y/a:0", "b:0", "c:0"]


def test_ids_that_begin_anew_are_told_before_anything_runs(tmp_path):
    (tmp_path / "a.jsonl").write_bytes(jsonl(ROWS[:3]))
    (tmp_path / "b.jsonl").write_bytes(jsonl(ROWS[:4]))
    (tmp_path / "c.tsv").write_bytes(psgs([{"id": 0, "title": "Another", "text": "text"}]))
    assert len(plan_splits([str(tmp_path / "a.jsonl"), str(tmp_path / "b.jsonl")], InputOptions())) == 2
    with pytest.raises(InputError, match=r"one id.*'0 in .*a\.jsonl and .*c\.tsv'.*--prefix_ids"):
        plan_splits([str(tmp_path)], InputOptions())


def test_dumps_of_two_wikis_are_told_apart_and_parts_of_one_are_not(tmp_path):
    def dump(name: str, wiki: str) -> str:
        head = f"<siteinfo><dbname>{wiki}</dbname></siteinfo>" if wiki else ""
        page = "<page><title>A</title><ns>0</ns><id>1</id><revision><text>x</text></revision></page>"
        (tmp_path / name).write_text(f"<mediawiki>{head}{page}</mediawiki>")
        return str(tmp_path / name)

    one, two, other, unnamed = (
        dump("1.xml", "enwiki"),
        dump("2.xml", "enwiki"),
        dump("3.xml", "frwiki"),
        dump("4.xml", ""),
    )
    assert [split.prefix for split in plan_splits([one, two, unnamed], InputOptions())] == ["", "", ""]
    splits = plan_splits([one, other, unnamed], InputOptions())
    found = [article.article_id for split in splits for article in read_split(split, InputOptions(), Dropped())]
    assert found == ["enwiki:1", "frwiki:1", "1"]


@pytest.mark.parametrize(
    ("name", "data", "message"),
    [
        ("a.json", b'\n [\n  {"id": 1}\n]', "an article has no text.*element 1"),
        ("a.json.gz", gzip.compress(mtime=0, data=b'[{"text": "x"}, 5]'), "element 2: 5"),
        ("a.json", b'[{"id": 1, "text": "x"}', "broken or cut"),
        ("a.json", b'{\n "id": 1,\n "text": "x"\n}\n', "not JSON.*jq -c"),
        ("d.xml.7z", b"7z\xbc\xaf\x27\x1c", r"archive.*7z x -so FILE \| zstd"),
        ("d.zip", b"PK", "archive.*unzip FILE, and give --input"),
        ("d.tar.gz", b"\x1f\x8b", "archive.*tar -xf FILE, and give --input"),
    ],
)
def test_what_is_no_file_of_articles_is_refused_saying_how_to_make_one(tmp_path, name, data, message):
    (tmp_path / name).write_bytes(data)
    with pytest.raises(InputError, match=message):
        read(tmp_path / name)


@pytest.mark.parametrize("suffix", ["", ".gz", ".zst"])
def test_an_array_of_articles_is_read_as_lines_of_them_are(tmp_path, suffix):
    path = tmp_path / f"a.json{suffix}"
    path.write_bytes(COMPRESS[suffix](json.dumps(ROWS, indent=1, ensure_ascii=False).encode()))
    assert read(path)[0] == EXPECTED


def test_columns_can_be_named(tmp_path):
    path = tmp_path / "a.jsonl"
    path.write_bytes(jsonl([{"pageid": "p1", "name": "N", "body": "B"}]))
    assert read(path, id_column="pageid", title_column="name", text_column="body")[0] == [("p1", "N", "B")]


@pytest.mark.parametrize("split_bytes", [100, 1 << 20])
@pytest.mark.parametrize(
    ("line", "message"),
    [
        (b'{"id": 1,', "not JSON"),
        (b"\xff\xfe{}", "not JSON"),
        (b"[1, 2]", "no JSON object"),
        (b'{"id": 5, "title": "t"}', "no text"),
        (b'{"id": null, "title": "t", "text": "x"}', "id is no text or number"),
        (b'{"id": true, "title": "t", "text": "x"}', "id is no text or number"),
        (b'{"id": 1, "title": "t", "text": 5}', "text is no text"),
    ],
)
def test_a_bad_line_is_told_by_its_number(tmp_path, line, message, split_bytes):
    path = tmp_path / "a.jsonl"
    path.write_bytes(jsonl(ROWS[:50]) + line + b"\n" + jsonl(ROWS[50:]))
    with pytest.raises(InputError, match=message) as caught:
        read(path, split_bytes=split_bytes)
    assert "line 51" in str(caught.value)


def test_a_cut_gzip_is_named(tmp_path):
    path = tmp_path / "a.jsonl.gz"
    path.write_bytes(gzip.compress(jsonl(ROWS))[:-100])
    with pytest.raises(InputError, match="cannot be decompressed"):
        read(path)


@pytest.mark.parametrize("suffix", [".gz", ".bz2", ".zst", ".xz"])
@pytest.mark.parametrize("part", [0.3, 0.9])
def test_a_cut_file_is_never_taken_for_a_whole_one(tmp_path, suffix, part):
    data = COMPRESS[suffix](os.urandom(300_000).hex().encode() + b"\n" + jsonl(ROWS))
    path = tmp_path / f"a.jsonl{suffix}"
    path.write_bytes(data[: int(part * len(data))])
    with pytest.raises(InputError, match=r"cannot be decompressed|not JSON"):
        read(path)
    with pytest.raises(EOFError), store.open_read(str(path)) as raw:
        compression.decompressed(raw, str(path)).read()


@pytest.mark.parametrize("suffix", [".gz", ".bz2", ".zst", ".xz", ".GZ", ".Zst"])
def test_a_file_of_several_compressed_pieces_is_read_whole(tmp_path, suffix):
    compress = COMPRESS[suffix.lower()]
    path = tmp_path / f"a.jsonl{suffix}"
    path.write_bytes(b"".join(compress(jsonl(ROWS[start : start + 7])) for start in range(0, 200, 7)))
    assert read(path)[0] == EXPECTED


def test_a_damaged_gzip_is_named(tmp_path):
    data = bytearray(gzip.compress(jsonl(ROWS)))
    data[100:120] = b"\xff" * 20
    (tmp_path / "a.jsonl.gz").write_bytes(data)
    with pytest.raises(InputError, match=r"cannot be decompressed|not JSON"):
        read(tmp_path / "a.jsonl.gz")


def test_a_line_without_an_end_is_refused_before_it_fills_the_memory(tmp_path, monkeypatch):
    monkeypatch.setattr(lines, "MAX_LINE_BYTES", 10_000)
    (tmp_path / "a.jsonl.gz").write_bytes(gzip.compress(jsonl(ROWS[:3]) + b" " * 50_000_000))
    with pytest.raises(InputError, match=r"a line is longer.*line 4"):
        read(tmp_path / "a.jsonl.gz")


def test_a_lone_surrogate_becomes_the_replacement_character(tmp_path):
    (tmp_path / "a.jsonl").write_text('{"id": "a\\udc00", "title": "t\\ud800", "text": "x\\udfffy"}\n')
    assert read(tmp_path / "a.jsonl")[0] == [("a\ufffd", "t\ufffd", "x\ufffdy")]


@pytest.mark.parametrize("row", [{"id": 1, "title": "t" * 2000}, {"id": "i" * 2000, "title": "t"}])
def test_a_title_that_every_passage_would_carry_is_too_long(tmp_path, row):
    (tmp_path / "a.jsonl").write_bytes(jsonl([ROWS[0], row | {"text": "x"}]))
    found, dropped = read(tmp_path / "a.jsonl")
    assert found == EXPECTED[:1]
    assert dropped == {"too_long": 1}


def test_parquet_of_texts_that_are_not_utf_8_or_damaged(tmp_path):
    path = tmp_path / "a.parquet"
    texts = pa.array([b"fine", b"\xff\xfe"], pa.binary()).cast(pa.string(), safe=False)
    pq.write_table(pa.table({"id": ["1", "2"], "title": ["t", "t"], "text": texts}), path)
    with pytest.raises(InputError, match="UTF-8"):
        read(path)
    pq.write_table(pa.Table.from_pylist(ROWS), path, compression="zstd")
    data = bytearray(path.read_bytes())
    data[50:200] = b"\xff" * 150
    path.write_bytes(data)
    with pytest.raises(InputError, match="Parquet"):
        read(path)


@pytest.mark.parametrize("split_bytes", [1, 1 << 20])
def test_parquet_by_row_groups(tmp_path, split_bytes):
    path = tmp_path / "a.parquet"
    table = pa.Table.from_pylist(ROWS).append_column("more", pa.array(["x"] * len(ROWS)))
    pq.write_table(table, path, row_group_size=30)
    found, _ = read(path, split_bytes=split_bytes)
    assert found == EXPECTED
    assert len(plan_splits([str(path)], InputOptions(split_bytes=split_bytes))) == (7 if split_bytes == 1 else 1)


def psgs(rows: list[dict]) -> bytes:
    text = io.StringIO()
    writer = csv.writer(text, delimiter="\t", lineterminator="\n")
    writer.writerow(["id", "text", "title"])
    writer.writerows([row["id"], row["text"], row["title"]] for row in rows)
    return text.getvalue().encode()


@pytest.mark.parametrize("suffix", ["", ".gz"])
@pytest.mark.parametrize("split_bytes", [60, 1 << 20])
def test_psgs_keeps_its_own_ids(tmp_path, suffix, split_bytes):
    rows = [*ROWS, {"id": "q", "title": 'A "quoted" title', "text": 'Text with "quotes"'}]
    path = tmp_path / f"psgs_w100.tsv{suffix}"
    path.write_bytes(COMPRESS[suffix](psgs(rows)))
    assert read(path, split_bytes=split_bytes)[0] == [*EXPECTED, ("q", 'A "quoted" title', 'Text with "quotes"')]


def test_a_psgs_line_with_too_few_columns_is_told_by_its_number(tmp_path):
    path = tmp_path / "psgs_w100.tsv"
    path.write_bytes(psgs(ROWS[:5]) + b"only\ttwo\n" + psgs(ROWS[5:]))
    with pytest.raises(InputError, match="line 7"):
        read(path)


def test_a_hugging_face_dataset_by_its_shards(tmp_path):
    for number in range(3):
        rows = ROWS[number * 20 : number * 20 + 20]
        pq.write_table(pa.Table.from_pylist(rows), tmp_path / f"train-0000{number}-of-00003.parquet")
    settings = InputOptions(format="hf")
    splits = plan_splits([str(tmp_path)], settings)
    assert len(splits) == 3
    found = [a for split in splits for a in read_split(split, settings, Dropped())]
    assert [(a.article_id, a.title, a.text) for a in found] == EXPECTED[:60]


def test_a_dataset_that_is_not_there_is_named(tmp_path):
    with pytest.raises(InputError, match="no_such_dataset"):
        plan_splits([str(tmp_path / "no_such_dataset")], InputOptions(format="hf"))


def test_a_dataset_directory_whose_name_the_library_would_take_for_a_pattern_is_refused(tmp_path):
    for folder in ("data[1]", "data1"):
        (tmp_path / folder).mkdir()
        (tmp_path / folder / "train.jsonl").write_bytes(jsonl(ROWS[:1]))
    with pytest.raises(InputError, match=r"pattern.*data\[1\].*rename it"):
        plan_splits([str(tmp_path / "data[1]")], InputOptions(format="hf"))
    assert len(plan_splits([str(tmp_path / "data1")], InputOptions(format="hf"))) == 1
