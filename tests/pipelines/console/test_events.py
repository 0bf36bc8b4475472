"""What a run tells: JSON lines and nothing else on stderr, events of every stage, errors; text stays text."""

import json
import logging
import warnings
from datetime import datetime, timedelta, timezone

import pytest

from pipelines.cli import main
from pipelines.console import events as console_events
from pipelines.console import progress
from pipelines.console.progress import Progress, shards_of
from rag_ops.storage import store
from rag_ops.storage.manifests import read_manifest
from tests.pipelines.workspace import write_articles, write_questions


def run(capsys, *arguments: object) -> tuple[int, list[dict]]:
    """Exit code and the objects on stderr; every line must be one."""
    capsys.readouterr()
    code = main([*map(str, arguments), "--log_format", "json"])
    return code, [json.loads(line) for line in capsys.readouterr().err.splitlines()]


@pytest.fixture(scope="module")
def source(tmp_path_factory):
    """Articles and questions."""
    directory = tmp_path_factory.mktemp("told")
    write_articles(directory / "articles.jsonl", count=14)
    write_questions(directory / "questions.jsonl")
    return directory


def test_a_run_is_told_as_json_lines(source, sentence_encoder, tiny_rag, tmp_path, capsys, monkeypatch):
    monkeypatch.setattr(progress, "PLAIN_LINE_SECS", 0.05)
    monkeypatch.setattr(progress, "POLL_SECS", 0.02)
    command = ["run", "--workspace", tmp_path / "ws", "--input", source / "articles.jsonl", "--num_shards", 2]
    command += ["--questions", source / "questions.jsonl", "--encoder", sentence_encoder, "--model", tiny_rag]
    code, lines = run(capsys, *command, "--max_new_tokens", 3)
    assert code == 0
    now = datetime.now(timezone.utc)
    for line in lines:
        assert {"time", "level", "stage", "event", "message"} <= set(line)
        assert now - timedelta(minutes=10) < datetime.fromisoformat(line["time"]) <= now
    assert (lines[0]["event"], lines[-1]["event"]) == ("started", "finished")
    for stage, folder in (("chunk", "passages"), ("embed", "embeddings"), ("index", "index"), ("answer", "answers")):
        events = [line for line in lines if line["stage"] == stage]
        kinds = [line["event"] for line in events]
        assert kinds.count("stage_started") == kinds.count("stage_finished") == 1
        manifest = read_manifest(str(tmp_path / "ws" / folder), stage)
        made = {line["message"]: line["counts"] for line in events if line["event"] == "shard_made"}
        assert made == {shard.path: {"rows": shard.rows, "bytes": shard.bytes} for shard in manifest.shards}
        finished = next(line for line in events if line["event"] == "stage_finished")
        assert finished["counts"]["rows"] == manifest.rows
        assert finished["counts"]["made"] == len(manifest.shards)
    told = [line["counts"] for line in lines if line["event"] == "progress"]
    assert told
    assert all({"done", "per_sec", "seconds"} <= set(counts) for counts in told)
    assert finished["info"]["errors"] == {"the question is empty": 1}
    # A second time nothing is done, and a shard that went is made again while the other is reused.
    code, again = run(capsys, *command, "--max_new_tokens", 3)
    assert [line["event"] for line in again].count("stage_reused") == 4
    store.remove(
        str(tmp_path / "ws" / "embeddings" / read_manifest(str(tmp_path / "ws/embeddings"), "embed").shards[0].path)
    )
    arguments = ["--passages", tmp_path / "ws" / "passages", "--output", tmp_path / "ws" / "embeddings"]
    code, third = run(capsys, "embed", *arguments, "--encoder", sentence_encoder)
    assert code == 0
    assert [line["event"] for line in third if line["event"].startswith("shard_")] == ["shard_made", "shard_reused"]


@pytest.mark.parametrize(
    ("arguments", "code"),
    [(["chunk", "--input", "/no/such.xml", "--output", "/tmp/none"], 2), (["chunk", "--no_such"], 2), (["nothing"], 2)],
)
def test_an_error_is_one_object_with_its_exit_code(capsys, arguments, code):
    found, lines = run(capsys, *arguments)
    errors = [line for line in lines if line["event"] == "error"]
    assert found == code
    assert len(errors) == 1
    assert (errors[0]["level"], errors[0]["exit_code"]) == ("ERROR", code)


def test_the_traceback_stands_in_the_object(capsys):
    _, lines = run(capsys, "chunk", "--input", "/no/such.xml", "--output", "/tmp/none", "--debug")
    error = next(line for line in lines if line["event"] == "error")
    assert "Traceback" in error["traceback"]


def test_a_warning_of_any_library_is_an_object_too(capsys):
    with console_events.as_json():
        logging.getLogger("ragbeam").warning("of ours: %d\nand more", 5)
        warnings.warn("of another's", stacklevel=1)
    lines = [json.loads(line) for line in capsys.readouterr().err.splitlines()]
    assert [(line["event"], line["level"]) for line in lines] == [("log", "WARNING")] * 2
    assert lines[0]["message"] == "of ours: 5\nand more"
    assert "of another's" in lines[1]["message"]


@pytest.mark.parametrize("flag", [["--log_format", "xml"], ["--log-format=xml"]])
def test_an_unknown_format_is_refused(capsys, flag):
    assert main(["chunk", "--input", "x", "--output", "y", *flag]) == 2
    assert capsys.readouterr().err == "ragbeam: error: unknown --log_format: 'xml'; expected text or json\n"


def test_text_is_as_ever_and_what_was_set_for_json_is_put_back(source, tmp_path, capsys):
    before = list(logging.getLogger().handlers), logging.getLogger().level
    run(capsys, "chunk", "--input", source / "articles.jsonl", "--output", tmp_path / "a")
    assert (list(logging.getLogger().handlers), logging.getLogger().level) == before
    assert not console_events.is_json()
    assert main(["chunk", "--input", str(source / "articles.jsonl"), "--output", str(tmp_path / "b")]) == 0
    assert "{" not in capsys.readouterr().err


def test_plain_lines_tell_rows_rate_time_left_and_shards(tmp_path, capsys, monkeypatch):
    monkeypatch.setattr(progress, "PLAIN_LINE_SECS", 0.05)
    monkeypatch.setattr(progress, "POLL_SECS", 0.02)
    for name in ("a.record.json", "b.record.json", "trained.faiss.record.json", "settings.json"):
        store.write_bytes(str(tmp_path / "_incomplete"), name, b"{}")
    with Progress("embed", 100, lambda: 25, "passages", shards_of(str(tmp_path), 8)) as shown:
        shown._stop.wait(0.3)
    line = capsys.readouterr().err.splitlines()[0]
    assert line.startswith("embed: 25 of 100 passages, ")
    assert "/s, " in line
    assert line.endswith(" s left, 2 of 8 shards")
