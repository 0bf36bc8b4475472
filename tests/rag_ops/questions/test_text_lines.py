"""Records of CSV and TSV beside Python's csv module, whose settings of the whole process they must not depend on."""

import csv
import io
import subprocess
import sys

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from rag_ops.questions.text_lines import records

CELLS = st.text(st.sampled_from("ab \",\t'\n"), max_size=6)


def lines_of(text: str) -> list[str]:
    return io.StringIO(text, newline="\n").readlines()


def split(text: str, delimiter: str = ",") -> list[list[str]]:
    return [cells for _, cells in records(lines_of(text), delimiter, "x.csv")]


@settings(max_examples=300, deadline=None)
@given(
    rows=st.lists(st.lists(CELLS, min_size=1, max_size=4), max_size=6),
    delimiter=st.sampled_from(",\t;"),
    quoting=st.sampled_from([csv.QUOTE_MINIMAL, csv.QUOTE_ALL]),
)
def test_what_the_csv_module_writes_comes_back(rows, delimiter, quoting):
    out = io.StringIO()
    csv.writer(out, delimiter=delimiter, lineterminator="\n", quoting=quoting).writerows(rows)
    assert split(out.getvalue(), delimiter) == rows


@settings(max_examples=500, deadline=None)
@given(text=st.text(st.sampled_from('ab ",\n'), max_size=30))
def test_any_text_is_read_as_the_csv_module_reads_it_strictly(text):
    text = text.removesuffix("\n") + "\n"  # lines come with their ends
    try:
        expected = list(csv.reader(lines_of(text), strict=True))
    except csv.Error:
        assert split(text)  # a stray quote: the line is read as it is
        return
    assert split(text) == expected


@settings(max_examples=300, deadline=None)
@given(line=st.text(st.sampled_from('ab ",'), min_size=1, max_size=12))
def test_a_line_with_a_stray_quote_is_read_as_the_csv_module_bears_it(line):
    try:
        list(csv.reader([line], strict=True))
    except csv.Error:
        reader = csv.reader([line, "next"])
        cells = next(reader)
        if reader.line_num > 1:  # not closed in its line: every quote is literal
            cells = next(csv.reader([line], quoting=csv.QUOTE_NONE))
        assert split(line + "\nnext\n") == [cells, ["next"]]


def test_a_long_cell_is_read_whatever_limit_the_process_has():
    before = csv.field_size_limit(10)
    try:
        assert split(f'id,"{"x" * 200_000}"\n') == [["id", "x" * 200_000]]
        assert csv.field_size_limit() == 10
    finally:
        csv.field_size_limit(before)


@pytest.mark.parametrize(
    "module", ["rag_ops.questions.reading", "rag_ops.articles.reading", "rag_ops.questions.text_lines"]
)
def test_importing_a_reader_changes_no_setting_of_the_csv_module(module):
    program = f"import csv; before = csv.field_size_limit(); import {module}; assert csv.field_size_limit() == before"
    subprocess.run([sys.executable, "-c", program], check=True)
