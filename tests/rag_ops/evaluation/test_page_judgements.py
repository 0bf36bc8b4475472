"""Pages that question sets name as judgements: their files, and which passages are of which page."""

import json

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from rag_ops.errors import InputError
from rag_ops.evaluation.page_judgements import ranked_pages, read_judgements
from rag_ops.evaluation.qrels import Judgements
from rag_ops.evaluation.ranking import Measures
from rag_ops.questions.columns import QuestionOptions
from rag_ops.questions.provenance import Page

ULM, BONN, KOLN = Page("7", "Ulm"), Page("", "Bonn"), Page("9", "")
IN_ULM = {"answer": "there", "provenance": [{"wikipedia_id": "7", "title": "Ulm"}]}
KILT = [
    {"id": "k1", "input": "where?", "output": [IN_ULM]},
    {"id": "k2", "input": "who?", "output": [{"answer": "she"}]},
    {
        "id": "k3",
        "input": "when?",
        "output": [IN_ULM, {"provenance": [{"wikipedia_id": None, "title": "Bonn"}]}],
    },
]
HOTPOT = [
    {"_id": "h1", "question": "why?", "answer": "so", "supporting_facts": [["Ulm", 0], ["Bonn", 1]], "context": []},
    {"_id": "h2", "question": "how?", "answer": "so", "supporting_facts": [], "context": []},
]
OF_KILT = {"k1": ((ULM,),), "k3": ((ULM,), (BONN,))}
OF_HOTPOT = {"h1": ((Page("", "Ulm"), BONN),)}


def read(path):
    return read_judgements([str(path)], QuestionOptions())


def lines(path, rows):
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return path


def test_kilt_and_hotpotqa_in_the_forms_in_which_they_are_published(tmp_path):
    found = read(lines(tmp_path / "nq-dev-kilt.jsonl", KILT))
    assert (found.by_question, found.count, found.need_titles) == (OF_KILT, 3, False)
    pq.write_table(pa.Table.from_pylist(KILT), tmp_path / "kilt.parquet")
    assert read(tmp_path / "kilt.parquet").by_question == OF_KILT
    (tmp_path / "hotpot_dev.json").write_text(json.dumps(HOTPOT))
    found = read(tmp_path / "hotpot_dev.json")
    assert (found.by_question, found.count, found.need_titles) == (OF_HOTPOT, 2, True)
    hub = [{"id": "h1", "question": "why?", "supporting_facts": {"title": ["Ulm", "Bonn"], "sent_id": [0, 1]}}]
    pq.write_table(pa.Table.from_pylist(hub), tmp_path / "hub.parquet")
    assert read(tmp_path / "hub.parquet").by_question == OF_HOTPOT


def test_beirs_judgements_as_records(tmp_path):
    rows = [{"query-id": "q1", "corpus-id": 12, "score": 1.0}, {"query-id": "q2", "corpus-id": "d", "score": "2"}]
    expected = Judgements({"q1": {"12": 1}, "q2": {"d": 2}})
    assert read(lines(tmp_path / "test.jsonl", rows)) == expected
    pq.write_table(
        pa.table({"query-id": ["q1", "q2"], "corpus-id": ["12", "d"], "score": [1, 2]}), tmp_path / "a.parquet"
    )
    assert read(tmp_path / "a.parquet") == expected


@pytest.mark.parametrize(
    ("rows", "message"),
    [
        ([{"query-id": "q", "corpus-id": "d", "score": 0.5}], "no integer.*line 1: q d 0.5"),
        ([{"query-id": "q", "corpus-id": "d", "score": 1}, {"query-id": "q", "score": 1}], "no judgement.*line 2"),
        ([{"query-id": "q", "corpus-id": "d", "score": 1}, 5], "no judgement.*no JSON object"),
        ([5], "no JSON objects"),
        ([], "no JSON objects"),
        ([{"id": "a", "question": "why?", "answer": "so"}], "names no pages"),
        ([{"colour": "red"}], "lacks the question column"),
        ([KILT[0], KILT[2] | {"id": "k1"}], "stands twice, with other pages.*line 2: question k1"),
    ],
)
def test_what_is_no_judgement_is_one_line(tmp_path, rows, message):
    with pytest.raises(InputError, match=message) as caught:
        read(lines(tmp_path / "q.jsonl", rows))
    assert "\n" not in str(caught.value)


def test_passages_and_pages_together_are_refused(tmp_path):
    lines(tmp_path / "k.jsonl", KILT)
    (tmp_path / "q.txt").write_text("k1 0 7:0 1\n")
    with pytest.raises(InputError, match="some name pages"):
        read_judgements([str(tmp_path / "k.jsonl"), str(tmp_path / "q.txt")], QuestionOptions())


@pytest.mark.parametrize(
    ("title", "passage", "expected"),
    [
        ("Ulm", "1:0", True),
        ("ulm", "1:0", True),
        ("Bonn", "1:0", True),
        ("Simon_&amp;  Garfunkel", "1:0", True),
        ("", "7:3", True),  # no title: its page's id
        ("", "9:0", True),
        ("Cologne", "9:0", True),  # the judgement has no title
        ("Oslo", "7:0", False),  # both have titles, which differ
        ("", "8:0", False),
        ("", "other", False),
    ],
)
def test_a_passage_is_of_a_judged_page_by_title_else_by_id(title, passage, expected):
    evidence = ((ULM, BONN), (KOLN,), (Page("", "Simon & Garfunkel"),))
    passages = [{"id": passage, "title": title}]
    pages, sets, count = ranked_pages(
        passages, [(passage, 1.0)], evidence, lambda name: Page(name.partition(":")[0], "")
    )
    assert count == expected
    assert (pages[0] in set().union(*sets)) == expected
    assert [len(one) for one in sets] == [2, 1, 1]


def test_pages_stand_at_their_best_passage_and_the_best_set_counts():
    evidence = ((ULM, BONN), (Page("", "Oslo"),))
    titles = {"a": "Rome", "b": "Oslo", "c": "Rome", "d": "Ulm", "e": "Oslo"}
    passages = [{"id": name, "title": title} for name, title in titles.items()]
    ranking = [("a", 5.0), ("b", 4.0), ("c", 3.0), ("d", 2.0), ("e", 1.0)]
    pages, sets, count = ranked_pages(passages, ranking, evidence, lambda name: None)
    assert count == 3
    assert len(pages) == 3  # Rome, Oslo, Ulm
    measures = Measures(("RR", "AP", "Rprec", "R@1", "R@2", "R@3", "P@2"), pages_alone=True)
    assert measures.columns == ["page RR", "page AP", "page Rprec", "page R@1", "page R@2", "page R@3", "page P@2"]
    both = measures.score_pages([pages, []], [sets, sets])
    # Of {Ulm, Bonn} two pages are looked at, of {Oslo} one: neither holds any of its own.
    expected = {"RR": 1 / 2, "AP": (1 / 2 + 2 / 3) / 3, "Rprec": 0, "R@1": 0, "R@2": 1, "R@3": 1, "P@2": 1 / 2}
    assert both[0] == pytest.approx({f"page {name}": value for name, value in expected.items()})
    assert both[1] == dict.fromkeys(measures.columns, 0.0)
    first = measures.score_pages([pages[1:]], [sets])[0]
    assert first["page Rprec"] == 1  # by Oslo; all three together would have 2 of 3
