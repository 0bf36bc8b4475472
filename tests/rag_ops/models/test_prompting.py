"""A prompt among token ids gives what the tokenizer gives for prompt and text together, or is refused."""

import dataclasses
import json

import pytest
import torch
import transformers
from tokenizers import Tokenizer, models, pre_tokenizers, processors, trainers

from rag_ops.errors import InputError
from rag_ops.models.prompting import QuestionPrompt
from tests.conftest import WORDS

TEXTS = ["who is the king", "Where?", "moon " * 20, "", "(é) of 3", "a-b"]


def sentence_pieces():
    """A tokenizer that marks where words begin, as XLM-R's; most signs are unknown to it."""
    pieces = Tokenizer(models.Unigram())
    pieces.pre_tokenizer = pre_tokenizers.Metaspace()
    special = ["<s>", "<pad>", "</s>", "<unk>"]
    trainer = trainers.UnigramTrainer(vocab_size=60, special_tokens=special, unk_token="<unk>")
    pieces.train_from_iterator([" ".join(["query:", *WORDS])] * 3, trainer)
    ends = [("<s>", 0), ("</s>", 2)]
    pieces.post_processor = processors.TemplateProcessing(single="<s> $A </s>", special_tokens=ends)
    names = {"bos_token": "<s>", "eos_token": "</s>", "pad_token": "<pad>", "unk_token": "<unk>"}
    return transformers.PreTrainedTokenizerFast(tokenizer_object=pieces, **names)


@pytest.mark.parametrize("limit", [9, 16, 400])
@pytest.mark.parametrize("kind", ["word pieces", "sentence pieces"])
def test_ids_with_the_prompt_are_those_of_both_texts_together(tokenizer, kind, limit):
    used = tokenizer if kind == "word pieces" else sentence_pieces()
    prompt = QuestionPrompt.of(used, "query: ")
    assert prompt is not None
    assert QuestionPrompt.from_json(json.loads(json.dumps(dataclasses.asdict(prompt))), "query: ") == prompt
    batch = used(TEXTS, padding=True, return_tensors="pt")
    ids, mask = prompt.insert(batch["input_ids"], batch["attention_mask"], limit)
    together = used(["query: " + text for text in TEXTS], truncation=True, max_length=limit)["input_ids"]
    found = [row[seen.bool()].tolist() for row, seen in zip(ids, mask, strict=True)]
    assert [row for row, text in zip(found, TEXTS, strict=True) if text] == [
        row for row, text in zip(together, TEXTS, strict=True) if text
    ]  # of nothing, a vocabulary may take the prompt's last space for a token


def test_a_prompt_that_joins_the_text_or_a_padding_before_it_gives_none(tokenizer):
    pieces = sentence_pieces()
    assert QuestionPrompt.of(pieces, "query:") is None
    pieces.padding_side = "left"
    assert QuestionPrompt.of(pieces, "query: ") is None
    with pytest.raises(InputError, match="ragbeam answer"):
        QuestionPrompt.from_json(None, "query:")


def test_what_was_given_stays_as_it_is(tokenizer):
    prompt = QuestionPrompt((5, 6), 1, 1)
    ids, mask = torch.tensor([[2, 9, 3]]), torch.ones((1, 3), dtype=torch.long)
    assert prompt.insert(ids, mask, 4)[0].tolist() == [[2, 5, 6, 3]]
    assert ids.tolist() == [[2, 9, 3]]
