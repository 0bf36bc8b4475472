"""Question files as their publishers have them, tables without headers, and what is refused by what it seems to be."""

import json
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from rag_ops.errors import InputError
from rag_ops.questions.reading import Question, QuestionOptions, expand_question_files, read_questions

QA = Path(__file__).parents[4] / "shared" / "data" / "qa"


def read(directory: Path, name: str, data: str | list, **options) -> list[Question]:
    """The rows of a file of this content; a list is written as JSONL."""
    text = data if isinstance(data, str) else "".join(json.dumps(row) + "\n" for row in data)
    (directory / name).write_text(text)
    return list(read_questions([str(directory / name)], QuestionOptions(**options)))


def shown(rows: list[Question]) -> list[tuple]:
    """Id, where the file has one, question and gold answers of rows that have no error and no note."""
    assert not any(row.error or row.note for row in rows)
    return [(None if row.question_id.startswith("q-") else row.question_id, row.question, row.answers) for row in rows]


SQUAD = {
    "version": "v2.0",
    "data": [
        {
            "title": "Oslo",
            "paragraphs": [
                {
                    "context": "Oslo is by the sea.",
                    "qas": [
                        {
                            "id": "a1",
                            "question": "where is Oslo",
                            "answers": [{"text": "by the sea", "answer_start": 8}],
                        },
                        {"id": "a2", "question": "who built it", "answers": [], "plausible_answers": [{"text": "x"}]},
                    ],
                }
            ],
        },
        {"title": "Bergen", "paragraphs": [{"context": "", "qas": [{"id": "b1", "question": "where is Bergen"}]}]},
    ],
}
IN_SQUAD = [("a1", "where is Oslo", ("by the sea",)), ("a2", "who built it", ()), ("b1", "where is Bergen", None)]
TRIVIA = {
    "Data": [
        {
            "Answer": {
                "Aliases": ["Sinclair Lewis", "Harry Lewis"],
                "Type": "WikipediaEntity",
                "Value": "Sinclair Lewis",
            },
            "Question": "who won in 1930?",
            "QuestionId": "tc_1",
            "SearchResults": [],
        }
    ],
    "Domain": "unfiltered-web",
}
HOTPOT = [{"_id": "5a8b", "question": "which is older?", "answer": "yes", "context": [["A", ["b"]]], "type": "bridge"}]
KILT = [
    {"id": "k1", "input": "who?", "output": [{"answer": "me", "provenance": [{}]}, {"provenance": []}], "meta": {}},
    {"id": "k2", "input": "what?", "output": [], "meta": {}},
]
MS_MARCO = [
    {"query": "what is ice", "query_id": 19, "answers": ["frozen water"], "passages": [{"is_selected": 1}]},
    {"query": "what is", "query_id": 20, "answers": ["No Answer Present."], "wellFormedAnswers": "[]"},
]
QED = [{"example_id": -3, "question_text": "who", "original_nq_answers": [[{"start": 1, "end": 2, "string": "me"}]]}]
MRQA = [
    {"header": {"dataset": "TriviaQA", "split": "dev"}},
    {
        "context": "a",
        "qas": [
            {"qid": "n1", "question": "who?", "answers": ["me"]},
            {"qid": "n2", "question": "what?", "answers": ["ice"]},
        ],
    },
    {"context": "b", "qas": [{"qid": "n3", "question": "why?", "answers": ["war"]}]},
]
NULLS = [{"question": "q", "answer": None, "answers": ["a"]}, {"question": "r", "answer": "b", "answers": []}]
MUSIQUE = [{"id": "2hop__1", "paragraphs": [{"idx": 0}], "question": "whose?", "answer": "hers"}]


@pytest.mark.parametrize(
    ("name", "data", "expected"),
    [
        ("squad.json", json.dumps(SQUAD), IN_SQUAD),
        ("squad.json", json.dumps(SQUAD, indent=4), IN_SQUAD),
        (
            "trivia.json",
            json.dumps(TRIVIA, indent=4),
            [("tc_1", "who won in 1930?", ("Sinclair Lewis", "Harry Lewis"))],
        ),
        ("hotpot.json", json.dumps(HOTPOT), [("5a8b", "which is older?", ("yes",))]),
        ("kilt.jsonl", KILT, [("k1", "who?", ("me",)), ("k2", "what?", ())]),
        ("marco.jsonl", MS_MARCO, [("19", "what is ice", ("frozen water",)), ("20", "what is", ())]),
        (
            "queries.jsonl",
            [{"_id": "PLAIN-2", "text": "is tea good", "metadata": {}}],
            [("PLAIN-2", "is tea good", None)],
        ),
        ("qed.jsonlines", QED, [("-3", "who", ("me",))]),
        ("musique.jsonl", MUSIQUE, [("2hop__1", "whose?", ("hers",))]),
        ("musique.json", json.dumps(MUSIQUE), [("2hop__1", "whose?", ("hers",))]),
        ("pop.jsonl", [{"id": 4, "question": "job?", "possible_answers": '["poet"]'}], [("4", "job?", ("poet",))]),
        (
            "pop.tsv",
            'id\tprop\tquestion\tpossible_answers\n4\tx\tjob?\t"[""poet"", ""bard""]"\n',
            [("4", "job?", ("poet", "bard"))],
        ),
        ("mrqa.jsonl", MRQA, [("n1", "who?", ("me",)), ("n2", "what?", ("ice",)), ("n3", "why?", ("war",))]),
        (
            "dev_v2.1.json",
            json.dumps({name: {str(n): row.get(name) for n, row in enumerate(MS_MARCO)} for name in MS_MARCO[0]}),
            [("19", "what is ice", ("frozen water",)), ("20", "what is", ())],
        ),
        ("beir.json", '{"_id": {"0": "P1"}, "text": {"0": "is tea good"}}', [("P1", "is tea good", None)]),
        ("null.jsonl", NULLS, [(None, "q", ("a",)), (None, "r", ("b",))]),
        (
            "null.csv",
            "question,answer,answers\nq,,a\nr,b,\ns,,\n",
            [(None, "q", ("a",)), (None, "r", ("b",)), (None, "s", None)],
        ),
        (
            "nq-test.qa.csv",
            'who sings\t[\'A\', "B\'s"]\nwhat is, then\t["C"]\n',
            [(None, "who sings", ("A", "B's")), (None, "what is, then", ("C",))],
        ),
        (
            "queries.tsv",
            "1048585\twhat is ice\n2\twhen was 1066\n",
            [("1048585", "what is ice", None), ("2", "when was 1066", None)],
        ),
        (
            "words.tsv",
            "7\twhat is ice\n8\t1066\n9\twho is\n",
            [("7", "what is ice", None), ("8", "1066", None), ("9", "who is", None)],
        ),
        ("queries.csv", '7,"ice, what is it"\n8,who\n', [("7", "ice, what is it", None), ("8", "who", None)]),
        ("known.tsv", "qid\tquery\n11\twhat is ice\n", [("11", "what is ice", None)]),
        ("capitals.tsv", "Question\tAnswer\nwhat is ice\twater\n", [(None, "what is ice", ("water",))]),
        ("sheet.csv", "ID;Question;Answer\n3;what is ice, then;water\n", [("3", "what is ice, then", ("water",))]),
        ("pandas.csv", "question,answers\nwho,\"{'text': array(['me'], dtype=object)}\"\n", [(None, "who", ("me",))]),
    ],
)
def test_a_known_question_set_is_read_as_it_is(tmp_path, name, data, expected):
    assert shown(read(tmp_path, name, data)) == expected


@pytest.mark.parametrize(
    "answers", [['["novelist", "poet"]'], [["novelist", "poet"]], [{"text": ["novelist", "poet"]}]]
)
def test_parquet_has_the_same_forms(tmp_path, answers):
    pq.write_table(
        pa.table({"Question_Text": ["job?"], "QID": [4], "possible_answers": answers}), tmp_path / "q.parquet"
    )
    rows = list(read_questions([str(tmp_path / "q.parquet")], QuestionOptions()))
    assert shown(rows) == [("4", "job?", ("novelist", "poet"))]


def test_a_dataset_saved_to_disk_has_the_same_forms(tmp_path):
    from datasets import Dataset, DatasetDict

    rows = [{"id": f"q{n}", "question": f"who is {n}", "answers": {"text": [f"a{n}", "b"]}} for n in range(5)]
    expected = [(row["id"], row["question"], tuple(row["answers"]["text"])) for row in rows]
    splits = DatasetDict({"train": Dataset.from_list(rows), "dev": Dataset.from_list(rows[:2])})
    splits.save_to_disk(tmp_path / "saved", num_shards={"train": 2, "dev": 1})
    files = expand_question_files([str(tmp_path / "saved" / "train")])
    assert [Path(file).name for file in files] == ["data-00000-of-00002.arrow", "data-00001-of-00002.arrow"]
    assert shown(list(read_questions(files, QuestionOptions()))) == expected
    with pytest.raises(InputError, match=r"several splits.*train, dev"):
        expand_question_files([str(tmp_path / "saved")])
    Path(files[0]).write_bytes(Path(files[0]).read_bytes()[:300])
    with pytest.raises(InputError, match="not a whole Arrow file"):
        list(read_questions(files, QuestionOptions()))


@pytest.mark.parametrize(
    ("name", "data", "options", "message"),
    [
        # A table without a header is not asked its ids, whatever the flags say.
        ("q.tsv", "1048585\twhat is ice\n", {"question_column": "query"}, "a table without a header.*expected query"),
        ("q.tsv", "who\t['me']\n", {"question_column": "question"}, "lacks the question column"),
        ("q.tsv", "1\t2\n3\t4\n", {}, "a table without a header"),
        ("q.tsv", "1\twhat is\tice\n", {}, "a table without a header"),
        ("q.tsv", "31_1\twhat is ice made of\n", {}, "a table without a header"),
        ("q.tsv", "what is ice?\twater\n", {}, "a table without a header.*has what is ice"),
        ("q.tsv", "topic\tice\n", {}, "lacks the question column: .*has topic, ice.*--question_column"),
        ("q.csv", "what is ice\nwho\n", {}, "lacks the question column"),
        ("qrels.tsv", "query-id\tcorpus-id\tscore\n1\t2\t1\n", {}, "relevance judgements"),
        ("psgs.tsv", "id\ttext\ttitle\n1\ta b\tc\n", {}, "a corpus of passages"),
        ("corpus.jsonl", [{"_id": "1", "title": "a", "text": "b"}], {}, "a corpus of passages"),
        ("mrqa.jsonl", [{"context": "a", "qas": []}, {"context": "b", "title": "c"}], {}, "lacks the question column"),
        ("alpaca.jsonl", [{"instruction": "say", "input": "", "output": "x"}], {}, "lacks the question column"),
        ("two.jsonl", [{"query": "a", "input": "b"}], {}, "two columns could be the question.*query, input"),
        ("twice.csv", "question,question\na,b\n", {}, "two columns have the question's name"),
        ("v2.1.json", '{"passages": {"0": "who", "1": "what"}, "answers": {"0": []}}', {}, "lacks the question column"),
        ("v2.1.json", '{"query": {"0": "who", "1": "wh', {}, "broken or cut"),
        ("v2.1.json", '{"query": {"0": "who"}, "answers": []}', {}, "broken or cut"),
        ("pretty.jsonl", '{\n  "question": "who"\n}\n', {}, "no JSON objects"),
        ("table.jsonl", "question,answer\nwho,me\n", {}, "no JSON objects.*line 1: question,answer"),
        ("lists.json", '[["who", "me"]]', {}, "no JSON objects.*element 1"),
        ("cut.json", json.dumps(SQUAD)[:-20], {}, "broken or cut"),
        ("queries.txt", "17\twho is it\n18\twhat is it\n", {}, "a table of 2 columns.*--questions_format tsv"),
        ("rows.txt", '{"question": "who"}\n{"question": "what"}\n', {}, "JSON, an object a line.*jsonl"),
        ("q.csv", "question\tanswer\nwho\tme\n", {"format": "csv"}, "separated by tabs"),
        # What is named must be there.
        ("q.csv", "Question,answer\nwho,me\n", {"question_column": "question"}, "expected question;"),
        ("q.csv", "question,answer\nwho,me\n", {"answer_column": "gold"}, "lacks the column of --answer_column"),
        ("q.jsonl", [{"question": "who"}], {"id_column": "qid"}, "lacks the column of --question_id_column"),
    ],
)
def test_what_cannot_be_told_is_refused_in_one_line(tmp_path, name, data, options, message):
    with pytest.raises(InputError, match=message) as caught:
        read(tmp_path, name, data, **options)
    assert "\n" not in str(caught.value)


def test_a_named_column_is_the_one_that_is_read(tmp_path):
    row = {"id": 1, "uid": "u", "question": "no", "query": "yes", "answer": "no", "gold": "yes"}
    options = {"question_column": "query", "id_column": "uid", "answer_column": "gold"}
    assert shown(read(tmp_path, "q.jsonl", [row], **options)) == [("u", "yes", ("yes",))]
    assert shown(read(tmp_path, "q.txt", "1\ta\n2\tb\n", format="text")) == [(None, "1\ta", None), (None, "2\tb", None)]


def test_a_line_that_is_no_row_of_json_is_a_row_with_an_error(tmp_path):
    lines = [
        '{"question": "who"}',
        '{"question": "cut',
        "",
        "[1, 2]",
        "plain text",
        "[" * 100_000,
        '{"question": "what"}',
    ]
    rows = read(tmp_path, "q.jsonl", "\n".join(lines))
    assert [row.question for row in rows if not row.error] == ["who", "what"]
    assert [row.error for row in rows if row.error] == [
        "the line is not JSON (Unterminated string starting at, q.jsonl:2)",
        "the row is no JSON object (list, q.jsonl:4)",
        "the line is not JSON (Expecting value, q.jsonl:5)",
        "the line is not JSON (nested too deeply, q.jsonl:6)",
    ]
    assert rows[1].question == '{"question": "cut'  # so that it can be found
    assert len(rows[4].question) == 1000
    assert len({row.question_id for row in rows}) == 6


def test_an_element_of_a_document_that_is_no_object_is_a_row_with_an_error(tmp_path):
    rows = read(tmp_path, "q.json", '[{"question": "who"}, 5, {"question": "what"}]')
    assert [row.error for row in rows] == [None, "the row is no JSON object (int, q.json:2)", None]


def test_a_file_of_nothing_has_no_rows(tmp_path):
    for name, data in (("q.jsonl", "\n\n"), ("q.csv", "\n"), ("q.json", "[]"), ("q.tsv", "question\n"), ("q.txt", "")):
        assert read(tmp_path, name, data) == []
        assert read(tmp_path, name, data, question_column="question") == []


@pytest.mark.parametrize("encoding", ["utf-8-sig", "utf-16", "utf-16-le"])
def test_documents_come_in_any_encoding(tmp_path, encoding):
    (tmp_path / "q.json").write_bytes(json.dumps([{"question": "é 日本"}], ensure_ascii=False).encode(encoding))
    (row,) = read_questions([str(tmp_path / "q.json")], QuestionOptions())
    assert row.question == "é 日本"


def nested(value: object, key: str) -> list:
    """All that stands under a key, anywhere in a document, in order; `[x]` for each member that is no list."""
    if isinstance(value, dict):
        inner = [found for name, member in value.items() if name != key for found in nested(member, key)]
        return [*inner, *([value[key]] if key in value else [])]
    return [found for item in value for found in nested(item, key)] if isinstance(value, list) else []


@pytest.mark.parametrize(
    "name", ["squad-train-v2.0-first10articles.json", "squadshifts-new_wiki_v1.0.json", "squad-train-v1-sample800.json"]
)
def test_real_documents_give_all_of_their_questions(name):
    if not (QA / name).exists():
        pytest.skip("the real question sets are not beside the repository")
    rows = list(read_questions([str(QA / name)], QuestionOptions()))
    expected = [question.strip() for question in nested(json.loads((QA / name).read_text()), "question")]
    assert [row.question for row in rows] == expected
    assert not any(row.note for row in rows)
    assert sum(bool(row.answers) for row in rows) > 0.9 * len(rows)


def test_a_real_file_of_json_lines_under_another_suffix():
    if not (QA / "qed-dev.jsonlines").exists():
        pytest.skip("the real question sets are not beside the repository")
    rows = list(read_questions([str(QA / "qed-dev.jsonlines")], QuestionOptions()))
    assert len(rows) == 1355
    assert all(row.answers and not row.error and not row.question_id.startswith("q-") for row in rows)
