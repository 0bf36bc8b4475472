"""Prompts: templates in a sandbox, one BOS, the question's beginning, and what is cut."""

import pytest
import transformers

from rag_ops.errors import InputError
from rag_ops.generation.prompts import PromptFormat
from rag_ops.generation.templates import Template, TemplateError
from schemas.passages import Passage
from tests.rag_ops.generation.causal_models import CHAT, prompt, tokenizer

PASSAGE = Passage("1", '"Moon"', "the moon is in the river of ice and the king was in the city")
QUESTION = "who was in the city"


@pytest.fixture(scope="module")
def begins():
    """A tokenizer that writes <s> before a text."""
    return tokenizer(begins=True)


@pytest.fixture(scope="module")
def chatting():
    """One whose chat template writes <s>."""
    return tokenizer(CHAT, begins=True)


def encoded(own, template=None, limit=400, keep=True, passage=PASSAGE, question=QUESTION):
    [(ids, cut)] = PromptFormat(own, template, limit, keep).encode([passage], [question])
    return ids, cut


def test_a_chat_prompt_is_that_of_transformers(chatting):
    ids, cut = encoded(chatting)
    assert list(ids) == prompt(chatting, Passage("1", "Moon", PASSAGE.text), QUESTION)
    assert ids.count(chatting.bos_token_id) == 1
    assert not cut


@pytest.mark.parametrize("template", ["{{ text }} {{ question }}", "{{ bos_token }}{{ text }} {{ question }}"])
def test_there_is_one_token_of_the_beginning(begins, template):
    ids, _ = encoded(begins, template)
    assert list(ids) == begins(f"{PASSAGE.text} {QUESTION}")["input_ids"]
    assert ids.count(begins.bos_token_id) == 1


def test_the_shared_tokens_end_before_the_question_and_are_the_passages_alone(begins):
    form = PromptFormat(begins, "{{ title }}: {{ text }} ?{{ question }}!", 400)
    asked = [QUESTION, "the moon", "?", " spaces before", ""]
    found = [ids for ids, _ in form.encode([PASSAGE] * len(asked), asked)]
    shared = {tuple(ids[: ids.shared]) for ids in found[:2]}
    assert len(shared) == 1
    for ids, question in zip(found, asked, strict=True):
        text = begins.decode(ids[: ids.shared], skip_special_tokens=True)
        assert f"Moon: {PASSAGE.text} ?".startswith(text)
        assert begins.decode(ids, skip_special_tokens=True) == f"Moon: {PASSAGE.text} ?{question}!"
        assert 0 < ids.shared < len(ids)


def test_a_question_that_the_template_writes_twice_is_shared_up_to_its_first_place(begins):
    ids, _ = encoded(begins, "{{ title }} {{ question }} {{ text }} {{ question }}")
    assert begins.decode(ids[: ids.shared], skip_special_tokens=True).strip() == "Moon"


def test_answers_get_the_tokens_that_they_have_behind_a_prompt(begins, chatting):
    answers = ["the moon", "42", "Paris", "x"]
    for own, template, space in (
        (begins, None, " "),
        (begins, "{{ text }} {{ question }}\n\n", ""),
        (chatting, None, ""),
    ):
        form = PromptFormat(own, template, 400)
        text = form.render(PASSAGE, QUESTION)
        before = own(text, add_special_tokens=False)["input_ids"]
        for answer, ids in zip(answers, form.encode_answers(answers), strict=True):
            assert own(text + space + answer, add_special_tokens=False)["input_ids"] == [*before, *ids]
            assert own.decode(ids) == space + answer
    assert form.encode_answers([]) == []


def test_an_answer_that_a_tokenizer_joins_to_the_prompt_has_its_own_tokens():
    own = tokenizer()  # for which "the moon" is not "the" and " moon" behind a prompt that ends in a space
    form = PromptFormat(own, "{{ text }} {{ question }} ", 400)
    [ids] = form.encode_answers(["moon"])
    assert own(form.render(PASSAGE, QUESTION) + "moon")["input_ids"][-len(ids) :] != ids
    assert own.decode(ids) == "moon"


def test_special_tokens_in_a_text_are_none(begins):
    ids, _ = encoded(begins, passage=Passage("1", "a</s>b", "in <pad> the"), question="who </s> is")
    assert not {begins.eos_token_id, begins.pad_token_id} & {*ids}


def test_a_passage_is_cut_to_the_words_that_fit_and_then_the_question(begins):
    template = "{{ text }}\n{{ question }}\nAnswer:"
    whole, _ = encoded(begins, template, passage=Passage("1", "", PASSAGE.text * 4))
    for limit in (len(whole) - 1, len(whole) - 20):
        ids, cut = encoded(begins, template, limit, passage=Passage("1", "", PASSAGE.text * 4))
        assert cut
        assert limit - 8 <= len(ids) <= limit
        assert begins.decode(ids).endswith(f"\n{QUESTION}\nAnswer:")
    long = " ".join([QUESTION] * 40)
    ids, cut = encoded(begins, template, 60, question=long)
    text, question, _ = begins.decode(ids, skip_special_tokens=True).split("\n")
    assert cut
    assert len(ids) <= 60
    assert PASSAGE.text.startswith(text)
    assert long.startswith(question)
    assert question
    with pytest.raises(ValueError, match="own text is longer than 33 tokens"):
        PromptFormat(begins, "{{ text }} {{ question }}" + "\nx y z" * 30, 33).encode([PASSAGE], [QUESTION])


def test_truncation_as_transformers_does_cuts_the_end(begins):
    whole, _ = encoded(begins)
    ids, cut = encoded(begins, limit=20, keep=False)
    assert (list(ids), cut, ids.shared < 20) == (whole[:20], True, True)


def test_a_tokenizer_that_gives_no_offsets_shares_what_two_prompts_have_alike():
    slow = transformers.ByT5Tokenizer()
    ids, _ = encoded(slow, "{{ text }} ?{{ question }}")
    assert slow.decode(ids[: ids.shared]) == PASSAGE.text + " ?"


@pytest.mark.parametrize(
    ("source", "message"),
    [
        ("{% for a in range(9999) %}{% for b in range(9999) %}{% endfor %}{% endfor %}", "takes more than"),
        ("{% macro f(n) %}{{ f(n) }}{{ f(n) }}{% endmacro %}{{ f(1) }}", "recursion|takes more than"),
        ("{{ 'x' * 1000000000 }}", "not two small numbers"),
        ("{{ 9 ** 99999 }}", "not two small numbers"),
        ("{% for a in range(90000) %}{{ text }}{% endfor %}", "takes more than|writes more than"),
        ("{{ text.__class__.__mro__ }}", "unsafe|access"),
        ("{{ raise_exception('no system role') }}", "no system role"),
    ],
)
def test_a_template_is_bounded_and_shut_in(source, message):
    with pytest.raises(TemplateError, match=message):
        Template(source, "here").render({"text": "abc" * 50})


def test_a_template_has_what_chat_templates_expect_and_a_fixed_date():
    source = "{% generation %}{{ strftime_now('%d %b %Y') }}{% endgeneration %} {{ [1] | tojson }}"
    source += "{% set n = namespace(a=1) %}{{ n.a }}"
    assert Template(source, "here").render({}) == "26 Jul 2024 [1]1"


@pytest.mark.parametrize("template", ["{% for %}", "{{ raise_exception('x') }}", "{{ question.nothing() }}"])
def test_a_template_that_fails_is_refused_at_once(begins, template):
    with pytest.raises(InputError, match="the prompt template"):
        PromptFormat(begins, template, 400)


def test_a_template_that_writes_nothing_is_refused():
    with pytest.raises(InputError, match="writes nothing"):
        PromptFormat(tokenizer(), "{# empty #}", 400)
