"""Lazy decoding against greedy decoding that reads everything: tokens, bounds of scores, and what rounding does."""

import dataclasses

import numpy as np
import pytest
import torch
from transformers import BartConfig, BartForConditionalGeneration

from rag_ops.errors import InputError
from rag_ops.generation import bart, lazy
from rag_ops.generation.bart import Bart
from rag_ops.generation.decoding import Batch, Constraints
from rag_ops.generation.greedy import greedy
from rag_ops.generation.lazy import LazyGreedy, needed, pays, sums_behind
from rag_ops.generation.rag_token import GenerationSettings, RagTokenGenerator
from rag_ops.generation.reading import encode, pad_rows
from rag_ops.generation.settings import GenerationSettings as Settings
from tests.rag_ops.generation.test_rag_token import QUESTIONS, passages_for

START, END, VOCABULARY, DOCS, LONGEST = 2, 2, 90, 6, 7
PLAIN = Constraints(START, (END,), LONGEST)
RULES = {
    "none": PLAIN,
    "short ones": dataclasses.replace(PLAIN, shortest=4),
    "no repetition": dataclasses.replace(PLAIN, no_repeat=1),
    "forbidden": dataclasses.replace(PLAIN, forbidden=(*((token,) for token in range(3, 60)), (70, 71))),
    "forced": dataclasses.replace(PLAIN, first=5, last=(END, 8), ends=(END, 8)),
    "one token": dataclasses.replace(PLAIN, longest=1),
}


@pytest.fixture(scope="module")
def generator() -> Bart:
    torch.manual_seed(0)
    sizes = {f"{side}_{name}": 2 for side in ("encoder", "decoder") for name in ("layers", "attention_heads")}
    sizes |= {"encoder_ffn_dim": 32, "decoder_ffn_dim": 32, "d_model": 16, "vocab_size": VOCABULARY}
    special = {"pad_token_id": 0, "bos_token_id": 1, "eos_token_id": END, "forced_eos_token_id": None}
    config = BartConfig(**sizes, **special, init_std=0.5, tie_word_embeddings=False)  # untied, tokens repeat less
    model = BartForConditionalGeneration(config).eval()
    model.final_logits_bias[0, END] += 2
    with torch.inference_mode():
        return Bart(model)


class Block:
    """Random questions, some with fewer passages than others, and their answers."""

    def __init__(self, generator: Bart, questions: int = 40, sharpness: float = 3.0, seed: int = 0):
        draw = np.random.default_rng(seed)
        self.generator, self.read = generator, []
        docs = [DOCS if question % 5 else 1 + question % DOCS for question in range(questions)]
        self.contexts = [[draw.integers(3, VOCABULARY, draw.integers(4, 20)).tolist() for _ in range(n)] for n in docs]
        scores = torch.full((questions, DOCS), -torch.inf)
        for row, n in enumerate(docs):
            scores[row, :n] = torch.from_numpy(draw.standard_normal(n) * sharpness)  # in no order
        self.log_prior = scores.log_softmax(-1)

    def encode(self, pairs):
        self.read += pairs
        ids, mask = pad_rows([self.contexts[question][doc] for question, doc in pairs], 0, "cpu")
        return encode(self.generator, ids, mask), mask

    def greedily(self, constraints: Constraints):
        rows = [(n, doc if doc < len(own) else 0) for n, own in enumerate(self.contexts) for doc in range(DOCS)]
        with torch.inference_mode():
            states, mask = self.encode(rows)
            self.read.clear()
            return greedy(Batch(self.generator, states, mask, self.log_prior, constraints))

    def lazily(self, constraints: Constraints, exact_scores: bool = False, error: float | None = None):
        error = self.generator.probability_error(20) if error is None else error
        with torch.inference_mode():
            search = LazyGreedy(self.generator, self.encode, self.log_prior, constraints, None, error)
            return search.decode(exact_scores)


@pytest.fixture(scope="module")
def block(generator) -> Block:
    return Block(generator)


@pytest.mark.parametrize("rules", RULES)
def test_tokens_are_those_of_all_passages_and_bounds_hold(block, rules):
    expected, found = block.greedily(RULES[rules]), block.lazily(RULES[rules])
    assert [one.tokens for one in found] == [one.tokens for one in expected]
    assert len({tuple(one.tokens) for one in found}) > (1 if rules == "one token" else 10)
    given = sum(map(len, block.contexts))
    assert len(block.read) == len(set(block.read)) == sum(int(one.read.sum()) for one in found) < 0.9 * given
    for one, whole in zip(found, expected, strict=True):
        highest = one.log_probs if one.highest is None else one.highest
        assert (one.log_probs <= whole.log_probs + 1e-4).all()
        assert (whole.log_probs <= highest + 1e-4).all()
        assert (highest <= 1e-6).all()
        np.testing.assert_allclose(one.posterior.sum(1), 1, atol=1e-4)
        assert not one.posterior[:, ~one.read].any()


def test_exact_scores_are_those_of_all_passages(block):
    expected, found = block.greedily(PLAIN), block.lazily(PLAIN, exact_scores=True)
    assert len(block.read) == sum(map(len, block.contexts))
    for one, whole in zip(found, expected, strict=True):
        assert one.tokens == whole.tokens
        assert one.highest is None
        np.testing.assert_allclose(one.log_probs, whole.log_probs, atol=1e-4)
        np.testing.assert_allclose(one.posterior, whole.posterior, atol=1e-4)


def test_bounds_are_the_mixture_of_those_read_and_the_priors_of_the_others(block):
    expected, found = block.greedily(PLAIN), block.lazily(PLAIN)
    seen = 0
    for row, (one, whole) in enumerate(zip(found, expected, strict=True)):
        if one.highest is None:
            continue
        seen += 1
        read = torch.from_numpy(one.read)
        unread = float(block.log_prior[row].exp()[~read].sum())
        lowest = np.exp(whole.log_probs) * whole.posterior[:, one.read].sum(1)
        np.testing.assert_allclose(np.exp(one.log_probs), lowest, atol=1e-4)
        np.testing.assert_allclose(np.exp(one.highest), np.minimum(1, lowest + unread), atol=1e-4)
    assert seen > 10


def test_what_is_unread_would_change_tokens_if_nothing_were_to_be_proved(block, monkeypatch):
    expected = block.greedily(PLAIN)
    monkeypatch.setattr(lazy, "sums_behind", lambda priors: [*([1.0] if priors else []), *[0.0] * len(priors)])
    found = block.lazily(PLAIN, error=0.0)
    assert all(one.read.sum() == 1 for one in found)
    assert [one.tokens for one in found] != [one.tokens for one in expected]


def test_a_passage_is_read_no_sooner_than_one_at_a_time_would_read_it(block, monkeypatch):
    block.greedily(PLAIN)
    found = block.lazily(PLAIN)
    monkeypatch.setattr(lazy, "needed", lambda unread, read, lead, error: min(read + 1, len(unread) - 1))
    block.read.clear()
    single = block.lazily(PLAIN)
    assert [one.tokens for one in single] == [one.tokens for one in found]
    assert [one.read.tolist() for one in single] == [one.read.tolist() for one in found]


@pytest.mark.parametrize("looks", [0, 3])
def test_keys_and_values_of_passages_may_be_made_at_any_time(block, monkeypatch, looks):
    expected = block.greedily(PLAIN)
    monkeypatch.setattr(bart, "DIRECT_LOOKS", looks)
    found = block.lazily(PLAIN, exact_scores=True)
    for one, whole in zip(found, expected, strict=True):
        assert one.tokens == whole.tokens
        np.testing.assert_allclose(one.log_probs, whole.log_probs, atol=1e-4)


def test_a_replayed_answer_is_as_decoded_step_by_step(block):
    generator, tokens = block.generator, torch.tensor([[START, 9, 11, 4], [START, 30, 31, 32], [START, 5, 6, 7]])
    with torch.inference_mode():
        states, mask = block.encode([(1, 0), (1, 1), (2, 0)])
        stepped, replayed = (generator.start(states, mask, LONGEST) for _ in range(2))
        one_by_one = [generator.step(tokens[:, place : place + 1], stepped)[:, 0] for place in range(4)]
        at_once = generator.logits(generator.replay(tokens, replayed))
        torch.testing.assert_close(at_once, torch.stack(one_by_one, 1), atol=1e-4, rtol=1e-4)
        rows = torch.tensor([2, 0])
        joined = generator.join([replayed.select(rows, 2), stepped.select(torch.tensor([1]), 2)])
        after = generator.step(tokens[[2, 0, 1], 2:3], joined)[:, 0]
    torch.testing.assert_close(after, one_by_one[2][[2, 0, 1]], atol=1e-4, rtol=1e-4)


def test_shapes_of_batches_differ_far_less_than_the_bound(block):
    """Probabilities of the first token: each passage alone, and all of them in one batch."""
    generator, newest = block.generator, torch.tensor([[START]])
    pairs = [(question, doc) for question in range(12) for doc in range(len(block.contexts[question]))]

    def first(pairs):
        states, mask = block.encode(pairs)
        logits = generator.step(newest.expand(len(pairs), 1), generator.start(states, mask, LONGEST))
        return logits[:, 0].softmax(-1)

    with torch.inference_mode():
        together, alone = first(pairs), torch.cat([first([pair]) for pair in pairs])
    apart = float((together / alone - 1).abs().max())
    assert 0 < apart < generator.probability_error(20) / 4


def test_flat_priors_do_not_pay_and_sharp_ones_do():
    assert not pays(sums_behind([1 / 15] * 15), 0.001)
    assert pays(sums_behind([0.9, *[0.1 / 14] * 14]), 0.001)
    assert not pays(sums_behind([1.0]), 0.001)
    assert not pays(sums_behind([0.9, *[0.1 / 14] * 14]), 0.9)


def test_needed_is_all_if_nothing_less_can_prove_a_token():
    assert needed(sums_behind([0.25] * 4), 0, 0.0, 0.1) == 3
    assert needed(sums_behind([0.25] * 4), 3, 0.0, 0.1) == 4
    assert needed(sums_behind([0.25] * 4), 0, float("nan"), 0.1) == 4


def lazily(directory: str, **settings) -> RagTokenGenerator:
    return RagTokenGenerator.load(directory, GenerationSettings(max_new_tokens=8, **settings), device="cpu", threads=1)


@pytest.mark.parametrize("rules", [{}, {"extractive": True}, {"forbidden_words": ("the", "moon")}], ids=str)
def test_answers_are_those_without_lazy(tiny_rag, rules):
    passages = [passages_for(n, 6) for n in range(len(QUESTIONS))]
    passages[3] = []
    scores = np.random.default_rng(0).standard_normal((len(QUESTIONS), 6)).astype(np.float32) * 3
    scores[5] = scores[5][0]  # flat
    plain, quick, exact = (
        lazily(tiny_rag, **rules, **more).answer(QUESTIONS, passages, scores)
        for more in ({}, {"lazy": True}, {"lazy": True, "exact_scores": True})
    )
    assert sum(one.read for one in quick) < sum(one.read for one in plain) == 6 * (len(QUESTIONS) - 1)
    assert quick[3] == plain[3]
    assert (quick[5].read, quick[5].score) == (6, pytest.approx(plain[5].score, abs=1e-5))
    for one, fast, whole in zip(plain, quick, exact, strict=True):
        if one.error:
            continue
        assert list(fast.token_ids) == list(whole.token_ids) == list(one.token_ids)
        assert fast.text == one.text or rules.get("extractive")  # spelt as the likeliest of the passages read spells it
        assert fast.score - 1e-4 <= one.score <= fast.score_high + 1e-4
        assert [share is None for share in fast.posterior].count(False) == fast.read
        assert all(len(token.posterior) == 6 for token in fast.tokens)
        assert (whole.score, whole.score_high) == (pytest.approx(one.score, abs=1e-4), whole.score)
        np.testing.assert_allclose(whole.posterior, one.posterior, atol=1e-4)
        assert one.score_high == one.score


def test_a_question_whose_scores_are_no_numbers_gets_the_error(tiny_rag):
    scores = np.array([[3.0, 1.0, 0.0], [np.nan, 1.0, 0.0]], np.float32)
    found = lazily(tiny_rag, lazy=True).answer(QUESTIONS[:2], [passages_for(0), passages_for(1)], scores)
    assert [one.error is None for one in found] == [True, False]


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"lazy": True, "num_beams": 2}, r"--lazy is for greedy decoding.*--num_beams 2"),
        ({"lazy": True, "num_beams": 2, "n_best": 2}, r"--lazy is for greedy decoding"),
        ({"exact_scores": True}, r"--exact_scores is a part of --lazy"),
    ],
)
def test_what_lazy_does_not_go_with(settings, message):
    with pytest.raises(InputError, match=message):
        Settings(**settings)


def test_lazy_means_float32(tiny_rag):
    assert Settings(lazy=True).dtype("auto") == "float32"
    assert Settings().dtype("bfloat16") == "bfloat16"
    with pytest.raises(InputError, match=r"in float32 alone.*--compute_dtype bfloat16"):
        RagTokenGenerator.load(tiny_rag, Settings(lazy=True), device="cpu", dtype="bfloat16")
