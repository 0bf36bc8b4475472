"""Contexts are what Hugging Face's retriever writes, but where they are cut, the question stays."""

import pytest
from transformers import RagConfig, RagRetriever

from rag_ops import contexts
from rag_ops.contexts import ContextFormat, Passage, encode_context

FORM = ContextFormat(" / ", " // ", "", 40)
LONG = Passage("1:0", "the moon", "ice on the river " * 30)
QUESTION = "who was the king"


@pytest.mark.parametrize("title", ["the moon", '"the moon"', '"', ""])
@pytest.mark.parametrize("prefix", ["", "answer: "])
def test_a_context_that_fits_has_hugging_faces_ids(tokenizer, title, prefix):
    text, question = "ice  on the river", "where was  the king"
    form = ContextFormat(" / ", " // ", prefix, 60)
    ids, truncated = encode_context(tokenizer, form, Passage("1:0", title, text), question)
    config = RagConfig(question_encoder={"model_type": "dpr"}, generator={"model_type": "bart"}, max_combined_length=60)
    retriever = RagRetriever.__new__(RagRetriever)
    retriever.config, retriever.generator_tokenizer = config, tokenizer
    theirs, _ = retriever.postprocess_docs([{"title": [title], "text": [text]}], [question], prefix, 1, "pt")
    assert ids == [token for token in theirs[0].tolist() if token != tokenizer.pad_token_id]
    assert not truncated


def test_the_question_survives_a_long_passage(tokenizer):
    ids, truncated = encode_context(tokenizer, FORM, LONG, QUESTION)
    assert truncated
    assert len(ids) == FORM.max_tokens
    text = tokenizer.decode(ids)
    assert text.endswith("/ / who was the king [SEP]")
    assert text.startswith("[CLS] the moon / ice on the river")


def test_a_question_that_is_too_long_itself_keeps_its_beginning_and_some_passage(tokenizer):
    ids, truncated = encode_context(tokenizer, FORM, LONG, "how many " + "war " * 100)
    assert truncated
    assert len(ids) == FORM.max_tokens
    text = tokenizer.decode(ids)
    assert text.startswith("[CLS] the moon / ice")
    assert "how many war" in text
    assert text.endswith("war [SEP]")


@pytest.mark.parametrize("limit", range(6, 60, 3))
def test_no_limit_is_ever_passed(tokenizer, limit):
    form = ContextFormat(" / ", " // ", "", limit)
    for text in ("", "ice", "ice " * 200):
        for question in ("", "who", "who " * 200):
            ids, _ = encode_context(tokenizer, form, Passage("1:0", "moon", text), question)
            assert len(ids) <= limit


def test_many_at_once_are_what_they_are_one_by_one(tokenizer):
    passages = [LONG, Passage("2:0", "sun", "ice"), Passage("3:0", "", "")]
    questions = [QUESTION, "what", "who " * 60]
    together = contexts.encode_contexts(tokenizer, FORM, passages, questions)
    assert together == [encode_context(tokenizer, FORM, p, q) for p, q in zip(passages, questions, strict=True)]
