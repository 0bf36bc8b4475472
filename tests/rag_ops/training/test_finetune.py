"""Fine-tuning: EM rises on questions that were held out, and a training that was interrupted ends as if it was not."""

import copy
import dataclasses
import json
import shutil
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
import pytest
import torch
import transformers

from rag_ops import RagRetriever, RagSequenceForGeneration, RagTokenForGeneration, RagTokenizer
from rag_ops.errors import InputError
from rag_ops.generation.rag_token import RagTokenGenerator
from rag_ops.interop.model_card import RagbeamIndex, ask_behind
from rag_ops.models import checkpoints
from rag_ops.models.compose import compose
from rag_ops.models.encoder import Encoder
from rag_ops.models.loading import load_encoder_tokenizer
from rag_ops.models.prompting import encoder_note
from rag_ops.models.sentence_encoders import EncoderChanges
from rag_ops.questions.reading import Question, QuestionOptions, read_questions
from rag_ops.retrieval.corpus import prefix_config
from rag_ops.retrieval.passage_index import PassageIndex
from rag_ops.storage.manifests import read_manifest
from rag_ops.training.data import Collator, split_questions
from rag_ops.training.finetune import CHECKPOINTS, HISTORY, FinetuneSettings, finetune
from tests.conftest import make_bart
from tests.pipelines.workspace import fails, ragbeam

SUBJECTS = "moon sun river king city war ice".split()
SETTINGS = FinetuneSettings(epochs=2, learning_rate=1e-3, batch_size=8, n_docs=2, eval_steps=2, seed=3)
FEW, STEPS = 30, 8  # questions: four steps an epoch


@pytest.fixture(scope="module")
def kingdom(tmp_path_factory, sentence_encoder, tokenizer) -> dict[str, str]:
    """Passages about numbered things, an index of them, questions with gold answers, and a small RAG-Token model."""
    directory = tmp_path_factory.mktemp("kingdom")
    articles, questions = directory / "articles.jsonl", directory / "questions.jsonl"
    with articles.open("w") as passages, questions.open("w") as asked:
        for number in range(105):
            subject = SUBJECTS[number % 7]
            text = f"the {subject} of {number} is in the {subject} "
            passages.write(json.dumps({"id": number, "title": f"{subject} {number}", "text": text}) + "\n")
            row = {"question": f"what is the {subject} {number}", "answer": [subject, f"the {subject}"]}
            asked.write(json.dumps(row) + "\n")
    generator = make_bart(directory / "bart", tokenizer, seed=5, layers=1, width=32, init_std=0.1, dropout=0.0)
    model, index = directory / "model", directory / "index"
    ragbeam("chunk", "--input", articles, "--output", directory / "passages")
    ragbeam("embed", "--passages", directory / "passages", "--encoder", sentence_encoder, "--output", directory / "e")
    ragbeam("index", "--embeddings", directory / "e", "--output", index)
    ragbeam("compose", "--question_encoder", sentence_encoder, "--generator", generator, "--output", model)
    return {"questions": str(questions), "index": str(index), "model": str(model)}


def questions_of(kingdom: dict[str, str]) -> list[Question]:
    return list(read_questions([kingdom["questions"]], QuestionOptions()))


def few_questions(kingdom: dict[str, str]) -> list[Question]:
    return questions_of(kingdom)[:FEW]


def stop_at(last: int) -> Callable[[int, int], None]:
    """Ends the training as a killed process would, after a step and before anything is saved of it."""

    def on_step(step: int, steps: int) -> None:
        if step == last:
            raise KeyboardInterrupt

    return on_step


@pytest.fixture(scope="module")
def undisturbed(kingdom, tmp_path_factory) -> tuple[str, object]:
    output = str(tmp_path_factory.mktemp("undisturbed"))
    return output, finetune(kingdom["model"], kingdom["index"], few_questions(kingdom), output, SETTINGS)


def test_an_interrupted_training_resumes_on_the_same_curve(kingdom, undisturbed, tmp_path):
    arguments = (kingdom["model"], kingdom["index"], few_questions(kingdom), str(tmp_path), SETTINGS)
    with pytest.raises(KeyboardInterrupt):
        finetune(*arguments, on_step=stop_at(3))
    assert not (tmp_path / "config.json").exists(), "an unfinished model must not look like a finished one"
    result = finetune(*arguments, resume=True)
    assert len(result.losses) == STEPS
    assert result == undisturbed[1]
    ours, theirs = (Path(place, "model.safetensors").read_bytes() for place in (tmp_path, undisturbed[0]))
    assert ours == theirs


def test_a_checkpoint_half_written_is_passed_over_and_overwrite_does_not_hinder_resuming(
    kingdom, undisturbed, tmp_path
):
    arguments = (kingdom["model"], kingdom["index"], few_questions(kingdom), str(tmp_path), SETTINGS)
    with pytest.raises(KeyboardInterrupt):
        finetune(*arguments, overwrite=True, on_step=stop_at(5))
    folder = tmp_path / CHECKPOINTS
    assert sorted(path.name for path in folder.glob("checkpoint-*")) == ["checkpoint-2", "checkpoint-4"]
    state = folder / "checkpoint-4" / "trainer_state.json"
    state.write_bytes(state.read_bytes()[:100])
    (folder / "checkpoint-6").mkdir()
    (folder / "checkpoint-6" / "model.safetensors").write_bytes(b"half")
    steps = []
    assert (
        finetune(*arguments, resume=True, overwrite=True, on_step=lambda step, _: steps.append(step)) == undisturbed[1]
    )
    assert steps[0] == 3
    ours, theirs = (Path(place, "model.safetensors").read_bytes() for place in (tmp_path, undisturbed[0]))
    assert ours == theirs


@pytest.mark.parametrize(
    "error", [RuntimeError("could not create a primitive"), OSError(28, "No space left on device")]
)
def test_a_failure_of_the_machine_in_an_evaluation_ends_the_training(
    kingdom, undisturbed, tmp_path, capsys, monkeypatch, error
):
    """At the third evaluation, after a checkpoint; no answer counts as wrong for it."""
    rows = [{"question": q.question, "answer": list(q.answers)} for q in few_questions(kingdom)]
    (tmp_path / "few.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    command = ["finetune", "--model", kingdom["model"], "--index", kingdom["index"], "--train", tmp_path / "few.jsonl"]
    command += ["--output", tmp_path / "out", "--epochs", 2, "--learning_rate", 1e-3, "--n_docs", 2, "--eval_steps", 2]
    command += ["--seed", 3]
    real, calls = RagTokenGenerator._encode, []

    def failing(*arguments):
        calls.append(arguments)
        if len(calls) > 2:
            raise error
        return real(*arguments)

    with monkeypatch.context() as patch:
        patch.setattr(RagTokenGenerator, "_encode", failing)
        code, line = fails(capsys, *command)
    assert code == 1
    assert str(error).removeprefix("[Errno 28] ") in line
    assert ("lower one of --batch_size, --n_docs, or" in line) == isinstance(error, RuntimeError)
    assert not (tmp_path / "out" / "config.json").exists()
    ragbeam(*command, "--resume")
    ours, theirs = (Path(place, "model.safetensors").read_bytes() for place in (tmp_path / "out", undisturbed[0]))
    assert ours == theirs


def test_without_a_whole_checkpoint_it_begins_again(kingdom, undisturbed, tmp_path):
    arguments = (kingdom["model"], kingdom["index"], few_questions(kingdom), str(tmp_path), SETTINGS)
    with pytest.raises(KeyboardInterrupt):
        finetune(*arguments, on_step=stop_at(3))
    (tmp_path / CHECKPOINTS / "checkpoint-2" / "trainer_state.json").unlink()
    assert finetune(*arguments, resume=True) == undisturbed[1]


def test_checkpoints_go_and_the_history_stays(undisturbed):
    output, result = undisturbed
    assert not Path(output, CHECKPOINTS).exists()
    history = json.loads(Path(output, HISTORY).read_text())
    assert history["losses"] == result.losses
    assert history["evaluations"] == result.evaluations
    assert {"step", "loss", "em", "f1"} == set(result.evaluations[0])


def test_em_rises_on_held_out_questions_and_answer_uses_the_result(kingdom, tmp_path, capsys):
    output, answers = tmp_path / "trained", tmp_path / "answers"
    ragbeam(
        *("finetune", "--model", kingdom["model"], "--index", kingdom["index"], "--train", kingdom["questions"]),
        *(
            "--output",
            output,
            "--epochs",
            12,
            "--learning_rate",
            5e-3,
            "--eval_steps",
            30,
            "--n_docs",
            2,
            "--eval_fraction",
            0.3,
        ),
    )
    printed = capsys.readouterr().out
    history = json.loads((output / HISTORY).read_text())
    first, last = history["evaluations"][0], history["evaluations"][-1]
    assert f"EM {last['em']:.2%}" in printed
    assert last["loss"] < first["loss"]
    assert last["em"] >= first["em"] + 0.3
    assert last["em"] >= 0.5
    # The saved model answers as it did when it was last evaluated, in our job and in transformers.
    held_out = split_questions(questions_of(kingdom), None, 0.3)[1]
    asked = tmp_path / "held_out.jsonl"
    asked.write_text(
        "".join(json.dumps({"question": row["question"], "answer": row["answers"]}) + "\n" for row in held_out)
    )
    ragbeam(
        *("answer", "--questions", asked, "--index", kingdom["index"], "--model", output, "--output", answers),
        *("--n_docs", 2, "--max_new_tokens", 32),
    )
    shards = read_manifest(str(answers), "answer").shards
    rows = [row for shard in shards for row in pq.read_table(answers / shard.path).to_pylist()]
    right = [any(row["answer"].lower() == gold for gold in row["gold_answers"]) for row in rows]
    assert len(right) == len(held_out)
    assert sum(right) / len(right) == pytest.approx(last["em"])
    transformers.RagTokenForGeneration.from_pretrained(output)
    transformers.RagTokenizer.from_pretrained(output)


def test_a_query_prefix_is_trained_with_and_stays_with_the_model(
    kingdom, sentence_encoder, tmp_path, monkeypatch, capsys
):
    """Training searches with the vectors of `answer --query_prefix`, and `answer` needs no flag for the result."""
    prefix, asked = "war of the ", questions_of(kingdom)[:12]
    embed = ["embed", "--passages", Path(kingdom["index"]).parent / "passages", "--encoder", sentence_encoder]
    ragbeam(*embed, "--passage_prefix", "ice of the ", "--output", tmp_path / "embeddings")
    ragbeam("index", "--embeddings", tmp_path / "embeddings", "--output", tmp_path / "index", "--spec", "Flat")
    rows = [{"question": question.question, "answer": list(question.answers)} for question in asked]
    (tmp_path / "asked.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    command = ["finetune", "--model", kingdom["model"], "--index", tmp_path / "index", "--n_docs", 2]
    command += ["--train", tmp_path / "asked.jsonl", "--eval", tmp_path / "asked.jsonl", "--max_steps", 1]
    command += ["--freeze", "rag.question_encoder", "--output", tmp_path / "trained", "--answerable_only"]
    code, line = fails(capsys, *command)
    assert code == 2
    assert "nothing says what stands before a question" in line
    searched, real = [], PassageIndex.search
    monkeypatch.setattr(PassageIndex, "search", lambda self, found, k: searched.append(found) or real(self, found, k))
    ragbeam(*command, "--query_prefix", prefix)
    texts = [question.question for question in asked]
    wanted, bare = (
        Encoder.load(kingdom["model"], role="question", dtype="float32", changes=EncoderChanges(one)).encode(texts)[0]
        for one in (prefix, None)
    )
    np.testing.assert_allclose(searched[0], wanted, atol=1e-5)
    assert np.abs(searched[0] - bare).max() > 0.01
    trained = str(tmp_path / "trained")
    assert checkpoints.encoder_config(trained, "question").prompt == prefix
    assert json.loads(Path(trained, HISTORY).read_text())["settings"]["query_prefix"] == prefix
    assert prefix_config(trained, prefix) == {}
    ragbeam(
        *("answer", "--questions", tmp_path / "asked.jsonl", "--index", tmp_path / "index", "--model", trained),
        *("--output", tmp_path / "answers", "--n_docs", 2, "--max_new_tokens", 1, "--compute_dtype", "float32"),
    )
    shards = read_manifest(str(tmp_path / "answers"), "answer").shards
    answered = [row for shard in shards for row in pq.read_table(tmp_path / "answers" / shard.path).to_pylist()]
    scores = real(PassageIndex(str(tmp_path / "index")), wanted, 2).scores
    np.testing.assert_allclose([[one["score"] for one in row["passages"]] for row in answered], scores, atol=1e-4)


def test_a_training_resumes_with_its_own_prefix_alone(kingdom, tmp_path):
    arguments = (kingdom["model"], kingdom["index"], few_questions(kingdom), str(tmp_path), SETTINGS)
    with pytest.raises(KeyboardInterrupt):
        finetune(*arguments, query_prefix="war of the ", on_step=stop_at(1))
    for other in (None, "ice: "):
        with pytest.raises(InputError, match="started with another query_prefix"):
            finetune(*arguments, query_prefix=other, resume=True)


@pytest.mark.parametrize("kind", ["dpr", "sentence"])
def test_a_loaded_model_asks_behind_another_prompt(kind, dpr_pair, sentence_encoder, tiny_bart, tmp_path):
    """DPR's encoder gives its vectors itself, and gets the prompt all the same; the last prompt is the only one."""
    compose({"dpr": dpr_pair[1], "sentence": sentence_encoder}[kind], tiny_bart, str(tmp_path / "rag"))
    rag, tokenizer = (
        RagTokenForGeneration.from_pretrained(tmp_path / "rag"),
        load_encoder_tokenizer(str(tmp_path / "rag")),
    )
    for prompt in ("ice of the ", "who is the king of "):
        encoding = checkpoints.encoder_config(str(tmp_path / "rag"), "question", EncoderChanges(prompt))
        ask_behind(rag, encoding, encoder_note(encoding, tokenizer))
    rag.save_pretrained(tmp_path / "saved")
    RagTokenizer.from_pretrained(tmp_path / "rag").save_pretrained(tmp_path / "saved")
    again = RagTokenForGeneration.from_pretrained(tmp_path / "saved")
    texts = ["the moon", "what is a river in the war"]
    batch = tokenizer(texts, padding=True, return_tensors="pt")
    wanted = Encoder.load(str(tmp_path / "rag"), role="question", changes=EncoderChanges(prompt)).encode(texts)[0]
    for model in (rag.eval(), copy.deepcopy(rag), again.eval()):
        with torch.inference_mode():
            found = model.rag.question_encoder(batch["input_ids"], attention_mask=batch["attention_mask"])[0]
        np.testing.assert_allclose(found.numpy(), wanted, atol=1e-5)
    plain = Encoder.load(str(tmp_path / "saved"), role="question").encode(texts)[0]
    np.testing.assert_allclose(plain, wanted, atol=1e-6)


def test_frozen_parameters_stay(kingdom, tmp_path):
    settings = FinetuneSettings(max_steps=2, learning_rate=1e-2, n_docs=2, freeze=("rag.question_encoder",))
    finetune(kingdom["model"], kingdom["index"], questions_of(kingdom), str(tmp_path), settings)
    before, after = (
        transformers.RagTokenForGeneration.from_pretrained(place).state_dict() for place in (kingdom["model"], tmp_path)
    )
    same = {name: bool((before[name] == after[name]).all()) for name in before}
    assert all(same[name] for name in same if name.startswith("rag.question_encoder"))
    assert not all(same[name] for name in same if name.startswith("rag.generator.model.decoder.layers"))


def test_answerable_only_leaves_out_questions_whose_passages_hold_no_answer(kingdom, tmp_path):
    asked = questions_of(kingdom)
    unanswerable = [dataclasses.replace(question, answers=("castle",)) for question in asked[:20]]
    settings = dataclasses.replace(SETTINGS, max_steps=1, told_only=True)
    held_out = asked[:2]
    found = finetune(
        kingdom["model"],
        kingdom["index"],
        [*unanswerable, *asked[20:]],
        str(tmp_path / "a"),
        settings,
        held_out=held_out,
    )
    # The oracle: the same search by the command, and a look at each passage.
    ragbeam(
        *("answer", "--questions", kingdom["questions"], "--index", kingdom["index"], "--model", kingdom["model"]),
        *("--output", tmp_path / "answers", "--n_docs", 2, "--max_new_tokens", 1),
    )
    shards = read_manifest(str(tmp_path / "answers"), "answer").shards
    rows = [row for shard in shards for row in pq.read_table(tmp_path / "answers" / shard.path).to_pylist()]
    answered = {
        row["question"]
        for row in rows
        if any(gold in passage["text"].split() for gold in row["gold_answers"] for passage in row["passages"])
    }
    assert found.left_out == 20 + sum(question.question not in answered for question in asked[20:])
    with pytest.raises(InputError, match="no question to train on"):
        finetune(kingdom["model"], kingdom["index"], unanswerable, str(tmp_path / "b"), settings, held_out=held_out)


def test_the_question_encoder_learns(kingdom, undisturbed):
    before, after = (
        transformers.RagTokenForGeneration.from_pretrained(place).state_dict()
        for place in (kingdom["model"], undisturbed[0])
    )
    name = "rag.question_encoder.encoder.layer.0.output.dense.weight"
    assert (before[name] != after[name]).any()


def test_accumulated_batches_give_the_same_steps_as_one_batch(kingdom, tmp_path):
    without_dropout = tmp_path / "model"
    shutil.copytree(kingdom["model"], without_dropout)
    config = json.loads((without_dropout / "config.json").read_text())
    for part in ("question_encoder", "generator"):
        for rate in (
            "dropout",
            "attention_dropout",
            "activation_dropout",
            "hidden_dropout_prob",
            "attention_probs_dropout_prob",
        ):
            if rate in config[part]:
                config[part][rate] = 0.0
    (without_dropout / "config.json").write_text(json.dumps(config))
    losses = []
    for batch, accumulation in ((8, 1), (2, 4)):
        settings = FinetuneSettings(
            max_steps=4, batch_size=batch, accumulation=accumulation, n_docs=2, learning_rate=1e-3
        )
        output = str(tmp_path / f"{batch}")
        result = finetune(str(without_dropout), kingdom["index"], questions_of(kingdom), output, settings)
        losses.append([step["loss"] for step in result.losses])
    assert losses[0] == pytest.approx(losses[1], rel=1e-3)


BAD_USE = [
    (["--epochs", 0], "--epochs is out of range"),
    (["--batch_size", 0], "--batch_size is too small"),
    (["--label_smoothing", 1], "--label_smoothing is out of range"),
    (["--warmup_steps", -1], "--warmup_steps is out of range"),
    (["--warmup_steps", 1.5], "--warmup_steps is out of range"),
    (["--warmup_steps", "nan"], "--warmup_steps is out of range"),
    (["--output", "memory://trained"], "--output must be on this machine"),
    (["--answer_column", "gold"], "lacks the column of --answer_column"),
    (["--questions_format", "text"], "no question to train on"),
    (["--train", "missing.jsonl"], "missing.jsonl"),
    (["--n_docs", 1000], "more passages are asked for than there are"),
]


@pytest.mark.parametrize(("flags", "message"), BAD_USE)
def test_bad_use_is_one_line(kingdom, tmp_path, capsys, flags, message):
    given = {
        "--model": kingdom["model"],
        "--index": kingdom["index"],
        "--train": kingdom["questions"],
        "--output": str(tmp_path / "out"),
    }
    given[flags[0]] = flags[1]
    code, line = fails(capsys, "finetune", *(part for pair in given.items() for part in pair))
    assert code == 2
    assert message in line


def test_an_unfinished_training_and_a_model_are_not_overwritten(kingdom, undisturbed, tmp_path):
    arguments = (kingdom["model"], kingdom["index"], few_questions(kingdom))
    with pytest.raises(InputError, match="holds a model already"):
        finetune(*arguments, undisturbed[0], SETTINGS)
    with pytest.raises(KeyboardInterrupt):
        finetune(*arguments, str(tmp_path), SETTINGS, on_step=stop_at(1))
    with pytest.raises(InputError, match="an unfinished training lies in --output"):
        finetune(*arguments, str(tmp_path), SETTINGS)
    other = FinetuneSettings(learning_rate=1.0)
    with pytest.raises(InputError, match=r"another batch_size|another epochs|another eval_steps"):
        finetune(*arguments, str(tmp_path), other, resume=True)
    result = finetune(*arguments, str(tmp_path), FinetuneSettings(max_steps=1, n_docs=1), overwrite=True)
    assert len(result.losses) == 1


@pytest.mark.parametrize(
    ("name", "value"),
    [
        *(("epochs", value) for value in (0, -1.0, float("nan"), float("inf"))),
        *(("learning_rate", value) for value in (0.0, 1.5, float("nan"))),
        *(("warmup_steps", value) for value in (-0.1, 1.5, float("nan"), float("inf"))),
        *(("label_smoothing", value) for value in (-0.1, 1.0, float("nan"))),
        *(("eval_fraction", value) for value in (0.0, 1.01, float("nan"))),
        *(("batch_size", value) for value in (0, -3, 2.5, None)),
        *((name, 0) for name in ("max_steps", "accumulation", "n_docs", "eval_steps")),
        *(("max_answer_tokens", 0), ("max_question_tokens", 0.5), ("freeze", "rag.")),
        *(("seed", value) for value in (-1, 2**32, 0.5)),
    ],
)
def test_a_setting_out_of_range_is_refused_by_name_without_the_command_line(name, value):
    with pytest.raises(InputError, match=f"--{name}"):
        FinetuneSettings(**{name: value})


def test_settings_at_the_edge_of_their_range_are_taken():
    FinetuneSettings(warmup_steps=0, max_steps=None, eval_steps=1, label_smoothing=0, eval_fraction=1, seed=0)
    FinetuneSettings(warmup_steps=500, epochs=0.01, learning_rate=1, seed=2**32 - 1, freeze=("rag.",))


def test_a_sequence_model_learns_by_its_own_loss(kingdom, tmp_path):
    model = str(tmp_path / "sequence")
    shutil.copytree(kingdom["model"], model)
    config = json.loads(Path(model, "config.json").read_text())
    Path(model, "config.json").write_text(json.dumps({**config, "architectures": ["RagSequenceForGeneration"]}))
    questions, settings = few_questions(kingdom)[:8], {"n_docs": 2, "label_smoothing": 0.0, "batch_size": 8}
    settings = FinetuneSettings(**settings, max_steps=2, warmup_steps=0, learning_rate=1e-2)
    result = finetune(model, kingdom["index"], questions, str(tmp_path / "out"), settings, held_out=questions)
    theirs = transformers.RagSequenceForGeneration.from_pretrained(tmp_path / "out")
    assert theirs.config.architectures == ["RagSequenceForGeneration"]
    ours, tokenizer = RagSequenceForGeneration.from_pretrained(model), RagTokenizer.from_pretrained(model)
    sides = (tokenizer.question_encoder, tokenizer.generator)
    retriever = RagRetriever(ours.config, *sides, RagbeamIndex(kingdom["index"]))
    theirs = transformers.RagSequenceForGeneration(
        config=ours.config, question_encoder=ours.rag.question_encoder, generator=ours.rag.generator
    ).eval()
    theirs.set_retriever(retriever)
    rows = [{"question": question.question, "answers": list(question.answers)} for question in questions]
    batch = Collator(tokenizer, ours, settings)(rows)
    with torch.inference_mode():
        loss = float(theirs(**batch, n_docs=2).loss.mean())
    assert result.evaluations[0]["loss"] == pytest.approx(loss, rel=1e-4)
    assert result.evaluations[-1]["loss"] < loss
