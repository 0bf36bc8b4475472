"""Our decoders against transformers' RagTokenForGeneration: tokens, scores and loss, over three random models.

The oracle is asked in batches of 25, padded as its own retriever pads, and for ten questions alone too; ours answers
all in ragged batches.
"""

import copy
import functools

import numpy as np
import pytest
import torch
from transformers import (
    BartConfig,
    BartForConditionalGeneration,
    DPRConfig,
    DPRQuestionEncoder,
    RagConfig,
    T5Config,
    T5ForConditionalGeneration,
)
from transformers import RagTokenForGeneration as Oracle

from rag_ops.generation.bart import Bart
from rag_ops.generation.rag_token import GenerationSettings, RagTokenGenerator
from rag_ops.generation.seq2seq import Seq2Seq
from schemas.passages import Passage
from tests.conftest import WORDS

QUESTIONS, DOCS, NEW_TOKENS, PAD, END = 200, 3, 8, 0, 3
TOGETHER, ALONE = 25, 10  # questions that the oracle is asked at a time, and the first ones that it is asked alone too
BY_BRUTE_FORCE = 20
ROUNDING = 2e-5  # of a token's log-probability in float32, by a sharpened model; how much depends on the processor
BART = {"pad_token_id": PAD, "bos_token_id": 2, "eos_token_id": END, "decoder_start_token_id": 2}
BART |= {"forced_eos_token_id": END}  # as in BART's own configuration, the end token


class Pair:
    """The tokenizer of the tests on both sides."""

    def __init__(self, tokenizer):
        self.question_encoder = self.generator = tokenizer


def bart(vocabulary: int, width: int, layers: int, heads: int, init_std: float, sharpness: float, seed: int):
    torch.manual_seed(seed)
    sizes = {"d_model": width, "encoder_layers": layers, "decoder_layers": layers, "vocab_size": vocabulary}
    sizes |= {"encoder_attention_heads": heads, "decoder_attention_heads": heads}
    sizes |= {"encoder_ffn_dim": 3 * width, "decoder_ffn_dim": 3 * width, "max_position_embeddings": 256}
    model = BartForConditionalGeneration(BartConfig(**sizes, **BART, init_std=init_std))
    model.final_logits_bias[0, END] += 4  # random models hardly ever end an answer: make that likelier
    for layer in model.model.decoder.layers:  # and hardly look at the passages: sharpen that
        layer.encoder_attn.q_proj.weight.data *= sharpness
        layer.encoder_attn.out_proj.weight.data *= min(sharpness, 3)
    return model


def t5(vocabulary: int, seed: int):
    torch.manual_seed(seed)
    config = T5Config(
        vocab_size=vocabulary,
        d_model=32,
        d_kv=8,
        d_ff=64,
        num_layers=2,
        num_heads=4,
        pad_token_id=PAD,
        eos_token_id=END,
        decoder_start_token_id=PAD,
        initializer_factor=1.5,
        prefix="answer: ",
    )
    return T5ForConditionalGeneration(config)


@pytest.fixture(scope="module")
def asked() -> tuple[list[str], list[list[Passage]], np.ndarray]:
    """Questions, passages of 1 to 70 words, and scores."""
    random = np.random.default_rng(11)

    def text(shortest: int, longest: int) -> str:
        return " ".join(random.choice(WORDS, random.integers(shortest, longest)))

    questions = [text(2, 9) for _ in range(QUESTIONS)]
    passages = [[Passage(f"{n}:{z}", text(1, 4), text(1, 70)) for z in range(DOCS)] for n in range(QUESTIONS)]
    return questions, passages, random.normal(0, 1.5, (QUESTIONS, DOCS)).astype(np.float32)


@functools.cache
def model_named(name: str, vocabulary: int) -> Oracle:
    generator = {
        "bart, narrow": lambda: bart(vocabulary, 16, 2, 2, 0.6, 1, seed=5),
        "bart, wide": lambda: bart(vocabulary, 96, 3, 6, 0.2, 5, seed=7),
        "t5": lambda: t5(vocabulary, seed=7),
    }[name]()
    encoder = DPRQuestionEncoder(DPRConfig(hidden_size=8, num_hidden_layers=1, num_attention_heads=1))
    config = RagConfig.from_question_encoder_generator_configs(encoder.config, generator.config, n_docs=DOCS)
    return Oracle(config=config, question_encoder=encoder, generator=generator).eval()


def oracle_inputs(model: Oracle, tokenizer, questions: list[str], passages: list, scores: np.ndarray) -> dict:
    prefix = getattr(model.config.generator, "prefix", None) or ""
    pairs = zip(questions, passages, strict=True)
    texts = [f"{prefix}{p.title} / {p.text} // {question}" for question, found in pairs for p in found]
    encoded = tokenizer(texts, return_tensors="pt", padding="max_length", max_length=120)
    return {
        "context_input_ids": encoded["input_ids"],
        "context_attention_mask": encoded["attention_mask"],
        "doc_scores": torch.from_numpy(scores),
        "n_docs": DOCS,
    }


def oracle_answers(oracle: Oracle, inputs: dict, beams: int) -> list[tuple[list[int], float | None]]:
    """Of each question of a batch: its tokens up to the end, and with beams the mean of their log-probabilities."""
    output = oracle.generate(
        **inputs,
        num_beams=beams,
        min_length=1,
        max_length=NEW_TOKENS + 1,
        early_stopping=False,
        output_scores=True,
        return_dict_in_generate=True,
    )
    sequences = [row[: row.index(END) + 1] if END in row else row for row in output.sequences[:, 1:].tolist()]
    means = output.sequences_scores.tolist() if beams > 1 else [None] * len(sequences)
    return list(zip(sequences, means, strict=True))


def oracle_log_probabilities(oracle: Oracle, inputs: dict, answers: list[list[int]]) -> list[float]:
    """Of each answer of a batch by the oracle's own loss, which leaves padding out."""
    start = oracle.config.generator.decoder_start_token_id
    length = max(map(len, answers))
    labels = torch.tensor([[start, *answer, *[PAD] * (length - len(answer))] for answer in answers])
    with torch.inference_mode():
        return (-oracle(**inputs, labels=labels).loss).tolist()


@pytest.mark.parametrize("beams", [1, 4])
@pytest.mark.parametrize("name", ["bart, narrow", "bart, wide", "t5"])
def test_tokens_scores_and_loss_are_the_oracles(name, beams, tokenizer, asked):
    questions, passages, scores = asked
    oracle = model_named(name, len(tokenizer))
    settings = GenerationSettings(num_beams=beams, max_new_tokens=NEW_TOKENS)
    ours = RagTokenGenerator(copy.deepcopy(oracle), Pair(tokenizer), settings, "cpu", 2)
    assert isinstance(ours._generator, Seq2Seq if name == "t5" else Bart)
    answers = ours.answer(questions, passages, scores, batch_tokens=3000)
    forced = slice(NEW_TOKENS - 1, None) if name != "t5" else slice(0)  # the forced end counts 0 there
    alone = [slice(number, number + 1) for number in range(ALONE)]
    together = [slice(first, first + TOGETHER) for first in range(0, QUESTIONS, TOGETHER)]
    for part in [*alone, *together]:
        inputs = oracle_inputs(oracle, tokenizer, questions[part], passages[part], scores[part])
        wanted = oracle_answers(oracle, inputs, beams)
        assert [list(answer.token_ids) for answer in answers[part]] == [tokens for tokens, _ in wanted]
        summed = oracle_log_probabilities(oracle, inputs, [tokens for tokens, _ in wanted])
        for answer, (tokens, mean), log_probability in zip(answers[part], wanted, summed, strict=True):
            if PAD not in tokens:  # of which the oracle's loss leaves out
                assert answer.score == pytest.approx(log_probability, abs=ROUNDING * len(tokens))
            if beams > 1:
                own = answer.score - sum(token.log_probability for token in answer.tokens[forced])
                assert own / len(tokens) == pytest.approx(mean, abs=1e-4)
    lengths = {len(answer.token_ids) for answer in answers}
    assert len({answer.text for answer in answers}) > 10, "the random model answers nearly all alike"
    assert name == "t5" or len(lengths) > 2, "no answer ends early"


@pytest.mark.parametrize("name", ["bart, narrow", "bart, wide", "t5"])
def test_greedy_is_the_formula_by_brute_force(name, tokenizer, asked):
    """No cache, no batch, float64: each next token from one forward pass for each passage."""
    questions, passages, scores = (part[:BY_BRUTE_FORCE] for part in asked)
    oracle = model_named(name, len(tokenizer))
    ours = RagTokenGenerator(
        copy.deepcopy(oracle), Pair(tokenizer), GenerationSettings(max_new_tokens=NEW_TOKENS), "cpu", 2
    )
    exact = copy.deepcopy(oracle.rag.generator).double()
    prefix = getattr(oracle.config.generator, "prefix", None) or ""
    for number, answer in enumerate(ours.answer(questions, passages, scores)):
        prior = torch.softmax(torch.from_numpy(scores[number]).double(), 0)
        written, log_probability = [oracle.config.generator.decoder_start_token_id], 0.0
        while len(written) <= NEW_TOKENS and (len(written) == 1 or written[-1] != END):
            mixture = torch.zeros(len(tokenizer), dtype=torch.double)
            for probability, p in zip(prior, passages[number], strict=True):
                encoded = tokenizer(f"{prefix}{p.title} / {p.text} // {questions[number]}", return_tensors="pt")
                with torch.inference_mode():
                    logits = exact(
                        input_ids=encoded["input_ids"],
                        attention_mask=encoded["attention_mask"],
                        decoder_input_ids=torch.tensor([written]),
                        use_cache=False,
                    ).logits
                mixture += probability * logits[0, -1].softmax(-1)
            forced = name != "t5" and len(written) == NEW_TOKENS
            written.append(END if forced else int(mixture.argmax()))
            log_probability += float(mixture[written[-1]].log())
        assert list(answer.token_ids) == written[1:]
        assert answer.score == pytest.approx(log_probability, abs=1e-4)
