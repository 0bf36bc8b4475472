"""What the runners' tests compare: one small job, and its bytes from a local run."""

import pytest

from tests.pipelines.workspace import digests, ragbeam, write_articles, write_questions

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


def run_arguments(inputs, workspace, encoder, model) -> list[object]:
    """All four stages, cut so that each has several units of work."""
    return [
        *("run", "--workspace", workspace, "--input", inputs / "articles.jsonl", "--encoder", encoder),
        *("--questions", inputs / "questions.jsonl", "--model", model, "--num_shards", 4, "--passage_words", 20),
        *("--max_new_tokens", 5, "--n_docs", 3, "--block_questions", 3, "--threads", 1),
    ]


def all_digests(workspace) -> dict[str, list[tuple[str, str]]]:
    """Name and SHA-256 of every shard, by stage."""
    return {name: digests(f"{workspace}/{name}", stage) for name, stage in STAGES}
