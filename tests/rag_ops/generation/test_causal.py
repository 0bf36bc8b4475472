"""Causal generators answer as the mixture of independent full prompts does, and read a passage once."""

import dataclasses
import logging

import pytest
import torch
import transformers as t

from rag_ops.compute import processor
from rag_ops.errors import InputError
from rag_ops.generation.answer import Answer
from rag_ops.generation.causal import Causal, _Layer
from rag_ops.generation.prompts import Prompt
from rag_ops.generation.reading import pad_rows
from tests.rag_ops.generation.causal_models import (
    CHAT,
    FAMILIES,
    LIMIT,
    NEAR,
    SIZES,
    Mixture,
    asked,
    causal,
    compare,
    ours,
    tokenizer,
)

COUNT, PASSAGES = 8, 7
LLAMA = (t.LlamaConfig, t.LlamaForCausalLM, SIZES)
WHOLE = "passages are read anew for each question: "


@pytest.fixture(scope="module")
def chatting():
    """A tokenizer with a chat template and a beginning-of-text token."""
    return tokenizer(CHAT, begins=True)


@pytest.fixture(scope="module")
def plain():
    """A tokenizer without a chat template."""
    return tokenizer()


def tiny(own, *, seed: int = 1, **more):
    return causal(*LLAMA, len(own), seed=seed, **more)


def told(answers: list[Answer]) -> list[tuple]:
    return [(one.text, one.score, list(one.token_ids), one.posterior, one.others) for one in answers]


@pytest.mark.parametrize("beams", [1, 4])
@pytest.mark.parametrize("family", FAMILIES)
def test_answers_are_those_of_independent_full_prompts(family, beams):
    differing, furthest, computed, distinct = compare(family, COUNT, PASSAGES, beams)
    assert all(one.gap < NEAR for one in differing), differing
    assert len(differing) < COUNT / 2
    assert furthest < 1e-4
    assert computed == (distinct, 0)


def test_what_memory_has_no_room_for_is_read_again_to_the_same_bytes(chatting):
    given = asked(COUNT, PASSAGES)
    roomy = ours(tiny(chatting), chatting, num_beams=2, n_best=2)
    tight = ours(tiny(chatting), chatting, num_beams=2, n_best=2, passage_memory="30kB")
    expected = told(roomy.answer(*given, batch_tokens=700))
    assert told(tight.answer(*given, batch_tokens=700)) == expected
    computed, again = tight.passages_computed
    assert again == computed - roomy.passages_computed[0] > 0
    assert told(roomy.answer(*given, batch_tokens=700)) == expected  # the next block begins anew


@pytest.mark.parametrize("beams", [1, 3])
def test_where_a_question_ends_the_last_ones_fill_its_place(plain, monkeypatch, beams):
    moved, close = [], _Layer.close_gaps

    def watched(layer, count, gaps, places):
        moved.append((len(gaps), count))
        close(layer, count, gaps, places)

    monkeypatch.setattr(_Layer, "close_gaps", watched)
    questions, found, scores = asked(COUNT, PASSAGES)
    generator = ours(tiny(plain), plain, num_beams=beams, stop=list("aeiost"))
    together = generator.answer(questions, found, scores, batch_tokens=1 << 20)
    assert any(0 < gaps < count for gaps, count in moved)
    assert len({len(one.token_ids) for one in together}) > 1
    for number, answer in enumerate(together):
        [alone] = generator.answer([questions[number]], [found[number]], scores[number : number + 1])
        assert answer.token_ids == alone.token_ids
        assert answer.score == pytest.approx(alone.score, abs=1e-4)
        assert answer.posterior == pytest.approx(alone.posterior, abs=1e-4)


def test_columns_hold_for_every_passage(chatting):
    questions, found, scores = asked(4, PASSAGES)
    for answer in ours(tiny(chatting), chatting, num_beams=3, n_best=3).answer(questions, found, scores):
        assert (len(answer.others), answer.error) == (2, None)
        assert sum(answer.posterior) == pytest.approx(1, abs=1e-5)
        assert sum(one.log_probability for one in answer.tokens) == pytest.approx(answer.score, abs=1e-4)
        assert "".join(one.text for one in answer.tokens).removesuffix("</s>").strip() == answer.text


def whole_prompts(caplog, model, own, again, *, template: str | None = None, prompt=None) -> str:
    """Checks that a model whose passages cannot be shared answers as the mixture does; returns why they are not."""
    questions, found, scores = asked(4, PASSAGES)
    caplog.set_level(logging.WARNING, "ragbeam")
    generator = ours(model, own, template=template)
    answers = generator.answer(questions, found, scores)
    assert generator.passages_computed == (0, 0)
    with torch.inference_mode():
        for number, answer in enumerate(answers):
            mixture = Mixture(again, own, questions[number], found[number], scores[number])
            if prompt:
                mixture.prompts = [prompt(passage, questions[number]) for passage in found[number]]
            tokens, score = mixture.greedy()
            assert list(answer.token_ids) == tokens or mixture.gap < NEAR
            assert answer.score == pytest.approx(score, abs=1e-4) or mixture.gap < NEAR
    [line] = [record.getMessage() for record in caplog.records if WHOLE in record.getMessage()]
    return line.removeprefix(WHOLE)


def test_a_template_with_the_question_first_takes_whole_prompts(caplog, plain):
    def prompt(passage, question):
        return plain(f"{question}\n{passage.text}\nAnswer:")["input_ids"]

    template = "{{ question }}\n{{ text }}\nAnswer:"
    why = whole_prompts(caplog, tiny(plain), plain, tiny(plain), template=template, prompt=prompt)
    assert why == "its prompts begin with the question"


def test_recurrent_layers_take_whole_prompts(caplog, plain):
    sizes = {"hidden_size": 16, "num_hidden_layers": 2, "state_size": 4, "initializer_range": 0.35}
    model, again = (causal(t.MambaConfig, t.MambaForCausalLM, sizes, len(plain)) for _ in range(2))
    assert whole_prompts(caplog, model, plain, again) == "it has layers that keep no keys and values"


def test_windows_are_right_where_passages_are_read_once(plain):
    questions, found, scores = asked(4, PASSAGES)
    sizes = SIZES | {"sliding_window": 24}
    model, again = (causal(t.MistralConfig, t.MistralForCausalLM, sizes, len(plain)) for _ in range(2))
    generator = ours(model, plain, num_beams=2)
    answers = generator.answer(questions, found, scores)
    assert generator.passages_computed[0] == len({one.text for passages in found for one in passages})
    with torch.inference_mode():
        for number, answer in enumerate(answers):
            mixture = Mixture(again, plain, questions[number], found[number], scores[number])
            tokens, score = mixture.beams(2)
            assert list(answer.token_ids) == tokens or mixture.gap < NEAR
            assert answer.score == pytest.approx(score, abs=1e-4) or mixture.gap < NEAR


def test_a_model_that_looks_at_padding_is_refused(plain):
    class Counting(t.LlamaForCausalLM):
        """A model that counts the columns of a batch."""

        def forward(self, input_ids=None, **given):
            output = super().forward(input_ids=input_ids, **given)
            output.logits[..., 5] += input_ids.shape[1]
            return output

    generator = Causal(causal(t.LlamaConfig, Counting, SIZES, len(plain)), 1 << 20)
    with torch.inference_mode(), pytest.raises(InputError, match="computes otherwise beside longer prompts"):
        generator.check([Prompt(range(5, 15), 4), Prompt(range(5, 40), 20)], 2)


def test_an_answer_ends_before_a_stop_text_and_counts_it(plain):
    questions, found, scores = asked(6, PASSAGES)
    free = ours(tiny(plain), plain, stop=["never to be found"]).answer(questions, found, scores)
    text = next(one.text for one in free if len(one.token_ids) == LIMIT and len(one.text) > 3)
    stop = text[1:3]
    for before, after in zip(free, ours(tiny(plain), plain, stop=[stop]).answer(questions, found, scores), strict=True):
        ids, kept = list(before.token_ids), list(after.token_ids)
        assert ids[: len(kept)] == kept
        whole = plain.decode(kept, skip_special_tokens=True)
        assert stop not in plain.decode(kept[:-1], skip_special_tokens=True)
        assert after.text == whole.split(stop)[0].strip()
        assert len(kept) == len(ids) or stop in whole
        assert after.score == pytest.approx(sum(one.log_probability for one in before.tokens[: len(kept)]), abs=1e-4)


def test_an_extractive_answer_may_have_a_space_alone_before_a_number(plain):
    space, three = plain.convert_tokens_to_ids("Ġ"), plain("3", add_special_tokens=False)["input_ids"][0]
    model = tiny(plain)
    generator = ours(model, plain, extractive=True, max_new_tokens=4)
    source = generator._sources([[dataclasses.replace(asked(1, 3)[1][0][0], title="a", text="year 3 of 33")]])[0]
    year = plain("year", add_special_tokens=False)["input_ids"]
    assert space in source.next_tokens(year)[0]
    following, may_end = source.next_tokens([*year, space])
    assert (three in following, space in following, may_end) == (True, False, False)
    assert source.next_tokens([*year, space, three])[1]
    assert space not in source.next_tokens([three, three])[0]  # inside of 33
    of = plain(" of", add_special_tokens=False)["input_ids"]
    assert of[0] in source.next_tokens([three])[0]
    inside = plain(" year", add_special_tokens=False)["input_ids"][:1]
    after = source.next_tokens(inside)[0]
    assert after
    assert not any(plain.decode([token]).startswith(" ") for token in after)  # in the middle of a word
    questions, found, scores = asked(6, PASSAGES)
    for answer, passages in zip(generator.answer(questions, found, scores), found, strict=True):
        texts = [" ".join(f"{one.title}\n{one.text}".split()) for one in passages]
        assert any(answer.text in text for text in texts), answer.text


def test_in_bfloat16_logits_are_in_float32_and_close(chatting):
    if not processor.computes("bfloat16"):
        pytest.skip("the processor has no instructions for bfloat16")
    prompts = [Prompt(range(5, 45), 30), Prompt(range(9, 29), 12)]
    ids, mask = pad_rows(prompts, 2, "cpu")
    found = []
    for narrow in (False, True):
        generator = Causal(tiny(chatting, initializer_range=0.1), 1 << 20, narrow)
        with torch.inference_mode():
            assert generator.check(prompts, 2) is None
            found.append(generator.step(ids[:, :1], generator.start(generator.encode(ids, mask), mask, 2)))
    assert found[1].dtype == torch.float32
    assert 0 < float((found[0] - found[1]).abs().max()) < 0.05 * float(found[0].abs().max())


def test_what_all_prompts_begin_with_is_read_once(plain):
    template = "the king of the city is in the river\n{{ text }}\n{{ question }} ?"
    generator = ours(tiny(plain), plain, template=template)
    head = plain("the king of the city is in the river\n")["input_ids"]
    assert list(generator._causal._head) == head
    read, run = [], generator._causal._run
    generator._causal._run = lambda model, ids, *given: read.append(ids.shape) or run(model, ids, *given)
    questions, found, scores = asked(6, PASSAGES)
    answers = generator.answer(questions, found, scores)
    shared = {one.text: plain(f"{one.text}\n")["input_ids"] for passages in found for one in passages}
    assert sum(rows * tokens for rows, tokens in read if rows == 1) == sum(map(len, shared.values()))
    whole = tiny(plain)
    with torch.inference_mode():
        for number, answer in enumerate(answers):
            mixture = Mixture(whole, plain, questions[number], found[number], scores[number])
            texts = [template.replace("{{ text }}", one.text) for one in found[number]]
            mixture.prompts = [plain(text.replace("{{ question }}", questions[number]))["input_ids"] for text in texts]
            tokens, score = mixture.greedy()
            assert list(answer.token_ids) == tokens or mixture.gap < NEAR
            assert answer.score == pytest.approx(score, abs=1e-4) or mixture.gap < NEAR
