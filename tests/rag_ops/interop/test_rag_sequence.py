"""The code of transformers' documentation page of RagSequenceForGeneration, and its sequences, over our index."""

import numpy as np
import pytest
import torch
import transformers
from transformers.models.rag.modeling_rag import RagSequenceForGeneration as Theirs

from rag_ops import AutoTokenizer, RagRetriever, RagSequenceForGeneration, RagTokenForGeneration
from rag_ops.errors import InputError
from rag_ops.interop.model_card import INDEX_VARIABLE
from rag_ops.models.compose import compose
from tests.pipelines.workspace import ragbeam


@pytest.fixture(scope="module")
def sequence_rag(tmp_path_factory, sentence_encoder, tiny_bart) -> str:
    directory = str(tmp_path_factory.mktemp("sequence") / "rag")
    flags = ["--question_encoder", sentence_encoder, "--generator", tiny_bart, "--architecture", "sequence"]
    ragbeam("compose", *flags, "--output", directory)
    return directory


def given(vocabulary: int, questions: int, docs: int = 2) -> dict:
    """Contexts of one length, so that transformers' generator sees no padding; and scores."""
    random = np.random.default_rng(7)
    ids = torch.from_numpy(random.integers(5, vocabulary, (questions * docs, 9)))
    scores = torch.from_numpy(random.normal(0, 1, (questions, docs)).astype(np.float32))
    return {"context_input_ids": ids, "context_attention_mask": torch.ones_like(ids), "doc_scores": scores}


def test_the_documentation_pages_code(sequence_rag, tiny_rag, searchable, monkeypatch):
    monkeypatch.setenv(INDEX_VARIABLE, str(searchable / "index"))
    # The page, with our names of models:
    tokenizer = AutoTokenizer.from_pretrained(sequence_rag)
    retriever = RagRetriever.from_pretrained(sequence_rag, index_name="exact", use_dummy_dataset=True)
    model = RagSequenceForGeneration.from_pretrained(tiny_rag, retriever=retriever)
    inputs = tokenizer("How many people live in Paris?", return_tensors="pt")
    targets = tokenizer(text_target="In Paris, there are 10 million people.", return_tensors="pt")
    input_ids = inputs["input_ids"]
    labels = targets["input_ids"]
    outputs = model(input_ids=input_ids, labels=labels)
    together = outputs.loss
    model = RagSequenceForGeneration.from_pretrained(sequence_rag, use_dummy_dataset=True)
    question_hidden_states = model.question_encoder(input_ids)[0]
    docs_dict = retriever(input_ids.numpy(), question_hidden_states.detach().numpy(), return_tensors="pt")
    doc_scores = torch.bmm(
        question_hidden_states.unsqueeze(1), docs_dict["retrieved_doc_embeds"].float().transpose(1, 2)
    ).squeeze(1)
    contexts = {name: docs_dict[name] for name in ("context_input_ids", "context_attention_mask")}
    outputs = model(**contexts, doc_scores=doc_scores, decoder_input_ids=labels)
    assert outputs.loss is None
    assert outputs.logits.shape[:2] == (5, labels.shape[1])
    apart = model(**contexts, doc_scores=doc_scores, labels=labels).loss
    torch.testing.assert_close(apart, together)
    together.mean().backward()
    apart = model.generate(**contexts, doc_scores=doc_scores, max_new_tokens=5)
    model.set_retriever(retriever)
    generated = model.generate(input_ids, max_new_tokens=5)
    assert generated.tolist() == apart.tolist()
    assert isinstance(tokenizer.batch_decode(generated, skip_special_tokens=True)[0], str)


@pytest.mark.parametrize("beams", [1, 3])
@pytest.mark.parametrize("unique", [True, False])
def test_sequences_are_those_of_transformers(sequence_rag, beams, unique):
    ours, theirs = (kind.from_pretrained(sequence_rag, n_docs=2).eval() for kind in (RagSequenceForGeneration, Theirs))
    inputs = given(ours.config.generator.vocab_size, 4)
    settings = {"num_beams": beams, "do_deduplication": unique, "num_return_sequences": beams, "max_length": 7}
    found, expected = (model.generate(**inputs, **settings, n_docs=2) for model in (ours, theirs))
    assert found.tolist() == expected.tolist()
    assert len(found) == 4 * beams


def test_loss_is_that_of_transformers(sequence_rag):
    ours, theirs = (kind.from_pretrained(sequence_rag, n_docs=2).eval() for kind in (RagSequenceForGeneration, Theirs))
    inputs = given(ours.config.generator.vocab_size, 3)
    labels = torch.tensor([[2, 2, 9, 8, 3], [2, 2, 7, 3, 0], [2, 2, 6, 3, 0]])
    for settings in ({}, {"exclude_bos_score": True}, {"reduce_loss": True}):
        found, expected = (model(**inputs, labels=labels, n_docs=2, **settings).loss for model in (ours, theirs))
        torch.testing.assert_close(found, expected)
        assert found.dim() == (0 if "reduce_loss" in settings else 1)


def test_padding_is_no_part_of_a_context(sequence_rag):
    model = RagSequenceForGeneration.from_pretrained(sequence_rag, n_docs=2).eval()
    inputs = given(model.config.generator.vocab_size, 3)
    padded = {name: torch.nn.functional.pad(one, (0, 6)) for name, one in inputs.items() if name != "doc_scores"}
    settings = {"num_beams": 2, "max_length": 6}
    expected = model.generate(**inputs, **settings)
    assert model.generate(**{**inputs, **padded}, **settings).tolist() == expected.tolist()


def test_the_number_of_passages_counts_for_scores_too(sequence_rag):
    model = RagSequenceForGeneration.from_pretrained(sequence_rag).eval()
    assert model.config.n_docs == 5
    inputs, settings = given(model.config.generator.vocab_size, 2, docs=3), {"num_beams": 2, "max_length": 6}
    model.config.n_docs, expected = 3, None
    expected = model.generate(**inputs, **settings)
    model.config.n_docs = 5
    assert model.generate(**inputs, **settings, n_docs=3).tolist() == expected.tolist()


def test_what_generate_lacks_is_said_in_one_line(sequence_rag):
    model = RagSequenceForGeneration.from_pretrained(sequence_rag, n_docs=2).eval()
    inputs = given(model.config.generator.vocab_size, 1)
    with pytest.raises(InputError, match="generate has no contexts"):
        model.generate(inputs["context_input_ids"])
    with pytest.raises(InputError, match="num_return_sequences is more than a question has hypotheses: 3"):
        model.generate(**inputs, num_return_sequences=3, max_length=5)


def test_a_pair_is_composed_as_transformers_does(dpr_pair, tiny_bart, tmp_path, caplog):
    made = RagSequenceForGeneration.from_pretrained_question_encoder_generator(dpr_pair[1], tiny_bart)
    made.save_pretrained(tmp_path)
    assert transformers.RagConfig.from_pretrained(tmp_path).architectures == ["RagSequenceForGeneration"]
    assert not caplog.text
    RagTokenForGeneration.from_pretrained(tmp_path)
    assert "a RagSequenceForGeneration is used as a RagTokenForGeneration" in caplog.text


def test_a_t5_can_be_the_generator(sentence_encoder, tokenizer, tmp_path):
    sizes = {"d_model": 16, "d_kv": 8, "d_ff": 32, "num_layers": 2, "num_heads": 2}
    config = transformers.T5Config(vocab_size=len(tokenizer), **sizes, decoder_start_token_id=0, eos_token_id=3)
    transformers.T5ForConditionalGeneration(config).save_pretrained(tmp_path / "t5")
    tokenizer.save_pretrained(tmp_path / "t5")
    compose(sentence_encoder, str(tmp_path / "t5"), str(tmp_path / "rag"), architecture="sequence")
    model = RagSequenceForGeneration.from_pretrained(tmp_path / "rag", n_docs=2).eval()
    inputs = given(len(tokenizer), 2)
    assert model.generate(**inputs, num_beams=2, max_length=5).shape[0] == 2
    assert model(**inputs, labels=torch.tensor([[0, 5, 3], [0, 6, 3]]), n_docs=2).loss.shape == (2,)
