"""Cross-encoders score as transformers does, one pair at a time."""

import json
from pathlib import Path

import numpy as np
import pytest
import torch
from transformers import AutoModelForSequenceClassification, BertConfig, BertForSequenceClassification

from rag_ops.errors import InputError
from rag_ops.models.cross_encoder import CrossEncoder, check_cross_encoder
from tests.conftest import WORDS

PAIRS = 40


@pytest.fixture(scope="module")
def pairs() -> tuple[list[str], list[str]]:
    """Questions and passages of many lengths, some longer than the model's 64 tokens."""
    rng = np.random.default_rng(5)

    def texts(longest: int) -> list[str]:
        return [" ".join(rng.choice(WORDS, rng.integers(1, longest))) for _ in range(PAIRS)]

    return texts(12), texts(90)


def alone(directory: str, tokenizer, question: str, passage: str) -> float:
    """The score of one pair by transformers alone."""
    model = AutoModelForSequenceClassification.from_pretrained(directory).eval()
    given = tokenizer(question, passage, truncation=True, max_length=64, return_tensors="pt")
    with torch.inference_mode():
        return float(model(**given).logits[0, 0])


@pytest.mark.parametrize("batch_tokens", [1, 300, None])
def test_scores_are_those_of_one_pair_at_a_time_whatever_the_batch(cross_encoder, tokenizer, pairs, batch_tokens):
    model = CrossEncoder.load(cross_encoder, device="cpu", threads=1)
    scores, cut, failed = model.score(*pairs, batch_tokens=batch_tokens)
    expected = [alone(cross_encoder, tokenizer, *pair) for pair in zip(*pairs, strict=True)]
    np.testing.assert_allclose(scores, expected, rtol=1e-4, atol=1e-5)
    assert np.ptp(expected) > 0.1
    lengths = [len(tokenizer(*pair)["input_ids"]) for pair in zip(*pairs, strict=True)]
    assert cut.tolist() == [length > 64 for length in lengths]
    assert 0 < cut.sum() < PAIRS
    assert failed == {}


def test_a_pair_that_fails_is_named_and_no_other(cross_encoder, pairs, monkeypatch):
    model = CrossEncoder.load(cross_encoder, device="cpu", threads=1)
    whole, _, _ = model.score(*pairs)
    score = model._score_batch

    def failing(questions, passages):
        if pairs[1][3] in passages:
            raise ValueError("no such token")
        return score(questions, passages)

    monkeypatch.setattr(model, "_score_batch", failing)
    scores, _, failed = model.score(*pairs)
    assert failed == {3: "ValueError: no such token"}
    assert np.isnan(scores[3])
    others = np.arange(PAIRS) != 3
    np.testing.assert_allclose(scores[others], whole[others], rtol=1e-4, atol=1e-5)
    assert [part.tolist() for part in model.score([], [])[:2]] == [[], []]


@pytest.mark.parametrize(("change", "says"), [({"id2label": {"0": "a", "1": "b"}}, "several labels"), (None, "is no")])
def test_another_kind_of_model_is_refused(cross_encoder, sentence_encoder, tmp_path, change, says):
    directory = Path(sentence_encoder)
    if change is not None:
        directory = tmp_path
        config = json.loads((Path(cross_encoder) / "config.json").read_text()) | change
        (tmp_path / "config.json").write_text(json.dumps(config))
    with pytest.raises(InputError, match=says):
        check_cross_encoder(str(directory))


def test_a_model_without_its_head_is_refused(sentence_encoder, tokenizer, tiny_bert_config, tmp_path):
    from transformers import BertModel

    config = BertConfig(**tiny_bert_config, num_labels=1)
    BertForSequenceClassification(config).save_pretrained(tmp_path)
    tokenizer.save_pretrained(tmp_path)
    kept = (tmp_path / "config.json").read_text()
    BertModel(config).save_pretrained(tmp_path)
    (tmp_path / "config.json").write_text(kept)
    with pytest.raises(InputError, match="classifier"):
        CrossEncoder.load(str(tmp_path), device="cpu", threads=1)
