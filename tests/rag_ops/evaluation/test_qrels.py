"""Files of judgements: TREC's form and BEIR's, and what is refused of either."""

import gzip

import pytest

from rag_ops.errors import InputError
from rag_ops.evaluation.qrels import read_qrels

EXPECTED = {"q1": {"12:0": 1, "13:4": 0}, "q2": {"12:0": 2}}
FORMS = {
    "trec.txt": "q1 0 12:0 1\nq1 0 13:4 0\n\nq2 0 12:0 2\n",
    "marco.tsv": "q1\t0\t12:0\t1\r\nq1\t0\t13:4\t-2\r\nq2\t0\t12:0\t2\r\n",
    "test.tsv": "query-id\tcorpus-id\tscore\nq1\t12:0\t1\nq1\t13:4\t0\nq2\t12:0\t2\nq2\t12:0\t2\n",
}


@pytest.mark.parametrize("name", FORMS)
def test_each_form_is_known_by_its_content(tmp_path, name):
    (tmp_path / "any.name").write_text(FORMS[name], newline="")
    found = read_qrels([str(tmp_path / "any.name")])
    assert found.by_question == EXPECTED
    assert found.count == 3
    (tmp_path / "qrels.gz").write_bytes(gzip.compress(b"\xef\xbb\xbf" + FORMS[name].encode()))
    assert read_qrels([str(tmp_path / "qrels.gz"), str(tmp_path / "any.name")]).by_question == EXPECTED


def test_ids_of_beir_may_hold_spaces(tmp_path):
    (tmp_path / "q").write_text("query-id\tcorpus-id\tscore\nq 1\ta b\t1\n")
    assert read_qrels([str(tmp_path / "q")]).by_question == {"q 1": {"a b": 1}}


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", "has no judgements"),
        ("\n \n", "has no judgements"),
        ("query-id\tcorpus-id\tscore\n", "has no judgements"),
        ("q1 0 d 1\nq1 0 e 1.5\n", "no integer: '?.*line 2: q1 0 e 1.5"),
        ("q1 0 d high\n", "no integer"),
        ("q1 0 d 1_0\n", "no integer"),
        ("q1 0 d 99999999999999999999\n", "too large"),
        ("query-id\tcorpus-id\tscore\nq\td\t0.5\n", "no integer.*line 2"),
        ("q1 0 d 1\nq1 0 d 1 x\n", "no judgement.*line 2"),
        ("q1 d 1\n", "no judgement.*line 1"),
        ("query-id\tcorpus-id\tscore\nq 0 d 1\n", "no judgement"),
        ("query-id\tcorpus-id\tscore\n\td\t1\n", "no judgement"),
        ("q1 0 d 1001\n", "too large"),
        ("q1 0 d 1\nq1 0 d 2\n", "judged twice, and not alike.*line 2: question q1, passage d: 1 and 2"),
    ],
)
def test_what_is_no_judgement_is_one_line(tmp_path, text, message):
    (tmp_path / "qrels").write_text(text)
    with pytest.raises(InputError, match=message) as caught:
        read_qrels([str(tmp_path / "qrels")])
    assert "\n" not in str(caught.value)


def test_a_file_that_is_cut_is_one_line(tmp_path):
    (tmp_path / "qrels.gz").write_bytes(gzip.compress(FORMS["trec.txt"].encode() * 1000)[:-9])
    with pytest.raises(InputError, match="the file cannot be decompressed"):
        read_qrels([str(tmp_path / "qrels.gz")])


def test_a_file_that_is_not_there_is_named(tmp_path):
    with pytest.raises((InputError, FileNotFoundError), match="none"):
        read_qrels([str(tmp_path / "none")])
