"""Without a flag a local run takes the cores, or a process for each GPU, and its bytes are those of one process."""

import json
import os
import shutil

import pytest
import torch

from pipelines.console.command import ARENAS
from rag_ops.compute.cores import cores
from tests.pipelines.workspace import digests, ragbeam

STAGES = {"chunk": "passages", "embed": "embeddings", "index": "index", "answer": "answers"}


def arguments(searchable, encoder, model, stage) -> list[object]:
    given = {
        "chunk": ["--input", searchable / "articles.jsonl", "--passage_words", 20, "--split_bytes", 4000],
        "embed": ["--passages", searchable / "passages", "--encoder", encoder],
        "index": ["--embeddings", searchable / "embeddings", "--num_shards", 2, "--spec", "Flat"],
        "answer": ["--questions", searchable / "questions.jsonl", "--index", searchable / "index", "--model", model],
    }
    more = {"chunk": ["--num_shards", 2], "answer": ["--block_questions", 3, "--max_new_tokens", 3]}
    return [stage, *given[stage], *more.get(stage, [])]


@pytest.fixture
def many(monkeypatch):
    """Two GPUs for embed, as the launcher sees it; cores and little inputs that are worth processes for the others."""
    monkeypatch.setattr("pipelines.chunk.job.WORTH_SECS", 0)
    monkeypatch.setattr("pipelines.chunk.job.cores", lambda: 2)
    monkeypatch.setattr("pipelines.index.job.PROCESS_BYTES", 1)
    monkeypatch.setattr("pipelines.index.job.cores", lambda: 2)
    monkeypatch.setattr("pipelines.answer.job.PROCESS_QUESTIONS", 1)
    monkeypatch.setattr("pipelines.transforms.model_workers.cores", lambda: 4)
    monkeypatch.setattr("pipelines.embed.job.PROCESS_ROWS", 1)


@pytest.mark.usefixtures("warm_workers")
@pytest.mark.parametrize("stage", STAGES)
def test_a_stage_takes_the_cores_and_gives_the_same_bytes(
    searchable, tmp_path, sentence_encoder, tiny_rag, stage, many, monkeypatch, capsys
):
    if torch.cuda.is_available():
        pytest.skip("there is a GPU here")
    command = arguments(searchable, sentence_encoder, tiny_rag, stage)
    ragbeam(*command, "--output", tmp_path / "one", "--direct_num_workers", 1)
    assert "processes" not in capsys.readouterr().out
    if stage == "embed":
        monkeypatch.setattr(torch.cuda, "device_count", lambda: 2)
    ragbeam(*command, "--output", tmp_path / "two")
    assert ", 2 processes)" in capsys.readouterr().out
    reports = [json.loads((tmp_path / name / "run.json").read_text()) for name in ("one", "two")]
    assert [report["processes"] for report in reports] == [1, 2]
    assert digests(tmp_path / "one", stage) == digests(tmp_path / "two", stage)


def test_a_small_input_stays_in_one_process(searchable, tmp_path, monkeypatch):
    monkeypatch.setattr("pipelines.chunk.job.cores", lambda: 8)
    shutil.copy(searchable / "articles.jsonl", tmp_path / "a.jsonl")
    ragbeam("chunk", "--input", tmp_path / "a.jsonl", "--split_bytes", 4000, "--output", tmp_path / "out")
    assert json.loads((tmp_path / "out" / "run.json").read_text())["processes"] == 1


@pytest.mark.parametrize("given", [None, "7"])
def test_processes_that_a_job_starts_have_an_arena_for_each_core(given, monkeypatch):
    monkeypatch.setenv(ARENAS, given or "")
    if given is None:
        monkeypatch.delenv(ARENAS)
    ragbeam("plan", "--articles", 10)
    assert os.environ[ARENAS] == (given or str(max(2, cores())))
