"""Faults and what they end in: one line, nothing half-written under a final name, and a next run that goes on."""

import contextlib
import json
import os
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from rag_ops.storage import store
from rag_ops.storage.manifests import read_manifest
from rag_ops.storage.parquet import read_parquet
from tests import warmed
from tests.conftest import make_sentence_encoder
from tests.pipelines.workspace import digests, fails, ragbeam, write_articles, write_questions

HELD = """import sys, time
from rag_ops.storage.locks import directory_held
with directory_held(sys.argv[1]):
    print(flush=True)
    time.sleep(60)
"""


@pytest.fixture(scope="module")
def inputs(tmp_path_factory):
    directory = tmp_path_factory.mktemp("inputs")
    write_articles(directory / "articles.jsonl", count=60)
    write_questions(directory / "questions.jsonl")
    return directory


@pytest.fixture(scope="module")
def passages(inputs):
    ragbeam(*chunk(inputs, inputs / "passages"))
    return inputs / "passages"


@pytest.fixture(scope="module")
def whole(passages, sentence_encoder):
    """Digests of the embeddings that an undisturbed run makes."""
    ragbeam(*embed(passages, sentence_encoder, passages.parent / "whole"))
    return digests(passages.parent / "whole", "embed")


@pytest.fixture(scope="module")
def finished(inputs, tmp_path_factory, sentence_encoder, tiny_rag) -> tuple[Path, Path]:
    """All four stages, and a copy of them to be kept: manifests name places, so the copy is put back where it was."""
    directory = tmp_path_factory.mktemp("finished")
    ragbeam(*run(inputs, directory / "ws", sentence_encoder, tiny_rag))
    shutil.copytree(directory / "ws", directory / "kept")
    return directory / "ws", directory / "kept"


@pytest.fixture
def workspace(finished) -> Path:
    """All four stages, as they were made, for each test."""
    used, kept = finished
    shutil.rmtree(used)
    shutil.copytree(kept, used)
    return used


@pytest.fixture
def small_disk(tmp_path):
    """A filesystem of 2 MiB."""
    path = tmp_path / "disk"
    path.mkdir()
    mounted = subprocess.run(["mount", "-t", "tmpfs", "-o", "size=2m", "tmpfs", str(path)], capture_output=True)
    if mounted.returncode != 0:
        pytest.skip("mounting is not permitted here")
    yield path
    subprocess.run(["umount", "-l", str(path)], check=True)


def chunk(inputs, output) -> list[object]:
    source = inputs / "articles.jsonl"
    return ["chunk", "--input", source, "--output", output, "--passage_words", 20, "--num_shards", 3]


def embed(passages, encoder, output, *more) -> list[object]:
    return ["embed", "--passages", passages, "--encoder", encoder, "--output", output, "--threads", 1, *more]


def run(inputs, workspace, encoder, model, *more) -> list[object]:
    return [
        *("run", "--workspace", workspace, *chunk(inputs, "")[1:3], *chunk(inputs, "")[5:]),
        *("--questions", inputs / "questions.jsonl", "--encoder", encoder, "--model", model, "--threads", 1),
        *("--max_new_tokens", 4, "--n_docs", 2, "--block_questions", 4, *more),
    ]


def files(directory: Path) -> list[str]:
    return sorted(str(path.relative_to(directory)) for path in directory.rglob("*") if path.is_file())


def change(path: Path, place: int) -> None:
    """Flips one bit of a file; its size and time stay."""
    stamp = path.stat()
    data = bytearray(path.read_bytes())
    data[place] ^= 1
    path.write_bytes(data)
    os.utime(path, ns=(stamp.st_atime_ns, stamp.st_mtime_ns))


def verify(capsys, directory) -> tuple[int, list[str]]:
    from pipelines.cli import main

    capsys.readouterr()
    code = main(["verify", str(directory)])
    return code, capsys.readouterr().out.splitlines()


def test_a_full_disk_is_one_line_and_the_next_run_goes_on(small_disk, passages, sentence_encoder, whole, capsys):
    filler = small_disk / "filler"
    filler.write_bytes(bytes((2 << 20) - (16 << 10)))
    code, line = fails(capsys, *embed(passages, sentence_encoder, small_disk / "out"))
    assert code == 1
    assert "No space left on device" in line
    assert "free the disk" in line
    assert not any(name.endswith(".tmp") or name.startswith("out/manifest") for name in files(small_disk))
    filler.unlink()
    ragbeam(*embed(passages, sentence_encoder, small_disk / "out"))
    assert digests(small_disk / "out", "embed") == whole
    assert files(small_disk / "out") == sorted(["manifest.json", "run.json", *(name for name, _ in whole)])


@pytest.mark.parametrize("free", [2, 8, 24])
def test_a_disk_that_is_full_while_questions_are_answered(small_disk, workspace, tiny_rag, tmp_path, capsys, free):
    def command(output):
        questions, index = tmp_path / "many.jsonl", workspace / "index"
        few = ["--threads", 1, "--max_new_tokens", 4, "--n_docs", 2, "--block_questions", 10]
        return ["answer", "--questions", questions, "--index", index, "--model", tiny_rag, "--output", output, *few]

    rows = [{"question": f"what is the king {number}"} for number in range(40)]
    (tmp_path / "many.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    filler = small_disk / "filler"
    filler.write_bytes(bytes((2 << 20) - (free << 12)))
    code, line = fails(capsys, *command(small_disk / "out"))
    assert code == 1
    assert "No space left on device" in line
    assert "free" in line
    filler.unlink()
    ragbeam(*command(small_disk / "out"))
    ragbeam(*command(tmp_path / "whole"))
    assert digests(small_disk / "out", "answer") == digests(tmp_path / "whole", "answer")


def test_a_disk_that_may_not_be_written_is_one_line(small_disk, passages, sentence_encoder, whole, capsys):
    subprocess.run(["mount", "-o", "remount,ro", str(small_disk)], check=True)
    code, line = fails(capsys, *embed(passages, sentence_encoder, small_disk / "out"))
    assert code == 1
    assert "Read-only file system" in line
    subprocess.run(["mount", "-o", "remount,rw", str(small_disk)], check=True)
    ragbeam(*embed(passages, sentence_encoder, small_disk / "out"))
    assert digests(small_disk / "out", "embed") == whole


def test_permission_lost_in_the_middle_keeps_what_is_finished(
    passages, sentence_encoder, whole, tmp_path, capsys, monkeypatch
):
    replace, last = os.replace, whole[-1][0]

    def denied(source, target):
        if str(target).endswith(last):
            raise PermissionError(13, "Permission denied")
        replace(source, target)

    monkeypatch.setattr(os, "replace", denied)
    code, line = fails(capsys, *embed(passages, sentence_encoder, tmp_path / "out"))
    assert code == 1
    assert f"{last}: Permission denied" in line
    assert not (tmp_path / "out" / last).exists()
    assert not [name for name in files(tmp_path / "out") if name.endswith(".tmp")]
    monkeypatch.undo()
    ragbeam(*embed(passages, sentence_encoder, tmp_path / "out"))
    assert "reused" in capsys.readouterr().out
    assert digests(tmp_path / "out", "embed") == whole
    assert json.loads((tmp_path / "out" / "run.json").read_text())["shards"]["reused"] > 0


def test_a_truncated_shard_is_found_before_any_work(workspace, capsys, inputs, sentence_encoder, tiny_rag):
    before = digests(workspace / "embeddings", "embed")
    shard = workspace / "embeddings" / before[1][0]
    shard.write_bytes(shard.read_bytes()[:-100])
    code, line = fails(capsys, "index", "--embeddings", workspace / "embeddings", "--output", workspace / "other")
    assert code == 2
    assert str(shard) in line
    assert "bytes instead of" in line
    assert not (workspace / "other").exists()
    code, lines = verify(capsys, workspace)
    assert code == 1
    assert lines[0].startswith("chunk: ok, ")
    assert str(shard) in lines[1]
    assert "ragbeam embed" in lines[1]
    ragbeam(*run(inputs, workspace, sentence_encoder, tiny_rag))
    assert "2 reused, 1 made" in capsys.readouterr().out
    assert digests(workspace / "embeddings", "embed") == before
    assert verify(capsys, workspace)[0] == 0


@pytest.mark.parametrize(("folder", "stage"), [("passages", "chunk"), ("embeddings", "embed"), ("index", "index")])
def test_a_flipped_bit_is_found_and_mended(workspace, capsys, inputs, sentence_encoder, tiny_rag, folder, stage):
    before = digests(workspace / folder, stage)
    shard = workspace / folder / before[0][0]
    change(shard, shard.stat().st_size // 2)
    code, lines = verify(capsys, workspace)
    assert code == 1
    damaged = [line for line in lines if ": ok, " not in line]
    assert damaged[0].startswith(f"{stage}: ")
    for line in damaged:  # what was made of it cannot be well; but what is to be redone is said alike
        assert str(shard) in line
        assert f"run ragbeam {stage} again" in line
    answer = ["answer", "--questions", inputs / "questions.jsonl", "--index", workspace / "index", "--model", tiny_rag]
    commands = {
        "passages": embed(workspace / "passages", sentence_encoder, workspace / "other"),
        "embeddings": ["index", "--embeddings", workspace / "embeddings", "--output", workspace / "other"],
        "index": [*answer, "--output", workspace / "other", "--n_docs", 2],
    }
    code, line = fails(capsys, *commands[folder], "--verify")
    assert code == 2
    assert str(shard) in line
    assert not (workspace / "other").exists()
    ragbeam(*run(inputs, workspace, sentence_encoder, tiny_rag, "--verify"))
    assert digests(workspace / folder, stage) == before
    assert verify(capsys, workspace)[0] == 0


def test_a_missing_manifest_and_one_of_another_version(workspace, capsys, inputs, sentence_encoder, tiny_rag):
    before = digests(workspace / "answers", "answer")
    path = workspace / "embeddings" / "manifest.json"
    text = path.read_text()
    index = ["index", "--embeddings", workspace / "embeddings", "--output", workspace / "other"]
    path.write_text(text.replace('"schema_version": 1', '"schema_version": 99'))
    for command in (index, run(inputs, workspace, sentence_encoder, tiny_rag)):
        code, line = fails(capsys, *command)
        assert code == 2
        assert "99, this ragbeam reads 1" in line
    code, lines = verify(capsys, workspace)
    assert code == 1
    assert "embed: the manifest cannot be used: its schema_version is 99" in lines[1]
    path.unlink()
    code, line = fails(capsys, *index)
    assert code == 2
    assert "ragbeam embed" in line
    ragbeam(*run(inputs, workspace, sentence_encoder, tiny_rag))
    assert path.read_text() == text
    assert digests(workspace / "answers", "answer") == before


def test_a_second_job_on_one_output_is_refused_and_a_killed_ones_lock_is_not_there(
    passages, sentence_encoder, whole, tmp_path, capsys
):
    out = tmp_path / "out"
    holder = subprocess.Popen([sys.executable, "-c", HELD, str(out)], stdout=subprocess.PIPE)
    assert holder.stdout is not None
    holder.stdout.readline()
    code, line = fails(capsys, *embed(passages, sentence_encoder, out))
    assert code == 1
    assert "another job is writing" in line
    assert str(out) in line
    holder.send_signal(signal.SIGKILL)
    holder.wait()
    ragbeam(*embed(passages, sentence_encoder, out))
    assert digests(out, "embed") == whole


def test_two_jobs_at_once_never_mix(inputs, tmp_path):
    """Two processes chunk the same input with different settings into one directory, at the same time."""
    out = tmp_path / "out"
    commands = [[*chunk(inputs, out), "--overwrite"], [*chunk(inputs, out)[:-3], 30, "--num_shards", 2, "--overwrite"]]
    started = [
        subprocess.Popen(
            [sys.executable, "-m", "pipelines.cli", *map(str, command)], stderr=subprocess.PIPE, stdout=subprocess.PIPE
        )
        for command in commands
    ]
    outputs = [process.communicate() for process in started]
    codes = [process.returncode for process in started]
    assert 0 in codes
    for code, (_, error) in zip(codes, outputs, strict=True):
        assert code == 0 or b"another job is writing" in error
    manifest = read_manifest(str(out), "chunk")
    assert manifest.config["passage_words"] == {3: 20, 2: 30}[len(manifest.shards)]
    assert files(out) == sorted(["manifest.json", "run.json", *(name for name, _ in digests(out, "chunk"))])
    (tmp_path / "alone").mkdir()
    ragbeam(*[tmp_path / "alone" if part == out else part for part in commands[len(manifest.shards) == 2]])
    assert digests(tmp_path / "alone", "chunk") == digests(out, "chunk")


def test_a_worker_process_that_is_killed_ends_the_job(server, passages, sentence_encoder, whole, tmp_path):
    command = embed(passages, sentence_encoder, tmp_path / "out")
    line = killed(server, tmp_path, command)
    assert "lower one of --max_tokens, --batch_tokens" in line
    ragbeam(*command)
    assert digests(tmp_path / "out", "embed") == whole
    assert not (tmp_path / "out" / store.INCOMPLETE).exists()


def test_a_worker_process_that_is_killed_while_questions_are_answered(server, workspace, inputs, tiny_rag, tmp_path):
    command = ["answer", "--questions", inputs / "questions.jsonl", "--index", workspace / "index", "--model", tiny_rag]
    command += ["--threads", 1, "--max_new_tokens", 4, "--n_docs", 2, "--block_questions", 4, "--output"]
    line = killed(server, tmp_path, [*command, tmp_path / "out"])
    assert "lower one of --n_docs, --num_beams, --passage_memory, --batch_tokens" in line
    ragbeam(*command, tmp_path / "out")
    assert digests(tmp_path / "out", "answer") == digests(workspace / "answers", "answer")


def killed(server, tmp_path, command) -> str:
    """Runs a job with two worker processes, one of which is killed; returns its error line."""
    workers = ["--direct_running_mode=multi_processing", "--direct_num_workers=2"]
    log = tmp_path / "log"
    process = warmed.start(server, [*map(str, command), *workers], log)
    try:
        while not (found := warmed.workers_of(process.pid)):
            assert process.poll() is None, log.read_text()
            time.sleep(0.01)
        os.kill(found[-1], signal.SIGKILL)
        process.wait()
    finally:
        with contextlib.suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGKILL)
    assert process.returncode == 1
    assert not (tmp_path / "out" / "manifest.json").exists()
    (line,) = [line for line in log.read_text().splitlines() if line.startswith("ragbeam: error:")]
    assert "a worker process ended" in line
    return line


def test_a_clock_that_was_set_back_changes_nothing(passages, sentence_encoder, whole, tmp_path, capsys, monkeypatch):
    out = tmp_path / "out"
    monkeypatch.setattr("pipelines.embed.job.check_unchanged", lambda *arguments: (_ for _ in ()).throw(SystemExit))
    with pytest.raises(SystemExit):  # as if it were killed with all shards done
        ragbeam(*embed(passages, sentence_encoder, out))
    monkeypatch.undo()
    for path in out.rglob("*"):
        os.utime(path, (4e9, 4e9))  # in 2096
    year_1999 = 915148800.0
    monkeypatch.setattr(time, "time", lambda: year_1999)
    capsys.readouterr()
    ragbeam(*embed(passages, sentence_encoder, out))
    assert "all reused" in capsys.readouterr().out
    assert digests(out, "embed") == whole
    assert not (out / store.INCOMPLETE).exists()


def test_a_text_that_cannot_be_encoded_names_file_and_row(passages, tmp_path, capsys, tokenizer, tiny_bert_config):
    import torch
    from transformers import AutoModel

    broken = make_sentence_encoder(tmp_path / "encoder", tokenizer, tiny_bert_config, seed=1)
    model = AutoModel.from_pretrained(broken)
    with torch.no_grad():
        model.embeddings.word_embeddings.weight[tokenizer.convert_tokens_to_ids("war")] = float("nan")
    model.save_pretrained(broken)
    code, line = fails(capsys, *embed(passages, broken, tmp_path / "out"))
    assert code == 1
    name, row = line.rsplit("/", 1)[1], int(line.split("it is row ")[1].split(" ")[0])
    texts = read_parquet(str(passages / name), ["text"])["text"].to_pylist()
    assert "war" in texts[row].split()
    assert not any("war" in text.split() for text in texts[:row])
    assert not (tmp_path / "out" / name.replace("passages", "embeddings")).exists()


def test_an_input_that_changes_while_it_is_read_is_noticed(inputs, tmp_path, capsys, monkeypatch):
    source = tmp_path / "articles.jsonl"
    source.write_bytes((inputs / "articles.jsonl").read_bytes())
    command = ["chunk", "--input", source, *chunk(inputs, tmp_path / "out")[3:]]
    from pipelines.runners import launch

    go = launch.run

    def changed_meanwhile(*arguments):
        found = go(*arguments)
        source.write_text(source.read_text().replace("moon", "noon"))
        return found

    monkeypatch.setattr(launch, "run", changed_meanwhile)
    code, line = fails(capsys, *command)
    assert code == 1
    assert "changed while it was read" in line
    assert not (tmp_path / "out" / "manifest.json").exists()
    monkeypatch.undo()
    ragbeam(*command)
    table = read_parquet(str(tmp_path / "out" / digests(tmp_path / "out", "chunk")[0][0]))
    assert not any("moon" in text for text in table["text"].to_pylist())


def test_passages_that_change_while_they_are_read_leave_no_vectors(
    inputs, sentence_encoder, tmp_path, capsys, monkeypatch
):
    ragbeam(*chunk(inputs, tmp_path / "passages"))
    from pipelines.runners import launch

    go = launch.run

    def chunked_meanwhile(*arguments):
        found = go(*arguments)
        monkeypatch.undo()
        ragbeam(*chunk(inputs, tmp_path / "passages")[:-3], 30, "--num_shards", 3, "--overwrite")
        return found

    monkeypatch.setattr(launch, "run", chunked_meanwhile)
    code, line = fails(capsys, *embed(tmp_path / "passages", sentence_encoder, tmp_path / "out"))
    assert code == 1
    assert "changed while it was read" in line
    ragbeam(*embed(tmp_path / "passages", sentence_encoder, tmp_path / "out"))
    ragbeam(*embed(tmp_path / "passages", sentence_encoder, tmp_path / "new"))
    assert digests(tmp_path / "out", "embed") == digests(tmp_path / "new", "embed")


def test_what_is_no_stage_is_refused_by_verify(tmp_path, capsys):
    for directory, message in ((tmp_path / "none", "no such directory"), (tmp_path, "no stage's output")):
        code, line = fails(capsys, "verify", directory)
        assert code == 2
        assert message in line
