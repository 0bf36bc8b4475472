"""Generators in bfloat16 on a CPU: close to float32, with logits in float32; a passage's states are its own."""

import copy

import pytest
import torch
from transformers import BartConfig, BartForConditionalGeneration, T5Config, T5ForConditionalGeneration

from rag_ops.compute import processor
from rag_ops.errors import JobError
from rag_ops.generation.bart import Bart
from rag_ops.generation.rag_token import RagTokenGenerator
from rag_ops.generation.seq2seq import Seq2Seq, generator_of
from rag_ops.generation.settings import GenerationSettings

VOCABULARY, DOCS, LONGEST = 90, 6, 30


def a_bart():
    sizes = {f"{side}_{name}": 2 for side in ("encoder", "decoder") for name in ("layers", "attention_heads")}
    inner = {"encoder_ffn_dim": 64, "decoder_ffn_dim": 64, "d_model": 32, "vocab_size": VOCABULARY}
    return BartForConditionalGeneration(BartConfig(**sizes, **inner, init_std=0.2))


def a_t5():
    sizes = {"d_model": 32, "d_kv": 16, "d_ff": 64, "num_layers": 2, "num_heads": 2, "vocab_size": VOCABULARY}
    return T5ForConditionalGeneration(T5Config(**sizes, decoder_start_token_id=0))


@pytest.fixture(params=[(a_bart, Bart), (a_t5, Seq2Seq)], ids=["bart", "t5"])
def pair(request):
    """The same generator in float32 and in bfloat16."""
    make, kind = request.param
    torch.manual_seed(1)
    model = make().eval()
    wide, narrow = generator_of(copy.deepcopy(model)), generator_of(model, narrow=True)
    assert type(wide) is type(narrow) is kind
    return wide, narrow


@pytest.fixture
def contexts() -> tuple[torch.Tensor, torch.Tensor]:
    """Ids and mask of passages of several lengths."""
    torch.manual_seed(2)
    lengths = torch.tensor([LONGEST, 3, 17, 29, 8, 1])
    mask = (torch.arange(LONGEST) < lengths[:, None]).long()
    return torch.randint(4, VOCABULARY, (DOCS, LONGEST)) * mask + (1 - mask), mask


@pytest.mark.parametrize("beams", [1, 3])
@torch.inference_mode()
def test_logits_are_in_float32_and_close_to_those_of_float32(pair, contexts, beams):
    ids, mask = contexts
    found = []
    for generator in pair:
        cache = generator.start(generator.encode(ids, mask), mask, 40, beams)
        logits = [generator.step(torch.full((DOCS, 1), 2), cache)]
        cache.reorder(torch.zeros((DOCS, beams), dtype=torch.int64))
        tokens = torch.arange(4, 4 + beams).expand(DOCS, beams)
        logits += [generator.step(tokens + place, cache) for place in range(30 // beams)]  # keys are made on the way
        found.append(logits)
    for wide, narrow in zip(*found, strict=True):
        assert narrow.dtype == torch.float32
        assert narrow.shape == wide.shape
        error = (narrow - wide).square().mean().sqrt() / wide.std()
        assert 0 < error < 0.03


@torch.inference_mode()
def test_the_states_of_a_passage_do_not_depend_on_its_padding(pair, contexts):
    ids, mask = contexts
    _, narrow = pair
    together = narrow.encode(ids, mask).float()
    for row, length in enumerate(mask.sum(1).tolist()):
        alone = narrow.encode(ids[row : row + 1, :length], mask[row : row + 1, :length]).float()
        assert torch.allclose(together[row, :length], alone[0], atol=0.05)


def test_a_processor_without_the_instructions_is_refused_in_a_line(tiny_rag, monkeypatch):
    monkeypatch.setattr(processor, "computes", lambda dtype: dtype == "float32")
    with pytest.raises(JobError, match=r"no instructions for bfloat16.*--compute_dtype float32"):
        RagTokenGenerator.load(tiny_rag, GenerationSettings(), device="cpu", dtype="bfloat16")
