"""The evaluate command: both files, the table, the sweep next to answers made anew, and answer's --retrieve."""

import json
import shutil

import fsspec
import pyarrow.parquet as pq
import pytest

from rag_ops.evaluation.metrics import exact_match, f1
from rag_ops.storage.manifests import read_manifest
from tests.pipelines.workspace import TOPICS, answer_row, fails, instead, ragbeam, write_answers

SHORT = ("--max_new_tokens", 5, "--threads", 1)


@pytest.fixture(scope="module")
def stage(tmp_path_factory, searchable, tiny_rag):
    """Index, two question files with gold answers that the random model gives, and answers that keep 8 passages."""
    directory = tmp_path_factory.mktemp("evaluate") / "stage"
    shutil.copytree(searchable, directory)
    (directory / "questions.jsonl").rename(directory / "first.jsonl")
    answer(directory, tiny_rag, directory / "plain", "first.jsonl", "--n_docs", 3)
    given = [row for row in read(directory / "plain") if row["answer"]]
    second = [{"id": f"s{n}", "question": row["question"], "answer": row["answer"]} for n, row in enumerate(given[:4])]
    (directory / "second.jsonl").write_text("".join(json.dumps(row) + "\n" for row in second))
    answer(directory, tiny_rag, directory / "kept", "first.jsonl", "--n_docs", 3, "--retrieve", 8)
    return directory


def answer(stage, model, output, *more: object) -> None:
    names = [name for name in more if str(name).endswith(".jsonl")]
    flags = [flag for flag in more if flag not in names]
    questions = [stage / name for name in names]
    command = ["answer", "--questions", *questions, "--index", stage / "index", "--model", model, "--output", output]
    ragbeam(*command, *SHORT, *flags)


def read(directory) -> list[dict]:
    shards = read_manifest(str(directory), "answer").shards
    return [row for shard in shards for row in pq.read_table(directory / shard.path).to_pylist()]


def figures(stage, output, *more: object) -> dict:
    ragbeam("evaluate", "--output", output, "--threads", 1, *more)
    return json.loads(output.with_suffix(".json").read_text())


def test_retrieve_keeps_more_passages_and_changes_no_answer(stage):
    plain, kept = read(stage / "plain"), read(stage / "kept")
    for one, more in zip(plain, kept, strict=True):
        aligned = {"passages": None, "without": None}
        assert {**one, **aligned} == {**more, **aligned}
        if one["error"] is None:
            assert more["passages"][:3] == one["passages"]
            assert more["without"] == [*one["without"], *[None] * 5]
            assert len(more["passages"]) == 8
            assert all(passage["posterior"] is None for passage in more["passages"][3:])
            assert more["passages"][2]["score"] >= more["passages"][3]["score"]
    assert "retrieve" not in read_manifest(str(stage / "plain"), "answer").config
    assert read_manifest(str(stage / "kept"), "answer").config["retrieve"] == 8


def test_rescore_goes_with_retrieve(stage, tiny_rag, tmp_path):
    answer(stage, tiny_rag, tmp_path / "out", "first.jsonl", "--n_docs", 3, "--retrieve", 8, "--rescore", 20)
    for one, other in zip(read(tmp_path / "out"), read(stage / "kept"), strict=True):
        assert [passage["id"] for passage in one["passages"] or []] == [p["id"] for p in other["passages"] or []]


def test_a_sweep_gives_the_figures_of_answers_made_with_so_many_passages(stage, tiny_rag, tmp_path, capsys):
    gold = ("--gold", stage / "second.jsonl")  # has four of the questions, which it gives other ids
    found = figures(
        stage, tmp_path / "f.json", "--answers", stage / "kept", "--model", tiny_rag, "--sweep", 8, 1, 3, *gold
    )
    assert "n_docs" in capsys.readouterr().out
    assert [point["n_docs"] for point in found["all"]["sweep"]] == [1, 3, 8]
    by_text = {}
    for line in (stage / "second.jsonl").read_text().splitlines():
        row = json.loads(line)
        by_text.setdefault(row["question"], []).append(row["answer"])
    for point in found["all"]["sweep"]:
        output = tmp_path / str(point["n_docs"])
        answer(stage, tiny_rag, output, "first.jsonl", "--n_docs", point["n_docs"])
        scores = []
        for row in read(output):
            answers = by_text.get(row["question"], row["gold_answers"])
            if answers:
                scores.append((exact_match(row["answer"], answers), f1(row["answer"], answers)))
        assert point["em"] == pytest.approx(sum(em for em, _ in scores) / len(scores))
        assert point["f1"] == pytest.approx(sum(score for _, score in scores) / len(scores))
    three = found["all"]["sweep"][1]
    assert (three["em"], three["f1"]) == (found["all"]["em"], found["all"]["f1"])
    assert three["em"] > 0
    around = found["all"]["intervals"]
    assert [point["n_docs"] for point in around["sweep"]] == [1, 3, 8]
    assert (around["sweep"][1]["em"], around["sweep"][1]["f1"]) == (around["em"], around["f1"])


def test_question_files_of_one_directory_are_told_apart_while_they_are_unchanged(stage, tiny_rag, tmp_path):
    for name in ("first.jsonl", "second.jsonl"):
        (tmp_path / name).write_bytes((stage / name).read_bytes())
    command = ["answer", "--questions", tmp_path / "first.jsonl", tmp_path / "second.jsonl", "--n_docs", 3, *SHORT]
    ragbeam(*command, "--index", stage / "index", "--model", tiny_rag, "--output", tmp_path / "both")
    (one,) = figures(stage, tmp_path / "f.json", "--answers", tmp_path / "both")["files"]
    first, second = one["question_files"]
    assert [(part["name"], part["rows"], part["scored"]) for part in (first, second)] == [
        ("first.jsonl", 9, len(TOPICS)),
        ("second.jsonl", 4, 4),
    ]
    assert second["em"] == 1
    (tmp_path / "second.jsonl").write_text("{}\n")
    (one,) = figures(stage, tmp_path / "f.json", "--answers", tmp_path / "both")["files"]
    assert one["question_files"] == []


def test_both_files_are_written_whichever_is_named_and_nothing_else(stage, tmp_path, capsys):
    ragbeam("evaluate", "--answers", stage / "kept", "--output", tmp_path / "out" / "figures.html")
    assert sorted(path.name for path in (tmp_path / "out").iterdir()) == ["figures.html", "figures.json"]
    printed = capsys.readouterr().out
    assert "R@5" in printed
    assert "R@8" in printed
    assert "2 rows have no gold answer" in printed
    ragbeam("evaluate", "--answers", stage / "kept", "--output", "memory://eval/figures.json")
    memory = fsspec.filesystem("memory")
    assert memory.cat("/eval/figures.json") == (tmp_path / "out" / "figures.json").read_bytes()
    memory.store.clear()


def test_regular_expressions_as_gold(tmp_path):
    rows = [answer_row("a", "when", "1969", [r"19\d\d"]), answer_row("b", "when", "1869", [r"19\d\d"])]
    url = write_answers(tmp_path / "answers", rows)
    assert figures(None, tmp_path / "text.json", "--answers", url)["all"]["em"] == 0
    assert figures(None, tmp_path / "regex.json", "--answers", url, "--regex_answers")["all"]["em"] == 0.5


@pytest.mark.parametrize(
    ("more", "message"),
    [
        (["--output", "{tmp}/figures.txt"], "NAME.json or NAME.html"),
        (["--sweep", 1], "--sweep and --model go together"),
        (["--sweep", 0, "--model", "m"], "--sweep is too small: 0"),
        (["--report_rows", -1], "--report_rows is negative: -1"),
        (["--answers", "{stage}/index"], "another stage's output"),
        (["--answers", "{stage}/none"], "no such directory"),
        (["--gold", "{tmp}/none.jsonl"], "none.jsonl"),
        (["--gold", "{stage}/articles.jsonl"], "lacks the question column"),
        (["--gold", "{stage}/unanswered.jsonl"], "--gold gives no gold answers"),
        (["--no_such_flag", 1], "unknown flag"),
    ],
)
def test_bad_input_is_one_line_and_nothing_is_written(stage, tmp_path, capsys, more, message):
    told = [str(part).format(tmp=tmp_path, stage=stage) for part in more]
    (stage / "unanswered.jsonl").write_text('{"question": "what is the moon"}\n')
    command = ["evaluate", "--answers", stage / "kept", "--output", tmp_path / "figures.json"]
    code, line = fails(capsys, *instead(command, told))
    assert code == 2
    assert message in line
    assert not list(tmp_path.iterdir())


def test_a_bad_pattern_and_a_gold_file_of_other_questions_are_one_line(stage, tmp_path, capsys):
    (tmp_path / "other.jsonl").write_text('{"id": "z", "question": "who else", "answer": "(a"}\n')
    command = ["evaluate", "--answers", stage / "kept", "--output", tmp_path / "f.json"]
    _, line = fails(capsys, *command, "--gold", tmp_path / "other.jsonl")
    assert "none of the answered questions" in line
    (tmp_path / "other.jsonl").write_text('{"id": "q0", "question": "what is", "answer": "(a"}\n')
    _, line = fails(capsys, *command, "--gold", tmp_path / "other.jsonl", "--regex_answers")
    assert "no regular expression" in line
    assert "question q0: (a" in line


def test_retrieve_is_checked_against_n_docs_and_rescore(stage, tiny_rag, tmp_path, capsys):
    command = ["answer", "--questions", stage / "first.jsonl", "--index", stage / "index", "--model", tiny_rag]
    command += ["--output", tmp_path / "out", "--n_docs", 5]
    assert "--retrieve is less than --n_docs: 4" in fails(capsys, *command, "--retrieve", 4)[1]
    assert "--rescore is less than --retrieve: 9" in fails(capsys, *command, "--retrieve", 10, "--rescore", 9)[1]
