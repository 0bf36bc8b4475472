"""Our RAG-Sequence against transformers' RagSequenceForGeneration; fast decoding against the paper's words in NumPy.

The oracle is asked one question at a time; RAGBEAM_ORACLE_QUESTIONS=300 asks more than the suite does. Its `generate`
gives its generator no mask: transformers 4 made one then, transformers 5 lets it attend to padding. So contexts of
every other question are of one length, and for the rest the oracle's generator is given what transformers 4 made.
"""

import copy
import os

import numpy as np
import pytest
import torch
from transformers import DPRConfig, DPRQuestionEncoder, RagConfig
from transformers import RagSequenceForGeneration as Oracle

from rag_ops.errors import InputError
from rag_ops.generation.answer import Answer
from rag_ops.generation.bart import Bart
from rag_ops.generation.rag_sequence import Ranking
from rag_ops.generation.rag_token import GenerationSettings, RagTokenGenerator
from rag_ops.generation.scoring import _groups
from rag_ops.generation.seq2seq import Seq2Seq
from rag_ops.models import checkpoints
from schemas.passages import Passage
from tests.conftest import WORDS
from tests.rag_ops.generation.families import up_to_the_end
from tests.rag_ops.generation.test_oracle import END, PAD, Pair, bart, t5

QUESTIONS = int(os.environ.get("RAGBEAM_ORACLE_QUESTIONS", "4"))
DOCS, NEW_TOKENS = 3, 6
FAMILIES = ["bart", "t5"]


@pytest.fixture(scope="module")
def asked() -> tuple[list[str], list[list[Passage]], np.ndarray]:
    """Questions, passages of 1 to 12 words, or of 10 for every other question, and scores."""
    random = np.random.default_rng(17)

    def text(shortest: int, longest: int, even: bool = False) -> str:
        return " ".join(random.choice(WORDS, longest if even else random.integers(shortest, longest + 1)))

    questions = [text(2, 6) for _ in range(QUESTIONS)]
    passages = [
        [Passage(f"{n}:{z}", text(1, 2, n % 2 == 0), text(1, 10, n % 2 == 0)) for z in range(DOCS)]
        for n in range(QUESTIONS)
    ]
    return questions, passages, random.normal(0, 1, (QUESTIONS, DOCS)).astype(np.float32)


@pytest.fixture(scope="module")
def oracles(tokenizer) -> dict[str, Oracle]:
    """Transformers' models, by the family of their generators."""
    found = {}
    generators = {"bart": bart(len(tokenizer), 24, 2, 2, 0.5, 3, seed=5), "t5": t5(len(tokenizer), seed=1)}
    generators["t5"].config.bos_token_id = None  # which transformers' loss asks for
    for name, generator in generators.items():
        sizes = {"hidden_size": 8, "num_hidden_layers": 1, "num_attention_heads": 1}
        encoder = DPRQuestionEncoder(DPRConfig(**sizes, vocab_size=50))
        config = RagConfig.from_question_encoder_generator_configs(encoder.config, generator.config, n_docs=DOCS)
        found[name] = Oracle(config=config, question_encoder=encoder, generator=generator).eval()
    return found


def inputs_of(oracle: Oracle, tokenizer, question: str, passages: list[Passage], scores: np.ndarray) -> dict:
    prefix = getattr(oracle.config.generator, "prefix", None) or ""
    texts = [f"{prefix}{p.title} / {p.text} // {question}" for p in passages]
    encoded = tokenizer(texts, return_tensors="pt", padding=True)
    return {
        "context_input_ids": encoded["input_ids"],
        "context_attention_mask": encoded["attention_mask"],
        "doc_scores": torch.from_numpy(scores)[None],
        "n_docs": DOCS,
    }


def generator_of(oracle: Oracle, tokenizer, **settings: object) -> RagTokenGenerator:
    chosen = GenerationSettings(**{"max_new_tokens": NEW_TOKENS, "decoding": "sequence", **settings})
    return RagTokenGenerator(copy.deepcopy(oracle), Pair(tokenizer), chosen, "cpu", 1)


@pytest.mark.parametrize("beams", [1, 4])
@pytest.mark.parametrize("family", FAMILIES)
def test_thorough_decoding_gives_the_oracles_sequences(family, beams, tokenizer, asked, oracles, monkeypatch):
    unmasked = oracles[family].generator.generate

    def masked(ids: torch.Tensor, **options: object) -> torch.Tensor:
        return unmasked(ids, **{**options, "attention_mask": ids.ne(PAD).long()})

    oracle, (questions, passages, scores) = oracles[family], asked
    best = 2 if beams > 1 else 1
    ours = generator_of(oracle, tokenizer, num_beams=beams, n_best=best)
    assert isinstance(ours._generator, Bart if family == "bart" else Seq2Seq)
    answers = ours.answer(questions, passages, scores)
    by_deduplication: dict[bool, list[list[list[int]]]] = {True: [], False: []}
    for number, question in enumerate(questions):
        inputs = inputs_of(oracle, tokenizer, question, passages[number], scores[number])
        assert inputs["context_attention_mask"].all() or number % 2
        if number % 2:
            monkeypatch.setattr(oracle.generator, "generate", masked)
        else:
            monkeypatch.undo()
        for deduplicates, found in by_deduplication.items():
            sequences = oracle.generate(
                **inputs,
                num_beams=beams,
                num_return_sequences=best if deduplicates else 1,
                min_length=1,
                max_length=NEW_TOKENS + 1,
                do_deduplication=deduplicates,
            )
            found.append([up_to_the_end(ids[1:], END) for ids in sequences.tolist()])
    for found in by_deduplication.values():
        assert [list(answer.token_ids) for answer in answers] == [sequences[0] for sequences in found]
    for answer, sequences in zip(answers, by_deduplication[True], strict=True):
        others = [tokenizer.decode(ids, skip_special_tokens=True) for ids in sequences[1:]]
        assert [text for text, _ in answer.others] == [text.strip() for text in others]
    assert len({tuple(answer.token_ids) for answer in answers}) > min(len(questions) / 3, 20), (
        "it answers nearly all alike"
    )


def said_by(oracle: Oracle, tokenizer, question: str, passage: Passage, tokens: list[int]) -> np.ndarray:
    """Gives log p(y_t|x, z, y_<t) of each token, by one forward pass of the generator, in float64."""
    inputs = inputs_of(oracle, tokenizer, question, [passage], np.zeros(1, np.float32))
    start = oracle.config.generator.decoder_start_token_id
    with torch.inference_mode():
        logits = oracle.generator(
            input_ids=inputs["context_input_ids"],
            attention_mask=inputs["context_attention_mask"],
            decoder_input_ids=torch.tensor([[start, *tokens[:-1]]]),
        ).logits[0]
    logits = logits.double().numpy()
    return (logits - np.logaddexp.reduce(logits, 1, keepdims=True))[np.arange(len(tokens)), tokens]


@pytest.mark.parametrize("decoding", ["sequence", "sequence-fast"])
@pytest.mark.parametrize("family", FAMILIES)
def test_scores_and_posteriors_are_those_of_the_papers_formula(family, decoding, tokenizer, asked, oracles):
    oracle, (questions, passages, scores) = oracles[family], (part[:4] for part in asked)
    ragged = [found[: 1 + number % DOCS] for number, found in enumerate(passages)]
    answers = generator_of(oracle, tokenizer, num_beams=3, decoding=decoding).answer(questions, ragged, scores)
    for number, answer in enumerate(answers):
        own = scores[number, : len(ragged[number])].astype(float)
        prior = np.exp(own - np.logaddexp.reduce(own))
        said = np.array([said_by(oracle, tokenizer, questions[number], p, answer.token_ids) for p in ragged[number]])
        if decoding == "sequence-fast":
            gave = np.array([p > 0 for p in answer.posterior])
            assert gave.any()
            said[~gave] = -np.inf
            highest = np.log(min(1.0, np.exp(answer.score) + prior[~gave].sum()))
            assert answer.score_high == pytest.approx(highest, abs=1e-4)
            assert answer.without is None
        else:
            assert answer.score_high == answer.score
            check_without(answer, prior, said)
        joint = prior[:, None] * np.exp(said.cumsum(1))
        assert answer.score == pytest.approx(np.log(joint[:, -1].sum()), abs=1e-4)
        np.testing.assert_allclose(answer.posterior, joint[:, -1] / joint[:, -1].sum(), atol=1e-4)
        found = np.array([token.log_probability for token in answer.tokens])
        np.testing.assert_allclose(found.cumsum(), np.log(joint.sum(0)), atol=1e-4)
        shares = [token.posterior for token in answer.tokens]
        np.testing.assert_allclose(shares, (joint / joint.sum(0)).T, atol=1e-4)


def check_without(answer: Answer, prior: np.ndarray, said: np.ndarray) -> None:
    """The score without each passage, from the others' priors, which are made to sum to 1."""
    if len(prior) == 1:
        assert answer.without is None
        return
    for doc, score in enumerate(answer.without):
        others = np.arange(len(prior)) != doc
        expected = np.log((prior[others] / prior[others].sum() * np.exp(said[others].sum(1))).sum())
        assert score == pytest.approx(expected, abs=1e-4, rel=1e-5)


def test_choices_are_scored_by_the_mixture_of_sequences(tokenizer, asked, oracles):
    oracle, (questions, passages, scores) = oracles["bart"], (part[:3] for part in asked)
    choices, ragged = ["moon", "king of ice", "war"], [found[: number + 1] for number, found in enumerate(passages)]
    ours = generator_of(oracle, tokenizer, choices=",".join(choices), decoding="sequence")
    for number, answer in enumerate(ours.answer(questions, ragged, scores)):
        own = scores[number, : number + 1].astype(float)
        log_prior, found = own - np.logaddexp.reduce(own), {}
        for choice in choices:
            ids = [*tokenizer(choice, add_special_tokens=False)["input_ids"], END]
            said = [said_by(oracle, tokenizer, questions[number], p, ids).sum() for p in ragged[number]]
            found[choice] = np.logaddexp.reduce(log_prior + said)
        assert answer.text == max(found, key=found.get)
        assert [score for _, score, _ in answer.choices] == pytest.approx(list(found.values()), abs=1e-4)
        assert answer.score == pytest.approx(max(found.values()), abs=1e-4)


@pytest.mark.parametrize("beams", [1, 3])
@pytest.mark.parametrize("family", FAMILIES)
def test_fast_decoding_is_the_papers_words_in_numpy(family, beams, tokenizer, asked, oracles):
    oracle, (questions, passages, scores) = oracles[family], (part[:3] for part in asked)
    settings = {"num_beams": beams, "n_best": beams, "decoding": "sequence-fast"}
    answers = generator_of(oracle, tokenizer, **settings).answer(questions, passages, scores)
    for number, answer in enumerate(answers):
        own = scores[number].astype(float)
        prior = np.exp(own - np.logaddexp.reduce(own))
        probabilities: dict[tuple[int, ...], float] = {}
        for z, passage in enumerate(passages[number]):
            inputs = inputs_of(oracle, tokenizer, questions[number], [passage], scores[number])
            generated = oracle.generator.generate(
                inputs["context_input_ids"],
                attention_mask=inputs["context_attention_mask"],
                **{"num_beams": beams, "num_return_sequences": beams, "min_length": 1, "max_length": NEW_TOKENS + 1},
            )
            for ids in {tuple(up_to_the_end(ids[1:], END)) for ids in generated.tolist()}:
                said = said_by(oracle, tokenizer, questions[number], passage, list(ids))
                probabilities[ids] = probabilities.get(ids, 0.0) + prior[z] * np.exp(said.sum())
        ranked = sorted(probabilities, key=lambda ids: -probabilities[ids])[:beams]
        assert tuple(answer.token_ids) == ranked[0]
        assert answer.score == pytest.approx(np.log(probabilities[ranked[0]]), abs=1e-4)
        texts = [tokenizer.decode(ids, skip_special_tokens=True) for ids in ranked[1:]]
        assert [text for text, _ in answer.others] == [text.strip() for text in texts]
        expected = [np.log(probabilities[ids]) for ids in ranked[1:]]
        np.testing.assert_allclose([score for _, score in answer.others], expected, atol=1e-4)


def test_an_answer_does_not_depend_on_the_questions_beside_it(tokenizer, asked, oracles):
    questions, passages, scores = (part[:4] for part in asked)
    ours = generator_of(oracles["bart"], tokenizer, num_beams=2)
    together = ours.answer(questions, passages, scores)
    for number in range(4):
        part = slice(number, number + 1)
        alone = ours.answer(questions[part], passages[part], scores[part])[0]
        assert alone.token_ids == together[number].token_ids
        assert alone.score == pytest.approx(together[number].score, abs=1e-4)


def test_extractive_answers_by_sequences_stand_in_a_passage(tokenizer, asked, oracles):
    questions, passages, scores = (part[:4] for part in asked)
    ours = generator_of(oracles["bart"], tokenizer, num_beams=2, extractive=True)
    for answer, found in zip(ours.answer(questions, passages, scores), passages, strict=True):
        assert answer.text
        assert any(answer.text in f"{p.title} | {p.text}".lower() for p in found)


def test_questions_without_passages_and_with_scores_that_are_no_numbers_get_errors(tokenizer, asked, oracles):
    questions, passages, scores = (part[:3] for part in asked)
    scores = scores.copy()
    scores[1] = np.nan
    found = generator_of(oracles["bart"], tokenizer).answer(questions, [[], *passages[1:]], scores)
    assert [answer.error is None for answer in found] == [False, False, True]


def test_the_ranking_has_transformers_four_rules():
    fills = np.log([[0.1], [0.2]])
    said = [np.log([[0.5, 0.5], [0.25, 0.5]]), np.concatenate([np.log([[0.5], [0.25]]), fills], 1)]
    log_prior = np.log([0.9, 0.1])
    begun, other, blank = [(2, 5), (2,)], [(4, 5), (2,)], [(4, 0), (4,)]
    whole, filled = 0.9 * 0.5 * 0.5 + 0.1 * 0.25 * 0.5, 0.9 * 0.5 * 0.1 + 0.1 * 0.25 * 0.2
    rule, ends = Ranking(begin=2, pad=0, filler=0), Ranking(begin=2, pad=0, filler=3)
    np.testing.assert_allclose(np.exp(rule.scores(other, said, log_prior)), [whole, 0.75])
    np.testing.assert_allclose(np.exp(rule.scores(begun, said, log_prior)), [0.9 * 0.5 + 0.1 * 0.5, 2.0])
    np.testing.assert_allclose(np.exp(rule.scores(blank, said, log_prior)), [0.75, 0.75])
    np.testing.assert_allclose(np.exp(ends.scores(other, said, log_prior)), [whole, filled])


def test_questions_are_scored_in_groups_of_like_ones_within_the_budget():
    hypotheses = [[(1, 2)], [(1, 2), (3, 4)], [(1,)], [(1, 2, 3)] * 9]
    groups = _groups(hypotheses, [2, 2, 2, 2], 8)
    assert groups == [[2, 0], [1], [3]]
    assert sorted(one for group in _groups(hypotheses, [2, 2, 2, 2], 10**6) for one in group) == [0, 1, 2, 3]


@pytest.mark.parametrize(
    ("architectures", "wanted", "any_architecture", "found"),
    [
        (None, None, False, "token"),
        (["RagTokenForGeneration"], None, False, "token"),
        (["RagSequenceForGeneration"], None, False, "sequence"),
        (["RagSequenceForGeneration"], "sequence-fast", False, "sequence-fast"),
        (None, "sequence", False, "sequence"),
        (["RagTokenForGeneration"], "sequence", True, "sequence"),
        (["RagSequenceForGeneration"], "token", True, "token"),
        (["RagModel"], "token", True, "token"),
    ],
)
def test_the_decoding_is_the_models_own_unless_another_is_allowed(architectures, wanted, any_architecture, found):
    assert checkpoints.decoding_of(architectures, "it", wanted, any_architecture) == found


@pytest.mark.parametrize(
    ("architectures", "wanted", "any_architecture", "message"),
    [
        (["RagTokenForGeneration"], "sequence", False, r"--decoding sequence .*: 'it \(RagTokenForGeneration\)'"),
        (["RagSequenceForGeneration"], "token", False, "expected --decoding sequence"),
        (["RagModel"], None, True, "of another kind"),
        (["RagModel"], "token", False, "of another kind"),
    ],
)
def test_weights_of_another_rule_are_refused(architectures, wanted, any_architecture, message):
    with pytest.raises(InputError, match=message):
        checkpoints.decoding_of(architectures, "it", wanted, any_architecture)


def test_lazy_decoding_is_for_tokens(tokenizer, oracles):
    with pytest.raises(InputError, match="--lazy is for the mixture of tokens"):
        GenerationSettings(lazy=True, decoding="sequence-fast")
    oracle = copy.deepcopy(oracles["bart"])
    oracle.config.architectures = ["RagSequenceForGeneration"]
    with pytest.raises(InputError, match="--lazy is for the mixture of tokens"):
        generator_of(oracle, tokenizer, lazy=True, decoding=None)
