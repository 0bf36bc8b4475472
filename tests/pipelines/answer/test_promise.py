"""evaluate --calibrate, and answer --max_error by what it wrote."""

import dataclasses
import json

import numpy as np
import pyarrow.parquet as pq
import pytest

from rag_ops.evaluation import thresholds as rule
from rag_ops.evaluation.promise import Calibration, settings_of
from rag_ops.evaluation.thresholds import Threshold
from rag_ops.storage.manifests import read_manifest
from tests.pipelines.workspace import answer_row, fails, instead, ragbeam, write_answers

SHORT = ("--n_docs", 3, "--max_new_tokens", 4, "--threads", 1)


def read(directory) -> list[dict]:
    shards = read_manifest(str(directory), "answer").shards
    return [row for shard in shards for row in pq.read_table(directory / shard.path).to_pylist()]


@pytest.fixture(scope="module")
def stage(tmp_path_factory, searchable, tiny_rag):
    """Answers of the tiny model, the command that made them, and a calibration with the middle one of their scores."""
    directory = tmp_path_factory.mktemp("promise")
    command = ["answer", "--questions", searchable / "questions.jsonl", "--index", searchable / "index"]
    command += ["--model", tiny_rag, *SHORT]
    ragbeam(*command, "--output", directory / "all")
    manifest = read_manifest(str(directory / "all"), "answer")
    scores = sorted({row["score"] for row in read(directory / "all") if row["score"] is not None})
    thresholds = (Threshold(0.05, rows=80, tested=1), Threshold(0.1, scores[len(scores) // 2], 60, 80, 1, 0.08, 2))
    made = Calibration(
        "all", manifest.digest, manifest.info["index_digest"], settings_of(manifest.config), 0.95, 0, 100, 9, thresholds
    )
    (directory / "c.json").write_text(made.to_json())
    return directory, command


def test_what_is_learned_from_answers_is_what_the_function_learns_and_says_from_what(tmp_path, capsys):
    random = np.random.default_rng(1)
    scores = np.log(random.random(600)).astype(np.float32)
    wrong = random.random(600) < 0.3 * (1 - np.exp(scores))
    rows = [
        answer_row(f"q{n}", f"what {n}", "no" if bad else "yes", ["yes"], score=float(score))
        for n, (score, bad) in enumerate(zip(scores, wrong, strict=True))
    ]
    more = [rows[0] | {"question_id": "again"}, answer_row("e", "failed", None, ["yes"], error="the model failed")]
    more.append(answer_row("g", "without gold", "yes", None, score=-0.1))
    url = write_answers(tmp_path / "answers", [*rows, *more], num_beams=1)
    command = ("evaluate", "--answers", url, "--bootstrap", 0, "--calibrate", tmp_path / "c.json")
    ragbeam(*command, "--confidence", 0.9, "--seed", 7)
    printed = capsys.readouterr().out
    found = Calibration.read(str(tmp_path / "c.json"))
    expected = rule.learn(scores.astype(np.float64), wrong, 0.9, seed=7)
    assert list(found.thresholds) == expected
    assert (found.rows, found.wrong, found.confidence, found.seed) == (600, int(wrong.sum()), 0.9, 7)
    assert found.settings == {"n_docs": 5, "model_digest": "m", "num_beams": 1}
    assert found.answers_digest == read_manifest(url, "answer").digest
    passed = [one for one in expected if one.score is not None]
    assert 0 < len(passed) < len(expected)
    assert "no score passes, nothing is answered" in printed
    assert f"score {passed[0].score:.4f} or more ({passed[0].answered} of 480 answered" in printed
    ragbeam(*command, "--confidence", 0.9, "--seed", 7)  # overwrites its own
    assert Calibration.read(str(tmp_path / "c.json")) == found


def test_scores_that_are_no_probabilities_end_nothing_and_teach_nothing_unless_they_are_numbers(tmp_path, capsys):
    scores = [float("nan"), float("-inf"), float("inf"), 5000.0, -0.5, None]
    rows = [answer_row(f"q{n}", f"what {n}", "yes", ["yes"], score=score) for n, score in enumerate(scores)]
    url = write_answers(tmp_path / "answers", rows)
    command = ("evaluate", "--answers", url, "--output", tmp_path / "f.json", "--bootstrap", 20)
    ragbeam(*command, "--calibrate", tmp_path / "c.json")
    assert "calibrated on 4 answers" in capsys.readouterr().out
    bins = json.loads((tmp_path / "f.json").read_text())["all"]["calibration"]["bins"]
    assert [(one["rows"], one["mean_probability"]) for one in bins if one["rows"]] == [
        *((1, 0.0), (1, pytest.approx(np.exp(-0.5))), (2, 1.0))
    ]


def test_answers_below_the_threshold_are_held_back_with_the_reason_and_all_else_stays(stage, tmp_path, capsys):
    directory, command = stage
    capsys.readouterr()
    ragbeam(*command, "--output", tmp_path / "out", "--max_error", 0.1, "--calibration", directory / "c.json")
    threshold = Calibration.read(str(directory / "c.json")).threshold(0.1).score
    every, found = read(directory / "all"), read(tmp_path / "out")
    held = 0
    for one, other in zip(every, found, strict=True):
        if one["score"] is not None and one["score"] < threshold:
            held += 1
            assert "at most 10% of the answers are wrong (confidence 95%)" in other["abstained"]
            assert other == one | {"answer": None, "abstained": other["abstained"]}
        else:
            assert other == one
    assert 0 < held < sum(row["error"] is None for row in every)
    assert f"{held} not answered (--max_error)" in capsys.readouterr().out
    manifest = read_manifest(str(tmp_path / "out"), "answer")
    assert manifest.info["abstained"] == held
    assert (manifest.config["max_error"], manifest.config["threshold"]) == (0.1, threshold)
    ragbeam("evaluate", "--answers", tmp_path / "out", "--output", tmp_path / "f.json", "--bootstrap", 0)
    figures = json.loads((tmp_path / "f.json").read_text())["all"]
    given = [row for row in found if row["answer"] is not None and row["gold_answers"]]
    assert figures["abstained"] == held
    assert figures["wrong_of_answered"] == pytest.approx(np.mean([r["answer"] not in r["gold_answers"] for r in given]))
    assert f"{held} rows are not answered" in capsys.readouterr().out
    assert "no answer: the score is below" in (tmp_path / "f.html").read_text()
    _, line = fails(capsys, "evaluate", "--answers", tmp_path / "out", "--calibrate", tmp_path / "d.json")
    assert "--calibrate learns from answers to all questions" in line
    sweeping = ("--sweep", 1, "--model", command[command.index("--model") + 1])
    code, line = fails(capsys, "evaluate", "--answers", tmp_path / "out", *sweeping)
    assert code == 2
    assert "--sweep knows no least score of answers from other numbers of passages" in line
    assert "expected answers made without --max_error" in line


def test_where_no_threshold_passed_nothing_is_answered(stage, tmp_path):
    directory, command = stage
    ragbeam(*command, "--output", tmp_path / "out", "--max_error", 0.05, "--calibration", directory / "c.json")
    for row in read(tmp_path / "out"):
        assert row["answer"] is None
        if row["error"] is None:
            assert row["abstained"].startswith("no score was found from which on at most 5% of the answers are wrong")


@pytest.mark.parametrize(
    ("more", "message"),
    [
        (["--max_error", 0.1], "--max_error and --calibration go together"),
        (["--calibration", "{c}"], "--max_error and --calibration go together"),
        (["--max_error", 0, "--calibration", "{c}"], "--max_error is out of range: 0"),
        (
            ["--max_error", 0.2, "--calibration", "{c}"],
            "no threshold was learned for --max_error: 0.2; expected one of",
        ),
        (["--max_error", 0.1, "--calibration", "{d}/none.json"], "none.json"),
        (["--max_error", 0.1, "--calibration", "{d}/all/manifest.json"], "--calibration cannot be read"),
        (["--max_error", 0.1, "--calibration", "{d}/deep"], "--calibration cannot be read (RecursionError"),
        (["--max_error", 0.1, "--calibration", "{c}", "--n_docs", 2], "with another n_docs: 2; expected 3"),
        (["--max_error", 0.1, "--calibration", "{c}", "--num_beams", 2], "with another num_beams: 2; expected 1"),
        (["--max_error", 0.1, "--calibration", "{d}/other.json"], "with another model: "),
    ],
    ids=str,
)
def test_a_calibration_that_does_not_fit_is_one_line(stage, tmp_path, capsys, more, message):
    directory, command = stage
    made = Calibration.read(str(directory / "c.json"))
    other = dataclasses.replace(made, settings=made.settings | {"model_digest": "0" * 32})
    (directory / "other.json").write_text(other.to_json())
    (directory / "deep").write_text("[" * 100_000)
    told = [str(part).format(c=directory / "c.json", d=directory) for part in more]
    code, line = fails(capsys, *instead([*command, "--output", tmp_path / "out"], told))
    assert code == 2
    assert message in line
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize(
    ("more", "message"),
    [
        (["--confidence", 0.9], "--confidence is about --calibrate"),
        (["--confidence", 1, "--calibrate", "{t}/c.json"], "--confidence is out of range: 1"),
        (["--calibrate", "{t}/mine.txt"], "--calibrate is a file that evaluate did not write"),
        (["--calibrate", "{t}"], "--calibrate is a directory"),
        (["--output", "{t}/a.html", "--calibrate", "{t}/./a.json"], "--calibrate is one of the two files of --output"),
        (["--answers", "a", "b", "--calibrate", "{t}/c.json"], "--calibrate learns from the answers of one directory"),
    ],
    ids=str,
)
def test_calibrate_refuses_what_it_cannot_learn_from_or_overwrite(stage, tmp_path, capsys, more, message):
    (tmp_path / "mine.txt").write_text("mine")
    told = [str(part).format(t=tmp_path) for part in more]
    code, line = fails(capsys, *instead(["evaluate", "--answers", stage[0] / "all"], told))
    assert code == 2
    assert message in line
    assert (tmp_path / "mine.txt").read_text() == "mine"
