"""A failure of the machine ends a job in one line, and the same command then ends as if there had been none."""

import errno
import json
import os
import re
import shutil
import subprocess
import sys

import pyarrow as pa
import pytest
import safetensors.torch
import torch

from pipelines.transforms import question_blocks
from rag_ops.generation.rag_token import RagTokenGenerator
from rag_ops.models.encoder import Encoder
from rag_ops.storage.manifests import read_manifest
from tests.pipelines.workspace import digests, fails, ragbeam

FAULTS = {
    "torch": lambda: torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2 GiB"),
    "onednn": lambda: RuntimeError("could not create a primitive"),
    "onednn memory": lambda: RuntimeError("could not create a memory object"),
    "python": MemoryError,
    "arrow": lambda: pa.lib.ArrowMemoryError("malloc of size 64 failed"),
    "disk": lambda: OSError(errno.ENOSPC, os.strerror(errno.ENOSPC)),
    "quota": lambda: OSError(errno.EDQUOT, os.strerror(errno.EDQUOT)),
    "input": lambda: OSError(errno.EIO, os.strerror(errno.EIO)),
}
NO_MEMORY = ["torch", "onednn", "onednn memory", "python", "arrow"]
ANSWER_FLAGS = ["--n_docs", "--num_beams", "--passage_memory", "--batch_tokens"]
QUESTIONS = 24


@pytest.fixture(scope="module")
def stage(tmp_path_factory, searchable):
    """Passages, embeddings and an index, and questions of which one has a mark that no other has."""
    directory = tmp_path_factory.mktemp("machine") / "stage"
    shutil.copytree(searchable, directory)
    rows = [{"id": n, "question": f"what is the {n}" + " !" * (n == 20), "answer": ["ice"]} for n in range(QUESTIONS)]
    (directory / "many.jsonl").write_text("".join(json.dumps(row) + "\n" for row in [*rows, {"question": " "}]))
    return directory


def answer(stage, model, output, *more: object) -> list[object]:
    """In blocks of five, in three shards."""
    command = ["answer", "--questions", stage / "many.jsonl", "--index", stage / "index", "--model", model]
    command += ["--output", output, "--threads", 1, "--max_new_tokens", 3, "--block_questions", 5, "--num_shards", 3]
    return [*command, "--n_docs", 2, *more]


@pytest.fixture(scope="module")
def usual(stage, tiny_rag):
    """The digests of answers when nothing fails."""
    ragbeam(*answer(stage, tiny_rag, stage / "usual"))
    return digests(stage / "usual", "answer")


class Fails:
    """Has a method of a model raise on rows with a mark, until it is mended."""

    def __init__(self, monkeypatch, cls, method, marked, error):
        self.mended, self.calls, real = False, 0, getattr(cls, method)

        def failing(model, *arguments, **more):
            self.calls += 1
            if not self.mended and marked(*arguments):
                raise error()
            return real(model, *arguments, **more)

        monkeypatch.setattr(cls, method, failing)


def generator_fails(monkeypatch, tokenizer, error) -> Fails:
    mark = tokenizer.convert_tokens_to_ids("!")
    return Fails(monkeypatch, RagTokenGenerator, "_encode", lambda ids, mask: (ids == mark).any(), error)


def all_fail(monkeypatch, error) -> Fails:
    return Fails(monkeypatch, RagTokenGenerator, "_encode", lambda *_: True, error)


def names_what_to_lower(line: str, *flags: str) -> bool:
    return re.findall(r"--\w+", line.partition("; lower one of ")[2]) == list(flags)


@pytest.mark.parametrize("fault", FAULTS)
def test_a_fault_at_one_question_in_the_generator(
    stage, usual, tiny_rag, tokenizer, tmp_path, capsys, monkeypatch, fault
):
    broken = generator_fails(monkeypatch, tokenizer, FAULTS[fault])
    command = answer(stage, tiny_rag, tmp_path / "out")
    code, line = fails(capsys, *command)
    assert code == 1
    assert "run the same command again" in line
    assert ("memory ran out" in line) == (fault in NO_MEMORY)
    assert names_what_to_lower(line, *ANSWER_FLAGS) == (fault in NO_MEMORY)
    assert not (tmp_path / "out" / "manifest.json").exists()
    broken.mended = True
    ragbeam(*command)
    assert digests(tmp_path / "out", "answer") == usual
    assert json.loads((tmp_path / "out" / "run.json").read_text())["blocks"]["reused"] == 4
    assert f"{QUESTIONS + 1} questions in 3 shards" in (said := capsys.readouterr().out)
    assert "; 1 with an error" in said
    ragbeam(*command)
    assert "all reused" in (said := capsys.readouterr().out)
    assert "; 1 with an error" in said


@pytest.mark.parametrize(
    ("method", "marked"),
    [
        ("_encode_batch", lambda mark: lambda batch, shape: any(mark in row.ids for row in batch)),
        ("tokenize", lambda mark: lambda texts, pairs=None: any("!" in text for text in texts)),
    ],
)
@pytest.mark.parametrize("fault", ["torch", "onednn", "python", "disk"])
def test_a_fault_at_one_question_in_the_encoder(
    stage, usual, tiny_rag, tokenizer, tmp_path, capsys, monkeypatch, fault, method, marked
):
    mark = tokenizer.convert_tokens_to_ids("!")
    broken = Fails(monkeypatch, Encoder, method, marked(mark), FAULTS[fault])
    command = answer(stage, tiny_rag, tmp_path / "out")
    code, line = fails(capsys, *command)
    assert code == 1
    assert names_what_to_lower(line, *ANSWER_FLAGS) == (fault in NO_MEMORY)
    broken.mended = True
    ragbeam(*command)
    assert digests(tmp_path / "out", "answer") == usual


@pytest.mark.parametrize("fault", ["torch", "onednn", "python", "disk"])
def test_a_fault_at_one_passage(stage, sentence_encoder, tokenizer, tmp_path, capsys, monkeypatch, fault):
    mark = tokenizer.convert_tokens_to_ids("war")
    command = ["embed", "--passages", stage / "passages", "--encoder", sentence_encoder, "--output", tmp_path / "out"]
    broken = Fails(
        monkeypatch, Encoder, "_encode_batch", lambda batch, _: any(mark in row.ids for row in batch), FAULTS[fault]
    )
    code, line = fails(capsys, *command)
    assert code == 1
    assert names_what_to_lower(line, "--max_tokens", "--batch_tokens") == (fault in NO_MEMORY)
    assert ("memory ran out" if fault in NO_MEMORY else "No space left on device") in line
    broken.mended = True
    ragbeam(*command)
    assert digests(tmp_path / "out", "embed") == digests(stage / "embeddings", "embed")


@pytest.mark.parametrize("fault", ["python", "onednn", "disk"])
def test_a_fault_in_another_step_of_a_worker(stage, tmp_path, capsys, monkeypatch, fault):
    from rag_ops.retrieval import faiss_index

    def failing(*_, **__):
        raise FAULTS[fault]()

    command = ["index", "--embeddings", stage / "embeddings", "--spec", "HNSW8", "--output", tmp_path / "out"]
    with monkeypatch.context() as patch:
        patch.setattr(faiss_index, "fill", failing)
        code, line = fails(capsys, *command)
    assert code == 1
    assert ("memory ran out" in line) == (fault in NO_MEMORY)
    assert names_what_to_lower(line, "--shard_memory") == (fault in NO_MEMORY)
    ragbeam(*command)


def test_no_memory_in_the_launcher_and_in_a_run_of_all_stages(
    stage, tiny_rag, sentence_encoder, tmp_path, capsys, monkeypatch
):
    from rag_ops.questions import blocks

    def failing(*_):
        raise MemoryError

    command = ["run", "--workspace", tmp_path / "ws", "--input", stage / "articles.jsonl", "--n_docs", 2]
    command += ["--questions", stage / "many.jsonl", "--encoder", sentence_encoder, "--model", tiny_rag, "--threads", 1]
    with monkeypatch.context() as patch:
        patch.setattr(blocks, "prepare", failing)
        code, line = fails(capsys, *command, "--max_new_tokens", 3)
    assert code == 1
    assert names_what_to_lower(line, *ANSWER_FLAGS)
    ragbeam(*command, "--max_new_tokens", 3)


@pytest.mark.parametrize("fault", ["torch", "onednn", "python", "disk"])
def test_a_fault_in_a_sweep(stage, usual, tiny_rag, tokenizer, tmp_path, capsys, monkeypatch, fault):
    command = ["evaluate", "--answers", stage / "usual", "--model", tiny_rag, "--sweep", 1, 2, "--threads", 1]
    ragbeam(*command, "--output", tmp_path / "usual.json")
    broken = generator_fails(monkeypatch, tokenizer, FAULTS[fault])
    code, line = fails(capsys, *command, "--output", tmp_path / "out.json")
    assert code == 1
    assert names_what_to_lower(line, "--sweep", "--batch_tokens") == (fault in NO_MEMORY)
    assert not (tmp_path / "out.json").exists()
    broken.mended = True
    ragbeam(*command, "--output", tmp_path / "out.json")
    assert (tmp_path / "out.json").read_bytes() == (tmp_path / "usual.json").read_bytes()


def test_a_sweep_of_which_over_half_fails_alike_gives_no_figures(stage, usual, tiny_rag, tmp_path, capsys, monkeypatch):
    all_fail(monkeypatch, lambda: RuntimeError("boom"))
    command = ["evaluate", "--answers", stage / "usual", "--model", tiny_rag, "--sweep", 1, 2, "--threads", 1]
    code, line = fails(capsys, *command, "--output", tmp_path / "out.json")
    assert code == 1
    assert f"failed alike on {QUESTIONS} of {QUESTIONS} questions" in line
    assert "--keep_going" not in line
    assert not (tmp_path / "out.json").exists()


def killed(monkeypatch, *arguments: object) -> None:
    """Runs answer to the moment when it would end with its failures, and leaves what a kill there leaves."""
    from pipelines.answer import job

    with monkeypatch.context() as patch:
        patch.setattr(job.blocks, "forget_failures", lambda directory: False)
        patch.setattr(question_blocks, "check_failures", lambda *_, **__: 1 / 0)
        with pytest.raises(AssertionError):
            ragbeam(*arguments)


def test_a_run_that_was_killed_with_its_failures_asks_again(stage, usual, tiny_rag, tmp_path, capsys, monkeypatch):
    broken = all_fail(monkeypatch, lambda: RuntimeError("boom"))
    command = answer(stage, tiny_rag, tmp_path / "out")
    killed(monkeypatch, *command)
    before = broken.calls
    assert "failed alike on 24 of 24" in fails(capsys, *command)[1]
    assert broken.calls > before
    killed(monkeypatch, *command)
    broken.mended = True
    ragbeam(*command)
    assert digests(tmp_path / "out", "answer") == usual


@pytest.mark.parametrize("mended_first", [True, False])
def test_answers_that_a_killed_run_with_keep_going_left_are_made_again(
    stage, usual, tiny_rag, tmp_path, capsys, monkeypatch, mended_first
):
    from pipelines.transforms import stage_job

    broken = all_fail(monkeypatch, lambda: RuntimeError("boom"))
    command = answer(stage, tiny_rag, tmp_path / "out")
    with monkeypatch.context() as patch:
        patch.setattr(stage_job.StageJob, "finish", lambda *_, **__: sys.exit(137))
        with pytest.raises(SystemExit):
            ragbeam(*command, "--keep_going")
    assert len(list((tmp_path / "out").glob("answers-*"))) == 3
    if not mended_first:
        assert fails(capsys, *command)[0] == 1
        assert not (tmp_path / "out" / "manifest.json").exists()
    broken.mended = True
    ragbeam(*command)
    assert digests(tmp_path / "out", "answer") == usual


def test_keep_going_after_a_run_without_it(stage, usual, tiny_rag, tmp_path, capsys, monkeypatch):
    broken = all_fail(monkeypatch, lambda: RuntimeError("boom"))
    command = answer(stage, tiny_rag, tmp_path / "out")
    assert fails(capsys, *command)[0] == 1
    before = broken.calls
    ragbeam(*command, "--keep_going")
    assert broken.calls > before
    assert "; 25 with an error" in capsys.readouterr().out
    assert read_manifest(str(tmp_path / "out"), "answer").info["errors"]["the model failed"] == QUESTIONS


@pytest.mark.usefixtures("warm_workers")
def test_over_half_fail_alike_in_worker_processes(stage, tiny_rag, tmp_path, capsys):
    """A generator whose weights are no numbers, in processes that no patch reaches."""
    model = tmp_path / "model"
    shutil.copytree(tiny_rag, model)
    weights = safetensors.torch.load_file(model / "model.safetensors")
    name = next(name for name in weights if name.endswith("decoder.layers.0.fc1.weight"))
    weights[name][:] = float("nan")
    safetensors.torch.save_file(weights, model / "model.safetensors", {"format": "pt"})
    workers = ["--direct_running_mode=multi_processing", "--direct_num_workers=2"]
    command = answer(stage, model, tmp_path / "out", *workers)
    code, line = fails(capsys, *command)
    assert code == 1
    assert "failed alike on 24 of 24 questions: 'the model failed (its scores are not numbers)'" in line
    assert not list((tmp_path / "out").glob("*.parquet"))
    ragbeam(*command, "--keep_going")
    assert "; 25 with an error" in capsys.readouterr().out


LITTLE_MEMORY = """import resource, sys
import faiss, torch, transformers
from pipelines.cli import main
from rag_ops.generation import rag_token
torch.set_num_threads(1)
torch.nn.functional.linear(torch.ones(8, 8), torch.ones(8, 8))
load = rag_token.RagTokenGenerator.load
def loaded(*arguments, **more):  # the bound begins with the search, so that it is not Beam or the loader that dies
    model = load(*arguments, **more)
    with open("/proc/self/statm") as file:
        size = int(file.read().split()[0]) * resource.getpagesize()
    resource.setrlimit(resource.RLIMIT_AS, (size + (int(sys.argv[1]) << 20), resource.RLIM_INFINITY))
    return model
rag_token.RagTokenGenerator.load = loaded
sys.exit(main(sys.argv[2:]))
"""


def test_too_little_memory_for_one_question(stage, tiny_rag, tmp_path, capsys):
    """The kernel keeps a bound; what is asked for last is large, so that small requests still succeed."""
    (tmp_path / "one.jsonl").write_text('{"question": "what is the king 3"}')
    common = ["answer", "--questions", tmp_path / "one.jsonl", "--index", stage / "index", "--model", tiny_rag]
    common += ["--threads", 1, "--n_docs", 60, "--num_beams", 1000, "--max_new_tokens", 6, "--min_length", 6]
    common += ["--compute_dtype", "float32"]
    command = [*common, "--output", tmp_path / "out"]
    script = [sys.executable, "-c", LITTLE_MEMORY, "160", *map(str, command)]
    done = subprocess.run(script, capture_output=True, text=True, timeout=500)
    errors = [line for line in done.stderr.splitlines() if line.startswith("ragbeam: error:")]
    assert done.returncode == 1, done.stderr
    assert len(errors) == 1
    assert "memory ran out" in errors[0]
    assert "Traceback" not in done.stderr
    assert not (tmp_path / "out" / "manifest.json").exists()
    ragbeam(*command)
    assert "; none with an error" in capsys.readouterr().out
    ragbeam(*common, "--output", tmp_path / "other")
    assert digests(tmp_path / "out", "answer") == digests(tmp_path / "other", "answer")
