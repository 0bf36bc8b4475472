"""Random inputs of every kind, sound and broken, with what a reader must make of them; for tests and the benchmark.

Each maker takes a `random.Random` (or hypothesis's), so that a seed is a case.
"""

from __future__ import annotations

import bz2
import gzip
import io
import json
import lzma
import random
from collections.abc import Callable
from pathlib import Path
from xml.sax.saxutils import escape

import pyarrow as pa
import pyarrow.parquet as pq
import zstandard

from rag_ops.articles.article import Article, Split
from rag_ops.articles.dropped import Dropped
from rag_ops.articles.options import InputOptions
from rag_ops.articles.shuffle import plain_articles
from rag_ops.errors import InputError
from rag_ops.questions import blocks
from rag_ops.questions.reading import QuestionOptions, read_questions
from rag_ops.storage import store

COMPRESS: dict[str, Callable[[bytes], bytes]] = {
    "": bytes,
    ".gz": lambda data: gzip.compress(data, 1),
    ".bz2": bz2.compress,
    ".zst": zstandard.ZstdCompressor().compress,
    ".xz": lzma.compress,
}
TEXTS = (
    "who sings this", "what is ice", "", " ", "\t", "\x00", "\x01\x02", "a\x00b", "\u200b\u200e", "שלום מי זה",
    "من هذا", "日本は何ですか", "é à ü", "🙂👩‍👩‍👧 who?", "=cmd|' /C calc'!A0", "@SUM(1)", "+1-1",
    "-2", 'who said "this"',
    "one, two; three", "{{[[<b>", "\ufeffwho", "a\u2028b", "a\x85b", "\x1c", "a\rb", "\ufffd", "NULL", "nan", "\ud800",
    "a\udcff\udfffb", "' OR 1=1", "../../etc/passwd", "%s %n {0}", "x" * 3000, "\\", "\\n", "#", "e\u0301" * 50,
    "<script>alert(1)</script>",
)  # fmt: skip
NO_TEXTS = (
    None, 5, -1.5, True, [], ["a"], {"a": 1}, float("nan"), 10 ** 30, [[[["x"]]]],
)  # fmt: skip
BROKEN_LINES = ('{"question": "who', "[1]", "who is it", "5", "null", "}", "[" * 5000)  # each a row with an error
OUTDATED = "a revision that was edited since"
GARBAGE = (
    b"\xff\xfe", b"\x00", b"\x81\x8d", b"\xed\xa0\x80", b"\n", b'"', b"{", b"}", b"<", b">", b"]]>", b"\r",
    b"\x1f\x8b", b"PAR1",
)  # fmt: skip
MARKUP = (
    "{{", "}}", "[[", "]]", "|", "<b>", "</b>", "<ref>", "</ref>", "<ref name=a/>", "{|\n", "\n|}", "''",
    "\n== A ==\n", "\n* ", "\n: ", "=", "convert", "1", "e9", "km", "<math>", "</math>", "<nowiki>", "</nowiki>",
    "<!--", "-->", "val", "[http://x y]", "http://", "[", "]", "File:", "<sup>", "</sup>", "(", ")", ",", " ", "&amp;",
    "&#0;", "&#xd800;", "text ", "<page>", "</page>", "<text>", "</mediawiki>", "]]>", "é日本", "\u2028", "frac", "{{{",
    "}}}", "#redirect", "nowrap|", "\n----\n", "order of magnitude|", "formatnum:", "<div ", "a=b ", ">", "\n=", "\n",
    "{{disambig}}", "pop density|1|1|prec=99999999",
)  # fmt: skip
TITLES = ("A", "é & b", "../../x", "A (disambiguation)", "=1+1", "<b>", "x" * 300, "x" * 1500, " ", "Talk:B")


class LostError(AssertionError):
    """Rows or pages that went in did not come out."""


def check_question_case(draw: random.Random, directory: Path) -> str:
    """Makes a question file, reads it, and checks that every row comes out; returns what kind of case it was.

    Raises:
        LostError, or whatever a reader raises that it should not.
    """
    kind = draw.choice(["jsonl", "jsonl", "csv", "tsv", "txt", "parquet"])
    data, rows = {
        "jsonl": _jsonl, "csv": lambda d: _delimited(d, ","), "tsv": lambda d: _delimited(d, "\t"), "txt": _lines,
        "parquet": _parquet,
    }[kind](draw)  # fmt: skip
    suffix = draw.choice([*COMPRESS, "", "", ""]) if kind != "parquet" else ""
    data = COMPRESS[suffix](data)
    broken = draw.random() < 0.2
    if broken:
        data = _damaged(draw, data)
    path = directory / f"q.{kind}{suffix}"
    path.write_bytes(data)
    try:
        found = list(read_questions([str(path)], QuestionOptions()))
    except InputError:
        if broken:
            return f"{kind}{suffix} refused"
        raise
    for question in found:
        question.question.encode()
        if not question.question_id or (not question.error and not question.question.strip()):
            raise LostError(f"{question} has neither a question nor an error, or no id")
    if not broken and len(found) != rows:
        raise LostError(f"{len(found)} rows of {rows} in {path.name}")
    if draw.random() < 0.05:
        prepared = blocks.prepare(found, str(directory / "blocks"), 7)
        if prepared.rows != len(found):
            raise LostError(f"{prepared.rows} rows prepared of {len(found)}")
        store.remove(str(directory / "blocks"))
    return f"{kind}{suffix} {'damaged, read' if broken else 'read'}"


def check_dump_case(draw: random.Random, directory: Path) -> str:
    """Makes a dump, reads it in random splits, and checks that every page is kept or dropped; returns its kind."""
    count = draw.randrange(0, 8)
    old = draw.random() < 0.2  # of a version that has no <ns>
    pages = [_page(draw, number, old) for number in range(1, count + 1)]
    head = '<mediawiki xmlns="http://www.mediawiki.org/xml/export-0.11/">\n<siteinfo>\n'
    head += draw.choice(["", '<namespaces><namespace key="0" /><namespace key="1">Talk</namespace></namespaces>'])
    head += "</siteinfo>\n"
    between = draw.choice(["", "", "</mediawiki>\n" + head])  # two exports, one after the other
    pages.insert(draw.randrange(count + 1), between)
    data = (head + "".join(pages) + "</mediawiki>\n").encode()
    kind = draw.choice(["xml", "xml", "xml.gz", "xml.zst", "xml.xz", "xml.bz2", "multistream"])
    if kind != "xml" and kind != "multistream":
        data = COMPRESS[kind.removeprefix("xml")](data)
    elif kind == "multistream":
        data = b"".join(bz2.compress(part.encode()) for part in [head, *pages, "</mediawiki>\n"])
    broken = draw.random() < 0.2
    if broken:
        data = _damaged(draw, data)
    path = directory / f"d.{'xml.bz2' if kind == 'multistream' else kind}"
    path.write_bytes(data)
    one = kind in ("xml.gz", "xml.zst", "xml.xz")
    places = [] if one else sorted({draw.randrange(1, len(data) + 2) for _ in range(draw.randrange(4))})
    dropped, kept, options = Dropped(), [], InputOptions()
    try:
        for start, end in zip([0, *places], [*places, None], strict=True):
            split = Split(0, "mediawiki", str(path), start, end)
            kept += [article for article in plain_articles(split, options, dropped) if isinstance(article, Article)]
    except InputError:
        if broken:
            return f"{kind} refused"
        raise
    if not broken and any(OUTDATED in article.text for article in kept):
        raise LostError(f"an older revision in {[article.text[:200] for article in kept]}")
    ids = {article.article_id for article in kept}
    if not broken and (len(ids) != len(kept) or len(kept) + dropped.total() != count):
        raise LostError(f"{count} pages, {len(kept)} kept, {dict(dropped)} dropped, cuts {places}")
    return f"{kind} {'damaged, read' if broken else 'read'}"


def _jsonl(draw: random.Random) -> tuple[bytes, int]:
    plain = draw.random() < 0.5
    rows = []
    for number in range(draw.randrange(12)):
        row: dict[str, object] = {"question": _value(draw)}
        if draw.random() < 0.7:
            row["id"] = draw.choice([number, "same", "", None, 1.5, ["x"], "../up", "\x00"])
        if draw.random() < 0.5:
            row["answer"] = draw.choice(["a", ["a", "b"], None, 5, {"a": [1]}, [None, 2.5, ["x"]], ""])
        rows.append(json.dumps(row, ensure_ascii=plain or draw.random() < 0.5))
        if draw.random() < 0.1:
            rows.append("")
        if draw.random() < 0.1:
            rows.append(draw.choice(BROKEN_LINES))
    end = draw.choice(["\n", "\r\n"])
    data = _encoded(draw, end.join(rows) + draw.choice(["", end]))
    return data, sum(row != "" for row in rows)


def _delimited(draw: random.Random, delimiter: str) -> tuple[bytes, int]:
    stray = draw.random() < 0.3
    out = io.StringIO()
    end = draw.choice(["\n", "\r\n"])
    all_quoted = draw.choice([False, True])

    def write(*cells: object) -> None:  # Python 3.10's csv writes no zero characters
        shown = [str(cell) for cell in cells]
        quoted = [all_quoted or any(c in cell for c in f'{delimiter}"\r\n') for cell in shown]
        pairs = zip(shown, quoted, strict=True)
        out.write(delimiter.join('"' + c.replace('"', '""') + '"' if quote else c for c, quote in pairs) + end)

    write("id", "question", "answer")
    count = draw.randrange(12)
    for number in range(count):
        text = draw.choice([text for text in TEXTS if "\ud800" not in text and "\udcff" not in text])
        if stray:
            text = text.replace("\n", " ").replace("\r", " ").replace('"', "'")
        if stray and draw.random() < 0.3:
            out.write(f'{number}{delimiter}"{text.replace(delimiter, " ").strip()} x{delimiter}a{end}')
        else:
            many_lines = draw.random() < 0.1 and not stray
            write(number, text + "\nmore" if many_lines else text, draw.choice(["", "x", '["a", "b"]', "['a']"]))
    return _encoded(draw, out.getvalue()), count


def _lines(draw: random.Random) -> tuple[bytes, int]:
    lines = [draw.choice(TEXTS).replace("\n", " ") for _ in range(draw.randrange(12))]
    lines = [line.encode("utf-8", "replace").decode() for line in lines]
    end = draw.choice(["\n", "\r\n"])
    data = _encoded(draw, end.join(lines) + draw.choice(["", end]))
    return data, sum(bool(line.strip()) for line in lines)


def _parquet(draw: random.Random) -> tuple[bytes, int]:
    count = draw.randrange(12)
    texts = [draw.choice(TEXTS).encode("utf-8", "replace").decode() for _ in range(count)]
    raw = [draw.choice([text.encode(), b"\xff\xfe\x81", None]) for text in texts]
    questions = draw.choice([
        lambda: pa.array(texts, pa.string()), lambda: pa.array(texts, pa.large_string()),
        lambda: pa.array(raw, pa.binary()),
        lambda: pa.array(raw, pa.binary()).cast(pa.string(), safe=False), lambda: pa.array(range(count), pa.int64()),
        lambda: pa.array([[text] for text in texts], pa.list_(pa.string())), lambda: pa.nulls(count),
        lambda: pa.array(texts, pa.string()).dictionary_encode(),
        lambda: pa.array([2**62] * count, pa.timestamp("us")),
    ])()  # fmt: skip
    table = pa.table({"question": questions, "id": draw.choice([pa.array(range(count)), pa.nulls(count), questions])})
    if draw.random() < 0.5:
        lists = pa.array([[item] if item else None for item in raw], pa.list_(pa.binary()))
        table = table.append_column(
            "answer", draw.choice([questions, lists, lists.cast(pa.list_(pa.string()), safe=False)])
        )
    out = io.BytesIO()
    pq.write_table(table, out, row_group_size=max(1, count // 2))
    return out.getvalue(), count


def _value(draw: random.Random) -> object:
    return draw.choice(NO_TEXTS) if draw.random() < 0.2 else draw.choice(TEXTS)


def _encoded(draw: random.Random, text: str) -> bytes:
    """The text in some encoding that a reader can tell."""
    encoding = draw.choice(["utf-8"] * 4 + ["utf-8-sig", "utf-16", "utf-16-be-bom", "latin-1", "cp1252", "utf-32"])
    if text.startswith("\0"):  # after a mark of UTF-16 it would make one of UTF-32
        encoding = "utf-8"
    if encoding == "utf-16-be-bom":
        return b"\xfe\xff" + text.encode("utf-16-be", "surrogatepass")
    errors = "replace" if encoding in ("latin-1", "cp1252") else "surrogatepass"
    return text.encode(encoding, errors)


def _damaged(draw: random.Random, data: bytes) -> bytes:
    changed = bytearray(data)
    for _ in range(draw.randrange(1, 4)):
        place = draw.randrange(len(changed) + 1)
        how = draw.randrange(4)
        if how == 0:
            del changed[place:]
        elif how == 1:
            changed[place:place] = draw.choice(GARBAGE)
        elif how == 2:
            del changed[place : place + draw.randrange(1, 40)]
        elif place < len(changed):
            changed[place] = draw.randrange(256)
    return bytes(changed)


def _page(draw: random.Random, number: int, old: bool) -> str:
    pieces = [draw.choice(MARKUP) for _ in range(draw.randrange(40))]
    text = "".join(pieces)
    if draw.random() < 0.002:
        text = "".join(pieces[:5]) * draw.randrange(1, 2000)
    redirect = "<redirect title='x' />" if draw.random() < 0.1 else ""
    namespace = draw.choice([0, 0, 0, 0, 1, 10])
    body = draw.choice(
        [f"<text>{escape(text)}</text>", f"<text><![CDATA[{text.replace(']', ' ')}]]></text>", "<text />"]
    )
    if "page>" in body:  # in no export does the tag stand unescaped, and splits are found by it
        body = f"<text>{escape(text)}</text>"
    title = escape(draw.choice(TITLES))
    revisions = [f"<revision><id>9</id><timestamp>2024-01-01T00:00:00Z</timestamp>{body}</revision>"]
    for year in range(2020, 2020 + draw.choice([0, 0, 1, 2])):
        older = f"<timestamp>{year}-01-01T00:00:00Z</timestamp><text>{OUTDATED}</text>"
        revisions.insert(draw.randrange(len(revisions) + 1), f"<revision><id>{year}</id>{older}</revision>")
    return (
        f"<page><title>{title}</title>{'' if old else f'<ns>{namespace}</ns>'}<id>{number}</id>{redirect}"
        f"{''.join(revisions)}</page>\n"
    )
