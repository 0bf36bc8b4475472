"""What decoding a batch is said to take, beside the tensors that it makes: hardly less, and not many times as much."""

import pytest
import torch
import transformers as t

from rag_ops.generation.bart import Bart
from rag_ops.generation.batch_memory import CONTEXT_TOKENS, Decoder, batch_bytes
from rag_ops.generation.beams import beam_search
from rag_ops.generation.causal import Causal
from rag_ops.generation.decoding import Batch, Constraints
from rag_ops.generation.greedy import greedy
from rag_ops.generation.lazy import LazyGreedy
from rag_ops.generation.reading import SHARED, encode
from rag_ops.generation.settings import GenerationSettings
from tests.rag_ops.compute.peak_bytes import PeakBytes

QUESTIONS, DOCS, VOCABULARY, LAYERS, WIDTH = 4, 4, 60, 8, 16
ROWS = QUESTIONS * DOCS
LEAST, MOST = 0.4, 1.25  # over the bytes foretold; masks and what layers make weigh more in a model so small


@pytest.fixture(scope="module")
def bart() -> Bart:
    """A decoder of many layers, whose keys and values are most of what there is."""
    torch.manual_seed(0)
    sizes = {"encoder_layers": 1, "decoder_layers": LAYERS, "d_model": WIDTH, "max_position_embeddings": 256}
    sizes |= {f"{side}_{name}": 2 for side in ("encoder", "decoder") for name in ("attention_heads", "ffn_dim")}
    model = t.BartForConditionalGeneration(t.BartConfig(**sizes, vocab_size=VOCABULARY, init_std=0.5)).eval()
    model.final_logits_bias[0, 2] += 3
    return Bart(model)


@pytest.fixture(scope="module")
def contexts() -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """Token ids, mask and priors of all passages, each of as many tokens as a usual one."""
    torch.manual_seed(1)
    ids = torch.randint(3, VOCABULARY, (ROWS, CONTEXT_TOKENS))
    priors = (torch.randn(QUESTIONS, DOCS) / 10).log_softmax(-1)  # so alike that lazy decoding reads nearly all
    return ids, torch.ones_like(ids), priors


def constraints(longest: int) -> Constraints:
    """Most answers are that long, and some end a little earlier."""
    return Constraints(2, (2,), longest, longest - 3)


@pytest.mark.parametrize(
    "settings",
    [
        *({"max_new_tokens": 20}, {"max_new_tokens": 40}, {"max_new_tokens": 30, "num_beams": 3}),
        *({"max_new_tokens": 20, "lazy": True}, {"max_new_tokens": 40, "lazy": True}),
    ],
    ids=str,
)
def test_of_an_encoder_decoder(bart, contexts, settings):
    given, (ids, mask, log_prior) = GenerationSettings(**settings), contexts

    def read(pairs):
        rows = torch.tensor([question * DOCS + doc for question, doc in pairs])
        return states[rows], mask[rows]

    rules = constraints(given.max_new_tokens)
    with torch.inference_mode():
        states = encode(bart, ids, mask)  # whose own batches are small beside those of a large decoder, but not of this
    with torch.inference_mode(), PeakBytes(ids, mask, log_prior) as found:
        if given.lazy:
            LazyGreedy(bart, read, log_prior, rules, None, 0.01).decode()
        else:
            batch = Batch(bart, states.clone(), mask, log_prior, rules)
            _ = greedy(batch) if given.num_beams == 1 else beam_search(batch, given)
    decoder = Decoder(2 * LAYERS * WIDTH, WIDTH, VOCABULARY, LAYERS, shares_passages=True)
    foretold = batch_bytes(decoder, given, DOCS, ROWS * CONTEXT_TOKENS)
    assert LEAST < found.peak / foretold <= MOST


@pytest.mark.parametrize("beams", [1, 3])
def test_of_a_causal_generator(contexts, beams):
    torch.manual_seed(2)
    sizes = {"hidden_size": 2 * WIDTH, "num_hidden_layers": LAYERS, "num_attention_heads": 4, "num_key_value_heads": 2}
    config = t.LlamaConfig(**sizes, intermediate_size=16, vocab_size=VOCABULARY, initializer_range=0.35)
    given = GenerationSettings(num_beams=beams, max_new_tokens=20, passage_memory="200kB")
    generator = Causal(t.LlamaForCausalLM(config).eval(), given.passage_bytes)
    ids, mask, log_prior = contexts
    mask = mask.clone()
    mask[:, : CONTEXT_TOKENS - 12] = SHARED
    with torch.inference_mode(), PeakBytes(ids, mask, log_prior) as found:
        batch = Batch(generator, generator.encode(ids, mask), mask, log_prior, constraints(given.max_new_tokens))
        _ = greedy(batch) if beams == 1 else beam_search(batch, given)
    decoder = Decoder(2 * LAYERS * WIDTH, 0, VOCABULARY, LAYERS)
    foretold = batch_bytes(decoder, given, DOCS, ROWS * CONTEXT_TOKENS)
    assert LEAST < found.peak / foretold <= MOST
