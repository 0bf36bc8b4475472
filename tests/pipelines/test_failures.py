"""A model that fails: on a question it costs the row, on most the job; on a passage it names file and row.

Out of memory it halves.
"""

import json

import numpy as np
import pyarrow.parquet as pq
import pytest
import torch

from pipelines.transforms import question_blocks
from rag_ops.generation.rag_token import RagTokenGenerator
from rag_ops.models.encoder import Encoder
from rag_ops.storage.manifests import read_manifest
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

    def small_answer(self, contexts, *more):
        if len(contexts) > 2:
            halved.append("generator")
            raise torch.cuda.OutOfMemoryError("CUDA out of memory. Tried to allocate 2 GiB")
        return real_answer(self, contexts, *more)

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
            tokens[list(texts).index(titles[2])].ids[0] = 0  # a token that no other row begins with
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


class Broken:
    """Makes the generator fail on contexts with "!", and notes the questions that it is asked."""

    def __init__(self, monkeypatch, tokenizer):
        self.asked: list[str] = []
        self.repaired = False
        mark = tokenizer.convert_tokens_to_ids("!")
        encode, answer = RagTokenGenerator._encode, RagTokenGenerator.answer

        def boom(model, ids, mask):
            if (ids == mark).any() and not self.repaired:
                raise RuntimeError("boom in the generator")
            return encode(model, ids, mask)

        def noted(model, questions, *rest, **more):
            self.asked += questions
            return answer(model, questions, *rest, **more)

        monkeypatch.setattr(RagTokenGenerator, "_encode", boom)
        monkeypatch.setattr(RagTokenGenerator, "answer", noted)


def many(stage, directory, model, bad: list[bool], *more: object) -> list[object]:
    """The command line for as many questions, in blocks of ten, and as many rows again that cannot be read."""
    rows = [{"id": f"q{n}", "question": f"what is {n}" + " !" * fails} for n, fails in enumerate(bad)]
    rows += [{"id": f"empty{n}", "question": " "} for n in range(len(bad))]
    (directory / "many.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    command = ["answer", "--questions", directory / "many.jsonl", "--index", stage / "index", "--model", model]
    command += ["--output", directory / "answers", "--threads", 1, "--max_new_tokens", 3, "--block_questions", 10]
    return [*command, *more]


def rows_of(directory) -> list[dict]:
    shards = read_manifest(str(directory / "answers"), "answer").shards
    return [row for shard in shards for row in pq.read_table(directory / "answers" / shard.path).to_pylist()]


def test_over_half_of_the_questions_failing_alike_end_the_job_and_a_resume_asks_them_again(
    stage, tiny_rag, tokenizer, tmp_path, capsys, monkeypatch
):
    broken = Broken(monkeypatch, tokenizer)
    command = many(stage, tmp_path, tiny_rag, [n >= 10 and n % 5 > 0 for n in range(30)])  # 16 of 30
    for _ in range(2):  # the second time, too, nothing counts as done that failed
        code, line = fails(capsys, *command)
        assert code == 1
        assert "the model failed alike on 16 of 30 questions: 'the model failed (RuntimeError: boom in the" in line
        assert not list((tmp_path / "answers").glob("*.parquet"))
        assert not (tmp_path / "answers" / "manifest.json").exists()
    assert broken.asked == [*(f"what is {n}" + " !" * (n >= 10 and n % 5 > 0) for n in range(30)), *broken.asked[10:30]]
    broken.repaired = True
    broken.asked.clear()
    ragbeam(*command)
    assert len(broken.asked) == 20, "the block without a failure is asked again, or one with failures is not"
    rows = rows_of(tmp_path)
    assert [row["error"] for row in rows[:30]] == [None] * 30
    assert len(rows) == 60
    again = tmp_path / "again"
    again.mkdir()
    ragbeam(*many(stage, again, tiny_rag, [n >= 10 and n % 5 > 0 for n in range(30)]))
    assert rows_of(again) == rows


def test_keep_going_writes_the_answers_with_their_errors(stage, tiny_rag, tokenizer, tmp_path, capsys, monkeypatch):
    Broken(monkeypatch, tokenizer)
    command = many(stage, tmp_path, tiny_rag, [True] * 25)
    assert fails(capsys, *command)[0] == 1
    ragbeam(*command, "--keep_going")
    rows = rows_of(tmp_path)
    assert len(rows) == 50
    assert {row["error"] for row in rows[:25]} == {"the model failed (RuntimeError: boom in the generator)"}


@pytest.mark.parametrize("bad", [[True] * 19, [n % 2 == 0 for n in range(24)]], ids=["19 questions", "half of 24"])
def test_fewer_failures_are_rows_with_errors(stage, tiny_rag, tokenizer, tmp_path, monkeypatch, bad):
    Broken(monkeypatch, tokenizer)
    ragbeam(*many(stage, tmp_path, tiny_rag, bad))
    assert [row["error"] is not None for row in rows_of(tmp_path)[: len(bad)]] == bad


def test_what_was_answered_before_counts_when_a_killed_job_goes_on(
    stage, tiny_rag, tokenizer, tmp_path, capsys, monkeypatch
):
    """Killed after all blocks, before the check: the next run has nothing to ask, and still does not take them."""
    from pipelines.answer import job as answer

    Broken(monkeypatch, tokenizer)
    command = many(stage, tmp_path, tiny_rag, [True] * 25)
    with monkeypatch.context() as patch:
        patch.setattr(question_blocks, "check_failures", lambda *_, **__: 1 / 0)
        patch.setattr(answer.blocks, "forget_failures", lambda directory: None)
        assert fails(capsys, *command)[0] == 1
    code, line = fails(capsys, *command)
    assert code == 1
    assert "on 25 of 25 questions" in line


def test_no_unit_is_pickled_to_count_its_bytes(monkeypatch, tiny_rag):
    import pyarrow as pa
    from apache_beam.ml.inference import base

    from pipelines.transforms.inference import AnswerUnit, EncoderHandler, GeneratorHandler, ModelSettings, TextUnit
    from pipelines.transforms.model_workers import WorkerOptions
    from rag_ops.generation.settings import GenerationSettings
    from schemas.passages import Passage

    texts = TextUnit(0, pa.table({"question": ["who is the king"] * 100}))
    asked = AnswerUnit(
        0, ["who"], [[Passage("1", "moon", "ice" * 1000)]], np.zeros((1, 5), np.float32), np.zeros(1, bool)
    )
    settings = ModelSettings(tiny_rag, WorkerOptions(device="cpu", threads=1))
    handlers = (
        (EncoderHandler("Encode", settings, "question", ("question",), "float32"), texts, texts.table.nbytes),
        (
            GeneratorHandler("Generate", settings, GenerationSettings(), 5),
            asked,
            3000 + 4 + 3 + 21,
        ),
    )
    monkeypatch.setattr(base.pickle, "dumps", lambda *_: pytest.fail("pickled"))
    for handler, unit, expected in handlers:
        assert handler.get_num_bytes([unit]) == expected
        assert handler.get_num_bytes([unit, unit]) == 2 * expected
