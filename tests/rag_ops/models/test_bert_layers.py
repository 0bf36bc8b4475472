"""Packed layers against transformers' own; bytes that depend on a text alone."""

import numpy as np
import pytest
import torch
from transformers import BertConfig, BertModel, DistilBertConfig, DistilBertModel, RobertaConfig, RobertaModel

from rag_ops.compute import processor
from rag_ops.models.bert_layers import PackedLayers, encoder_of, pack_layers
from rag_ops.models.encoder import Encoder

pytestmark = pytest.mark.skipif(
    not processor.computes("bfloat16"), reason="the processor has no instructions for bfloat16"
)
SIZES = {"vocab_size": 60, "hidden_size": 48, "num_hidden_layers": 2, "num_attention_heads": 3, "intermediate_size": 96}


@pytest.mark.parametrize(
    ("model", "config"), [(BertModel, BertConfig), (RobertaModel, RobertaConfig)], ids=["bert", "roberta"]
)
@pytest.mark.parametrize("activation", ["gelu", "gelu_new", "relu"])
def test_states_are_those_of_transformers(model, config, activation):
    torch.manual_seed(3)
    plain = model(config(**SIZES, hidden_act=activation)).eval()
    packed = model(plain.config).eval()
    packed.load_state_dict(plain.state_dict())
    assert pack_layers(packed, {})
    assert isinstance(packed.encoder, PackedLayers)
    ids, mask = torch.randint(5, 60, (3, 16)), torch.ones(3, 16, dtype=torch.long)
    mask[1, 9:], mask[2, 1:] = 0, 0
    for given in (mask, torch.ones_like(mask)):
        with torch.inference_mode():
            found, expected = (one(input_ids=ids, attention_mask=given) for one in (packed, plain))
        counted = given.bool()
        torch.testing.assert_close(
            found.last_hidden_state[counted], expected.last_hidden_state[counted], atol=0.04, rtol=0.02
        )
        torch.testing.assert_close(found.pooler_output, expected.pooler_output, atol=0.04, rtol=0.02)


def test_layers_of_another_kind_hooked_on_or_of_a_decoder_stay_as_they_are():
    assert not pack_layers(DistilBertModel(DistilBertConfig(vocab_size=60, dim=48, n_layers=1, n_heads=3)), {})
    assert encoder_of(BertModel(BertConfig(**SIZES, is_decoder=True))) is None
    hooked = BertModel(BertConfig(**SIZES))
    hooked.encoder.layer[1].output.dense.register_forward_hook(lambda *_: None)
    assert encoder_of(hooked) is None


@pytest.mark.parametrize("role", ["context", "question"])
def test_a_vector_in_bfloat16_is_the_same_bytes_whatever_is_encoded_beside_it(minilm, role):
    words = "salt marsh ground beside the sea that tide covers twice a day few plants bear both".split()
    rng = np.random.default_rng(5)
    texts = [" ".join(rng.choice(words, size=size)) for size in (1, 3, 9, 17, 17, 18, 30, 31, 44, 60)]
    titles = [" ".join(rng.choice(words, size=2)) for _ in texts]
    encoder = Encoder.load(minilm, role=role, device="cpu", threads=2, dtype="bfloat16")
    whole = encoder.encode(titles, texts)[0]
    for some in (range(0, 10, 3), [8, 3, 4], list(range(9, -1, -1)), [6]):
        part = encoder.encode([titles[n] for n in some], [texts[n] for n in some])[0]
        assert part.tobytes() == whole[list(some)].tobytes()
    one_thread = Encoder.load(minilm, role=role, device="cpu", threads=1, dtype="bfloat16")
    assert one_thread.encode(titles, texts)[0].tobytes() == whole.tobytes()
    exact = Encoder.load(minilm, role=role, device="cpu", dtype="float32").encode(titles, texts)[0]
    assert ((whole * exact).sum(1) > 0.9999).all()
    assert whole.tobytes() != exact.tobytes()
