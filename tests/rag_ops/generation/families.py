"""Tiny random generators of many families as their stock configurations have them, and transformers' own answers."""

from __future__ import annotations

import functools
from collections.abc import Sequence
from types import SimpleNamespace

import numpy as np
import torch
import transformers as t
from transformers import RagConfig, RagTokenForGeneration

from rag_ops.generation.rag_token import Answer, GenerationSettings, RagTokenGenerator
from schemas.passages import Passage
from tests.conftest import WORDS

DOCS, LIMIT = 3, 8
SIZES = {
    "d_model": 32,
    **{f"{side}_{name}": 2 for side in ("encoder", "decoder") for name in ("layers", "attention_heads")},
    **{f"{side}_ffn_dim": 48 for side in ("encoder", "decoder")},
    "max_position_embeddings": 160,
    "init_std": 0.4,
}
T5 = {"d_model": 32, "d_kv": 8, "d_ff": 48, "num_layers": 2, "num_decoder_layers": 2, "num_heads": 2}
T5 |= {"initializer_factor": 1.5, "decoder_start_token_id": 0}
EXPERTS = {"num_experts": 4, "expert_capacity": 64}
# Name: configuration, model, and what is no family's own: sizes, and a start token where the stock one is too large
FAMILIES = {
    "bart": (t.BartConfig, t.BartForConditionalGeneration, SIZES),
    "mbart": (t.MBartConfig, t.MBartForConditionalGeneration, SIZES | {"decoder_start_token_id": 0}),
    "pegasus": (t.PegasusConfig, t.PegasusForConditionalGeneration, SIZES),
    "blenderbot": (t.BlenderbotConfig, t.BlenderbotForConditionalGeneration, SIZES),
    "blenderbot-small": (t.BlenderbotSmallConfig, t.BlenderbotSmallForConditionalGeneration, SIZES),
    "marian": (t.MarianConfig, t.MarianMTModel, SIZES | {"pad_token_id": 70, "decoder_start_token_id": 70}),
    "m2m_100": (t.M2M100Config, t.M2M100ForConditionalGeneration, SIZES),
    "t5": (t.T5Config, t.T5ForConditionalGeneration, T5),
    "switch": (
        t.SwitchTransformersConfig,
        t.SwitchTransformersForConditionalGeneration,
        T5 | EXPERTS | {"num_sparse_encoder_layers": 1, "num_sparse_decoder_layers": 1},
    ),
    "nllb-moe": (
        t.NllbMoeConfig,
        t.NllbMoeForConditionalGeneration,
        SIZES | EXPERTS | {"encoder_sparse_step": 2, "decoder_sparse_step": 2},
    ),
}


def rag(generator: t.PreTrainedModel, **config: object) -> RagTokenForGeneration:
    """A RAG-Token model of a generator and a question encoder that is never asked."""
    sizes = {"hidden_size": 8, "num_hidden_layers": 1, "num_attention_heads": 1, "intermediate_size": 8}
    encoder = t.DPRQuestionEncoder(t.DPRConfig(**sizes, vocab_size=50))
    whole = RagConfig.from_question_encoder_generator_configs(encoder.config, generator.config, n_docs=DOCS, **config)
    return RagTokenForGeneration(config=whole, question_encoder=encoder, generator=generator).eval()


def generator(family: str, vocabulary: int, *, seed: int = 1, ending: float = 0.0, **more: object):
    """A random generator; `ending` makes the end token that much likelier, and `more` goes into its configuration."""
    config, model, sizes = FAMILIES[family]
    torch.manual_seed(seed)
    made = model(config(vocab_size=vocabulary, **(sizes | more))).eval()
    if ending:
        ends = made.config.eos_token_id
        bias = getattr(made, "final_logits_bias", None)
        assert bias is not None, f"{family} has no bias of its own"
        bias[0, ends] += ending
    return made


@functools.cache
def asked() -> tuple[list[str], list[list[Passage]], np.ndarray]:
    """24 questions, their passages of 1 to 30 words, and scores."""
    random = np.random.default_rng(5)

    def text(shortest: int, longest: int) -> str:
        return " ".join(random.choice(WORDS, random.integers(shortest, longest)))

    questions = [text(2, 9) for _ in range(24)]
    passages = [[Passage(f"{n}:{z}", text(1, 4), text(1, 30)) for z in range(DOCS)] for n in range(24)]
    return questions, passages, random.normal(0, 1.5, (24, DOCS)).astype(np.float32)


def our_generator(model: RagTokenForGeneration, tokenizer, **settings: object) -> RagTokenGenerator:
    """Ours, with a tokenizer for both sides; the model's generator is used up."""
    chosen = GenerationSettings(**{"max_new_tokens": LIMIT, **settings})
    pair = SimpleNamespace(question_encoder=tokenizer, generator=tokenizer)
    return RagTokenGenerator(model, pair, chosen, "cpu", 1)


def ours(model: RagTokenForGeneration, tokenizer, **settings: object) -> list[Answer]:
    """Our answers to all of `asked`; the model's generator is used up."""
    return our_generator(model, tokenizer, **settings).answer(*asked())


def theirs(model: RagTokenForGeneration, tokenizer, limit: int = LIMIT, **settings: object) -> list[tuple[list, list]]:
    """What transformers generates for all of `asked`: each question's sequences and their scores, best first."""
    questions, passages, scores = asked()
    texts = [
        f"{p.title} / {p.text} // {question}"
        for question, found in zip(questions, passages, strict=True)
        for p in found
    ]
    encoded = tokenizer(texts, return_tensors="pt", padding=True)
    output = model.generate(
        context_input_ids=encoded["input_ids"],
        context_attention_mask=encoded["attention_mask"],
        doc_scores=torch.from_numpy(scores),
        n_docs=DOCS,
        max_length=limit + 1,
        output_scores=True,
        return_dict_in_generate=True,
        encoder_no_repeat_ngram_size=0,  # 3 by Blenderbot's configuration, and then RAG's generate raises an error
        **{"min_length": 1, "num_beams": 1, "early_stopping": False, **settings},
    )
    ends = model.generation_config.eos_token_id
    sequences = [up_to_the_end(ids[1:], ends) for ids in output.sequences.tolist()]
    found = output.sequences_scores.tolist() if "sequences_scores" in output else [None] * len(sequences)
    each = len(sequences) // len(questions)
    return [(sequences[start : start + each], found[start : start + each]) for start in range(0, len(sequences), each)]


def up_to_the_end(ids: Sequence[int], ends: int | Sequence[int]) -> list[int]:
    """A sequence without what pads it."""
    ends = [ends] if isinstance(ends, int) else list(ends)
    return list(ids[: next((n + 1 for n, token in enumerate(ids) if token in ends), len(ids))])
