"""Choices next to their marginals by transformers' own modules, one choice and one passage at a time."""

import copy

import numpy as np
import pytest
import torch
from transformers import RagTokenForGeneration

from rag_ops.errors import InputError
from rag_ops.generation.choices import targets_of
from rag_ops.generation.rag_token import GenerationSettings
from rag_ops.questions.gold_answers import UnreadableError
from schemas.passages import Passage
from tests.rag_ops.generation import causal_models
from tests.rag_ops.generation.families import asked, generator, our_generator, rag

SETS = [("moon", "river", "the sun is"), ("king", "war", "the war in the city is the sun", "city")]


def brute_force(model: RagTokenForGeneration, tokenizer, number: int, choice: str, docs: list[int]) -> float:
    """The logarithm of p(choice, end token | question) by a forward pass for each passage, float64 after the logits."""
    questions, passages, scores = asked()
    model, constraints = copy.deepcopy(model), our_generator(copy.deepcopy(model), tokenizer)._constraints
    ids = tokenizer(choice, add_special_tokens=False)["input_ids"]
    target = [*([] if constraints.first is None else [constraints.first]), *ids, constraints.ends[0]]
    prior = torch.tensor(scores[number, docs].astype(np.float64)).log_softmax(-1)
    said = []
    for doc in docs:
        passage = passages[number][doc]
        encoded = tokenizer(f"{passage.title} / {passage.text} // {questions[number]}", return_tensors="pt")
        begun = torch.tensor([[constraints.start, *target[:-1]]])
        with torch.inference_mode():
            logits = model.rag.generator(**encoded, decoder_input_ids=begun, use_cache=False).logits[0].double()
        said.append(logits.log_softmax(-1)[range(len(target)), target])
    return float((torch.stack(said) + prior[:, None]).logsumexp(0).sum())


@pytest.mark.parametrize("family", ["bart", "t5"])
def test_scores_are_the_marginals_of_each_choice_alone(tokenizer, family):
    model = rag(generator(family, len(tokenizer)))
    questions, passages, scores = asked()
    passages = [found[: 1 + number % 3] for number, found in enumerate(passages)]
    sets = [SETS[number % 2] if number % 4 else None for number in range(len(questions))]
    ours = our_generator(copy.deepcopy(model), tokenizer, choices="sun,moon", max_new_tokens=30)
    found = ours.answer(questions, passages, scores, choices=sets, batch_tokens=400)
    assert [answer.error for answer in found] == [None] * len(found)
    assert len({round(answer.score, 1) for answer in found}) > 8, "all score alike: the test shows nothing"
    for number in range(0, len(questions), 3):
        choices, answer = sets[number] or ("sun", "moon"), found[number]
        docs = list(range(len(passages[number])))
        expected = [brute_force(model, tokenizer, number, choice, docs) for choice in choices]
        assert [choice for choice, _, _ in answer.choices] == list(choices)
        np.testing.assert_allclose([score for _, score, _ in answer.choices], expected, atol=1e-5)
        shares = np.exp(expected - np.logaddexp.reduce(expected))
        np.testing.assert_allclose([share for _, _, share in answer.choices], shares, atol=1e-5)
        assert answer.text == choices[int(np.argmax(expected))]
        assert answer.score == pytest.approx(max(expected), abs=1e-5)
        assert sum(answer.posterior) == pytest.approx(1, abs=1e-5)


@pytest.mark.parametrize(("family", "rows"), [("llama", 512), ("gpt2", 12)])  # with a chat template, and without
def test_choices_of_a_causal_generator_are_scored_after_whole_prompts(family, rows, monkeypatch):
    monkeypatch.setattr("rag_ops.generation.causal.SCORED_ROWS", rows)
    config, kind, sizes, chat, begins = causal_models.FAMILIES[family]
    own = causal_models.tokenizer(chat, begins)
    model = causal_models.causal(config, kind, sizes, len(own))
    questions, passages, scores = causal_models.asked(3, 5)
    choices = ("moon", "the river", "sun")
    found = causal_models.ours(copy.deepcopy(model), own, choices=",".join(choices)).answer(questions, passages, scores)
    ends = [own.eos_token_id, *([] if chat else own("\n", add_special_tokens=False)["input_ids"])]
    for question, given, weights, answer in zip(questions, passages, scores, found, strict=True):
        mixture = causal_models.Mixture(model, own, question, given, weights)
        for choice, (_, score, _) in zip(choices, answer.choices, strict=True):
            ids, expected = own(choice if chat else f" {choice}", add_special_tokens=False)["input_ids"], 0.0
            with torch.inference_mode():
                for place, token in enumerate(ids):
                    expected += float(mixture.next([ids[:place]])[0, token])
                expected += float(mixture.next([ids])[0, ends].logsumexp(0))
            assert score == pytest.approx(expected, abs=1e-5)


def test_a_forced_first_token_and_each_of_several_end_tokens_count(tokenizer):
    model = rag(generator("bart", len(tokenizer)))
    model.generation_config.forced_bos_token_id, model.generation_config.eos_token_id = 7, [3, 9]
    questions, passages, scores = (part[:2] for part in asked())
    ours = our_generator(copy.deepcopy(model), tokenizer, choices="sun,moon")
    assert (ours._constraints.first, ours._constraints.ends) == (7, (3, 9))
    found = ours.answer(questions, passages, scores)
    for answer in found:
        assert next(iter(answer.token_ids)) == 7
    one = copy.deepcopy(model)
    one.generation_config.eos_token_id = [9, 3]  # an answer that ends otherwise is the same answer
    other = our_generator(one, tokenizer, choices="sun,moon").answer(questions, passages, scores)
    ends = []
    for end in (3, 9):
        single = copy.deepcopy(model)
        single.generation_config.eos_token_id = end
        ends.append(our_generator(single, tokenizer, choices="sun,moon").answer(questions, passages, scores))
        expected = brute_force(single, tokenizer, 0, "sun", [0, 1, 2])
        assert ends[-1][0].choices[0][1] == pytest.approx(expected, abs=1e-5)
    for number in range(2):
        for place in range(2):
            both = found[number].choices[place][1]
            assert both == pytest.approx(other[number].choices[place][1], abs=1e-6)
            assert both == pytest.approx(np.logaddexp(*(one[number].choices[place][1] for one in ends)), abs=1e-5)


def test_many_choices_are_scored_in_parts_to_the_same(tokenizer, monkeypatch):
    model = rag(generator("bart", len(tokenizer)))
    questions, passages, scores = (part[:3] for part in asked())
    sets = [[f"sun {number}" for number in range(count)] for count in (9, 2, 5)]
    ours = our_generator(model, tokenizer, max_new_tokens=30)
    whole = ours.answer(questions, passages, scores, choices=sets, batch_tokens=10**6)
    monkeypatch.setattr("rag_ops.generation.scoring.SCORED_TOKENS", {"cpu": 30})
    parts = ours.answer(questions, passages, scores, choices=sets, batch_tokens=10**6)
    for one, other in zip(whole, parts, strict=True):
        assert one.text == other.text
        np.testing.assert_allclose([s for _, s, _ in one.choices], [s for _, s, _ in other.choices], atol=1e-5)


def test_choices_are_spelt_as_they_were_given_and_bad_ones_are_the_rows_error(tokenizer):
    ours = our_generator(rag(generator("bart", len(tokenizer))), tokenizer, spelling="passages", max_new_tokens=4)
    questions, passages, scores = (part[:4] for part in asked())
    sets = [["Sun", "MOON"], ["sun", "the moon is a sun in the sky"], None, ["sun", "moon"]]
    passages = [*passages[:3], []]
    found = ours.answer(questions, [[Passage("1:0", "sun moon", "sun moon")], *passages[1:]], scores, choices=sets)
    assert found[0].text in ("Sun", "MOON")
    assert "more than --max_new_tokens 4" in found[1].error
    assert found[2].error is None
    assert not found[2].choices
    assert "no passage" in found[3].error
    with pytest.raises(UnreadableError, match="tokens of another one"):
        targets_of(tokenizer, ["sun", "sun "], ours._constraints)


@pytest.mark.parametrize(
    ("choices", "more", "message"),
    [
        ("yes", {}, "1 given, at least 2"),
        ("yes,", {}, "one is empty"),
        ("", {}, "none given"),
        ("Yes,no, yes", {}, "one comes twice: yes"),
        ('yes,"no', {}, "no line of CSV"),
        ("yes,no", {"num_beams": 2}, "--num_beams is for answers that are decoded"),
        ("yes,no", {"num_beams": 2, "n_best": 2}, "--num_beams is for"),
        ("yes,no", {"extractive": True}, "--extractive is for"),
        ("yes,no", {"lazy": True}, "--lazy is for"),
        ("yes,no", {"forbidden_words": ["yes"]}, "--forbidden_words is for"),
    ],
)
def test_what_is_no_closed_set_or_does_not_go_with_one_is_refused(choices, more, message):
    with pytest.raises(InputError, match=message):
        GenerationSettings(choices=choices, **more)


def test_a_choice_may_hold_a_comma():
    assert GenerationSettings(choices='yes, "no, never"').closed_set == ("yes", "no, never")
