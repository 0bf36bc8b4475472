"""Collections as their publishers have them, five rows of each, made by their descriptions; and a wrong one of each."""

import bz2
import gzip
import io
import json
import tarfile

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from rag_ops.articles.article import Article
from rag_ops.articles.dropped import Dropped
from rag_ops.articles.options import InputOptions
from rag_ops.articles.reading import plan_splits, read_split
from rag_ops.errors import InputError
from rag_ops.storage.manifests import read_manifest
from rag_ops.storage.stages import write_shard
from schemas.passages import Passage
from tests.pipelines.workspace import digests, fails, ragbeam

TEXTS = [f"Paragraph {n} of the river. It is long." for n in range(5)]
TITLES = ["Ulm", "Bonn", "Ulm", "Ä", "Elbe"]
BEIR = [{"_id": f"d{n}", "title": TITLES[n], "text": TEXTS[n] * (n != 2), "metadata": {}} for n in range(5)]
PYSERINI = [{"id": f"doc{n}", "contents": TEXTS[n]} for n in range(5)]
MARCO = [{"pid": f"msmarco_passage_00_{n}", "passage": TEXTS[n], "spans": "", "docid": ""} for n in range(5)]
KILT = [
    {"_id": str(n), "wikipedia_id": str(n), "wikipedia_title": TITLES[n], "text": [f"{TITLES[n]}\n", f"{TEXTS[n]}\n"]}
    for n in range(5)
]
SQUAD = [
    {"title": TITLES[n], "paragraphs": [{"context": text, "qas": [{"id": "q", "question": "who?", "answers": []}]}]}
    for n, text in enumerate(TEXTS)
]
SQUAD_ROWS = [
    {"id": f"q{n}", "title": TITLES[n], "context": TEXTS[n], "question": "who?", "answers": {"text": ["a"]}}
    for n in range(5)
]
MRQA = [{"header": {"dataset": "x"}}, *({"context": text, "qas": [{"qid": "1", "question": "who?"}]} for text in TEXTS)]
HOTPOT = [
    {
        "_id": f"h{n}",
        "question": "who?",
        "answer": "me",
        "supporting_facts": [[TITLES[n], 0]],
        "context": [[TITLES[n], [f"Paragraph {n} of the river.", " It is long."]]],
    }
    for n in range(5)
]
HOTPOT_ROWS = [
    {**row, "supporting_facts": {"title": [TITLES[n]], "sent_id": [0]}}
    | {"context": {"title": [TITLES[n]], "sentences": [row["context"][0][1]]}}
    for n, row in enumerate(HOTPOT)
]
TRIVIA = [
    {
        "question_id": f"tc_{n}",
        "question": "who?",
        "entity_pages": {"title": TITLES[n : n + 1], "wiki_context": [TEXTS[n]]},
    }
    | {"search_results": {"title": [], "search_context": []}}
    for n in range(5)
]
BODIES = [f'Page {n} of "the" river. {"It is long. " * (30 * n)}' for n in range(5)]
DOCUMENTS = "".join(f"D{n}\thttp://river.org/{n}?a=b\t{TITLES[n]}\t{BODIES[n]}\n" for n in range(5))
DOCUMENTS_2 = [
    {"url": f"https://river.org/{n}", "title": TITLES[n], "headings": "Rivers\n", "body": BODIES[n]}
    | {"docid": f"msmarco_doc_00_{n}"}
    for n in range(5)
]
ABSTRACTS = [
    {"id": str(10 + n), "url": f"https://en.wikipedia.org/wiki?curid={10 + n}", "title": TITLES[n]}
    | {"text": [f"Paragraph {n} of the river.", " It is long."], "charoffset": [[[0, 9]], [[10, 12]]]}
    | {"text_with_links": [f'Paragraph {n} of the <a href="river">river</a>.', " It is long."]}
    for n in range(5)
]
PROCESSED = [
    {**row, "text": [[row["title"]], [row["text_with_links"][0], " It is long."], ["It ends.", " Here."]]}
    for row in ABSTRACTS
]
PLAIN = list(zip(TITLES, TEXTS, strict=True))
KEPT = [(f"d{n}", TITLES[n], TEXTS[n] * (n != 2)) for n in range(5)]


def lines(rows) -> str:
    return "".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows)


def read(path, **more) -> list:
    options = InputOptions(**more)
    return [one for split in plan_splits([str(path)], options) for one in read_split(split, options, Dropped())]


def write(path, data) -> object:
    if path.suffix == ".parquet":
        pq.write_table(pa.Table.from_pylist(data), path)
    elif path.suffix == ".arrow":
        table = pa.Table.from_pylist(data)
        with pa.ipc.new_stream(path, table.schema) as stream:
            stream.write_table(table, max_chunksize=2)
    else:
        path.write_text(data if isinstance(data, str) else lines(data))
    return path


@pytest.mark.parametrize(
    ("name", "data", "expected"),
    [
        ("corpus.jsonl", BEIR, KEPT),
        ("passages.jsonl", PYSERINI, [(f"doc{n}", "", text) for n, text in enumerate(TEXTS)]),
        ("passages.parquet", PYSERINI, [(f"doc{n}", "", text) for n, text in enumerate(TEXTS)]),
        ("msmarco_passage_00.jsonl", MARCO, [(row["pid"], "", row["passage"]) for row in MARCO]),
        (
            "collection.tsv",
            "".join(f"{n}\t{text}\n" for n, text in enumerate(TEXTS)),
            [(str(n), "", text) for n, text in enumerate(TEXTS)],
        ),
    ],
)
def test_a_collection_of_passages_keeps_their_ids(tmp_path, name, data, expected):
    found = read(write(tmp_path / name, data))
    assert all(isinstance(one, Passage) for one in found)
    assert [(one.passage_id, one.title, one.text) for one in found] == expected


@pytest.mark.parametrize(
    ("name", "data", "expected"),
    [
        ("kilt_knowledgesource.json", KILT, [(title, f"{title}\n{text}") for title, text in PLAIN]),
        ("train-v2.0.json", json.dumps({"version": "v2.0", "data": SQUAD}), PLAIN),
        ("squad.parquet", SQUAD_ROWS, PLAIN),
        ("squad.arrow", SQUAD_ROWS, PLAIN),
        ("mrqa.jsonl", MRQA, [("", text) for text in TEXTS]),
        ("hotpot_dev_distractor_v1.json", json.dumps(HOTPOT), PLAIN),
        ("hotpot.parquet", HOTPOT_ROWS, PLAIN),
        ("trivia.parquet", TRIVIA, PLAIN),
        ("articles.arrow", [{"title": title, "text": text} for title, text in PLAIN], PLAIN),
    ],
)
def test_a_collection_of_articles_is_read_as_articles(tmp_path, name, data, expected):
    found = read(write(tmp_path / name, data))
    assert all(isinstance(one, Article) for one in found)
    assert [(one.title, one.text) for one in found] == expected
    assert len({one.article_id for one in found}) == 5
    if "kilt" in name:
        assert [one.article_id for one in found] == list("01234")


def write_tar(path, files: dict[str, bytes]):
    """A tar archive, compressed as its name says, as they are published: with folders, and what macOS puts beside."""
    with tarfile.open(path, "w:bz2" if path.name.endswith("bz2") else "w") as archive:
        for name, data in {"wiki/": b"", "wiki/._AA": b"\0\5\x16", **files}.items():
            member = tarfile.TarInfo(name)
            member.size = len(data)
            member.type = tarfile.DIRTYPE if name.endswith("/") else tarfile.REGTYPE
            archive.addfile(member, io.BytesIO(data))
    return path


def write_wikipedia(path, rows=ABSTRACTS):
    """HotpotQA's archive: folders of .bz2 files with an object a line."""
    parts = {"wiki/AA/wiki_00.bz2": rows[:2], "wiki/AA/wiki_01.bz2": rows[2:3], "wiki/AB/wiki_00.bz2": rows[3:]}
    return write_tar(path, {name: bz2.compress(lines(part).encode()) for name, part in parts.items()})


@pytest.mark.parametrize("form", ["auto", "msmarco"])
@pytest.mark.parametrize("name", ["msmarco-docs.tsv", "msmarco-docs.tsv.gz", "msmarco_doc_00.gz", "docs.parquet"])
def test_documents_of_msmarco_are_articles_by_their_ids(tmp_path, form, name):
    first = "tsv" in name
    data = DOCUMENTS if first else lines(DOCUMENTS_2)
    if name.endswith("parquet"):
        write(tmp_path / name, DOCUMENTS_2)
    else:
        (tmp_path / name).write_bytes(gzip.compress(data.encode()) if name.endswith("gz") else data.encode())
    wanted = [(f"D{n}" if first else f"msmarco_doc_00_{n}", TITLES[n], BODIES[n]) for n in range(5)]
    for more in ({}, {"split_bytes": 100}):
        found = read(tmp_path / name, format=form, **more)
        assert all(isinstance(one, Article) for one in found)
        assert [(one.article_id, one.title, one.text) for one in found] == wanted
    if first:
        with pytest.raises(InputError, match="4 columns, and no header"):
            read(tmp_path / name, format="psgs")
        with pytest.raises(InputError, match="no content"):
            read(tmp_path / name, format=form, text_column="content")


@pytest.mark.parametrize("form", ["auto", "hotpotqa"])
def test_the_wikipedia_of_hotpotqa_is_read_from_its_archive_and_its_files(tmp_path, form):
    wanted = [(str(10 + n), *PLAIN[n]) for n in range(5)]
    (tmp_path / "wiki_00.bz2").write_bytes(bz2.compress(lines(ABSTRACTS).encode()))
    found = [read(write_wikipedia(tmp_path / f"a.tar{suffix}"), format=form) for suffix in (".bz2", "")]
    for articles in (*found, read(tmp_path / "wiki_00.bz2", format=form)):
        assert [(one.article_id, one.title, one.text) for one in articles] == wanted
    processed = read(write_wikipedia(tmp_path / "p.tar.bz2", PROCESSED), format=form)
    assert [(one.title, one.text) for one in processed] == [(title, f"{text}\nIt ends. Here.") for title, text in PLAIN]


@pytest.mark.parametrize("form", ["auto", "triviaqa"])
def test_the_evidence_of_triviaqa_is_read_where_it_lies(tmp_path, form):
    folder = tmp_path / "evidence" / "wikipedia"
    folder.mkdir(parents=True)
    for number, (title, text) in enumerate(PLAIN):
        (folder / f"{title}_{number}_(river).txt").write_text(text)
    found = read(folder / "*.txt", format=form)
    assert sorted((one.article_id, one.title, one.text) for one in found) == sorted(
        (f"{title}_{number}_(river)", f"{title} {number} (river)", text) for number, (title, text) in enumerate(PLAIN)
    )
    (tmp_path / "notes.txt").write_text("No evidence.")
    with pytest.raises(InputError, match="cannot be told from its name"):
        read(tmp_path / "notes.txt")


def test_rows_in_an_archive_are_read_as_those_of_files_are(tmp_path):
    articles = [{"id": f"a{n}", "title": TITLES[n], "text": TEXTS[n]} for n in range(5)]
    (tmp_path / "part_00.gz").write_bytes(gzip.compress(lines(articles).encode()))
    assert [one.article_id for one in read(tmp_path / "part_00.gz")] == [one["id"] for one in articles]
    path = write_tar(tmp_path / "a.tar", {"a/1.jsonl": lines(articles[:3]).encode(), "a/README.txt": b"Rivers."})
    for form in ("auto", "jsonl"):
        assert [(one.article_id, one.text) for one in read(path, format=form)] == [
            (one["id"], one["text"]) for one in articles[:3]
        ]
    path = write_tar(tmp_path / "b.tar.bz2", {"beir/corpus.jsonl.gz": gzip.compress(lines(BEIR).encode())})
    assert [(one.passage_id, one.title, one.text) for one in read(path)] == KEPT


def test_what_is_published_gives_the_same_bytes_by_any_workers_and_cut_short(
    tmp_path, monkeypatch, capsys, warm_workers
):
    folder = tmp_path / "evidence" / "web"
    folder.mkdir(parents=True)
    for number, text in enumerate(TEXTS):
        (folder / f"1_{number}.txt").write_text(text)
    (tmp_path / "msmarco-docs.tsv").write_text(DOCUMENTS)
    archive = write_wikipedia(tmp_path / "a.tar.bz2")
    command = ["chunk", "--input", tmp_path / "msmarco-docs.tsv", archive, folder / "*.txt", "--num_shards", 3]
    ragbeam(*command, "--output", tmp_path / "one")
    workers = ("--direct_running_mode=multi_processing", "--direct_num_workers=2", "--split_bytes", 1000)
    ragbeam(*command, "--output", tmp_path / "two", *workers)

    def second_time_fails(*given):
        if written:
            raise OSError("no space left")
        written.append(given[1])
        return write_shard(*given)

    written: list[str] = []
    with monkeypatch.context() as patch:
        patch.setattr("pipelines.chunk.job.write_shard", second_time_fails)
        fails(capsys, *command, "--output", tmp_path / "three")
    ragbeam(*command, "--output", tmp_path / "three")
    once, *others = (digests(tmp_path / name, "chunk") for name in ("one", "two", "three"))
    assert others == [once, once]
    rows = rows_of(tmp_path / "one")
    assert {row["article_id"] for row in rows} == {
        *(f"D{n}" for n in range(5)),
        *(f"{10 + n}" for n in range(5)),
        *(f"1_{n}" for n in range(5)),
    }
    assert [row["id"] for row in rows if row["article_id"] == "D4"] == ["D4:0", "D4:1", "D4:2", "D4:3"]


@pytest.mark.parametrize(
    ("form", "name", "data", "message"),
    [
        ("auto", "docs.tsv", DOCUMENTS + "D9\thttp://river.org\tBonn\n", "a line has 3 columns.*line 6.*expected '?4"),
        ("msmarco", "docs.jsonl", [{"docid": "D1", "title": "Ulm"}], "no msmarco.*body, docid, title, url"),
        ("hotpotqa", "a.jsonl", [{"id": "1", "title": "Ulm", "text": "Ulm."}], "no list of sentences"),
        ("hotpotqa", "a.tar", b"no archive", "archive cannot be read"),
        ("auto", "a.tar.bz2", b"BZh9", "an archive cannot be read as it is.*tar -xf FILE"),
        ("triviaqa", "evidence.txt", b"\xff", "not UTF-8"),
        ("beir", "a.jsonl", PYSERINI, "no beir.*has id, contents.*_id, text"),
        ("beir", "a.jsonl", '{"_id": "1", "text": 5}\n', "text is no text"),
        ("pyserini", "a.jsonl", BEIR, "no pyserini.*contents, id"),
        ("pyserini", "a.jsonl", '{"id": null, "contents": "x"}\n', "id is no text or number"),
        ("msmarco", "a.jsonl", BEIR, "no msmarco.*passage, pid"),
        ("msmarco", "a.tsv", "1\ta\tb\tc\n", "4 columns"),
        ("kilt", "a.jsonl", BEIR, "no kilt.*wikipedia_title"),
        ("squad", "a.json", json.dumps([*HOTPOT[:1], {"paragraphs": 5}]), "no context.*element 1"),
        ("squad", "a.json", json.dumps({"data": [{"paragraphs": [{"qas": []}]}]}), "no context.*element 1"),
        ("squad", "a.jsonl", BEIR, "no squad"),
        ("hotpotqa", "a.json", json.dumps(SQUAD_ROWS), "no list of titles and sentences"),
        ("hotpotqa", "a.json", json.dumps([{"question": "a", "context": [["t", "s"]]}]), "titles and sentences"),
        ("hotpotqa", "a.jsonl", BEIR, "no hotpotqa"),
        ("triviaqa", "a.jsonl", BEIR, "no triviaqa"),
        ("auto", "a.json", json.dumps({"Data": [{"QuestionId": "t", "Question": "who?"}]}), "evidence/wikipedia/"),
        ("triviaqa", "a.jsonl", [{"entity_pages": {"title": ["a"]}}], "not a wiki_context for each title"),
        ("text", "a.txt", b"\xff\xfe", "not UTF-8"),
        ("arrow", "a.arrow", "no arrow at all", "not a whole Arrow file"),
        ("auto", "a.arrow", [{"question": "who?"}], "an Arrow file has no text"),
    ],
)
def test_a_wrong_one_is_refused_in_one_line(tmp_path, form, name, data, message):
    path = tmp_path / name
    if isinstance(data, bytes):
        path.write_bytes(data)
    elif isinstance(data, str):
        path.write_text(data)
    else:
        write(path, data)
    with pytest.raises(InputError, match=message) as caught:
        read(path, format=form)
    assert "\n" not in str(caught.value)


def test_a_wrong_archive_is_refused_in_one_line(tmp_path):
    whole = write_wikipedia(tmp_path / "a.tar.bz2").read_bytes()
    cut = bz2.compress(lines(ABSTRACTS).encode())[:-20]
    for name, data, message in (
        ("cut.tar.bz2", whole[: len(whole) // 2], "archive cannot be read"),
        ("inner.tar", {"AA/wiki_00.bz2": cut}, r"archive cannot be read.*AA/wiki_00\.bz2"),
        ("texts.tar", {"evidence/wikipedia/Ulm.txt": b"Ulm."}, "the archive has no NDJSON"),
        (
            "lines.tar",
            {"AA/wiki_00": b"", "AA/wiki_00.gz": gzip.compress(b"{}\nno\n")},
            r"not JSON.*wiki_00\.gz, line 2",
        ),
    ):
        path = tmp_path / name
        if isinstance(data, bytes):
            path.write_bytes(data)
        else:
            write_tar(path, data)
        with pytest.raises(InputError, match=message) as caught:
            read(path, format="hotpotqa")
        assert "\n" not in str(caught.value)


def test_texts_of_evidence_are_articles_by_their_names(tmp_path):
    for number, (title, text) in enumerate(PLAIN):
        (tmp_path / f"{title}_am_Fluss_{number}.txt").write_text(f"{text}\n\nMore.\n")
    found = read(tmp_path, format="text")
    assert sorted((one.article_id, one.title, one.text) for one in found) == sorted(
        (f"{title}_am_Fluss_{number}", f"{title} am Fluss {number}", f"{text}\n\nMore.\n")
        for number, (title, text) in enumerate(PLAIN)
    )


def test_a_format_by_name_overrules_what_a_collection_seems_to_be(tmp_path):
    path = write(tmp_path / "corpus.jsonl", BEIR)
    assert [one.article_id for one in read(path, format="jsonl")] == ["d0", "d1", "d3", "d4"]


@pytest.mark.parametrize("form", ["auto", "hf"])
def test_a_dataset_saved_to_disk(tmp_path, form):
    from datasets import Dataset, DatasetDict

    rows = [{"id": n, "title": TITLES[n], "text": TEXTS[n]} for n in range(5)]
    DatasetDict({"train": Dataset.from_list(rows), "test": Dataset.from_list(rows[:1])}).save_to_disk(
        tmp_path / "saved", num_shards={"train": 2, "test": 1}
    )
    found = read(tmp_path / "saved", format=form)
    assert [(one.article_id, one.title, one.text) for one in found] == [(str(n), *pair) for n, pair in enumerate(PLAIN)]
    assert len(read(tmp_path / "saved", format=form, dataset_split="test")) == 1
    assert len(read(tmp_path / "saved" / "test", format=form)) == 1
    with pytest.raises(InputError, match=r"several splits.*train, test"):
        read(tmp_path / "saved", format=form, dataset_split="dev")
    for name, text, message in [
        ("state.json", '{"_data_files": [{"filename": "../x.arrow"}]}', "lists no files"),
        ("state.json", "{", "not JSON"),
    ]:
        (tmp_path / "saved" / "test" / name).write_text(text)
        with pytest.raises(InputError, match=message):
            read(tmp_path / "saved" / "test", format=form)


def test_whole_articles_keep_their_ids_and_passages_are_as_they_are(tmp_path):
    articles = [{"id": f"a{n}", "title": TITLES[n], "text": f" {TEXTS[n]}\n\n" * 30} for n in range(5)]
    write(tmp_path / "articles.jsonl", articles)
    write(tmp_path / "corpus.jsonl", BEIR)
    for name, more in (("articles", ["--passage_unit", "whole"]), ("corpus", [])):
        ragbeam("chunk", "--input", tmp_path / f"{name}.jsonl", "--output", tmp_path / name, "--num_shards", 1, *more)
    whole, beir = (rows_of(tmp_path / name) for name in ("articles", "corpus"))
    assert [(row["id"], row["article_id"], row["text"]) for row in whole] == [
        (one["id"], one["id"], " ".join(one["text"].split())) for one in articles
    ]
    assert [(row["id"], row["article_id"], row["title"], row["text"]) for row in beir] == [
        (one[0], *one) for one in KEPT
    ]


def rows_of(directory) -> list[dict]:
    shards = read_manifest(str(directory), "chunk").shards
    return [row for shard in shards for row in pq.read_table(directory / shard.path).to_pylist()]
