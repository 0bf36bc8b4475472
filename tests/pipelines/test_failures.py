"""A model that fails: on a question it costs the row, on a passage it names file and row, out of memory it halves."""

import numpy as np
import pyarrow.parquet as pq
import pytest
import torch

from rag_ops.encoding import Encoder
from rag_ops.generation import RagTokenGenerator
from rag_ops.stages import read_manifest
from tests.pipelines.workspace import TOPICS, fails, ragbeam, write_articles, write_questions

BAD = {"id": "bad", "question": "what is the war! now"}  # no other text has the mark


@pytest.fixture(scope="module")
def stage(tmp_path_factory, sentence_encoder):
    """Passages, embeddings, index and questions."""
    directory = tmp_path_factory.mktemp("failures")
    write_articles(directory / "articles.jsonl", count=12)
    write_questions(directory / "questions.jsonl", [BAD, {"id": "bad again", "question": BAD["question"]}])
    passages, embeddings = directory / "passages", directory / "embeddings"
    ragbeam("chunk", "--input", directory / "articles.jsonl", "--output", passages, "--num_shards", 2)
    ragbeam("embed", "--passages", passages, "--encoder", sentence_encoder, "--output", embeddings)
    ragbeam("index", "--embeddings", embeddings, "--output", directory / "index")
    return directory


def answers(stage, model, output) -> list[dict]:
    command = ["answer", "--questions", stage / "questions.jsonl", "--index", stage / "index", "--model", model]
    ragbeam(*command, "--output", output, "--threads", 1, "--max_new_tokens", 4)
    shards = read_manifest(str(output), "answer").shards
    return [row for shard in shards for row in pq.read_table(output / shard.path).to_pylist()]


@pytest.fixture(scope="module")
def usual(stage, tiny_rag, tmp_path_factory):
    """The answers when nothing fails."""
    return answers(stage, tiny_rag, tmp_path_factory.mktemp("usual") / "answers")


def only_the_bad_ones_differ(found: list[dict], usual: list[dict], reason: str) -> None:
    assert [row["question_id"] for row in found] == [row["question_id"] for row in usual]
    assert len(found) == len(TOPICS) + 4
    for row, before in zip(found, usual, strict=True):
        if row["question_id"].startswith("bad"):
            assert row["answer"] is None
            assert reason in row["error"]
            assert before["error"] is None
        else:
            assert (row["answer"], row["error"]) == (before["answer"], before["error"])
            if row["answer"] is not None:
                assert row["score"] == pytest.approx(before["score"], abs=1e-4)
                assert [p["id"] for p in row["passages"]] == [p["id"] for p in before["passages"]]


def test_a_question_that_the_generator_fails_on(stage, usual, tiny_rag, tokenizer, tmp_path, monkeypatch):
    mark = tokenizer.convert_tokens_to_ids("!")
    real = RagTokenGenerator._encode

    def boom(self, ids, mask):
        if (ids == mark).any():
            raise RuntimeError("boom in the generator")
        return real(self, ids, mask)

    monkeypatch.setattr(RagTokenGenerator, "_encode", boom)
    found = answers(stage, tiny_rag, tmp_path / "answers")
    only_the_bad_ones_differ(found, usual, "the model failed (RuntimeError: boom in the generator)")
    info = read_manifest(str(tmp_path / "answers"), "answer").info
    assert info["errors"] == {"the model failed": 2, "the question is empty": 1}


@pytest.mark.parametrize("how", ["raises", "not finite"])
def test_a_question_that_the_encoder_fails_on(stage, usual, tiny_rag, tokenizer, tmp_path, monkeypatch, how):
    mark = tokenizer.convert_tokens_to_ids("!")
    real = Encoder._encode_batch

    def boom(self, batch, shape):
        bad = np.array([mark in row.ids for row in batch])
        if how == "raises" and bad.any():
            raise RuntimeError("boom in the encoder")
        return np.where(bad[:, None], np.nan, real(self, batch, shape))

    monkeypatch.setattr(Encoder, "_encode_batch", boom)
    reason = "boom in the encoder" if how == "raises" else "not finite"
    only_the_bad_ones_differ(answers(stage, tiny_rag, tmp_path / "answers"), usual, reason)


def test_memory_that_runs_out_costs_no_answer(stage, usual, tiny_rag, tmp_path, monkeypatch):
    real_encode, real_answer, halved = Encoder._encode_batch, RagTokenGenerator._answer_batch, []

    def small_encode(self, batch, shape):
        if shape[0] > 3:
            halved.append("encoder")
            raise torch.cuda.OutOfMemoryError("CUDA out of memory. Tried to allocate 2 GiB")
        return real_encode(self, batch, shape)

    def small_answer(self, contexts, scores, sources):
        if len(contexts) > 2:
            halved.append("generator")
            raise torch.cuda.OutOfMemoryError("CUDA out of memory. Tried to allocate 2 GiB")
        return real_answer(self, contexts, scores, sources)

    monkeypatch.setattr(Encoder, "_encode_batch", small_encode)
    monkeypatch.setattr(RagTokenGenerator, "_answer_batch", small_answer)
    found = answers(stage, tiny_rag, tmp_path / "answers")
    assert set(halved) == {"encoder", "generator"}
    assert [(row["answer"], row["error"]) for row in found] == [(row["answer"], row["error"]) for row in usual]


@pytest.mark.parametrize("how", ["raises", "not finite"])
def test_a_passage_that_cannot_be_encoded_names_file_and_row(
    stage, sentence_encoder, tmp_path, capsys, monkeypatch, how
):
    wanted = read_manifest(str(stage / "passages"), "chunk").shards[1].path
    titles = pq.read_table(stage / "passages" / wanted)["title"].to_pylist()
    real = Encoder.tokenize

    def boom(self, texts, pairs=None):
        tokens = real(self, texts, pairs)
        if titles[2] in texts:
            if how == "raises":
                raise RuntimeError("boom")
            tokens.ids[list(texts).index(titles[2])][0] = 0  # a token that no other row begins with
        return tokens

    def not_finite(self, batch, shape):
        bad = np.array([row.ids[0] == 0 for row in batch])
        return np.where(bad[:, None], np.nan, encode(self, batch, shape))

    encode = Encoder._encode_batch
    monkeypatch.setattr(Encoder, "tokenize", boom)
    monkeypatch.setattr(Encoder, "_encode_batch", not_finite)
    command = ["embed", "--passages", stage / "passages", "--encoder", sentence_encoder, "--output", tmp_path / "e"]
    code, line = fails(capsys, *command)
    assert code == 1
    assert wanted in line
    assert f"it is row {titles.index(titles[2])} of" in line
    assert ("boom" if how == "raises" else "not finite") in line
    left = {path.name for path in (tmp_path / "e").glob("*.parquet")}
    assert not any("00001-of" in name for name in left)  # the shard with the passage is not there
