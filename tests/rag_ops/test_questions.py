"""Question files of every kind: rows in equals rows out, in order, with ids, gold answers and errors."""

import bz2
import csv
import gzip
import io
import json
import os
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import zstandard
from hypothesis import given, settings
from hypothesis import strategies as st

from rag_ops import storage
from rag_ops.errors import InputError
from rag_ops.questions import EMPTY, Question, QuestionOptions, clean, expand_question_files, read_questions

COMPRESS = {
    "": lambda data: data,
    ".gz": gzip.compress,
    ".bz2": bz2.compress,
    ".zst": zstandard.ZstdCompressor().compress,
}
NQ_OPEN = Path(__file__).parents[3] / "shared" / "data" / "qa" / "NQ-open.efficientqa.dev.1.1.jsonl"


def read(path, **options) -> list[Question]:
    return list(read_questions(expand_question_files([str(path)]), QuestionOptions(**options)))


def write(tmp_path, name: str, data: bytes | str) -> Path:
    path = tmp_path / name
    path.write_bytes(data.encode() if isinstance(data, str) else data)
    return path


@pytest.mark.parametrize("suffix", COMPRESS)
def test_jsonl(tmp_path, suffix):
    lines = '{"question": "who?", "id": 7, "answer": "me"}\n\n{"question": "what?", "answers": ["a", "b"]}\n'
    lines += '{"question": "é"}\n'
    rows = read(write(tmp_path, f"q.jsonl{suffix}", COMPRESS[suffix](lines.encode())))
    assert [row.question for row in rows] == ["who?", "what?", "é"]
    assert rows[0].question_id == "7"
    assert [row.answers for row in rows] == [("me",), ("a", "b"), None]


def test_ids_are_made_from_the_question(tmp_path):
    rows = read(write(tmp_path, "q.txt", "who?\nwhat?\n who? \n"))
    assert rows[0].question_id == rows[2].question_id != rows[1].question_id
    assert rows[0].question_id.startswith("q-")
    assert len(rows[0].question_id) == 18


@pytest.mark.parametrize("value", ['""', '"  "', "null", "5", '["a"]', '"\\u0000"'])
def test_a_question_that_is_none_is_a_row_with_an_error(tmp_path, value):
    rows = read(write(tmp_path, "q.jsonl", f'{{"question": "a"}}\n{{"id": "x", "question": {value}}}\n{{"id": "y"}}\n'))
    assert [row.error is None for row in rows] == [True, False, False]
    assert [row.question_id for row in rows[1:]] == ["x", "y"]
    assert rows[2].error == EMPTY


@pytest.mark.parametrize(("name", "separator"), [("q.csv", ","), ("q.tsv", "\t")])
def test_csv_and_tsv(tmp_path, name, separator):
    text = io.StringIO()
    writer = csv.writer(text, delimiter=separator)
    writer.writerows(
        [["id", "question", "answer"], ["1", 'a "b", c', "x"], ["2", "two\nlines", '["x", "y"]'], ["3", "", ""]]
    )
    rows = read(write(tmp_path, name, text.getvalue()))
    assert [row.question for row in rows] == ['a "b", c', "two\nlines", ""]
    assert [row.answers for row in rows] == [("x",), ("x", "y"), None]
    assert rows[2].error == EMPTY


def test_dprs_own_files_have_no_header(tmp_path):
    rows = read(write(tmp_path, "nq-test.qa.tsv", 'who sings\t[\'A\', "B\'s"]\nwhat is\t["C"]\n'))
    assert [(row.question, row.answers) for row in rows] == [("who sings", ("A", "B's")), ("what is", ("C",))]


def test_nothing_in_a_cell_is_evaluated(tmp_path):
    rows = read(write(tmp_path, "q.tsv", "who\t[__import__('os').getcwd()]\n"))
    assert rows[0].answers == ("[__import__('os').getcwd()]",)


def test_parquet(tmp_path):
    table = pa.table({"question": ["a", None, ""], "id": [1, 2, 3], "answer": [["x"], None, ["y", "z"]]})
    pq.write_table(table, tmp_path / "q.parquet")
    rows = read(tmp_path / "q.parquet")
    assert [row.question_id for row in rows] == ["1", "2", "3"]
    assert [row.error is None for row in rows] == [True, False, False]
    assert [row.answers for row in rows] == [("x",), None, ("y", "z")]


def test_columns_can_be_named(tmp_path):
    path = write(tmp_path, "q.csv", "nr,q,gold\n5,who,me\n")
    (row,) = read(path, question_column="q", id_column="nr", answer_column="gold")
    assert (row.question_id, row.question, row.answers) == ("5", "who", ("me",))


@pytest.mark.parametrize(
    ("data", "expected"),
    [
        ("\ufeffwho\r\nwhat\r\n".encode(), ["who", "what"]),
        ("who é\nwhat 日本\n".encode("utf-16"), ["who é", "what 日本"]),
        ("who é\n".encode("latin-1") + "what 日本\n".encode(), ["who é", "what 日本"]),
        ("tab\there \x00\x07 bell 🙂 שלום\n".encode(), ["tab\there    bell 🙂 שלום"]),
        (b"", []),
        (b"no line end", ["no line end"]),
    ],
)
def test_encodings_and_control_characters(tmp_path, data, expected):
    assert [row.question for row in read(write(tmp_path, "q.txt", data))] == expected


def test_a_lone_surrogate_does_not_break_what_comes_after():
    assert clean("a\ud800b").encode() == b"a b"


def test_a_question_of_a_megabyte(tmp_path):
    long = "word " * 200_000
    text = io.StringIO()
    csv.writer(text).writerows([["question"], [long]])
    assert read(write(tmp_path, "q.csv", text.getvalue()))[0].question == long.strip()


@pytest.mark.parametrize(
    ("name", "data", "message"),
    [
        ("q.jsonl", '{"question": "a"}\n{"question": \n', "line 2"),
        ("q.jsonl", '["a"]\n', "no JSON object"),
        ("q.csv", "text\nwho\n", "--question_column"),
        ("q.parquet", "PAR1", "not a whole Parquet file"),
        ("q.docx", "who", "--questions_format"),
        ("q.txt.gz", "not gzip", "cannot be decompressed"),
        ("q.jsonl.zst", "not zstd", "cannot be decompressed"),
    ],
)
def test_bad_files_are_one_clear_error(tmp_path, name, data, message):
    with pytest.raises(InputError, match=message):
        read(write(tmp_path, name, data))


def test_a_missing_file_is_named():
    with pytest.raises(InputError, match="none"):
        expand_question_files(["/no/such/none.jsonl"])


def test_an_unknown_format_is_refused():
    with pytest.raises(InputError, match="docx"):
        QuestionOptions(format="docx")


def test_several_files_come_in_order_from_any_file_system():
    for name in ("b.txt", "a.txt"):
        storage.write_bytes("memory://asked", name, f"from {name}\n".encode())
    urls = expand_question_files(["memory://asked/*.txt", "memory://asked/b.txt"])
    assert [row.question for row in read_questions(urls, QuestionOptions())] == [
        "from a.txt",
        "from b.txt",
        "from b.txt",
    ]


@settings(max_examples=60, deadline=None)
@given(texts=st.lists(st.text(), max_size=20))
def test_any_texts_come_back_same_count_same_order(tmp_path_factory, texts):
    directory = tmp_path_factory.mktemp("any")
    write(directory, "q.jsonl", "".join(json.dumps({"question": text}) + "\n" for text in texts))
    pq.write_table(pa.table({"question": pa.array(texts, pa.string())}), directory / "q.parquet")
    for name in ("q.jsonl", "q.parquet"):
        rows = read(directory / name)
        assert [row.question for row in rows] == [clean(text) for text in texts]
        assert all((row.error == EMPTY) == (not row.question) for row in rows)


@pytest.mark.skipif(not os.path.exists(NQ_OPEN), reason="the real question sets are not beside the repository")
def test_a_real_question_file():
    rows = read(NQ_OPEN)
    assert len(rows) == 1800
    assert all(row.answers and not row.error for row in rows)
