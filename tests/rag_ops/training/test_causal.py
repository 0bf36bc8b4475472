"""Training of causal generators: the loss is that of whole prompts; what was trained answers as it did in memory."""

import importlib.util
import json
from pathlib import Path

import pyarrow.parquet as pq
import pytest
import torch
from safetensors.torch import load_file

from rag_ops import RagRetriever, RagTokenizer
from rag_ops.errors import InputError
from rag_ops.generation.prompts import PLAIN
from rag_ops.interop.model_card import RagbeamIndex
from rag_ops.models import causal, checkpoints
from rag_ops.questions.reading import Question
from rag_ops.storage.manifests import read_manifest
from rag_ops.training.causal import NO_LABEL, CausalCollator, CausalTrainer, TrainableCausalRag, marginal_loss
from rag_ops.training.finetune import CHECKPOINTS, FinetuneSettings, finetune
from tests.pipelines.workspace import TOPICS, fails, ragbeam
from tests.rag_ops.generation.causal_models import prompt, save

DOCS, SCALE, CHECKED, FROZEN = 3, 8.0, 3, ("rag.question_encoder",)
FILES = ("model.safetensors", "generator/model.safetensors", "adapter/adapter_model.safetensors")
ASKED = [f"what is the {topic} {number}" for number, topic in enumerate(TOPICS)]
GOLD = ["moon", "the sun 1", "river", "a king of ice", "city 42", "war", "ice"]
QUESTIONS = [Question(asked, asked, (gold,), None, "test") for asked, gold in zip(ASKED, GOLD, strict=True)]


@pytest.fixture(scope="module")
def models(tmp_path_factory, sentence_encoder) -> dict[str, str]:
    """RAG-Token models with a tiny Llama, which has a chat template, and a tiny GPT-2."""
    directory, found = tmp_path_factory.mktemp("causal"), {}
    for family in ("llama", "gpt2"):
        parts = ["--question_encoder", sentence_encoder, "--generator", save(directory / family, family)]
        found[family] = str(directory / f"rag-{family}")
        ragbeam("compose", *parts, "--score_scale", SCALE, "--output", found[family])
    return found


@pytest.fixture(scope="module")
def index(searchable) -> str:
    return str(searchable / "index")


def trained(model: str, index: str, output: object, **settings: object):
    """What a training of some steps gives, evaluated on some questions."""
    given = {"learning_rate": 1e-2, "batch_size": 4, "n_docs": DOCS, "max_answer_tokens": 8, "label_smoothing": 0.0}
    how = {name: settings.pop(name) for name in ("resume", "on_step") if name in settings}
    chosen = FinetuneSettings(**{**given, "max_steps": 4, "eval_steps": 2, **settings})
    return finetune(model, index, QUESTIONS, str(output), chosen, held_out=QUESTIONS[:CHECKED], threads=1, **how)


def answers_in(output: Path) -> list[dict]:
    """The rows of a table of answers."""
    shards = read_manifest(str(output), "answer").shards
    return [row for shard in shards for row in pq.read_table(output / shard.path).to_pylist()]


def learner(model: str, index: str, **settings: object) -> tuple[TrainableCausalRag, dict]:
    """A model that is to be trained, and a batch of all questions."""
    chosen, tokenizer = FinetuneSettings(n_docs=DOCS, **settings), RagTokenizer.from_pretrained(model)
    found = TrainableCausalRag.load(model, tokenizer, chosen).eval()
    sides = (tokenizer.question_encoder, tokenizer.generator)
    found.set_retriever(RagRetriever(found.config, *sides, RagbeamIndex(index)))
    rows = [{"question": question.question, "answers": list(question.answers)} for question in QUESTIONS]
    return found, CausalCollator(tokenizer, found, chosen)(rows)


def literal_losses(model: TrainableCausalRag, own, smoothing: float) -> list[torch.Tensor]:
    """The losses, from one whole prompt and one token at a time, over passages found by comparing with all."""
    passages = model.retriever.index.passages
    vectors, losses = torch.from_numpy(passages.vectors(torch.arange(passages.rows).numpy())), []
    for asked, gold in zip(ASKED, GOLD, strict=True):
        encoded = model.retriever.question_encoder_tokenizer(asked, return_tensors="pt")
        scores = SCALE * vectors @ model.question_encoder(**encoded)[0][0]
        best, rows = scores.topk(DOCS)
        prior = best.softmax(0)
        text = gold if own.chat_template else f" {gold}"
        answer, loss = [*own(text, add_special_tokens=False)["input_ids"], own.eos_token_id], torch.zeros(())
        for place, token in enumerate(answer):
            mixed = torch.zeros(())
            for share, passage in zip(prior, passages.passages(rows.numpy()), strict=True):
                ids = torch.tensor([[*prompt(own, passage, asked), *answer[:place]]])
                mixed = mixed + share * model.rag.generator(ids).logits[0, -1].softmax(0)
            loss = loss - (1 - smoothing) * mixed[token].log() - smoothing * mixed.log().mean()
        losses.append(loss)
    return losses


@pytest.mark.parametrize(("family", "smoothing"), [("llama", 0.1), ("gpt2", 0.0)])
def test_loss_and_gradients_are_those_of_whole_prompts(models, index, family, smoothing):
    model, batch = learner(models[family], index)
    model.config.label_smoothing = smoothing
    own = RagTokenizer.from_pretrained(models[family]).generator
    gradients, losses = [], []
    for found in (lambda: model(**batch, n_docs=DOCS).loss, lambda: torch.stack(literal_losses(model, own, smoothing))):
        model.zero_grad()
        losses.append(found())
        losses[-1].mean().backward()
        gradients.append({name: one.grad.clone() for name, one in model.named_parameters() if one.grad is not None})
    assert torch.allclose(losses[0], losses[1], atol=1e-5, rtol=1e-5)
    assert gradients[0].keys() == gradients[1].keys()
    assert {name.split(".")[1] for name in gradients[0]} == {"question_encoder", "generator"}
    for name, gradient in gradients[0].items():
        assert torch.allclose(gradient, gradients[1][name], atol=1e-5, rtol=1e-4), name
    assert max(float(one.abs().max()) for name, one in gradients[0].items() if "question_encoder" in name) > 1e-4


def test_models_whose_rows_must_stand_alone_have_the_same_loss(models, index):
    model, batch = learner(models["llama"], index)
    together = model(**batch, n_docs=DOCS).loss
    model._together = False
    assert torch.allclose(model(**batch, n_docs=DOCS).loss, together, atol=1e-5)


def test_each_of_several_end_tokens_ends_an_answer():
    torch.manual_seed(1)
    logits, prior = torch.randn(2, 3, 3, 9), torch.randn(2, 3).log_softmax(-1)
    labels, expected = torch.tensor([[5, 6, 1], [4, 1, NO_LABEL]]), []
    probabilities = (logits.softmax(-1) * prior.exp()[:, :, None, None]).sum(1)
    for row, answer in enumerate(([5, 6, (1, 8)], [4, (1, 8)])):
        parts = [
            probabilities[row, place, [one] if isinstance(one, int) else list(one)].sum()
            for place, one in enumerate(answer)
        ]
        expected.append(-sum(part.log() for part in parts))
    assert torch.allclose(marginal_loss(logits, prior, labels, (1, 8)), torch.stack(expected), atol=1e-5)


KINDS = {"whole": ("gpt2", {}), "adapter": ("llama", {"adapter_rank": 2})}


@pytest.fixture(scope="module", params=KINDS)
def undisturbed(request, models, index, tmp_path_factory):
    """A training: model and settings, output, result, and the answers of each evaluation."""
    (family, settings), real, seen = KINDS[request.param], CausalTrainer.answers, []

    def answers(self, questions):
        seen.append(real(self, questions))
        return seen[-1]

    output = tmp_path_factory.mktemp(request.param)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(CausalTrainer, "answers", answers)
        result = trained(models[family], index, output, **settings)
    return models[family], settings, output, result, seen


def test_the_loss_falls_and_the_saved_model_answers_as_it_did_in_memory(undisturbed, index, tmp_path):
    model, settings, output, result, seen = undisturbed
    assert result.evaluations[-1]["loss"] < result.evaluations[0]["loss"] - 1
    assert seen[0] != seen[-1]
    rows = "".join(json.dumps({"question": asked}) + "\n" for asked in ASKED[:CHECKED])
    (tmp_path / "asked.jsonl").write_text(rows)
    given = ["--questions", tmp_path / "asked.jsonl", "--index", index, "--model", output, "--output", tmp_path / "a"]
    ragbeam("answer", *given, "--n_docs", DOCS, "--max_new_tokens", 8, "--threads", 1, "--compute_dtype", "float32")
    assert [row["answer"] for row in answers_in(tmp_path / "a")] == seen[-1]
    before, after = (causal.load_causal(f"{place}/generator").state_dict() for place in (model, output))
    assert all(torch.equal(after[name], one) for name, one in before.items()) == bool(settings)
    assert ((output / "adapter").exists(), (output / CHECKPOINTS).exists()) == (bool(settings), False)


def test_an_interrupted_training_resumes_to_the_same_bytes(undisturbed, index, tmp_path):
    def stop(step: int, steps: int) -> None:
        if step == 3:
            raise KeyboardInterrupt

    model, settings, output, result, _ = undisturbed
    with pytest.raises(KeyboardInterrupt):
        trained(model, index, tmp_path, on_step=stop, **settings)
    learned = load_file(tmp_path / CHECKPOINTS / "checkpoint-2" / "learned.safetensors")
    assert any("lora" in name for name in learned) == bool(settings)
    assert any(name == "rag.generator.transformer.wte.weight" for name in learned) != bool(settings)
    assert trained(model, index, tmp_path, resume=True, **settings) == result
    for name in FILES[: 2 + len(settings)]:
        assert (tmp_path / name).read_bytes() == (output / name).read_bytes()


@pytest.mark.parametrize("undisturbed", ["adapter"], indirect=True)
def test_training_goes_on_with_the_adapter_that_a_model_has(undisturbed, index, tmp_path):
    _, settings, output, first, _ = undisturbed
    second = trained(str(output), index, tmp_path / "b", max_steps=2, **settings)
    assert second.evaluations[0]["loss"] == pytest.approx(first.evaluations[-1]["loss"], rel=1e-4)
    same = [(output / name).read_bytes() == (tmp_path / "b" / name).read_bytes() for name in FILES]
    assert same == [False, True, False]
    with pytest.raises(InputError, match="adapter of another rank"):
        learner(str(output), index, adapter_rank=3)
    whole, _ = learner(str(output), index)
    whole.save_pretrained(str(tmp_path / "c"))
    assert not (tmp_path / "c" / "adapter").exists()
    assert "adapter" not in checkpoints.read_config(str(tmp_path / "c"))["ragbeam"]
    merged = causal.load_causal_rag(str(output), torch.float32).rag.generator.state_dict()
    saved = causal.load_causal_rag(str(tmp_path / "c"), torch.float32).rag.generator.state_dict()
    assert all(torch.equal(saved[name], one) for name, one in merged.items())


def test_batches_may_be_accumulated_or_computed_in_bfloat16_and_what_is_frozen_stays(
    models, index, tmp_path, monkeypatch
):
    monkeypatch.setattr("rag_ops.compute.processor.check", lambda dtype: None)
    losses = []
    for batch, accumulation, dtype in ((4, 1, "float32"), (1, 4, "auto"), (4, 1, "bfloat16")):
        how = {"batch_size": batch, "accumulation": accumulation, "compute_dtype": dtype, "freeze": FROZEN}
        result = trained(models["llama"], index, tmp_path / f"{batch}{dtype}", max_steps=1 + (batch == 1), **how)
        losses.append([step["loss"] for step in result.losses])
    assert losses[0][0] == pytest.approx(losses[1][0], rel=1e-4)
    assert losses[0][0] == pytest.approx(losses[2][0], rel=2e-2)
    assert losses[0] != losses[2]
    before, after = (Path(place, FILES[0]).read_bytes() for place in (models["llama"], tmp_path / "1auto"))
    assert before == after


def test_the_model_keeps_the_prompt_that_it_was_trained_with(models, index, searchable, tmp_path):
    file = tmp_path / "prompt.jinja"
    file.write_text("{{ text }}\n{{ question }} =")
    (tmp_path / "t.jsonl").write_text("".join(json.dumps({"question": q, "answer": "ice"}) + "\n" for q in ASKED))
    given = [
        "--index",
        index,
        "--model",
        models["llama"],
        "--train",
        tmp_path / "t.jsonl",
        "--eval",
        tmp_path / "t.jsonl",
    ]
    how = ["--max_steps", 1, "--n_docs", 1, "--max_answer_tokens", 4, "--prompt", file, "--threads", 1]
    ragbeam("finetune", *given, *how, "--adapter_rank", 1, "--output", tmp_path / "m")
    assert checkpoints.read_config(str(tmp_path / "m"))["ragbeam"]["prompt"] == file.read_text()
    answers = []
    for name, more in (("a", []), ("b", ["--prompt", file]), ("c", ["--prompt", tmp_path / "plain"])):
        (tmp_path / "plain").write_text(PLAIN)
        asking = ["--questions", searchable / "questions.jsonl", "--index", index, "--model", tmp_path / "m"]
        ragbeam("answer", *asking, "--n_docs", 1, "--max_new_tokens", 4, "--output", tmp_path / name, *more)
        answers.append(answers_in(tmp_path / name))
    assert answers[0] == answers[1]
    assert answers[0] != answers[2]


def test_what_does_not_go_together_is_refused_in_one_line(models, index, tiny_rag, tmp_path, capsys, monkeypatch):
    (tmp_path / "t.jsonl").write_text(json.dumps({"question": "what", "answer": "ice"}) + "\n")
    given = ["finetune", "--index", index, "--train", tmp_path / "t.jsonl", "--eval", tmp_path / "t.jsonl"]
    given += ["--output", tmp_path / "o", "--model"]
    (tmp_path / "p").write_text("{{ question }}")
    assert "--adapter_rank is for causal generators" in fails(capsys, *given, tiny_rag, "--adapter_rank", 4)[1]
    assert "--prompt is for causal generators" in fails(capsys, *given, tiny_rag, "--prompt", tmp_path / "p")[1]
    model = models["llama"]
    assert "--adapter_rank is too small" in fails(capsys, *given, model, "--adapter_rank", 0)[1]
    assert "--prompt cannot be read" in fails(capsys, *given, model, "--prompt", tmp_path / "none")[1]
    assert "--freeze leaves nothing to train" in fails(capsys, *given, model, "--freeze", "rag.")[1]
    real = importlib.util.find_spec
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None if name == "peft" else real(name))
    line = fails(capsys, *given, model, "--adapter_rank", 4)[1]
    assert "peft" in line
    assert "pip install 'ragbeam[finetune]'" in line
    assert not (tmp_path / "o").exists()
