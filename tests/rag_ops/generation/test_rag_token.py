"""Answers against transformers' own RagTokenForGeneration, and marginals against one forward pass a token."""

import copy
import re
import shutil

import numpy as np
import pytest
import torch
from transformers import RagTokenForGeneration, RagTokenizer

from rag_ops.errors import InputError
from rag_ops.generation import bart
from rag_ops.generation.bart import Bart
from rag_ops.generation.rag_token import NO_HIT, GenerationSettings, RagTokenGenerator, is_uncased
from rag_ops.generation.seq2seq import Seq2Seq
from schemas.passages import Passage
from tests.conftest import LETTERS, WORDS

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


def transformers_own(oracle, scores, number: int, *, padding="longest", max_length=9, **rules):
    """What transformers' RagTokenForGeneration generates for one question, `padding` as its tokenizer takes it."""
    model, tokenizer = oracle
    encoded = tokenizer.generator(context_texts(number), return_tensors="pt", padding=padding, max_length=60)
    return model.generate(
        context_input_ids=encoded["input_ids"],
        context_attention_mask=encoded["attention_mask"],
        doc_scores=torch.from_numpy(scores[number : number + 1]),
        n_docs=3,
        max_length=max_length,
        **{"min_length": 1, "num_beams": 1, "early_stopping": False, **rules},
    )


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
        {"num_beams": 4, "early_stopping": True},
        {"num_beams": 3, "early_stopping": True, "length_penalty": 0.5},
    ],
    ids=str,
)
def test_answers_are_transformers_own_token_for_token(tiny_rag, oracle, scores, rules):
    found = generator(tiny_rag, **rules).answer(
        QUESTIONS, [passages_for(n) for n in range(len(QUESTIONS))], scores, batch_tokens=700
    )
    tokenizer = oracle[1]
    for number in range(len(QUESTIONS)):
        sequences = transformers_own(oracle, scores, number, padding="max_length", **rules)
        assert found[number].text == tokenizer.batch_decode(sequences, skip_special_tokens=True)[0].strip()
    assert len({answer.text for answer in found}) > 3, "the random model answers all alike: the test shows nothing"


@pytest.mark.parametrize("beams", [1, 2, 4])
def test_our_bart_scores_as_its_own_modules_do_and_lets_finished_questions_go(tiny_rag, scores, beams):
    model, tokenizer = RagTokenForGeneration.from_pretrained(tiny_rag).eval(), RagTokenizer.from_pretrained(tiny_rag)
    model.rag.generator.final_logits_bias[0, 3] += 5  # the random model hardly ever ends an answer: make that likelier
    settings = GenerationSettings(num_beams=beams, max_new_tokens=8)
    fast, slow = (RagTokenGenerator(copy.deepcopy(model), tokenizer, settings, "cpu", 2) for _ in range(2))
    slow._generator = Seq2Seq(copy.deepcopy(model.rag.generator))
    assert isinstance(fast._generator, Bart)
    passages = [passages_for(n) for n in range(len(QUESTIONS))]
    ours, theirs = (one.answer(QUESTIONS, passages, scores, batch_tokens=100_000) for one in (fast, slow))
    assert len({len(answer.token_ids) for answer in ours}) > 1, "all answers are equally long: none leaves the batch"
    for left, right in zip(ours, theirs, strict=True):
        assert list(left.token_ids) == list(right.token_ids)
        assert left.score == pytest.approx(right.score, abs=1e-4)
        np.testing.assert_allclose(left.posterior, right.posterior, atol=1e-5)


@pytest.mark.parametrize("beams", [1, 4])
def test_looking_directly_or_at_keys_and_values_is_the_same(tiny_rag, scores, beams, monkeypatch):
    passages = [passages_for(n) for n in range(len(QUESTIONS))]
    found = []
    for looks in (0, 7, 1000):  # always keys and values; directly at first; always directly
        monkeypatch.setattr(bart, "DIRECT_LOOKS", looks)
        found.append(generator(tiny_rag, num_beams=beams).answer(QUESTIONS, passages, scores, batch_tokens=100_000))
    for other in found[1:]:
        assert [answer.token_ids for answer in other] == [answer.token_ids for answer in found[0]]
        np.testing.assert_allclose([a.score for a in other], [a.score for a in found[0]], atol=1e-4)


@pytest.mark.parametrize("rules", [{}, {"num_beams": 2}, {"extractive": True, "spelling": "passages"}], ids=str)
def test_answers_by_number_of_passages_are_those_of_each_number_and_encode_a_passage_once(tiny_rag, rules, monkeypatch):
    passages = [passages_for(n, 1 + n % 6) for n in range(len(QUESTIONS))]
    passages[4] = []
    scores = np.random.default_rng(1).standard_normal((len(QUESTIONS), 6)).astype(np.float32)
    one = generator(tiny_rag, **rules)
    expected = {n: one.answer(QUESTIONS, [found[:n] for found in passages], scores) for n in (1, 2, 5)}
    encoded, done = [], []
    real = Bart.encode
    monkeypatch.setattr(Bart, "encode", lambda self, ids, mask: encoded.append(len(ids)) or real(self, ids, mask))
    found = one.answer_by_docs(QUESTIONS, passages, scores, [1, 2, 5], batch_tokens=100_000, on_rows=done.append)
    assert sum(encoded) == (len(QUESTIONS) - 1) * 5  # not 8; those of questions with fewer are filled up
    assert sum(done) == len(QUESTIONS) * 3
    assert list(found) == [1, 2, 5]
    for n, answers in found.items():
        for ours, theirs in zip(answers, expected[n], strict=True):
            assert (ours.text, ours.error, list(ours.token_ids)) == (theirs.text, theirs.error, list(theirs.token_ids))
            assert len(ours.posterior) == len(theirs.posterior)
            np.testing.assert_allclose(ours.posterior, theirs.posterior, atol=1e-5)


def test_a_passage_that_fails_costs_the_answers_that_are_made_from_it_alone(tiny_rag, scores, monkeypatch):
    passages = [passages_for(n) for n in range(len(QUESTIONS))]
    one = generator(tiny_rag, max_combined_length=60)
    marked = one._answers("9 9 9", add_special_tokens=False)["input_ids"]
    passages[2][2] = Passage("2:0", "", "9 9 9")
    real = Bart.encode

    def failing(self, ids, mask):
        if any(row[start : start + 3] == marked for row in ids.tolist() for start in range(len(row))):
            raise ValueError("bad passage")
        return real(self, ids, mask)

    monkeypatch.setattr(Bart, "encode", failing)
    found = one.answer_by_docs(QUESTIONS, passages, scores, [1, 2, 3])
    errors = {n: [number for number, answer in enumerate(answers) if answer.error] for n, answers in found.items()}
    assert errors == {1: [], 2: [], 3: [2]}
    assert "bad passage" in found[3][2].error


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


def test_a_models_own_generation_defaults_are_not_inherited(tiny_rag, oracle, scores):
    model = copy.deepcopy(oracle[0])
    model.generation_config.update(min_length=9, no_repeat_ngram_size=3, max_length=2, repetition_penalty=5.0)
    changed, plain = (
        RagTokenGenerator(one, oracle[1], GenerationSettings(max_new_tokens=8), "cpu", 1).answer(
            QUESTIONS, [passages_for(n) for n in range(18)], scores
        )
        for one in (model, copy.deepcopy(oracle[0]))
    )
    assert changed == plain


def test_forbidden_words_do_not_come_and_the_rest_is_as_transformers_has_it(tiny_rag, oracle, scores):
    free = generator(tiny_rag).answer(QUESTIONS, [passages_for(n) for n in range(18)], scores)
    word = max((answer.text for answer in free), key=len).split()[0]
    tokenizer = oracle[1]
    for rules in ({"num_beams": 1}, {"num_beams": 4}):
        found = generator(tiny_rag, forbidden_words=(word, "the king"), **rules).answer(
            QUESTIONS, [passages_for(n) for n in range(18)], scores
        )
        assert not any(f" {word} " in f" {answer.text} " or "the king" in answer.text for answer in found)
        bad = [tokenizer.generator(text, add_special_tokens=False)["input_ids"] for text in (word, "the king")]
        for number in range(0, 18, 3):
            sequences = transformers_own(oracle, scores, number, bad_words_ids=bad, **rules)
            assert found[number].text == tokenizer.batch_decode(sequences, skip_special_tokens=True)[0].strip()


def test_the_next_best_answers_are_transformers_own(tiny_rag, oracle, scores):
    found = generator(tiny_rag, num_beams=4, n_best=3).answer(
        QUESTIONS[:6], [passages_for(n) for n in range(6)], scores
    )
    tokenizer = oracle[1]
    more = {"num_return_sequences": 3, "output_scores": True, "return_dict_in_generate": True}
    for number in range(6):
        output = transformers_own(oracle, scores, number, num_beams=4, **more)
        texts = [text.strip() for text in tokenizer.batch_decode(output.sequences, skip_special_tokens=True)]
        answer = found[number]
        assert [answer.text, *(text for text, _ in answer.others)] == texts
        compared = sum(token.log_probability for token in answer.tokens[:7])  # the eighth is forced, and counts 0 there
        assert compared / len(answer.token_ids) == pytest.approx(output.sequences_scores[0].item(), abs=1e-4)


def test_tokens_carry_their_probability_and_posterior(tiny_rag, scores):
    for answer in generator(tiny_rag, num_beams=2).answer(QUESTIONS, [passages_for(n) for n in range(18)], scores):
        assert len(answer.tokens) == len(answer.token_ids)
        assert sum(token.log_probability for token in answer.tokens) == pytest.approx(answer.score, abs=1e-4)
        for token in answer.tokens:
            assert sum(token.posterior) == pytest.approx(1, abs=1e-5)
        np.testing.assert_allclose(answer.posterior, np.mean([t.posterior for t in answer.tokens], 0), atol=1e-5)


def test_score_scale_sharpens_the_choice_of_passages(tiny_rag, scores):
    plain, scaled = (
        generator(tiny_rag, score_scale=scale).answer(QUESTIONS[:1], [passages_for(0)], given)[0]
        for scale, given in ((None, scores[:1] * 3), (3.0, scores[:1]))
    )
    assert plain.text == scaled.text
    assert plain.score == pytest.approx(scaled.score, abs=1e-5)


def test_a_batch_that_fails_is_halved_and_one_question_alone_gets_the_error(tiny_rag, scores, monkeypatch):
    model = generator(tiny_rag)
    passages = [passages_for(n) for n in range(len(QUESTIONS))]
    whole = model.answer(QUESTIONS, passages, scores)
    real, sizes = model._answer_batch, []

    def small_memory(contexts, given, *more):
        sizes.append(len(contexts))
        if len(contexts) > 2:
            raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2 GiB")
        if any(np.array_equal(row, scores[5]) for row in given):
            raise RuntimeError("this question")
        return real(contexts, given, *more)

    monkeypatch.setattr(model, "_answer_batch", small_memory)
    found = model.answer(QUESTIONS, passages, scores, batch_tokens=100_000)
    assert max(sizes) == len(QUESTIONS)
    assert found[5].text is None
    assert "this question" in found[5].error
    assert [answer.text for n, answer in enumerate(found) if n != 5] == [a.text for n, a in enumerate(whole) if n != 5]


@pytest.mark.parametrize("batch_tokens", [150, 100_000])
def test_a_question_that_fails_leaves_the_others_as_if_it_had_not_been_there(
    tiny_rag, scores, monkeypatch, batch_tokens
):
    model = generator(tiny_rag)
    passages = [passages_for(n) for n in range(len(QUESTIONS))]
    others = [n for n in range(len(QUESTIONS)) if n not in (5, 11)]
    without = model.answer(
        [QUESTIONS[n] for n in others], [passages[n] for n in others], scores[others], batch_tokens=batch_tokens
    )
    real = model._answer_batch

    def fails_on_two(contexts, given, *more):
        if any(np.array_equal(row, scores[5]) or np.array_equal(row, scores[11]) for row in given):
            raise IndexError("index out of range in self")
        return real(contexts, given, *more)

    monkeypatch.setattr(model, "_answer_batch", fails_on_two)
    done = []
    found = model.answer(QUESTIONS, passages, scores, batch_tokens=batch_tokens, on_rows=done.append)
    assert [found[n].error for n in (5, 11)] == ["the model failed (IndexError: index out of range in self)"] * 2
    assert [found[n] for n in others] == without  # to the last bit of every score
    assert sum(done) == len(QUESTIONS)


def test_a_question_that_the_tokenizer_fails_on_gets_the_error(tiny_rag, scores, monkeypatch):
    model = generator(tiny_rag)
    passages = [passages_for(n) for n in range(len(QUESTIONS))]
    whole = model.answer(QUESTIONS, passages, scores)
    real = model._contexts

    def fails_on_one(questions, found, numbers):
        if 3 in numbers:
            raise OverflowError("too many bytes")
        return real(questions, found, numbers)

    monkeypatch.setattr(model, "_contexts", fails_on_one)
    found = model.answer(QUESTIONS, passages, scores)
    assert found[3].error == "the model failed (OverflowError: too many bytes)"
    assert [a.text for n, a in enumerate(found) if n != 3] == [a.text for n, a in enumerate(whole) if n != 3]


def test_scores_that_are_no_numbers_are_an_error(tiny_rag, scores):
    model = generator(tiny_rag)
    given = scores.copy()
    given[2] = np.nan
    found = model.answer(QUESTIONS, [passages_for(n) for n in range(len(QUESTIONS))], given)
    assert found[2].text is None
    assert "not numbers" in found[2].error
    assert sum(answer.error is not None for answer in found) == 1


def test_a_directory_without_weights_is_one_clear_error(tmp_path, tiny_rag):
    shutil.copy(f"{tiny_rag}/config.json", tmp_path)
    with pytest.raises(InputError, match="cannot be loaded"):
        RagTokenGenerator.load(str(tmp_path), GenerationSettings())


def test_an_uncased_answer_is_spelt_as_its_passage_spells_it_and_its_tokens_stay(tiny_rag, scores):
    def answers(capitals: bool, **settings):
        words = " ".join([*WORDS, *LETTERS])
        texts = [words.upper() if capitals else words, "sun"]
        found = [[Passage(str(n), "", text) for n, text in enumerate(texts)] for _ in QUESTIONS]
        return generator(tiny_rag, max_new_tokens=1, forced_tokens="none", **settings).answer(
            QUESTIONS, found, scores[:, :2]
        )

    plain, tokens, spelt = answers(False), answers(True, spelling="tokens"), answers(True)
    assert [one.text for one in tokens] == [one.text for one in plain]
    assert [one.token_ids for one in spelt] == [one.token_ids for one in plain]
    assert [one.score for one in spelt] == [one.score for one in plain]
    pieces = [one.text for one in plain]
    assert any(text.isalpha() for text in pieces)
    for one, text in zip(spelt, pieces, strict=True):
        likely = "sun" if text == "sun" and one.posterior[1] > one.posterior[0] else text.upper()
        assert one.text == (likely if text.isalnum() else text)


def test_a_vocabulary_with_capitals_is_no_uncased_one(tokenizer):
    class Cased:
        def __call__(self, text, add_special_tokens):
            return {"input_ids": list(text.encode())}

    assert is_uncased(tokenizer)
    assert not is_uncased(Cased())


@pytest.mark.parametrize("rules", [{}, {"num_beams": 4}, {"num_beams": 2, "no_repeat_ngram_size": 2}], ids=str)
def test_extractive_answers_are_transformers_own_under_the_same_constraint(tiny_rag, oracle, scores, rules):
    passages = [passages_for(n) for n in range(len(QUESTIONS))]
    settings = {"extractive": True, "max_new_tokens": 6, **rules}
    found = generator(tiny_rag, **settings).answer(QUESTIONS, passages, scores, batch_tokens=700)
    model, tokenizer = oracle
    end = model.config.generator.eos_token_id
    pieces = tokenizer.generator.convert_ids_to_tokens(range(len(tokenizer.generator)))
    for number, own in enumerate(passages):
        texts = [f" {part} ".replace(" ", "  ") for one in own for part in (one.title, one.text)]

        def stands(ids, after="", texts=texts):
            text = tokenizer.generator.decode(ids).replace(" ", "").replace("##", "")
            return text and any(re.search(" " + " *".join(map(re.escape, text)) + after, given) for given in texts)

        def may_follow(_, ids, stands=stands):
            """Tokens with which the text so far begins at a word and stands in a passage."""
            before = ids[1:].tolist()
            tokens = [
                token
                for token, piece in enumerate(pieces)
                if token >= 5 and piece is not None and (before or not piece.startswith("##"))
                if stands([*before, token])
            ]
            return [*tokens, end] if stands(before, " ") or not tokens else tokens

        limits = {"max_length": 7, "prefix_allowed_tokens_fn": may_follow}
        sequences = transformers_own(oracle, scores, number, **limits, **rules)
        expected = tokenizer.generator.decode(sequences[0], skip_special_tokens=True).strip()
        assert expected.replace(" ", "") == found[number].text.replace(" ", "")  # the passage's spelling
        assert any(found[number].text in f"{one.title}|{one.text}" for one in own) or len(found[number].token_ids) == 6
    assert len({answer.text for answer in found}) > 3
