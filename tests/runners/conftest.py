"""What the runners' tests compare: one small job, and its bytes from a local run."""

import contextlib
import os
import re
import signal
import time

import pytest

from tests import warmed
from tests.pipelines.workspace import digests, instead, ragbeam, write_articles, write_questions
from tests.runners.listening import listeners

RUN_SECS = 120
MODELS = {"encoder": "sentence_encoder", "rag": "tiny_rag"}
WANTED = re.compile(r"/(passages|embeddings|index|answers)-\d{5}-of-\d{5}\.(parquet|faiss)$|/(manifest|run)\.json$")
STAGES = [("passages", "chunk"), ("embeddings", "embed"), ("index", "index"), ("answers", "answer")]


@pytest.fixture(scope="session")
def inputs(tmp_path_factory):
    """A folder with articles and questions."""
    directory = tmp_path_factory.mktemp("inputs")
    write_articles(directory / "articles.jsonl", count=40)
    write_questions(directory / "questions.jsonl")
    return directory


@pytest.fixture(scope="session")
def local_workspace(inputs, tmp_path_factory, sentence_encoder, tiny_rag):
    """The workspace of a local run."""
    workspace = tmp_path_factory.mktemp("local")
    ragbeam(*run_arguments(inputs, workspace, sentence_encoder, tiny_rag))
    return workspace


@pytest.fixture(scope="session")
def local(local_workspace):
    """The local run's digests, by stage."""
    return all_digests(local_workspace)


@pytest.fixture
def a_run(inputs, tmp_path, sentence_encoder, tiny_rag):
    """The small job's arguments; its workspace is `tmp_path`."""
    return run_arguments(inputs, tmp_path, sentence_encoder, tiny_rag)


@pytest.fixture
def seen(monkeypatch):
    """All that this process and those below it listen on when it writes a file: while a job runs within it."""
    found, replace = set(), os.replace

    def looked(*places):
        found.update(listeners(os.getpid()))
        replace(*places)

    monkeypatch.setattr(os, "replace", looked)
    return found


def run_arguments(inputs, workspace, encoder, model) -> list[object]:
    """All four stages, cut so that each has several units of work."""
    return [
        *("run", "--workspace", workspace, "--input", inputs / "articles.jsonl", "--encoder", encoder),
        *("--questions", inputs / "questions.jsonl", "--model", model, "--num_shards", 4, "--passage_words", 20),
        *("--max_new_tokens", 5, "--n_docs", 3, "--block_questions", 3, "--threads", 1),
    ]


@pytest.fixture(scope="module")
def there(store, request, inputs):
    """The job's inputs and models, in the module's BUCKET; a function that gives the arguments of a run on those."""
    bucket = request.module.BUCKET
    for name, fixture in MODELS.items():
        store.put(f"{request.getfixturevalue(fixture)}/", f"{bucket}/{name}/", recursive=True)
    for name in ("articles.jsonl", "questions.jsonl"):
        store.put(str(inputs / name), f"{bucket}/in/{name}")

    def arguments(workspace: str, *flags: object) -> list[object]:
        command = instead(run_arguments(inputs, workspace, f"{bucket}/encoder", f"{bucket}/rag"), flags)
        return [str(part).replace(str(inputs), f"{bucket}/in") for part in command]

    return arguments


def left_over(store, workspace: str) -> list[str]:
    """What lies in a workspace beside shards, manifests and run files."""
    return [path for path in store.find(workspace) if not WANTED.search(path)]


def kill_when(ready, server, command, log) -> None:
    """Runs a command as a process, and kills it with all of its own as soon as `ready` says so."""
    running = warmed.start(server, command, log)
    try:
        end = time.monotonic() + RUN_SECS
        while not ready():
            assert running.poll() is None, log.read_text()
            assert time.monotonic() < end, log.read_text()
            time.sleep(0.01)
    finally:
        with contextlib.suppress(ProcessLookupError):
            os.killpg(running.pid, signal.SIGKILL)
    assert running.wait() == -signal.SIGKILL


def all_digests(workspace) -> dict[str, list[tuple[str, str]]]:
    """Name and SHA-256 of every shard, by stage."""
    return {name: digests(f"{workspace}/{name}", stage) for name, stage in STAGES}
