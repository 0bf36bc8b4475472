"""Question files of every kind: rows in equals rows out, in order, with ids, gold answers and errors."""

import bz2
import csv
import gzip
import io
import json
import os
import tracemalloc
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import zstandard
from hypothesis import given, settings
from hypothesis import strategies as st

from rag_ops.errors import InputError
from rag_ops.questions import text_lines
from rag_ops.questions.reading import (
    EMPTY,
    MAX_QUESTION_CHARS,
    Question,
    QuestionOptions,
    clean,
    expand_question_files,
    read_questions,
)
from rag_ops.storage import store

COMPRESS = {
    "": lambda data: data,
    ".gz": gzip.compress,
    ".bz2": bz2.compress,
    ".zst": zstandard.ZstdCompressor().compress,
}
NQ_OPEN = Path(__file__).parents[4] / "shared" / "data" / "qa" / "NQ-open.efficientqa.dev.1.1.jsonl"


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
    rows = read(write(tmp_path, "q.tsv", "question\tanswer\nwho\t[__import__('os').getcwd()]\n"))
    assert rows[0].answers == ("[__import__('os').getcwd()]",)


def test_parquet(tmp_path):
    table = pa.table({"question": ["a", None, ""], "id": [1, 2, 3], "answer": [["x"], None, ["y", "z"]]})
    pq.write_table(table, tmp_path / "q.parquet")
    rows = read(tmp_path / "q.parquet")
    assert [row.question_id for row in rows] == ["1", "2", "3"]
    assert [row.error is None for row in rows] == [True, False, False]
    assert [row.answers for row in rows] == [("x",), None, ("y", "z")]


@pytest.mark.parametrize("name", ["q.jsonl", "q.parquet"])
def test_gold_answers_of_squad_and_triviaqa_are_their_texts(tmp_path, name):
    squad = {"text": ["Denver Broncos", "Broncos"], "answer_start": [177, 184]}
    trivia = {"value": "Sunset Blvd", "aliases": ["Sunset Boulevard", "Sunset Blvd"], "type": "WikipediaEntity"}
    for column, gold, found in (("answers", squad, squad["text"]), ("answer", trivia, trivia["aliases"])):
        rows = [{"question": "who won", column: gold}, {"question": "what", column: None}]
        if name.endswith("jsonl"):
            write(tmp_path, name, "".join(json.dumps(row) + "\n" for row in rows))
        else:
            pq.write_table(pa.Table.from_pylist(rows), tmp_path / name)
        assert [row.answers for row in read(tmp_path / name)] == [tuple(found), None]


def test_gold_answers_that_cannot_be_read_are_noted_and_the_question_is_asked(tmp_path):
    lines = '{"question": "a", "answer": {"start": 3}}\n{"question": "b", "answer": [["x"], {"text": "y"}]}\n'
    first, second = read(write(tmp_path, "q.jsonl", lines))
    assert first.note == "the gold answers are no texts (an object of start, q.jsonl:1)"
    assert (first.question, first.answers, first.error) == ("a", None, None)
    assert (second.answers, second.error, second.note) == (("x", "y"), None, None)
    (hostile,) = read(write(tmp_path, "h.jsonl", '{"question": "a", "answer": {"\\ud800%s": 1}}' % ("x" * 10_000)))
    assert hostile.error is None
    assert hostile.note.encode().startswith(b"the gold answers are no texts (an object of x")
    assert len(hostile.note) < 200


def test_a_list_as_numpy_writes_it_is_a_list(tmp_path):
    cells = ["['Paris' 'Lyon']", "['Paris'\n \"King's Lynn\"]", "['a', 'b']", "['a' 'b', 'c']", "[1 2]"]
    text = io.StringIO()
    csv.writer(text).writerows([["question", "answer"], *([str(n), cell] for n, cell in enumerate(cells))])
    rows = read(write(tmp_path, "q.csv", text.getvalue()))
    assert [row.answers for row in rows] == [
        *(("Paris", "Lyon"), ("Paris", "King's Lynn"), ("a", "b"), ("a", "b", "c"), ("[1 2]",))
    ]


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
        ("q.jsonl", '{"question": \n\n{"question": "a"\n', "is not JSON.*line 1"),
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
        store.write_bytes("memory://asked", name, f"from {name}\n".encode())
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


@pytest.mark.parametrize("encoding", ["utf-16", "utf-16-le", "utf-16-be", "utf-32", "utf-8-sig", "cp1252"])
@pytest.mark.parametrize("suffix", COMPRESS)
@pytest.mark.parametrize("end", ["\n", "\r\n"])
def test_any_encoding_that_can_be_told(tmp_path, encoding, suffix, end):
    jsonl = end.join(['{"question": "who é"}', "", '{"question": "what", "id": 5}', ""])
    table = end.join(["id,question", "1,who é", '2,"a, b"', ""])
    for name, text, expected in (("q.jsonl", jsonl, ["who é", "what"]), ("q.csv", table, ["who é", "a, b"])):
        rows = read(write(tmp_path, name + suffix, COMPRESS[suffix](text.encode(encoding))))
        assert [row.question for row in rows] == expected
        assert not any(row.error for row in rows)


def test_zeros_by_accident_are_no_utf_16(tmp_path):
    rows = read(write(tmp_path, "q.txt", b"\\\r\n\x00\na\x00b\n"))
    assert [row.question for row in rows] == ["\\", "", "a b"]


def test_bytes_that_are_no_text_are_a_row_with_an_error(tmp_path):
    data = b'{"question": "ok"}\n{"id": "x", "question": "ice \x81\x8d"}\n{"question": "fine \xe9"}\n'
    rows = read(write(tmp_path, "q.jsonl", data))
    assert [row.error for row in rows] == [None, "the question has bytes that are no text (q.jsonl:2)", None]
    assert rows[1].question == "ice \ufffd\ufffd"
    assert rows[2].question == "fine é"


def test_a_question_that_is_too_long_is_a_row_with_an_error(tmp_path):
    lines = [json.dumps({"question": "x" * size}) for size in (MAX_QUESTION_CHARS, MAX_QUESTION_CHARS + 1)]
    rows = read(write(tmp_path, "q.jsonl", "\n".join(lines)))
    assert rows[0].error is None
    assert rows[1].error == "the question is too long (4,194,305 characters, at most 4,194,304, q.jsonl:2)"
    assert len(rows[1].question) == 1000


@pytest.mark.parametrize("suffix", [".gz", ".zst", ".bz2"])
def test_a_line_that_unpacks_to_gigabytes_is_refused(tmp_path, monkeypatch, suffix):
    monkeypatch.setattr(text_lines, "MAX_LINE_BYTES", 1 << 20)
    path = write(tmp_path, f"q.jsonl{suffix}", COMPRESS[suffix](b'{"question": "a"}\n' + b" " * (50 << 20)))
    with pytest.raises(InputError, match=r"longer than 1 MiB.*line 2"):
        read(path)


@pytest.mark.parametrize("suffix", [".gz", ".zst", ".bz2"])
@pytest.mark.parametrize("part", [0.2, 0.6, 0.95])
def test_a_cut_file_loses_no_row_in_silence(tmp_path, suffix, part):
    lines = "".join(json.dumps({"question": os.urandom(500).hex()}) + "\n" for _ in range(300))
    data = COMPRESS[suffix](lines.encode())
    with pytest.raises(InputError, match="cannot be decompressed"):
        read(write(tmp_path, f"q.jsonl{suffix}", data[: int(part * len(data))]))


@pytest.mark.parametrize(
    ("lines", "expected"),
    [
        # A quote that is never closed takes no other line.
        ('1,"who is\n2,what\n3,when\n', ['"who is', "what", "when"]),
        ('1,who\n2,"what\n', ["who", '"what']),
        # One that another line's quote would close, neither.
        ('1,"who is\n2,"a, b",x\n3,when\n', ['"who is', "a, b", "when"]),
        ('1,"who" is,x\n2,what\n', ["who is", "what"]),
        # Cells of several lines are what they are.
        ('1,"who\nis\n\nthis",x\n2,what\n', ["who\nis\n\nthis", "what"]),
        ('1,"a ""b"" c"\n2,\'what\n', ['a "b" c', "'what"]),
        ("1,a\rb\n2,c\0d\n", ["a b", "c d"]),
    ],
)
def test_stray_quotes_in_csv_lose_no_row(tmp_path, lines, expected):
    rows = read(write(tmp_path, "q.csv", "id,question,answer\n" + lines))
    assert [row.question for row in rows] == expected
    assert [row.question_id for row in rows] == [str(number + 1) for number in range(len(rows))]


def test_a_cell_of_too_many_lines_is_a_quote_that_was_never_closed(tmp_path, monkeypatch):
    monkeypatch.setattr(text_lines, "MAX_RECORD_LINES", 100)
    text = "question\n" + "who\n" * 10 + '"stray\n' + "what\n" * 1000 + '"two\nlines"\n'
    rows = read(write(tmp_path, "q.csv", text))
    assert len(rows) == 1012
    assert rows[10].question == '"stray'
    assert rows[-1].question == "two\nlines"


def test_a_line_with_more_cells_than_the_header_is_a_row_with_an_error(tmp_path):
    rows = read(write(tmp_path, "q.csv", "id,question\n1,who, or what\n2,when,,\n3\n"))
    assert [row.error for row in rows] == ["the line has more cells than the header (3, not 2, q.csv:2)", None, EMPTY]
    assert [row.question for row in rows] == ["who", "when", ""]


def test_jsonl_of_other_keys_is_refused_with_those_it_has(tmp_path):
    with pytest.raises(InputError, match=r"has prompt, id.*--question_column"):
        read(write(tmp_path, "q.jsonl", '{"prompt": "who", "id": 1}\n'))
    (row,) = read(write(tmp_path, "q.jsonl", '{"id": 1, "answer": "x"}\n'))  # nothing says that it is another's
    assert row.error == EMPTY


def test_parquet_of_any_column_gives_a_row_each(tmp_path):
    raw = pa.array([b"who", b"ice \xff\xfe", None], pa.binary())
    columns = {
        "bytes": raw,
        "no UTF-8": raw.cast(pa.string(), safe=False),
        "lists of no UTF-8": pa.array([[b"\xff"], [b"a"], None]).cast(pa.list_(pa.string()), safe=False),
        "numbers": pa.array([1, 2, 3]),
        "days beyond the calendar": pa.array([2**62] * 3, pa.timestamp("us")),
        "nothing": pa.nulls(3),
        "dictionary": pa.array(["who", "what", None]).dictionary_encode(),
    }
    for name, column in columns.items():
        pq.write_table(pa.table({"question": column, "id": column, "answer": column}), tmp_path / "q.parquet")
        rows = read(tmp_path / "q.parquet")
        assert len(rows) == 3, name
        assert all(row.error or row.question for row in rows), name
        assert all(row.question_id for row in rows), name
    pq.write_table(pa.table({"question": columns["no UTF-8"]}), tmp_path / "q.parquet")
    assert [row.question for row in read(tmp_path / "q.parquet")] == ["who", "ice \ufffd\ufffd", ""]


@pytest.mark.parametrize("question_id", ["\x00", "\u200b", [], {}, "", None])
def test_an_id_of_nothing_is_made_from_the_question(tmp_path, question_id):
    (row,) = read(write(tmp_path, "q.jsonl", json.dumps({"id": question_id, "question": "who"})))
    assert row.question_id.startswith("q-") == (question_id not in ([], {}))
    assert row.question_id


def test_many_lines_in_bounded_memory(tmp_path):
    path = tmp_path / "q.txt.gz"
    with gzip.open(path, "wt", compresslevel=1) as file:
        file.writelines(f"who is number {number}\n" for number in range(30_000))
    tracemalloc.start()
    try:
        count = sum(1 for _ in read_questions([str(path)], QuestionOptions()))
        peak = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    assert count == 30_000
    assert peak < 5 << 20
