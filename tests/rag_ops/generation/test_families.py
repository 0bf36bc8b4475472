"""Token for token beside transformers' generate: ten families as their configurations are, forced tokens and all."""

import copy

import numpy as np
import pytest
import torch
from transformers import T5Config, T5ForConditionalGeneration

from rag_ops.errors import InputError
from rag_ops.generation.bart import Bart
from rag_ops.generation.seq2seq import Seq2Seq, generator_of
from tests.rag_ops.generation.families import (
    FAMILIES,
    LIMIT,
    asked,
    generator,
    our_generator,
    ours,
    rag,
    theirs,
    up_to_the_end,
)

FORCING = ("bart", "mbart", "pegasus", "blenderbot", "blenderbot-small", "marian")  # by their configurations


def score_of(answer, length_penalty: float = 1.0, forced: tuple[int, ...] = ()) -> float:
    """What transformers compares sequences by: a forced token counts 0 there."""
    own = sum(token.log_probability for place, token in enumerate(answer.tokens) if place not in forced)
    return own / len(answer.tokens) ** length_penalty


@pytest.mark.parametrize("beams", [1, 4])
@pytest.mark.parametrize("family", FAMILIES)
def test_stock_configurations_give_transformers_own_tokens_and_scores(tokenizer, family, beams):
    more = {"ending": 3.0} if family in FORCING and family != "marian" else {}
    model = rag(generator(family, len(tokenizer), **more))
    expected = theirs(model, tokenizer, num_beams=beams)
    answers = ours(copy.deepcopy(model), tokenizer, num_beams=beams)
    assert [answer.error for answer in answers] == [None] * len(answers)
    assert [list(answer.token_ids) for answer in answers] == [sequences[0] for sequences, _ in expected]
    ends = {answer.token_ids[-1] for answer in answers}
    if family in FORCING:
        assert ends == {model.generation_config.eos_token_id}
        assert {len(answer.token_ids) for answer in answers} >= {LIMIT}, "no answer meets the limit"
    if beams > 1:
        last = (LIMIT - 1,) if model.generation_config.forced_eos_token_id is not None else ()
        for answer, (_, scores) in zip(answers, expected, strict=True):
            assert score_of(answer, forced=last) == pytest.approx(scores[0], abs=1e-4)


@pytest.mark.parametrize(
    "rules",
    [
        {"min_length": LIMIT},
        {"min_length": LIMIT + 1, "num_beams": 4},
        {"num_beams": 4, "no_repeat_ngram_size": 1},
        {"num_beams": 4, "length_penalty": 2.0},
        {"num_beams": 3, "early_stopping": True, "length_penalty": 0.0},
    ],
    ids=str,
)
def test_forced_tokens_and_other_rules_go_together_as_in_transformers(tokenizer, rules):
    model = rag(generator("bart", len(tokenizer), ending=4.0))
    expected = theirs(model, tokenizer, **rules)
    answers = ours(copy.deepcopy(model), tokenizer, **rules)
    assert [list(answer.token_ids) for answer in answers] == [sequences[0] for sequences, _ in expected]
    assert {answer.token_ids[-1] for answer in answers} == {model.config.generator.eos_token_id}


@pytest.mark.parametrize("ending", [0.0, 4.0])
def test_the_next_best_answers_with_a_forced_end_are_transformers_own(tokenizer, ending):
    model = rag(generator("bart", len(tokenizer), ending=ending))
    expected = theirs(model, tokenizer, num_beams=4, num_return_sequences=4)
    for answer, (sequences, _) in zip(
        ours(copy.deepcopy(model), tokenizer, num_beams=4, n_best=4), expected, strict=True
    ):
        texts = [text.strip() for text in tokenizer.batch_decode(sequences, skip_special_tokens=True)]
        assert [answer.text, *(text for text, _ in answer.others)] == texts


@pytest.mark.parametrize("beams", [1, 4])
def test_a_forced_first_token_comes_first_and_its_score_stays_the_models(tokenizer, beams):
    model = rag(generator("bart", len(tokenizer), ending=2.0))
    model.generation_config.forced_bos_token_id = 50
    expected = theirs(model, tokenizer, num_beams=beams)
    answers = ours(copy.deepcopy(model), tokenizer, num_beams=beams)
    assert [list(answer.token_ids) for answer in answers] == [sequences[0] for sequences, _ in expected]
    for answer, (_, scores) in zip(answers, expected, strict=True):
        assert answer.token_ids[0] == 50
        assert answer.tokens[0].log_probability < -1e-3
        assert sum(token.log_probability for token in answer.tokens) == pytest.approx(answer.score, abs=1e-4)
        if beams > 1:
            assert score_of(answer, forced=(0, LIMIT - 1)) == pytest.approx(scores[0], abs=1e-4)


@pytest.mark.parametrize("beams", [1, 3])
def test_one_token_is_the_forced_end_as_in_transformers(tokenizer, beams):
    model = rag(generator("bart", len(tokenizer)))
    model.generation_config.forced_bos_token_id = 50
    expected = theirs(model, tokenizer, 1, num_beams=beams)
    answers = ours(copy.deepcopy(model), tokenizer, num_beams=beams, max_new_tokens=1)
    assert [list(answer.token_ids) for answer in answers] == [sequences[0] for sequences, _ in expected]
    assert {tuple(answer.token_ids) for answer in answers} == {(model.config.generator.eos_token_id,)}


@pytest.mark.parametrize("beams", [1, 4])
def test_without_forced_tokens_it_is_transformers_without_them(tokenizer, beams):
    model = rag(generator("bart", len(tokenizer), ending=2.0))
    model.generation_config.forced_bos_token_id = 50
    answers = ours(copy.deepcopy(model), tokenizer, num_beams=beams, forced_tokens="none")
    model.generation_config.forced_bos_token_id = model.generation_config.forced_eos_token_id = None
    expected = theirs(model, tokenizer, num_beams=beams)
    assert [list(answer.token_ids) for answer in answers] == [sequences[0] for sequences, _ in expected]
    assert len({answer.token_ids[-1] for answer in answers}) > 1, "all end alike: nothing shows that none was forced"


@pytest.mark.parametrize("beams", [1, 4])
@pytest.mark.parametrize("forced", [None, [2, 28]])
def test_any_of_several_end_tokens_ends_an_answer(tokenizer, beams, forced):
    ends = [2, 28, 100]
    model = rag(generator("bart", len(tokenizer), ending=2.5, eos_token_id=ends, forced_eos_token_id=forced))
    expected = theirs(model, tokenizer, num_beams=beams)
    answers = ours(copy.deepcopy(model), tokenizer, num_beams=beams)
    assert [list(answer.token_ids) for answer in answers] == [sequences[0] for sequences, _ in expected]
    assert {answer.token_ids[-1] for answer in answers} >= {28, 100}


def test_the_shortest_length_and_forbidden_words_know_all_end_tokens(tokenizer):
    ends = [2, tokenizer.convert_tokens_to_ids("the"), 45]
    model = rag(generator("bart", len(tokenizer), ending=2.5, eos_token_id=ends))
    rules = {"num_beams": 3, "min_length": 5}
    expected = theirs(model, tokenizer, bad_words_ids=[[ends[1]], [50]], **rules)
    answers = ours(copy.deepcopy(model), tokenizer, forbidden_words=["the", tokenizer.decode([50])], **rules)
    assert [list(answer.token_ids) for answer in answers] == [sequences[0] for sequences, _ in expected]
    assert not any(set(ends) & set(answer.token_ids[:3]) for answer in answers)
    assert not any(50 in answer.token_ids for answer in answers)


def test_an_extractive_answer_that_meets_the_limit_is_ended_and_a_forced_first_token_is_no_part_of_it(tokenizer):
    model = rag(generator("bart", len(tokenizer), ending=-9.0))
    free = ours(copy.deepcopy(model), tokenizer, extractive=True, forced_tokens="none")
    model.generation_config.forced_bos_token_id = tokenizer.mask_token_id
    forced = ours(model, tokenizer, extractive=True)
    longest = [answer for answer in forced if len(answer.token_ids) == LIMIT]
    assert longest
    assert {answer.token_ids[-1] for answer in forced} == {model.config.generator.eos_token_id}
    assert {answer.token_ids[0] for answer in forced} == {tokenizer.mask_token_id}
    assert any(answer.text for answer in forced)
    assert all(answer.text for answer in free)


@pytest.mark.parametrize("level", [{"decoder_start_token_id": 41}, {"eos_token_id": 44}])
def test_a_rag_models_own_tokens_come_before_its_generators(tokenizer, level):
    model = rag(generator("bart", len(tokenizer), forced_eos_token_id=None), **level)
    model.rag.generator.final_logits_bias[0, 44] += 3
    plain = rag(copy.deepcopy(model.rag.generator))
    for beams in (1, 4):
        expected = theirs(model, tokenizer, num_beams=beams)
        answers = ours(copy.deepcopy(model), tokenizer, num_beams=beams)
        assert [list(answer.token_ids) for answer in answers] == [sequences[0] for sequences, _ in expected]
        without = ours(copy.deepcopy(plain), tokenizer, num_beams=beams)
        assert [answer.token_ids for answer in without] != [answer.token_ids for answer in answers]


def test_improbable_beams_come_in_transformers_order(tokenizer):
    """Logits so far apart that most probabilities are nothing in float32: the beams differ in those alone."""
    torch.manual_seed(3)
    sizes = {"d_model": 32, "d_kv": 8, "d_ff": 48, "num_layers": 2, "num_heads": 4, "initializer_factor": 1.5}
    config = T5Config(vocab_size=len(tokenizer), decoder_start_token_id=0, tie_word_embeddings=False, **sizes)
    t5 = T5ForConditionalGeneration(config)
    with torch.no_grad():
        t5.lm_head.weight.mul_(30)
    model = rag(t5.eval())
    rules = {"num_beams": 4, "no_repeat_ngram_size": 2}
    expected = theirs(model, tokenizer, **rules)
    answers = ours(copy.deepcopy(model), tokenizer, **rules)
    assert [list(answer.token_ids) for answer in answers] == [sequences[0] for sequences, _ in expected]
    for answer, (_, scores) in zip(answers, expected, strict=True):
        assert score_of(answer) == pytest.approx(scores[0], rel=1e-4)
        np.testing.assert_allclose(np.sum(answer.posterior), 1, atol=1e-5)
    assert min(answer.score for answer in answers) < -200, "nothing is improbable: the test shows nothing"


VARIANTS = {
    "tables of their own": {"tie_word_embeddings": False},
    "relu": {"activation_function": "relu"},
    "scaled embeddings": {"scale_embedding": True},
    "other depths": {"encoder_layers": 3, "decoder_layers": 1, "encoder_attention_heads": 4},
    "all at once": {"tie_word_embeddings": False, "scale_embedding": True, "encoder_ffn_dim": 80},
}


@pytest.mark.parametrize("beams", [1, 4])
@pytest.mark.parametrize("variant", VARIANTS)
def test_the_fast_path_computes_every_bart_that_it_takes(tokenizer, variant, beams):
    model = rag(generator("bart", len(tokenizer), ending=2.0, **VARIANTS[variant]))
    assert Bart.fits(model.rag.generator)
    expected = theirs(model, tokenizer, num_beams=beams)
    answers = ours(copy.deepcopy(model), tokenizer, num_beams=beams)
    assert [list(answer.token_ids) for answer in answers] == [sequences[0] for sequences, _ in expected]


class Adapter(torch.nn.Linear):
    """A linear layer that adds something of its own, as low-rank adapters do."""

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return super().forward(x) + 0.5 * x[..., :1]


def adapted(model) -> None:
    layer = model.model.decoder.layers[0]
    adapter = Adapter(layer.fc2.in_features, layer.fc2.out_features)
    adapter.load_state_dict(layer.fc2.state_dict())
    layer.fc2 = adapter


def hooked(model) -> None:
    model.model.decoder.layers[1].fc1.register_forward_hook(lambda module, given, output: output * 0.5)


def biased_output(model) -> None:
    biased = torch.nn.Linear(model.config.d_model, model.config.vocab_size)
    biased.weight = model.lm_head.weight
    model.lm_head = biased


def normed_otherwise(model) -> None:
    model.model.encoder.layernorm_embedding = torch.nn.Identity()


CHANGES = {
    "another activation": ({"activation_function": "gelu_new"}, lambda model: None),
    "an adapter": ({}, adapted),
    "a hook": ({}, hooked),
    "an output layer with a bias": ({}, biased_output),
    "no norm of embeddings": ({}, normed_otherwise),
}


@pytest.mark.parametrize("change", CHANGES)
def test_a_bart_that_differs_from_the_fast_path_goes_the_general_way_and_is_right(tokenizer, change):
    more, apply = CHANGES[change]
    made = generator("bart", len(tokenizer), ending=2.0, **more)
    apply(made)
    model = rag(made)
    assert not Bart.fits(model.rag.generator)
    expected = theirs(model, tokenizer, num_beams=2)
    answers = ours(model, tokenizer, num_beams=2)
    assert [list(answer.token_ids) for answer in answers] == [sequences[0] for sequences, _ in expected]


@pytest.mark.parametrize("family", [name for name in FAMILIES if name != "bart"])
def test_other_families_go_the_general_way(tokenizer, family):
    assert isinstance(generator_of(generator(family, len(tokenizer))), Seq2Seq)


@pytest.mark.parametrize("family", ["switch", "nllb-moe"])
def test_an_answer_by_a_mixture_of_experts_does_not_depend_on_the_questions_beside_it(tokenizer, family):
    model = rag(generator(family, len(tokenizer)))
    together = ours(copy.deepcopy(model), tokenizer)
    questions, passages, scores = asked()
    alone = our_generator(model, tokenizer)
    for number in range(0, 24, 4):
        found = alone.answer(questions[number : number + 1], passages[number : number + 1], scores[number : number + 1])
        assert found[0].token_ids == together[number].token_ids
        assert found[0].score == pytest.approx(together[number].score, abs=1e-4)


@pytest.mark.parametrize(
    ("more", "message"),
    [
        ({"moe_eval_capacity_token_fraction": 0.5}, "moe_eval_capacity_token_fraction 0.5"),
        ({"second_expert_policy": "sampling"}, "second_expert_policy sampling"),
    ],
)
def test_experts_that_make_answers_depend_on_the_batch_or_on_chance_are_refused(tokenizer, more, message):
    with pytest.raises(InputError, match=message):
        ours(rag(generator("nllb-moe", len(tokenizer), **more)), tokenizer)


def test_sequences_are_cut_after_their_end_token():
    assert up_to_the_end([5, 2, 1, 1], 2) == [5, 2]
    assert up_to_the_end([5, 6], [2, 3]) == [5, 6]
