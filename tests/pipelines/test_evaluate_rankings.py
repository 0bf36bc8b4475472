"""evaluate with judgements, with TREC runs, with intervals and with another run to compare: files, table, refusals."""

import json
import random
import re
import sys

import numpy as np
import pyarrow as pa
import pytest
import pytrec_eval

from rag_ops.evaluation.resampling import bootstrap_interval, paired_bootstrap, randomisation_p
from rag_ops.storage.parquet import write_parquet
from rag_ops.storage.stages import StageOutput, write_shard
from schemas import hits
from schemas.layout import SEARCH
from tests.pipelines.workspace import answer_row, fails, instead, ragbeam, write_answers, write_corpus

QUESTIONS, KEPT = 40, 8
GOLD = ["moon", "sun", "ice"]


def made_rows(seed: int) -> list[dict]:
    """Answers to the same questions, with passages of chunk's ids; some rows have an error, some no gold answer."""
    chance, rows = random.Random(seed), []
    for n in range(QUESTIONS):
        found = chance.sample([f"{page}:{place}" for page in range(10) for place in range(3)], KEPT)
        passages = [
            {"id": name, "title": "", "section": "", "text": f"the {chance.choice(GOLD)}", "posterior": None}
            | {"score": chance.choice((1.0, 2.0, 3.0, 4.5))}
            for name in found
        ]
        passages.sort(key=lambda passage: -passage["score"])
        answer = "<script>alert(1)</script> " * (n == 5) + " ".join(
            chance.sample(["moon", "sun", "ice", "king"], chance.choice((1, 2)))
        )
        gold = [GOLD[n % 3]] if n % 9 else None
        row = answer_row(f"q{n}", f"what is {n}", answer, gold, passages=passages, score=-chance.random())
        rows.append(row | ({"answer": None, "score": None, "passages": None, "error": "no luck"} if n == 7 else {}))
    return rows


def judgements() -> dict[str, dict[str, int]]:
    """Of the first 30 questions, one of them without a relevant passage, and of two that nobody asks."""
    chance = random.Random(3)
    made = {f"q{n}": {f"{chance.randrange(10)}:{k}": chance.choice((0, 1, 2)) for k in range(3)} for n in range(30)}
    made["q4"] = {"1:0": 0}
    return made | {"z1": {"1:0": 1}, "z2": {"2:0": 1}}


@pytest.fixture(scope="module")
def place(tmp_path_factory):
    """Two answers directories, judgements in both forms, and a TREC run of the first directory."""
    directory = tmp_path_factory.mktemp("rankings")
    for name, seed in (("a", 1), ("b", 2)):
        write_answers(directory / name, made_rows(seed), KEPT, row_group_rows=7)
    lines = [(q, p, rel) for q, one in judgements().items() for p, rel in one.items()]
    (directory / "qrels.txt").write_text("".join(f"{q} 0 {p} {rel}\n" for q, p, rel in lines))
    beir = "query-id\tcorpus-id\tscore\n" + "".join(f"{q}\t{p}\t{rel}\n" for q, p, rel in lines)
    (directory / "qrels.tsv").write_text(beir)
    run = [
        f"{row['question_id']} Q0 {passage['id']} {rank} {passage['score']!r} tag\n"
        for row in made_rows(1)
        for rank, passage in enumerate(row["passages"] or (), 1)
    ]
    (directory / "run.txt").write_text("".join(run))
    return directory


def figures(output, *more: object) -> dict:
    ragbeam("evaluate", "--output", output, *more)
    return json.loads(output.with_suffix(".json").read_text())


def of_trec(rows: list[dict], names: dict[str, str]) -> dict[str, dict[str, float]]:
    """The figures of pytrec_eval by question, with 0 for a judged question without passages."""
    asked = {row["question_id"]: row["passages"] or () for row in rows}
    qrels = {question: one for question, one in judgements().items() if question in asked}
    runs = {question: {p["id"]: p["score"] for p in asked[question]} for question in qrels if asked[question]}
    found = pytrec_eval.RelevanceEvaluator(qrels, set(names.values())).evaluate(runs)
    return {q: {name: found[q][of] if q in found else 0.0 for name, of in names.items()} for q in qrels}


NAMES = {"nDCG@10": "ndcg_cut_10", "RR": "recip_rank", "AP": "map", "Rprec": "Rprec", "R@5": "recall_5"}


@pytest.mark.parametrize("form", ["qrels.txt", "qrels.tsv"])
def test_judged_rankings_have_pytrec_evals_means_and_their_intervals(place, tmp_path, form, capsys):
    found = figures(tmp_path / "f.json", "--answers", place / "a", "--qrels", place / form, "--bootstrap", 300)
    expected = of_trec(made_rows(1), NAMES)
    assert len(expected) == 30
    total = found["all"]
    for name in NAMES:
        values = sorted(one[name] for one in expected.values())
        assert total["ranking"][name] == pytest.approx(np.mean(values), rel=1e-12)
        assert tuple(total["intervals"]["ranking"][name]) == bootstrap_interval(values, 0, 300)
    assert total["ranking"]["page Rprec"] > total["ranking"]["Rprec"]  # chunk's ids tell the pages
    assert set(total["ranking"]) == {*NAMES, "R@1", "R@8", *(f"page {name}" for name in ("Rprec", "R@1", "R@5", "R@8"))}
    assert total["judged"] == 30
    assert found["qrels"] == {
        "questions": 32,
        "judgements": 30 * 3 - 2 + 2,
        "rows_judged": 30,
        "rows_without_judgements": 10,
        "rows_without_a_relevant_passage": sum(not any(judgements()[f"q{n}"].values()) for n in range(30)),
        "judged_passages_found": sum(
            passage["id"] in judgements().get(row["question_id"], ())
            for row in made_rows(1)
            for passage in row["passages"] or ()
        ),
        "questions_not_asked": 2,
        "complete": False,
    }
    printed = capsys.readouterr().out
    assert "nDCG@10" in printed
    assert "10 rows have no judgements and are left out; 2 judged questions were not asked and are left out" in printed
    page = (tmp_path / "f.html").read_text()
    assert "nDCG@10" in page
    assert "<small>" in page


def test_every_figure_has_an_interval_beside_it_and_none_without_bootstrap(place, tmp_path, capsys):
    plain = figures(tmp_path / "p.json", "--answers", place / "a", "--bootstrap", 0)
    assert plain["all"]["intervals"] is None
    assert "95%" not in capsys.readouterr().out
    found = figures(tmp_path / "f.json", "--answers", place / "a", "--bootstrap", 200, "--seed", 5)
    around = found["all"].pop("intervals")
    assert {**found["all"], "intervals": None} == plain["all"]  # what stood there stays
    scored = [row for row in made_rows(1) if row["gold_answers"]]
    right = sorted(float(row["answer"] == row["gold_answers"][0]) for row in scored)
    assert found["all"]["em"] == pytest.approx(np.mean(right))
    assert tuple(around["em"]) == bootstrap_interval(right, 5, 200)
    held = [any(row["gold_answers"][0] in p["text"] for p in (row["passages"] or ())[:5]) for row in scored]
    assert found["all"]["recall"]["5"] == np.mean(held)
    assert tuple(around["recall"]["5"]) == bootstrap_interval(sorted(map(float, held)), 5, 200)
    assert around["recall"]["20"] is None is found["all"]["recall"]["20"]
    assert around["recall_curve"][4] == around["recall"]["5"]
    low, high = around["calibration"]["expected_error"]
    assert 0 < low < high < 1
    low, high = around["answer_words"]["mean"]
    assert low < found["all"]["answer_words"]["mean"] < high
    low, high = (f"{100 * end:.1f}" for end in around["em"])
    assert f"{low}-{high}" in capsys.readouterr().out


def test_a_trec_run_has_the_figures_of_the_answers_it_was_made_from(place, tmp_path):
    common = ("--qrels", place / "qrels.txt", "--bootstrap", 0)
    of_answers = figures(tmp_path / "a.json", "--answers", place / "a", *common)
    of_run = figures(tmp_path / "r.json", "--run", place / "run.txt", *common)
    assert of_run["all"]["judged"] == 29  # one has no passages, and a run no line of it
    for name, value in of_answers["all"]["ranking"].items():
        assert of_run["all"]["ranking"][name] == pytest.approx(value * 30 / 29)
    assert of_run["all"]["em"] is None is of_run["all"]["recall"]["5"]
    assert of_run["qrels"]["questions_not_asked"] == 3
    complete = figures(tmp_path / "c.json", "--run", place / "run.txt", *common, "--complete")
    for name, value in of_answers["all"]["ranking"].items():
        assert complete["all"]["ranking"][name] == pytest.approx(value * 30 / 32)
    assert complete["all"]["judged"] == 32
    both = figures(tmp_path / "both.json", "--answers", place / "a", place / "b", *common, "--complete")
    assert [one["judged"] for one in (*both["files"], both["all"])] == [32, 32, 64]
    assert both["qrels"]["questions_not_asked"] == 4
    halves = [one["ranking"]["RR"] for one in both["files"]]
    assert both["all"]["ranking"]["RR"] == pytest.approx(sum(halves) / 2)


def write_hits(directory, rows: list[dict], shards: int = 2) -> None:
    """An output directory of search with the passages of answers' rows."""
    output = StageOutput(str(directory), "search", {"n_docs": KEPT}, {})
    output.begin(False)
    records = []
    for number in range(shards):
        part = []
        for row in rows[number * len(rows) // shards : (number + 1) * len(rows) // shards]:
            cells = dict.fromkeys(hits.SCHEMA.names) | {name: row[name] for name in hits.SCHEMA.names if name in row}
            for rank, passage in enumerate(row["passages"] or [None], 1):
                found = {"rank": rank, "passage_id": passage["id"], **passage} if passage else {}
                part.append({name: found.get(name, cells[name]) for name in hits.SCHEMA.names})
        table = pa.Table.from_pylist(part, schema=hits.SCHEMA)
        name = SEARCH.shard(number, shards)
        records.append(
            write_shard(output.url, name, output.fingerprint, lambda f, t=table: write_parquet(f, [t], t.schema, 50))
        )
    output.finish(records, {"passages": "../passages"}, {"errors": {}, "questions": len(rows)})


def test_what_search_found_has_the_figures_of_the_answers_it_could_have_given(place, tmp_path):
    write_hits(tmp_path / "hits", made_rows(1))
    common = ("--qrels", place / "qrels.txt", "--bootstrap", 50)
    of_answers = figures(tmp_path / "a.json", "--answers", place / "a", *common)["all"]
    found = figures(tmp_path / "h.json", "--answers", tmp_path / "hits", *common)
    of_hits = found["all"]
    for name in ("rows", "scored", "errors", "recall", "recall_curve", "judged", "ranking"):
        assert of_hits[name] == of_answers[name], name
    assert of_hits["intervals"]["ranking"] == of_answers["intervals"]["ranking"]
    assert of_hits["em"] is None is of_hits["f1"]
    assert found["files"][0]["n_docs"] == KEPT
    page = (tmp_path / "h.html").read_text()
    assert 'id="plot-recall"' in page
    assert 'id="plot-length"' not in page
    assert page.count('data-outcome="right"') == round(of_hits["recall"]["8"] * of_hits["scored"])
    alone = figures(tmp_path / "n.json", "--answers", tmp_path / "hits", "--bootstrap", 0)["all"]
    assert alone["recall"] == of_answers["recall"]
    both = figures(tmp_path / "c.json", "--answers", place / "b", "--compare", tmp_path / "hits", *common)["comparison"]
    assert both["in_both"] == QUESTIONS
    assert set(both["figures"]) == {"recall@1", "recall@5", "recall@8", *of_hits["ranking"]}


def test_a_search_is_not_answered_again(place, tmp_path, capsys):
    write_hits(tmp_path / "hits", made_rows(1), 1)
    code, line = fails(capsys, "evaluate", "--answers", tmp_path / "hits", "--sweep", 1, "--model", "m")
    assert code == 2
    assert "a search has none" in line


def test_pages_of_the_corpus_are_those_of_its_articles(tmp_path, capsys):
    """Passages with ids of their own: page figures are there once --passages says the articles."""
    write_corpus(tmp_path, [np.ones((2, 3), np.float32)] * 3, False)  # six passages, each its own article
    passages = [
        {"id": str(n), "title": "", "section": "", "text": "", "score": 6.0 - n, "posterior": 1.0} for n in range(4)
    ]
    write_answers(tmp_path / "a", [answer_row(q, q, "x", None, passages=passages) for q in "yz"], 4)
    (tmp_path / "qrels").write_text("y 0 1 1\ny 0 5 1\nz 0 0 1\n")
    common = ("--answers", tmp_path / "a", "--qrels", tmp_path / "qrels", "--measures", "Rprec", "--bootstrap", 0)
    assert list(figures(tmp_path / "f.json", *common)["all"]["ranking"]) == ["Rprec"]
    found = figures(tmp_path / "g.json", *common, "--passages", tmp_path / "passages")["all"]["ranking"]
    assert found == {"Rprec": 0.75, "page Rprec": 0.75}
    other = [answer_row("y", "y", "x", None, passages=[passages[0] | {"id": "none"}])] * 2
    write_answers(tmp_path / "o", other, 4)
    told = instead(["evaluate", *common, "--passages", tmp_path / "passages"], ["--answers", tmp_path / "o"])
    assert "--passages has none of the passages found" in fails(capsys, *told)[1]


def test_passages_without_scores_are_ranked_by_their_place(tmp_path):
    passages = [{"id": n, "title": "", "section": "", "text": "", "score": 0.0, "posterior": 1.0} for n in "abc"]
    write_answers(tmp_path / "a", [answer_row(q, q, "x", None, passages=passages) for q in "yz"], 3)
    (tmp_path / "qrels").write_text("y 0 a 1\nz 0 b 1\n")
    common = ("--answers", tmp_path / "a", "--qrels", tmp_path / "qrels", "--measures", "RR")
    assert figures(tmp_path / "f.json", *common)["all"]["ranking"] == {"RR": 0.75}


def test_ids_of_another_corpus_are_told(place, tmp_path, capsys, caplog):
    (tmp_path / "qrels").write_text("q1 0 wiki:1 1\n")
    ragbeam("evaluate", "--answers", place / "a", "--qrels", tmp_path / "qrels", "--bootstrap", 0)
    assert "no passage that was found is judged" in caplog.text + capsys.readouterr().err


def test_measures_by_name(place, tmp_path, capsys):
    ragbeam("evaluate", "--answers", place / "a", "--qrels", place / "qrels.txt", "--measures", "nDCG@3", "P@5")
    printed = capsys.readouterr().out
    assert re.search(r"by --qrels +judged +nDCG@3 +P@5\n", printed)
    assert list(tmp_path.iterdir()) == []  # nothing is written without --output


def test_two_runs_are_compared_row_by_row(place, tmp_path, capsys):
    command = ["--answers", place / "a", "--compare", place / "b", "--qrels", place / "qrels.txt", "--bootstrap", 300]
    found = figures(tmp_path / "f.json", *command)
    compared = found["comparison"]
    assert (compared["in_both"], compared["only_in_a"], compared["only_in_b"]) == (QUESTIONS, 0, 0)
    alone = figures(tmp_path / "b.json", "--answers", place / "b", "--qrels", place / "qrels.txt", "--bootstrap", 300)
    assert compared["all"] == alone["all"]
    one, other = (of_trec(made_rows(seed), NAMES) for seed in (1, 2))
    for name in NAMES:
        a, b = ([values[q][name] for q in one] for values in (one, other))
        told = compared["figures"][name]
        assert told["rows"] == 30
        assert told["difference"] == pytest.approx(np.mean(a) - np.mean(b))
        assert tuple(told["interval"]) == pytest.approx(paired_bootstrap(a, b, 0, 300), abs=1e-12)
        assert told["p"] == pytest.approx(randomisation_p(a, b, 0), abs=1e-12)
        assert told["a_better"] == sum(x > y for x, y in zip(a, b, strict=True))
        assert told["b_better"] == sum(x < y for x, y in zip(a, b, strict=True))
    assert compared["figures"]["em"]["rows"] == found["all"]["scored"]
    listed = {told["question_id"]: told for told in compared["questions"]}
    assert len(listed) == compared["differing"] > 20
    for question, values in one.items():
        told = listed.get(question, {"a": {"figures": {}}})["a"]["figures"]
        assert {name for name in NAMES if name in told} == {n for n in NAMES if values[n] != other[question][n]}
    largest = [
        max(abs(t["a"]["figures"][n] - t["b"]["figures"][n]) for n in t["a"]["figures"]) for t in listed.values()
    ]
    assert largest == sorted(largest, reverse=True)
    printed = capsys.readouterr().out
    assert "A less B" in printed
    page = (tmp_path / "f.html").read_text()
    assert page.count("Compared with B") == 1
    assert "what is 3" in page
    assert "<script>alert" not in page
    assert "&lt;script&gt;alert" in page
    few = figures(tmp_path / "few.json", *command, "--report_rows", 4)["comparison"]
    assert few["questions"] == compared["questions"][:4]
    assert few["differing"] == compared["differing"]


def test_answers_are_compared_with_a_run_and_with_other_questions(place, tmp_path):
    common = ("--answers", place / "a", "--qrels", place / "qrels.txt", "--bootstrap", 50)
    run = figures(tmp_path / "r.json", *common, "--compare", place / "run.txt")["comparison"]
    assert (run["in_both"], run["only_in_a"], run["differing"]) == (QUESTIONS - 1, 1, 0)
    assert "em" not in run["figures"]
    assert run["figures"]["nDCG@10"]["p"] == 1
    rows = [row | {"question": "who"} if row["question_id"] == "q3" else row for row in made_rows(1)[:20]]
    write_answers(tmp_path / "c", rows, KEPT)
    other = figures(tmp_path / "o.json", *common, "--compare", tmp_path / "c")["comparison"]
    assert (other["in_both"], other["only_in_a"], other["only_in_b"]) == (19, QUESTIONS - 19, 1)


@pytest.mark.parametrize(
    ("more", "message"),
    [
        (["--qrels", "{tmp}/none"], "none"),
        (["--qrels", "{tmp}/empty"], "has no judgements"),
        (["--qrels", "{tmp}/half"], "no integer"),
        (["--qrels", "{tmp}/others"], "--qrels judges none of the questions"),
        (["--qrels", "{at}/qrels.txt", "--measures", "ERR"], "names no measure"),
        (["--measures", "RR"], "--measures is about --qrels, which is not given"),
        (["--complete"], "--complete is about --qrels"),
        (["--qrels", "{at}/qrels.txt", "--passages", "{at}/a"], "another stage's output"),
        (["--run", "{at}/run.txt"], "--qrels FILE as well"),
        (["--run", "{at}/qrels.tsv", "--qrels", "{at}/qrels.txt"], "no ranked passage"),
        (["--run", "{tmp}/empty", "--qrels", "{at}/qrels.txt"], "--run has no passages"),
        (["--run", "{tmp}/nan", "--qrels", "{at}/qrels.txt"], "a score of --run is no number"),
        (["--compare", "{at}/none"], "no such directory"),
        (["--compare", "{at}/b", "--answers", "{at}/a", "{at}/b"], "--compare compares one with one"),
        (["--bootstrap", -1], "--bootstrap is negative"),
        (["--seed", -1], "--seed is negative"),
    ],
)
def test_bad_input_is_one_line_and_nothing_is_written(place, tmp_path, capsys, more, message):
    for name, text in (("empty", ""), ("half", "q1 0 d 0.5\n"), ("others", "x 0 d 1\n"), ("nan", "q1 Q0 d 1 nan t\n")):
        (tmp_path / name).write_text(text)
    told = [str(part).format(tmp=tmp_path, at=place) for part in more]
    command = ["evaluate", "--answers", place / "a", "--output", tmp_path / "f.json"]
    code, line = fails(capsys, *instead(command, told))
    assert code == 2
    assert message in line
    assert not list(tmp_path.glob("f.*"))


def test_without_the_libraries_qrels_is_one_line(place, capsys, monkeypatch):
    monkeypatch.setitem(sys.modules, "ir_measures", None)
    code, line = fails(capsys, "evaluate", "--answers", place / "a", "--qrels", place / "qrels.txt")
    assert code == 2
    assert "pip install 'ragbeam[qrels]'" in line


def test_nothing_to_evaluate_is_one_line(capsys):
    assert fails(capsys, "evaluate") == (
        2,
        "ragbeam: error: there is nothing to evaluate; expected --answers DIR or --run FILE",
    )


def test_kilts_own_pages_are_judgements(place, tmp_path, capsys):
    """By ids, for the passages have no titles; with a literal R-precision and recall beside."""
    chance = random.Random(5)
    sets = {f"q{n}": [chance.sample(range(12), k) for k in (1, 2)[: 1 + n % 2]] for n in range(0, 40, 2)}
    sets |= {f"q{n}": [chance.sample(range(12), 2), [n % 12]] for n in (1, 3)} | {"z1": [[1]]}
    lines = [
        {
            "id": question,
            "input": "what?",
            "output": [
                {"provenance": [{"wikipedia_id": str(page), "title": f"P{page}"} for page in one]} for one in many
            ],
        }
        for question, many in sets.items()
    ]
    path = tmp_path / "dev-kilt.jsonl"
    path.write_text("".join(json.dumps(line) + "\n" for line in lines))
    found = figures(tmp_path / "f.json", "--answers", place / "a", "--qrels", path, "--measures", "RR", "Rprec", "R@5")
    values = {"page RR": [], "page Rprec": [], "page R@5": []}
    for row in made_rows(1):
        if row["question_id"] not in sets:
            continue
        many = [{str(page) for page in one} for one in sets[row["question_id"]]]
        ranked = sorted(row["passages"] or (), key=lambda p: (p["score"], p["id"]), reverse=True)
        pages = list(dict.fromkeys(passage["id"].partition(":")[0] for passage in ranked))
        places = [n for n, page in enumerate(pages, 1) if page in set().union(*many)]
        values["page RR"].append(1 / places[0] if places else 0)
        values["page Rprec"].append(max(len(one & set(pages[: len(one)])) / len(one) for one in many))
        values["page R@5"].append(max(len(one & set(pages[:5])) / len(one) for one in many))
    assert 0 < np.mean(values["page Rprec"]) < 1
    assert found["all"]["ranking"] == pytest.approx({name: np.mean(one) for name, one in values.items()})
    assert found["qrels"]["questions_not_asked"] == 1
    assert found["qrels"]["rows_judged"] == 22
    assert "page Rprec" in capsys.readouterr().out


def test_hotpotqas_pages_have_titles_alone_which_a_run_gets_from_its_corpus(place, tmp_path, capsys):
    write_corpus(tmp_path, [np.ones((4, 3), np.float32)], False)  # four passages, each of a page whose title is its id
    path = tmp_path / "hotpot.json"
    path.write_text(json.dumps([{"_id": "q1", "question": "why?", "supporting_facts": [["0", 0], ["2", 3]]}]))
    (tmp_path / "run").write_text("q1 Q0 2 1 2.0 t\nq1 Q0 3 2 1.0 t\nq1 Q0 0 3 0.5 t\n")
    common = ("evaluate", "--run", tmp_path / "run", "--qrels", path, "--measures", "Rprec", "R@1")
    code, line = fails(capsys, *common)
    assert code == 2
    assert "by their titles" in line
    assert "--passages DIR" in line
    found = figures(tmp_path / "f.json", *common[1:], "--passages", tmp_path / "passages")
    assert found["all"]["ranking"] == {"page Rprec": 0.5, "page R@1": 0.5}
