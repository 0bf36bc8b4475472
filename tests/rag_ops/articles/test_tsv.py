"""TSV: records as the csv module writes them, raw text with any quotes, and columns by their names."""

import csv
import io
import random

import pytest

from rag_ops.articles import tsv
from rag_ops.articles.columns import Columns
from rag_ops.articles.tsv import Layout, cells_of, layout_of, records
from rag_ops.errors import InputError

DEFAULTS = Columns("text", "title", "id")


def lines_of(text: str) -> list[tsv.Line]:
    found, position = [], 0
    for number, line in enumerate(text.encode().splitlines(keepends=True)):
        found.append((number, position, line))
        position += len(line)
    return found


def layout(text: str, wanted: Columns = DEFAULTS) -> Layout:
    return layout_of(lines_of(text), "f.tsv", wanted)


@pytest.mark.parametrize("quoting", [csv.QUOTE_MINIMAL, csv.QUOTE_ALL])
def test_records_are_those_that_the_csv_module_wrote(quoting):
    draw = random.Random(7)
    pieces = ["a", " ", '"', '""', "\n", "\n\n", "é", "\t", "'", ",", "x y"]
    rows = [["".join(draw.choices(pieces, k=draw.randrange(1, 9))) for _ in range(3)] for _ in range(3000)]
    out = io.StringIO()
    csv.writer(out, delimiter="\t", lineterminator="\n", quoting=quoting).writerows(rows)
    # splitlines would part lines at other characters than "\n"; none of the pieces has one
    found = [cells_of(data.decode(), quoted=True) for _, _, data in records(lines_of(out.getvalue()), 3)]
    assert found == rows


def test_reading_can_begin_at_any_record():
    text = "".join(f'{n}\t"first {n}\nsecond\n{"third" * (n % 3)}"\tTitle {n}\n{n}a\tone line\tT\n' for n in range(30))
    lines = lines_of(text)
    whole = list(records(lines, 3))
    assert len(whole) == 60
    for place, (number, _, _) in enumerate(whole):
        assert list(records(lines[number:], 3)) == whole[place:]


@pytest.mark.parametrize(
    "text",
    [
        '1\t"never closed\tA\n2\tplain\tB\n3\tplain\tC\n',
        '1\t"never closed\tA\n2\t"a quoted text"\tB\n3\t5\' 10" tall\tC\n',
        '1\t"not\tA\n2\ttwo" here\tB\n',
    ],
)
def test_a_stray_quote_takes_no_line_away(text):
    assert [data for _, _, data in records(lines_of(text), 3)] == [line.encode() + b"\n" for line in text.splitlines()]


def test_a_quote_that_is_never_closed_is_not_looked_for_for_ever(monkeypatch):
    monkeypatch.setattr(tsv, "MAX_RECORD_LINES", 5)
    text = '1\t"open\tA\n' + "2\tplain\tB\n" * 50
    assert len(list(records(lines_of(text), 3))) == 51


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("id\ttext\ttitle\n1\ta b\tT\n", (1, 2, 0, 3)),
        ("title\tid\ttext\nT\t1\ta b\n", (2, 0, 1, 3)),
        ("ID\tText\n1\ta b\n", (1, None, 0, 2)),
        ("pid\tpassage\n1\ta b\n", (1, None, 0, 2)),
        ("text\na b\n", (0, None, None, 1)),
        ("0\tsome words\n1\tother words\n", (1, None, 0, 2)),
        ("0\tsome words\tTitle\n1\tother words\tT\n", (1, 2, 0, 3)),
        ('0\t"some\nwords"\tTitle\n1\tother words\tT\n', (1, 2, 0, 3)),
    ],
)
def test_columns_by_the_header_or_as_the_well_known_files_have_them(text, expected):
    found = layout(text)
    assert (found.text, found.title, found.id, found.width) == expected
    assert (found.header is None) == text.startswith("0")


def test_columns_that_flags_name():
    found = layout("My Id\tMy Text\n1\ta b\n", Columns("My Text", "title", "My Id"))
    assert (found.text, found.title, found.id) == (1, None, 0)
    with pytest.raises(InputError, match="--text_column"):
        layout("0\tsome words\n", Columns("My Text", "title", "id"))


def test_documents_of_msmarco_by_their_own_order_or_a_header():
    rows = "D1\thttp://x\tTitle\tsome words\nD2\thttps://y/z?a=1\t\tother words\n"
    for text, expected in (
        (rows, Layout(3, 2, 0, 4, None, False)),
        ("docid\turl\tbody\ttitle\n" + rows, Layout(2, 3, 0, 4, ("docid", "url", "body", "title"), True)),
    ):
        lines = tsv.head(lines_of(text))
        assert tsv.has_documents(lines)
        assert tsv.documents_layout(lines, "a.tsv", Columns("text", "title", "id")) == expected
    assert not tsv.has_documents(tsv.head(lines_of("1\tTitle\thttp://x\twords\n")))


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("key\tvalue\n1\tsome words\n", "looks like a header.*key, value"),
        ("D1\thttp://x\tTitle\tsome words\nD2\thttp://y\tTitle\tother words\n", "4 columns, and no header"),
        ("1\tTitle\tsome words that are long\n2\tOther\tother words that are long\n", "third column.*longer"),
    ],
)
def test_columns_that_cannot_be_told_are_refused(text, message):
    with pytest.raises(InputError, match=message):
        layout(text)


@pytest.mark.parametrize(
    ("text", "quoted"),
    [
        ("0\tno quotes\n1\tat all\n", True),
        ('0\t"A ""quoted"" text"\n1\tplain\n', True),
        ('0\t"over\ntwo lines"\n1\tplain\n', True),
        ('0\tHe said "no".\n1\t"Yes," she said.\n2\t"All in quotes."\n', False),
        ('0\t"begins a quote\n1\tplain\n2\t6" wide\n', False),
    ],
)
def test_whether_quotes_mean_anything_is_told_from_how_they_stand(text, quoted):
    assert layout(text).quoted is quoted
