"""Answers from passages found elsewhere: the same as those from an index, whatever form the file has."""

import json
import shutil
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from pipelines.answer.options import AnswerOptions
from pipelines.answer.sources import prior_of
from pipelines.cli import main
from pipelines.transforms.inference import GeneratorHandler
from rag_ops.errors import JobError
from rag_ops.generation.settings import GenerationSettings
from rag_ops.models import checkpoints
from rag_ops.retrieval.retrieved import Retrieved
from rag_ops.storage.manifests import read_manifest
from tests.pipelines.workspace import digests, fails, ragbeam

BUT_THE_DIGEST = "index_digest"
SHORT = ["--max_new_tokens", 4, "--threads", 1]


def rows_of(output: Path) -> list[dict]:
    shards = read_manifest(str(output), "answer").shards
    return [row for shard in shards for row in pq.read_table(output / shard.path).to_pylist()]


def without_digest(rows: list[dict]) -> list[dict]:
    return [{name: value for name, value in row.items() if name != BUT_THE_DIGEST} for row in rows]


@pytest.fixture(scope="module")
def indexed(searchable, tiny_rag, tmp_path_factory) -> list[dict]:
    """Answers from the index: 4 passages each, answered from the first 3."""
    output = tmp_path_factory.mktemp("indexed") / "answers"
    flags = ["--questions", searchable / "questions.jsonl", "--index", searchable / "index", "--model", tiny_rag]
    ragbeam("answer", *flags, "--output", output, "--n_docs", 3, "--retrieve", 4, *SHORT)
    rows = rows_of(output)
    assert sum(row["error"] is None for row in rows) == 8
    return rows


def hits_of(rows: list[dict]) -> list[tuple]:
    """Question id, rank and passage of everything that was found."""
    return [
        (row["question_id"], rank, passage) for row in rows for rank, passage in enumerate(row["passages"] or (), 1)
    ]


def write_run(path: Path, rows: list[dict], order=lambda hits: hits, tag: str = "other") -> Path:
    """A TREC run, each score with all digits of a float32."""
    lines = [f"{qid} Q0 {one['id']} {rank} {one['score']!r} {tag}\n" for qid, rank, one in order(hits_of(rows))]
    path.write_text("".join(lines))
    return path


def answered(searchable, model, output: Path, *flags: object) -> list[dict]:
    ragbeam("answer", "--model", model, "--output", output, *SHORT, *flags)
    return rows_of(output)


def by_ids(searchable, run: Path) -> list[object]:
    return ["--retrieved", run, "--questions", searchable / "questions.jsonl", "--passages", searchable / "passages"]


@pytest.mark.parametrize("order", [lambda hits: hits, lambda hits: sorted(hits, key=lambda hit: str(hit[2]["id"]))])
def test_a_trec_run_gives_the_answers_of_the_index_in_every_column_but_its_digest(
    order, searchable, tiny_rag, indexed, tmp_path
):
    run = write_run(tmp_path / "run.trec", indexed, order)
    flags = [*by_ids(searchable, run), "--prior", "scores", "--n_docs", 3, "--retrieve", 4]
    found = answered(searchable, tiny_rag, tmp_path / "answers", *flags)
    assert without_digest(found) == without_digest(indexed)
    manifest = read_manifest(str(tmp_path / "answers"), "answer")
    assert manifest.info["prior"] == "scores"
    assert manifest.info["retrieved_as"] == "run"
    assert {row[BUT_THE_DIGEST] for row in found} == {manifest.config["retrieved_digest"]}
    ragbeam("verify", tmp_path / "answers")


def dpr_records(rows: list[dict], questions: Path) -> list[dict]:
    """What DPR's retriever writes for the questions of a file."""
    asked = [json.loads(line) for line in questions.read_text().splitlines()]
    return [
        {
            "id": row["question_id"],
            "question": one["question"],
            "answers": one.get("answer", []),
            "ctxs": [
                {"id": p["id"], "title": p["title"], "text": p["text"], "score": str(p["score"]), "has_answer": False}
                for p in row["passages"] or ()
            ],
        }
        for row, one in zip(rows, asked, strict=True)
    ]


def write_array(path: Path, records: list[dict]) -> None:
    path.write_text(json.dumps(records, indent=4))


def write_lines(path: Path, records: list[dict]) -> None:
    path.write_text("".join(json.dumps(record) + "\n" for record in records))


def write_pyserini(path: Path, records: list[dict]) -> None:
    """An object by question id; the title is the first line of a passage's text."""
    by_id = {}
    for record in records:
        contexts = [
            {"docid": one["id"], "score": one["score"], "text": f'"{one["title"]}"\n{one["text"]}'}
            for one in record["ctxs"]
        ]
        by_id[record["id"]] = {"question": record["question"], "answers": record["answers"], "contexts": contexts}
    path.write_text(json.dumps(by_id))


@pytest.mark.parametrize("write", [write_array, write_lines, write_pyserini])
def test_json_of_dpr_and_pyserini_gives_the_answers_of_the_index(write, searchable, tiny_rag, indexed, tmp_path):
    path = tmp_path / "found"  # no suffix: the content tells
    write(path, dpr_records(indexed, searchable / "questions.jsonl"))
    flags = ["--retrieved", path, "--prior", "scores", "--n_docs", 3, "--retrieve", 4]
    found = answered(searchable, tiny_rag, tmp_path / "answers", *flags)
    wanted = without_digest(indexed)
    for row, own in zip(wanted, without_digest(found), strict=True):
        # The file says "answers": [] where the question file says nothing.
        assert {**row, "gold_answers": None} == {**own, "gold_answers": None}
        assert (own["gold_answers"] or []) == (row["gold_answers"] or [])


def test_parquet_of_a_search_gives_the_answers_of_the_index(searchable, tiny_rag, indexed, tmp_path):
    hits = [
        {"question_id": qid, "rank": rank, "passage_id": one["id"], "score": one["score"]}
        | {name: one[name] for name in ("title", "text")}
        for qid, rank, one in hits_of(indexed)
    ]
    pq.write_table(pa.Table.from_pylist(hits), tmp_path / "found.parquet")
    flags = ["--retrieved", tmp_path / "found.parquet", "--questions", searchable / "questions.jsonl"]
    more = ["--prior", "scores", "--n_docs", 3, "--retrieve", 4]
    found = answered(searchable, tiny_rag, tmp_path / "answers", *flags, *more)
    assert without_digest(found) == without_digest(indexed)


def test_the_manifest_says_what_the_passages_weights_are_made_from(searchable, tiny_rag, indexed, tmp_path):
    run = write_run(tmp_path / "run.trec", indexed)
    scores: dict[str, list] = {}
    for prior, flags in {"uniform": [], "scaled": ["--score_scale", 1.0], "scores": ["--prior", "scores"]}.items():
        output = tmp_path / prior
        rows = answered(searchable, tiny_rag, output, *by_ids(searchable, run), "--n_docs", 4, *flags)
        assert read_manifest(str(output), "answer").info["prior"] == prior
        assert [[one["score"] for one in row["passages"] or ()] for row in rows] == [
            [one["score"] for one in row["passages"] or ()] for row in indexed
        ]
        scores[prior] = [(row["answer"], row["score"]) for row in rows]
    assert scores["scaled"] == scores["scores"] != scores["uniform"]
    even = write_run(tmp_path / "even.trec", [row | {"passages": alike(row["passages"])} for row in indexed])
    same = answered(
        searchable, tiny_rag, tmp_path / "even", *by_ids(searchable, even), "--n_docs", 4, "--prior", "scores"
    )
    assert [(row["answer"], row["score"]) for row in same] == scores["uniform"]


@pytest.fixture(scope="module")
def searched(searchable, tiny_rag, tmp_path_factory) -> Path:
    """A directory with the output of ragbeam search, `hits`, and its TREC run, `run.trec`."""
    directory = tmp_path_factory.mktemp("searched")
    flags = ["--questions", searchable / "questions.jsonl", "--index", searchable / "index", "--model", tiny_rag]
    more = ["--n_docs", 7, "--trec", directory / "run.trec", "--threads", 1]
    ragbeam("search", *flags, "--output", directory / "hits", *more)
    return directory


@pytest.mark.parametrize("form", ["run", "hits"])
def test_what_search_found_gives_the_answers_of_the_index(form, searched, searchable, tiny_rag, indexed, tmp_path):
    flags: list[object] = (
        by_ids(searchable, searched / "run.trec") if form == "run" else ["--retrieved", searched / "hits"]
    )
    found = answered(searchable, tiny_rag, tmp_path / "answers", *flags, "--n_docs", 3, "--retrieve", 4)
    assert read_manifest(str(tmp_path / "answers"), "answer").info["prior"] == "scores"
    assert without_digest(found) == without_digest(indexed)


def test_scores_are_the_models_if_its_own_question_encoder_gave_them_or_the_user_says_so(tiny_rag, searched, tmp_path):
    whole = read_manifest(str(searched / "hits"), "search").info["encoder_digest"]
    alone = checkpoints.context_digest(tiny_rag)  # one encoder for both sides, as --question_encoder names it
    assert alone not in (None, whole)
    settings = {"retrieved": ["run"], "model": tiny_rag, "output": str(tmp_path / "out")}
    for encoder, options, prior in (
        *((whole, {}, "scores"), (alone, {}, "scores"), (whole[::-1], {}, "uniform"), (None, {}, "uniform")),
        *((None, {"prior": "scores"}, "scores"), (whole, {"prior": "uniform"}, "uniform")),
        *((one, {"generation": GenerationSettings(score_scale=2.0)}, "scaled") for one in (whole, None)),
    ):
        retrieved = Retrieved(("run",), "run", ("0",), encoder_digest=encoder)
        assert prior_of(AnswerOptions(**settings, **options), retrieved) == prior


def test_a_sweep_over_passages_that_counted_alike_gives_the_same_answers(searchable, tiny_rag, indexed, tmp_path):
    apart = [row | {"passages": far_apart(row["passages"])} for row in indexed]
    flags = [*by_ids(searchable, write_run(tmp_path / "run.trec", apart)), "--n_docs", 4]
    rows = answered(searchable, tiny_rag, tmp_path / "out", *flags)
    by_scores = answered(searchable, tiny_rag, tmp_path / "by_scores", *flags, "--prior", "scores")
    assert [row["answer"] for row in rows] != [row["answer"] for row in by_scores]
    asked = [row for row in rows if row["error"] is None]
    gold = [{"id": row["question_id"], "question": row["question"], "answer": [row["answer"]]} for row in asked]
    write_lines(tmp_path / "gold.jsonl", gold)
    flags = ["--gold", tmp_path / "gold.jsonl", "--sweep", 4, "--model", tiny_rag, "--threads", 1]
    ragbeam("evaluate", "--answers", tmp_path / "out", "--output", tmp_path / "report.json", *flags)
    [point] = json.loads((tmp_path / "report.json").read_text())["all"]["sweep"]
    assert point["em"] == len([row for row in asked if row["answer"]]) / len(asked)


def far_apart(passages: list[dict] | None) -> list[dict]:
    """Passages of which the last alone counts, if scores do."""
    return [passage | {"score": 100.0 * place} for place, passage in enumerate(passages or ())]


def alike(passages: list[dict] | None) -> list[dict]:
    return [passage | {"score": 0.5} for passage in passages or ()]


def test_what_cannot_be_answered_is_a_row_with_its_error(searchable, tiny_rag, tmp_path):
    questions = [{"id": f"q{n}", "question": f"what is the moon {n}"} for n in range(5)]
    questions += [{"id": "same", "question": "what is the sun"}, {"id": "same", "question": "what is the ice"}]
    write_lines(tmp_path / "questions.jsonl", questions)
    ids = pq.read_table(next((searchable / "passages").glob("*.parquet")))["id"].to_pylist()
    lines = [f"q0 Q0 {ids[0]} 1 2.5 t", f"q0 Q0 {ids[1]} 2 1.5 t", "q1 Q0 nobody 1 3.0 t", f"q2 Q0 {ids[2]} 1 2.0 t"]
    lines += [
        f"q2 Q0 {ids[2]} 2 1.0 t",
        f"q3 Q0 {ids[3]} 1 nan t",
        f"same Q0 {ids[4]} 1 1.0 t",
        f"q9 Q0 {ids[4]} 1 1.0 t",
    ]
    (tmp_path / "run").write_text("\n".join(lines) + "\n")
    flags = ["--retrieved", tmp_path / "run", "--questions", tmp_path / "questions.jsonl", "--prior", "scores"]
    rows = answered(searchable, tiny_rag, tmp_path / "out", *flags, "--passages", searchable / "passages")
    errors = {(row["question_id"], row["question"]): row["error"] for row in rows}
    assert errors.pop(("q0", "what is the moon 0")) is None
    assert {key: error.partition(" (")[0] for key, error in errors.items()} == {
        ("q1", "what is the moon 1"): "a passage is not in --passages",
        ("q2", "what is the moon 2"): "a passage is found twice for the question",
        ("q3", "what is the moon 3"): "a passage has no finite score",
        ("q4", "what is the moon 4"): "no passage was found for the question",
        ("same", "what is the sun"): "several questions have the same id, and the passages go by ids",
        ("same", "what is the ice"): "several questions have the same id, and the passages go by ids",
        ("q9", ""): "the passages are of a question whose text is not known",
    }
    assert [row["question_id"] for row in rows] == [*(one["id"] for one in questions), "q9"]


def test_a_file_that_was_answered_is_reused_and_one_that_changed_is_another_configuration(
    searchable, tiny_rag, indexed, tmp_path, capsys
):
    run = write_run(tmp_path / "run.trec", indexed)
    flags = ["--model", tiny_rag, "--output", tmp_path / "out", *SHORT, *by_ids(searchable, run)]
    ragbeam("answer", *flags)
    capsys.readouterr()
    ragbeam("answer", *flags)
    assert "all reused" in capsys.readouterr().out
    write_run(run, indexed, lambda hits: hits[:-1])
    code, line = fails(capsys, "answer", *flags)
    assert code == 2
    assert "retrieved_digest" in line


def test_a_job_that_was_cut_short_goes_on_to_the_same_bytes(searchable, tiny_rag, searched, tmp_path, monkeypatch):
    flags = [*by_ids(searchable, searched / "run.trec"), "--model", tiny_rag, "--block_questions", 2, "--num_shards", 2]
    ragbeam("answer", *flags, "--output", tmp_path / "whole", *SHORT)
    work = GeneratorHandler.work

    def cut_short(self, unit, model, counters):
        if unit.block == 2:
            raise JobError("cut short")
        return work(self, unit, model, counters)

    monkeypatch.setattr(GeneratorHandler, "work", cut_short)
    assert main([str(word) for word in ["answer", *flags, "--output", tmp_path / "cut", *SHORT]]) == 1
    monkeypatch.undo()
    ragbeam("answer", *flags, "--output", tmp_path / "cut", *SHORT)
    blocks = json.loads((tmp_path / "cut" / "run.json").read_text())["blocks"]
    assert 0 < blocks["reused"] < blocks["total"] == 4
    assert digests(tmp_path / "cut", "answer") == digests(tmp_path / "whole", "answer")


def test_an_output_directory_is_read_by_its_manifest_alone(searchable, tiny_rag, searched, tmp_path, capsys):
    shutil.copytree(searched / "hits", tmp_path / "hits")
    (tmp_path / "hits" / "manifest.json").unlink()
    (tmp_path / "hits" / "_incomplete").mkdir()
    flags = ["--model", tiny_rag, "--output", tmp_path / "out"]
    whys = {tmp_path / "hits": "the stage there is unfinished", searchable / "passages": "another stage's output"}
    for url, says in whys.items():
        code, line = fails(capsys, "answer", "--retrieved", url, *flags)
        assert code == 2
        assert says in line
    assert not (tmp_path / "out").exists()


REFUSED = {
    "neither": ([], "either --index or --retrieved: 'neither'"),
    "both": (["--index", "index", "--retrieved", "run", "--questions", "q"], "either --index or --retrieved: 'both'"),
    "no questions": (["--index", "index"], "--questions is missing"),
    "rescore": (["--retrieved", "run", "--rescore", 9], "--rescore belongs to --index"),
    "nprobe": (["--retrieved", "run", "--nprobe", 9], "--nprobe belongs to --index"),
    "prior": (["--index", "index", "--questions", "q", "--prior", "uniform"], "--prior belongs to --retrieved"),
    "scale": (["--retrieved", "run", "--prior", "uniform", "--score_scale", 2], "--score_scale has no meaning"),
}


@pytest.mark.parametrize("case", REFUSED)
def test_flags_that_do_not_go_together_are_refused(case, capsys, tmp_path):
    flags, says = REFUSED[case]
    code, line = fails(capsys, "answer", "--model", "m", "--output", tmp_path / "out", *flags)
    assert code == 2
    assert says in line


FILES = {
    "a question file": ('{"question": "who", "answer": ["me"]}\n', "JSON of --retrieved has no passages"),
    "a table": ("q1\tp1\t1\n", "none that ragbeam knows"),
    "nothing": ("", "is empty"),
    "a run without passages": ("q0 Q0 p 1 2.5 t\n", "a TREC run needs --questions"),
    "a broken run": ("q0 Q0 p 1 2.5 t\nq0 Q0 p\n", "a TREC run needs --questions"),
}


@pytest.mark.parametrize("case", FILES)
def test_a_file_of_another_kind_is_refused_in_a_line_that_says_what_was_expected(case, capsys, tmp_path, tiny_rag):
    content, says = FILES[case]
    (tmp_path / "found").write_text(content)
    flags = ["--retrieved", tmp_path / "found", "--model", tiny_rag, "--output", tmp_path / "out"]
    code, line = fails(capsys, "answer", *flags)
    assert code == 2
    assert says in line
    assert "expected" in line
    assert not (tmp_path / "out").exists()


def test_a_run_of_other_questions_or_other_passages_or_with_a_broken_line_is_refused(
    searchable, tiny_rag, capsys, tmp_path
):
    run = tmp_path / "run"
    for content, says in {
        "x1 Q0 p 1 2.5 t\n": "--questions has none of the questions of --retrieved: 'x1'",
        "q0 Q0 nobody 1 2.5 t\n": "--passages has none of the passages of --retrieved: 'nobody'",
        "q0 Q0 p 1 2.5 t\nq0 Q0 p one 2.5 t\n": "run, line 2: q0 Q0 p one",
    }.items():
        run.write_text(content)
        code, line = fails(
            capsys, "answer", *by_ids(searchable, run), "--model", tiny_rag, "--output", tmp_path / "out"
        )
        assert code == 2
        assert says in line
        assert not (tmp_path / "out").exists()
