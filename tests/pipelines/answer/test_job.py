"""The answer job's flags reach the decoder: presets, n-best, forbidden words, truncation; with BART and T5."""

import dataclasses
import json
import math
import shutil
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
import pytest
import torch
from transformers import ByT5Tokenizer, RagTokenForGeneration, T5Config, T5ForConditionalGeneration

from pipelines.answer import job
from pipelines.answer.job import settled
from pipelines.answer.options import AnswerOptions
from pipelines.transforms.arithmetic import question_dtype
from pipelines.transforms.model_workers import WorkerOptions
from rag_ops.compute import processor
from rag_ops.errors import JobError
from rag_ops.generation.contexts import ContextFormat
from rag_ops.generation.rag_token import RagTokenGenerator
from rag_ops.generation.settings import GenerationSettings
from rag_ops.models import compose
from rag_ops.models.encoder import Encoder
from rag_ops.retrieval import exact
from rag_ops.retrieval.passage_index import PassageIndex
from rag_ops.storage.manifests import read_manifest
from rag_ops.storage.stages import StageOutput
from schemas.passages import Passage
from tests.pipelines.workspace import TOPICS, fails, ragbeam


@pytest.fixture
def stage(searchable):
    """Index and questions, which tests read."""
    return searchable


@pytest.fixture(scope="module")
def t5_rag(tmp_path_factory, sentence_encoder, tokenizer) -> str:
    """A RAG-Token model whose generator is a tiny random T5."""
    return a_t5(tmp_path_factory.mktemp("t5"), sentence_encoder, tokenizer, eos_token_id=3)


def a_t5(directory: Path, encoder: str, tokenizer, eos_token_id: int) -> str:
    torch.manual_seed(4)
    sizes = {"d_model": 16, "d_kv": 8, "d_ff": 32, "num_layers": 2, "num_heads": 2, "initializer_factor": 4.0}
    ids = {"decoder_start_token_id": 0, "eos_token_id": eos_token_id, "pad_token_id": 0}
    T5ForConditionalGeneration(T5Config(vocab_size=len(tokenizer), **sizes, **ids)).save_pretrained(directory / "t5")
    tokenizer.save_pretrained(directory / "t5")
    compose.compose(encoder, str(directory / "t5"), str(directory / "rag"))
    return str(directory / "rag")


def flags(stage, model, output, *more: object, questions: object = None) -> list[object]:
    return [
        *(
            "answer",
            "--questions",
            questions or stage / "questions.jsonl",
            "--index",
            stage / "index",
            "--model",
            model,
        ),
        *("--output", output, "--threads", 1, *more),
    ]


def answers(stage, model, output, *more: object) -> list[dict]:
    """The rows that have no error."""
    ragbeam(*flags(stage, model, output, *more))
    shards = read_manifest(str(output), "answer").shards
    rows = [row for shard in shards for row in pq.read_table(output / shard.path).to_pylist()]
    return [row for row in rows if row["error"] is None]


def test_a_preset_sets_what_it_says_and_a_flag_overrules_it(stage, tiny_rag, tmp_path):
    paper = answers(stage, tiny_rag, tmp_path / "paper", "--preset", "paper", "--max_new_tokens", 5)
    assert {len(row["passages"]) for row in paper} == {15}
    assert {len(row["tokens"]) <= 5 for row in paper} == {True}
    hf = answers(stage, tiny_rag, tmp_path / "hf", "--preset", "hf", "--n_docs", 3, "--max_new_tokens", 5)
    by_hand = answers(stage, tiny_rag, tmp_path / "hand", "--num_beams", 4, "--n_docs", 3, "--max_new_tokens", 5)
    assert {len(row["passages"]) for row in hf} == {3}
    assert [row["answer"] for row in hf] == [row["answer"] for row in by_hand]
    assert [row["score"] for row in hf] == [row["score"] for row in by_hand]


def test_the_device_reaches_the_search_and_one_dtype_questions_and_generator(stage, tiny_rag, tmp_path, monkeypatch):
    used, load, search = [], Encoder.load, exact.search

    def encoder(directory, **how):
        used.append((how["device"], how["dtype"]))
        return load(directory, **how)

    def searched(*given, device, **how):
        used.append(device)
        return search(*given, device=device, **how)

    monkeypatch.setattr(Encoder, "load", encoder)
    monkeypatch.setattr(exact, "search", searched)
    for given, dtype in (("auto", processor.best_dtype()), ("float32", "float32")):
        used.clear()
        more = ["--device", "cpu", "--compute_dtype", given, "--max_new_tokens", 2]
        assert answers(stage, tiny_rag, tmp_path / given, *more)
        assert set(used) == {("cpu", dtype), "cpu"}
        config = read_manifest(str(tmp_path / given), "answer").config
        assert config["compute_dtype"] == dtype
        assert config.get("question_dtype", "float32") == dtype


@pytest.mark.parametrize("able", [True, False])
def test_auto_is_what_the_output_was_made_in_else_the_processors_best(tmp_path, monkeypatch, able):
    monkeypatch.setattr(processor, "computes", lambda dtype: able or dtype == "float32")
    options = AnswerOptions(questions=["q"], index="i", model="m", output=str(tmp_path / "out"))
    best = "bfloat16" if able else "float32"
    assert settled(options, []).compute_dtype == best
    assert settled(options, ["--runner", "FlinkRunner"]).compute_dtype == best
    for runner in ([], ["--runner", "FlinkRunner"]):
        assert question_dtype(best, WorkerOptions(), runner) == best
        assert question_dtype(best, WorkerOptions(device="cuda"), runner) == "float32"
    lazy = dataclasses.replace(options, generation=GenerationSettings(lazy=True))
    assert settled(lazy, []).compute_dtype == "float32"
    monkeypatch.setattr(StageOutput, "continued", lambda output: {"compute_dtype": "float32"})
    assert settled(options, []).compute_dtype == "float32"
    assert settled(dataclasses.replace(options, overwrite=True), []).compute_dtype == best
    wide = dataclasses.replace(options, compute_dtype="bfloat16")
    if able:
        assert settled(wide, []) == wide
    else:
        with pytest.raises(JobError, match="no instructions for bfloat16"):
            settled(wide, [])


@pytest.mark.parametrize("generator", ["tiny_rag", "t5_rag"])
def test_tokens_and_alternatives_stand_in_the_table(stage, request, tmp_path, generator):
    model = request.getfixturevalue(generator)
    rows = answers(stage, model, tmp_path / "out", "--num_beams", 3, "--n_best", 3, "--max_new_tokens", 4)
    assert len(rows) == len(TOPICS) + 1
    for row in rows:
        assert len(row["alternatives"]) == 2
        assert sum(token["log_probability"] for token in row["tokens"]) == pytest.approx(row["score"], abs=1e-4)
        shares = [passage["posterior"] for passage in row["passages"]]
        assert math.fsum(shares) == pytest.approx(1, abs=1e-5)
        for place, share in enumerate(shares):
            mean = sum(token["posterior"][place] for token in row["tokens"]) / len(row["tokens"])
            assert mean == pytest.approx(share, abs=1e-5)


def test_a_generator_of_bytes_whose_tokenizer_is_slow_answers_as_transformers_does(stage, sentence_encoder, tmp_path):
    tokenizer = ByT5Tokenizer()
    assert not tokenizer.is_fast
    directory = a_t5(tmp_path, sentence_encoder, tokenizer, eos_token_id=1)
    limits = ["--n_docs", 2, "--min_length", 5, "--max_new_tokens", 7, "--num_beams", 2, "--compute_dtype", "float32"]
    rows = answers(stage, directory, tmp_path / "out", *limits)
    assert len(rows) == len(TOPICS) + 1
    model = RagTokenForGeneration.from_pretrained(directory)
    for row in rows:
        texts = [f"{found['title']} / {found['text']} // {row['question']}" for found in row["passages"]]
        contexts = tokenizer(texts, return_tensors="pt", padding=True)
        (expected,) = model.generate(
            context_input_ids=contexts["input_ids"],
            context_attention_mask=contexts["attention_mask"],
            doc_scores=torch.tensor([[found["score"] for found in row["passages"]]]),
            **{"n_docs": 2, "num_beams": 2, "min_length": 5, "max_length": 8, "early_stopping": False},
        )
        assert row["answer"] == tokenizer.decode(expected, skip_special_tokens=True).strip()
    assert len({row["answer"] for row in rows}) > 1


def test_a_forbidden_word_does_not_come(stage, tiny_rag, tmp_path):
    def tokens(rows: list[dict]) -> set[str]:
        return {token["text"] for row in rows for token in row["tokens"]}

    free = tokens(answers(stage, tiny_rag, tmp_path / "free", "--max_new_tokens", 6))
    word = min(text for text in free if text[0] not in "#[")  # no piece, no special token
    kept = tokens(answers(stage, tiny_rag, tmp_path / "kept", "--max_new_tokens", 6, "--forbidden_words", word))
    assert word not in kept


def test_forced_tokens_are_the_models_unless_told_otherwise_and_the_fingerprint_knows_them(
    stage, tiny_rag, tmp_path, capsys
):
    end = json.loads((Path(tiny_rag) / "config.json").read_text())["generator"]["eos_token_id"]
    model = tmp_path / "model"
    shutil.copytree(tiny_rag, model)
    limit = ("--max_new_tokens", 4)
    forced = answers(stage, model, tmp_path / "model answers", *limit)
    free = answers(stage, model, tmp_path / "free", *limit, "--forced_tokens", "none")
    assert {row["tokens"][-1]["text"] for row in forced} == {"[SEP]"}
    assert any(row["tokens"][-1]["text"] != "[SEP]" for row in free)
    for settings, expected in (("model answers", [end]), ("free", [])):
        config = read_manifest(str(tmp_path / settings), "answer").config
        assert config["special_tokens"] == {"pad": 0, "start": 2, "ends": [end], "first": None, "last": expected}
    # generation_config.json is no part of the model's digest; the tokens that it names decide all the same
    path = model / "generation_config.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | {"forced_bos_token_id": 50}))
    code, line = fails(capsys, *flags(stage, model, tmp_path / "model answers", *limit))
    assert code == 2
    assert "special_tokens" in line
    command = ["evaluate", "--answers", tmp_path / "model answers", "--output", tmp_path / "e.json"]
    code, line = fails(capsys, *command, "--model", model, "--sweep", 3)
    assert code == 2
    assert "other special tokens" in line


def test_extractive_answers_stand_in_a_passage(stage, tiny_rag, tmp_path):
    def standing(rows: list[dict]) -> list[bool]:
        """The random model never ends: its answers are cut, maybe in a word."""
        texts = [[one["title"] + "|" + one["text"] for one in row["passages"]] for row in rows]
        answers = [row["answer"].replace(" ", "") for row in rows]
        return [any(a in text.replace(" ", "") for text in found) for a, found in zip(answers, texts, strict=True)]

    assert not any(standing(answers(stage, tiny_rag, tmp_path / "free", "--max_new_tokens", 12)))
    kept = standing(answers(stage, tiny_rag, tmp_path / "kept", "--max_new_tokens", 12, "--extractive"))
    assert kept
    assert all(kept)


def test_a_cut_context_is_told_and_truncation_decides_what_is_cut(stage, tiny_rag, tmp_path):
    short = ("--max_new_tokens", 3, "--max_combined_length", 18)
    ours = answers(stage, tiny_rag, tmp_path / "ours", *short)
    hf = answers(stage, tiny_rag, tmp_path / "hf", *short, "--truncation", "hf")
    assert all(row["truncated"] for row in ours)
    assert [row["score"] for row in ours] != [row["score"] for row in hf]


def test_lazy_answers_are_the_same_from_fewer_passages(stage, tiny_rag, tmp_path):
    settings = ("--max_new_tokens", 6, "--n_docs", 6, "--score_scale", 500)
    plain = answers(stage, tiny_rag, tmp_path / "plain", *settings, "--compute_dtype", "float32")
    lazy = answers(stage, tiny_rag, tmp_path / "lazy", *settings, "--lazy", "--retrieve", 8)
    exact = answers(stage, tiny_rag, tmp_path / "exact", *settings, "--lazy", "--exact_scores")
    read = {}  # by question, for two rows ask the same
    for one, fast, whole in zip(plain, lazy, exact, strict=True):
        assert one["answer"] == fast["answer"] == whole["answer"]
        shares = [passage["posterior"] for passage in fast["passages"]]
        read[one["question"]] = sum(share is not None for share in shares)
        assert shares[6:] == [None, None]
        for token in fast["tokens"]:
            assert [share is None for share in token["posterior"]] == [share is None for share in shares[:6]]
        assert fast["score"] - 1e-4 <= one["score"] <= fast["score_high"] + 1e-4
        assert one["score"] == one["score_high"] == pytest.approx(whole["score"], abs=1e-4)
        for passage, other in zip(one["passages"], whole["passages"], strict=True):
            assert passage["posterior"] == pytest.approx(other["posterior"], abs=1e-4)
    given = 6 * len(read)
    assert len(read) <= sum(read.values()) < given
    counts = {
        name: json.loads((tmp_path / name / "run.json").read_text())["steps"]["Generate"]
        for name in ("plain", "lazy", "exact")
    }
    assert {name: one["passages"] for name, one in counts.items()} == dict.fromkeys(counts, given)
    assert {name: one["passages_read"] for name, one in counts.items()} == {
        **{"plain": given, "lazy": sum(read.values()), "exact": given}
    }
    report = tmp_path / "e.html"
    ragbeam("evaluate", "--answers", tmp_path / "lazy", "--output", report, "--gold", stage / "questions.jsonl")
    assert report.exists()


def test_lazy_refuses_a_generator_that_is_no_bart(stage, t5_rag, tmp_path, capsys):
    code, line = fails(capsys, *flags(stage, t5_rag, tmp_path / "out", "--lazy"))
    assert code == 2
    assert "--lazy knows no bound of rounding for this generator: 'model_type t5'" in line
    assert not (tmp_path / "out").exists()


def test_the_score_scale_weighs_the_passages(stage, tiny_rag, tmp_path):
    plain, sharp = (
        answers(stage, tiny_rag, tmp_path / str(scale), "--max_new_tokens", 3, "--score_scale", scale)
        for scale in (1, 10_000)
    )
    assert all(max(p["posterior"] for p in row["passages"]) < 0.9 for row in plain)
    best = [row["passages"][0] for row in sharp if row["passages"][0]["score"] > row["passages"][1]["score"] + 0.01]
    assert all(passage["posterior"] > 0.99 for passage in best)


def ask(stage, model, tmp_path, rows: list[object], *more: object) -> list[dict]:
    """The rows of answers to a file of these rows of JSON, or lines."""
    lines = [row if isinstance(row, str) else json.dumps(row) for row in rows]
    (tmp_path / "q.jsonl").write_text("\n".join(lines))
    more = ("--max_new_tokens", 3, *more)
    command = flags(stage, model, tmp_path / "out", *more, questions=tmp_path / "q.jsonl")
    ragbeam(*command)
    shards = read_manifest(str(tmp_path / "out"), "answer").shards
    return [row for shard in shards for row in pq.read_table(tmp_path / "out" / shard.path).to_pylist()]


def test_gold_answers_as_kilt_has_them_are_kept_and_an_odd_one_stops_no_question(stage, tiny_rag, tmp_path, caplog):
    output = [{"answer": "ice", "provenance": [{"title": "Ice"}]}, {"provenance": [{"title": "Sun"}]}]
    rows = [{"id": "k1", "input": "what is ice", "output": output}, {"id": "k2", "input": "who", "output": [{"x": 1}]}]
    first, second = ask(stage, tiny_rag, tmp_path, rows, "--question_column", "input", "--answer_column", "output")
    assert (first["question_id"], first["gold_answers"], first["error"]) == ("k1", ["ice"], None)
    assert (second["question_id"], second["gold_answers"], second["error"]) == ("k2", None, None)
    assert second["answer"] is not None
    assert "gold answers of 1 of 2 rows cannot be read" in caplog.text
    assert "an object of x, q.jsonl:2" in caplog.text
    written = json.loads((tmp_path / "out" / "run.json").read_text())["info"]
    assert written["unreadable_gold_answers"] == 1
    assert written["errors"] == {}


def test_errors_are_counted_on_the_last_line_and_many_are_explained(stage, tiny_rag, tmp_path, caplog, capsys):
    rows = [{"question": f"what is {n % 3}"} for n in range(100)]
    broken = ['{"question": ', '{"question": "who', {"question": ""}]
    found = ask(stage, tiny_rag, tmp_path, [*rows[:1], *broken, *rows[1:]])
    assert [number for number, row in enumerate(found) if row["error"]] == [1, 2, 3]
    for again in (False, True):  # also when there is nothing to do
        if again:
            ragbeam(*flags(stage, tiny_rag, tmp_path / "out", "--max_new_tokens", 3, questions=tmp_path / "q.jsonl"))
        assert capsys.readouterr().out.splitlines()[-1].endswith("; 3 with an error")
        assert "3 of 103 rows (2.9%) have an error, 2 of them: the line is not JSON" in caplog.text
        caplog.clear()


def test_few_errors_are_only_counted(stage, tiny_rag, tmp_path, caplog, capsys):
    ask(stage, tiny_rag, tmp_path, [*({"question": f"what is {n % 3}"} for n in range(99)), {"question": ""}])
    assert capsys.readouterr().out.splitlines()[-1].endswith("; 1 with an error")
    assert "have an error" not in caplog.text


@pytest.mark.parametrize("contexts", ["title", "title_section"])
def test_the_generator_reads_sections_if_the_encoder_did(sentence_encoder, tiny_rag, tmp_path, contexts):
    rows = [{"id": "1", "title": "the moon", "text": "ice is in the river", "section": "the king"}]
    (tmp_path / "articles.jsonl").write_text(json.dumps(rows[0]))
    ragbeam("chunk", "--input", tmp_path / "articles.jsonl", "--output", tmp_path / "passages", "--num_shards", 1)
    embed = ["embed", "--passages", tmp_path / "passages", "--encoder", sentence_encoder, "--contexts", contexts]
    ragbeam(*embed, "--output", tmp_path / "embeddings")
    ragbeam("index", "--embeddings", tmp_path / "embeddings", "--output", tmp_path / "index")
    more = ["--n_docs", 1, "--compute_dtype", "float32"]
    [row] = ask(tmp_path, tiny_rag, tmp_path, [{"question": "what is the moon"}], *more)
    section = "the king" if contexts == "title_section" else ""
    assert [(one["title"], one["section"]) for one in row["passages"]] == [("the moon", section)]
    read = PassageIndex(str(tmp_path / "index")).passages([0])
    assert read == [Passage("1:0", "the moon", "ice is in the river", section)]
    form = ContextFormat(" / ", " // ", "", 100)
    assert form.render(read[0], "what")[0].startswith("the moon > the king / ice" if section else "the moon / ice")
    generator = RagTokenGenerator.load(tiny_rag, GenerationSettings(max_new_tokens=3), device="cpu", threads=1)
    score = np.array([[row["passages"][0]["score"]]], np.float32)
    [alone] = generator.answer(["what is the moon"], [read], score)
    assert alone.score == pytest.approx(row["score"], abs=1e-5)


def test_rows_whose_passages_are_cut_are_counted_and_warned_of(stage, tiny_rag, tmp_path, caplog):
    rows = [{"question": f"what is {n % 3}"} for n in range(3)]
    found = ask(stage, tiny_rag, tmp_path, rows, "--max_combined_length", 12)
    assert [row["truncated"] for row in found] == [True] * 3
    assert "in 3 of 3 rows (100.0%) the question or a passage is cut" in caplog.text
    assert read_manifest(str(tmp_path / "out"), "answer").info["truncated"] == 3


@pytest.mark.parametrize(
    ("more", "message"),
    [
        (["--preset", "best"], "--preset is unknown: 'best'"),
        (["--n_best", 2], "--n_best is more than --num_beams: 2"),
        (["--truncation", "middle"], "--truncation is unknown: 'middle'"),
        (["--forced_tokens", "all"], "--forced_tokens is unknown: 'all'"),
        (["--length_penalty", "nan"], "--length_penalty is not finite: nan"),
        (["--spelling", "american"], "--spelling is unknown: 'american'"),
        (["--score_scale", 0], "--score_scale is out of range: 0"),
        (["--compute_dtype", "int8"], "--compute_dtype is unknown: 'int8'"),
        (["--min_length", 9, "--max_new_tokens", 3], "--min_length is out of range: 9"),
        (["--no_repeat_ngram_size", -1], "--no_repeat_ngram_size is negative: -1"),
        (["--num_beams", 0], "--num_beams is too small: 0"),
        (["--lazy", "--num_beams", 2], "--lazy is for greedy decoding: '--num_beams 2'"),
        (["--lazy", "--preset", "hf"], "--lazy is for greedy decoding: '--num_beams 4'"),
        (["--lazy", "--compute_dtype", "bfloat16"], "--lazy proves its tokens in float32 alone"),
        (["--exact_scores"], "--exact_scores is a part of --lazy"),
    ],
)
def test_bad_flags_are_one_line(stage, tiny_rag, tmp_path, capsys, more, message):
    code, line = fails(capsys, *flags(stage, tiny_rag, tmp_path / "out", *more))
    assert code == 2
    assert message in line
    assert not (tmp_path / "out").exists()


def test_a_question_file_that_changes_between_its_digest_and_its_reading_fails_the_job(
    stage, tiny_rag, tmp_path, monkeypatch, capsys
):
    questions = tmp_path / "questions.jsonl"
    shutil.copy(stage / "questions.jsonl", questions)
    prepare = job.blocks.prepare

    def prepare_late(*given):
        questions.write_text(questions.read_text() + '{"question": "who came late?"}\n')
        return prepare(*given)

    monkeypatch.setattr(job.blocks, "prepare", prepare_late)
    command = flags(stage, tiny_rag, tmp_path / "out", "--max_new_tokens", 3, questions=questions)
    code, line = fails(capsys, *command)
    assert (code, "changed while it was read" in line) == (1, True)
    assert not (tmp_path / "out").exists()


def test_a_model_that_changes_while_it_is_used_fails_the_job(stage, tiny_rag, tmp_path, monkeypatch, capsys):
    model = shutil.copytree(tiny_rag, tmp_path / "model")
    prepare = job.blocks.prepare

    def prepare_late(*given):
        (model / "config.json").write_text((model / "config.json").read_text() + "\n")
        return prepare(*given)

    monkeypatch.setattr(job.blocks, "prepare", prepare_late)
    command = flags(stage, model, tmp_path / "out", "--max_new_tokens", 3)
    code, line = fails(capsys, *command)
    assert (code, "changed while it was read" in line) == (1, True)
    assert not (tmp_path / "out" / "manifest.json").exists()
