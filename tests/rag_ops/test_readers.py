"""Inputs other than dumps: every row once, whatever the splits; errors with file and line."""

import bz2
import csv
import gzip
import io
import json
import os
from collections import Counter

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import zstandard

from rag_ops import readers, storage, streams
from rag_ops.errors import InputError
from rag_ops.readers import InputOptions, format_of, plan_splits, read_split

ROWS = [{"id": n, "title": f"Title {n}", "text": f"Tëxt of {n}. " * (n % 13 + 1)} for n in range(200)]
EXPECTED = [(str(row["id"]), row["title"], row["text"]) for row in ROWS]
COMPRESS = {
    "": lambda data: data,
    ".gz": gzip.compress,
    ".bz2": bz2.compress,
    ".zst": zstandard.ZstdCompressor().compress,
}


def jsonl(rows: list[dict]) -> bytes:
    return "".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows).encode()


def read(path, **options) -> tuple[list[tuple[str, str, str]], Counter]:
    settings = InputOptions(**options)
    dropped: Counter[str] = Counter()
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
        (b'{"title": "t", "text": "x"}', "no id"),
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


@pytest.mark.parametrize("suffix", [".gz", ".bz2", ".zst"])
@pytest.mark.parametrize("part", [0.3, 0.9])
def test_a_cut_file_is_never_taken_for_a_whole_one(tmp_path, suffix, part):
    data = COMPRESS[suffix](os.urandom(300_000).hex().encode() + b"\n" + jsonl(ROWS))
    path = tmp_path / f"a.jsonl{suffix}"
    path.write_bytes(data[: int(part * len(data))])
    with pytest.raises(InputError, match=r"cannot be decompressed|not JSON"):
        read(path)
    with pytest.raises(EOFError), storage.open_read(str(path)) as raw:
        streams.decompressed(raw, str(path)).read()


@pytest.mark.parametrize("suffix", [".gz", ".bz2", ".zst", ".GZ", ".Zst"])
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
    monkeypatch.setattr(readers, "MAX_LINE_BYTES", 10_000)
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
    found = [a for split in splits for a in read_split(split, settings, Counter())]
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


@pytest.mark.parametrize(
    ("name", "kind"),
    [
        ("enwiki-latest-pages-articles.xml", "mediawiki"),
        ("enwiki-latest-pages-articles1.xml-p10p30302.bz2", "mediawiki"),
        ("d.XML.GZ", "mediawiki"),
        ("gs://b/x.jsonl.zst", "jsonl"),
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
    assert [url.rsplit("/", 1)[1] for url in readers.expand_inputs([str(tmp_path / "*.jsonl")], InputOptions())][
        -2:
    ] == names
    assert [url.rsplit("/", 1)[1] for url in readers.expand_inputs([str(tmp_path)], InputOptions())] == names


def test_a_glob_on_another_file_system_keeps_its_scheme():
    for name in ("y.jsonl", "x.jsonl"):
        storage.write_bytes("memory://globbed", name, jsonl(ROWS[:1]))
    found = readers.expand_inputs(["memory://globbed/*.jsonl"], InputOptions())
    assert found == ["memory://globbed/x.jsonl", "memory://globbed/y.jsonl"]
