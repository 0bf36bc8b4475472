"""Answers against transformers' own RagTokenForGeneration, and marginals against one forward pass a token."""

import shutil

import numpy as np
import pytest
import torch
from transformers import RagTokenForGeneration, RagTokenizer

from rag_ops.contexts import Passage
from rag_ops.errors import InputError
from rag_ops.generation import NO_HIT, GenerationSettings, RagTokenGenerator, generation_config

TOPICS = ["the moon", "river", "king of ice", "city", "war", "sun"]
QUESTIONS = [f"{word} is the {topic}" for topic in TOPICS for word in ("what", "Where", "who")]


def passages_for(number: int, count: int = 3) -> list[Passage]:
    return [
        Passage(
            f"{place}:0",
            TOPICS[(number + place) % 6],
            f"in {TOPICS[(number * place) % 6]} " * (1 + (number + place) % 5),
        )
        for place in range(count)
    ]


@pytest.fixture(scope="module")
def scores() -> np.ndarray:
    return np.random.default_rng(0).standard_normal((len(QUESTIONS), 3)).astype(np.float32) * 2


@pytest.fixture(scope="module")
def oracle(tiny_rag):
    return RagTokenForGeneration.from_pretrained(tiny_rag).eval(), RagTokenizer.from_pretrained(tiny_rag)


def generator(tiny_rag: str, **settings) -> RagTokenGenerator:
    return RagTokenGenerator.load(tiny_rag, GenerationSettings(**{"max_new_tokens": 8, **settings}), device="cpu")


def context_texts(number: int, count: int = 3) -> list[str]:
    """What Hugging Face's retriever would feed, written out by hand; the tiny question tokenizer lower-cases."""
    return [
        f"{p.title} / {p.text} // {QUESTIONS[number].lower()}".replace("  ", " ") for p in passages_for(number, count)
    ]


@pytest.mark.parametrize(
    "rules",
    [
        {},
        {"min_length": 7},
        {"no_repeat_ngram_size": 2},
        {"no_repeat_ngram_size": 1},
        {"num_beams": 2},
        {"num_beams": 4},
        {"num_beams": 4, "length_penalty": 2.0},
        {"num_beams": 4, "length_penalty": -1.0, "min_length": 4},
        {"num_beams": 3, "no_repeat_ngram_size": 2},
    ],
    ids=str,
)
def test_answers_are_transformers_own_token_for_token(tiny_rag, oracle, scores, rules):
    found = generator(tiny_rag, **rules).answer(
        QUESTIONS, [passages_for(n) for n in range(len(QUESTIONS))], scores, batch_tokens=700
    )
    model, tokenizer = oracle
    for number in range(len(QUESTIONS)):
        encoded = tokenizer.generator(context_texts(number), return_tensors="pt", padding="max_length", max_length=60)
        sequences = model.generate(
            context_input_ids=encoded["input_ids"],
            context_attention_mask=encoded["attention_mask"],
            doc_scores=torch.from_numpy(scores[number : number + 1]),
            n_docs=3,
            max_length=9,
            early_stopping=False,
            **{"min_length": 1, "num_beams": 1, **rules},
        )
        assert found[number].text == tokenizer.batch_decode(sequences, skip_special_tokens=True)[0].strip()
    assert len({answer.text for answer in found}) > 3, "the random model answers all alike: the test shows nothing"


@pytest.mark.parametrize("beams", [1, 2, 4])
def test_our_decoder_scores_as_transformers_does_and_lets_finished_questions_go(tiny_rag, scores, beams):
    fast, slow = generator(tiny_rag, num_beams=beams), generator(tiny_rag, num_beams=beams)
    slow._decoder = None
    for model in (fast, slow):  # the random model hardly ever ends an answer: make the end token likelier
        model._generator.final_logits_bias[0, 3] += 5
    passages = [passages_for(n) for n in range(len(QUESTIONS))]
    ours, theirs = (model.answer(QUESTIONS, passages, scores, batch_tokens=100_000) for model in (fast, slow))
    assert len({len(answer.token_ids) for answer in ours}) > 1, "all answers are equally long: none leaves the batch"
    for left, right in zip(ours, theirs, strict=True):
        assert list(left.token_ids) == list(right.token_ids)
        assert left.score == pytest.approx(right.score, abs=1e-4)
        np.testing.assert_allclose(left.posterior, right.posterior, atol=1e-5)


def test_score_and_posterior_are_the_papers_formula(tiny_rag, oracle, scores):
    answer = generator(tiny_rag).answer(QUESTIONS[:1], [passages_for(0)], scores[:1])[0]
    model, tokenizer = oracle
    target = list(answer.token_ids)
    prior = np.exp(scores[0]) / np.exp(scores[0]).sum()
    log_probability, posteriors = 0.0, []
    contexts = context_texts(0)
    prefix = [2]
    for token in target:
        given = []
        for text in contexts:
            encoded = tokenizer.generator(text, return_tensors="pt")
            with torch.inference_mode():
                logits = model.rag.generator(
                    **encoded, decoder_input_ids=torch.tensor([prefix]), use_cache=False
                ).logits
            given.append(torch.softmax(logits[0, -1].double(), -1)[token].item())
        joint = prior * np.array(given)
        log_probability += np.log(joint.sum())
        posteriors.append(joint / joint.sum())
        prefix.append(token)
    assert answer.score == pytest.approx(log_probability, abs=1e-4)
    np.testing.assert_allclose(answer.posterior, np.mean(posteriors, axis=0), atol=1e-5)
    assert sum(answer.posterior) == pytest.approx(1)


def test_batches_do_not_change_answers(tiny_rag, scores):
    model = generator(tiny_rag)
    passages = [passages_for(n) for n in range(len(QUESTIONS))]
    one_by_one = [model.answer([q], [p], s[None])[0] for q, p, s in zip(QUESTIONS, passages, scores, strict=True)]
    together = model.answer(QUESTIONS, passages, scores)
    assert [answer.text for answer in together] == [answer.text for answer in one_by_one]
    for ours, theirs in zip(together, one_by_one, strict=True):
        assert ours.score == pytest.approx(theirs.score, abs=1e-4)


def test_questions_with_fewer_passages_share_a_batch_with_others(tiny_rag, scores):
    model = generator(tiny_rag)
    counts = [3, 1, 2, 0]
    passages = [passages_for(n, count) for n, count in enumerate(counts)]
    found = model.answer(QUESTIONS[:4], passages, scores[:4], batch_tokens=100_000)
    for number in range(3):
        alone = model.answer(
            QUESTIONS[number : number + 1], passages[number : number + 1], scores[number : number + 1]
        )[0]
        assert found[number].text == alone.text
        assert found[number].score == pytest.approx(alone.score, abs=1e-4)
    assert [len(answer.posterior) for answer in found] == counts
    assert found[3].error == NO_HIT
    assert found[3].text is None


def test_a_cut_context_is_told(tiny_rag, scores):
    long = [Passage("1:0", "moon", "ice " * 100)]
    found = generator(tiny_rag, max_combined_length=30).answer(QUESTIONS[:2], [long, passages_for(1)[:1]], scores[:2])
    assert [answer.truncated for answer in found] == [True, False]


def test_the_longest_answer_has_max_new_tokens(tiny_rag, scores):
    found = generator(tiny_rag, max_new_tokens=3).answer(QUESTIONS, [passages_for(n) for n in range(18)], scores)
    assert max(len(answer.token_ids) for answer in found) == 3


def test_a_models_own_generation_defaults_are_not_inherited(oracle):
    config = oracle[0].rag.generator.config
    pinned = generation_config(config, GenerationSettings())
    assert (pinned.num_beams, pinned.do_sample, pinned.no_repeat_ngram_size, pinned.length_penalty) == (
        1,
        False,
        0,
        1.0,
    )
    assert pinned.forced_bos_token_id is None


def test_a_directory_without_weights_is_one_clear_error(tmp_path, tiny_rag):
    shutil.copy(f"{tiny_rag}/config.json", tmp_path)
    with pytest.raises(InputError, match="cannot be loaded"):
        RagTokenGenerator.load(str(tmp_path), GenerationSettings())
