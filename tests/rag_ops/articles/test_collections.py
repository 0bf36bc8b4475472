"""Collections as their publishers have them, five rows of each, made by their descriptions; and a wrong one of each."""

import json

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from rag_ops.articles.article import Article
from rag_ops.articles.dropped import Dropped
from rag_ops.articles.options import InputOptions
from rag_ops.articles.reading import plan_splits, read_split
from rag_ops.errors import InputError
from rag_ops.storage.manifests import read_manifest
from schemas.passages import Passage
from tests.pipelines.workspace import ragbeam

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


@pytest.mark.parametrize(
    ("form", "name", "data", "message"),
    [
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
        ("auto", "a.json", json.dumps({"Data": [{"QuestionId": "t", "Question": "who?"}]}), "--format text"),
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
