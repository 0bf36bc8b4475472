"""Extractive decoding: which tokens may follow, against a plain search for every token of the vocabulary."""

import random
import re

import pytest
import torch
from tokenizers import ByteLevelBPETokenizer
from transformers import AutoTokenizer, PreTrainedTokenizerFast

from rag_ops.generation.decoding import Constraints
from rag_ops.generation.extractive import Source, Vocabulary

NUMBER = r"(?<=\d)(?=[.,]\d)|(?<=\d[.,])(?=\d)"  # a place inside one
TEXTS = [
    "The unit is named after André-Marie Ampère; it costs US$1,729.50 at Grant's Tomb (since 1897).",
    "Grant's  farm, Ampere",
]


@pytest.fixture(scope="module")
def cased(tmp_path_factory) -> PreTrainedTokenizerFast:
    """A byte-level tokenizer as BART's is."""
    trained = ByteLevelBPETokenizer()
    trained.train_from_iterator(TEXTS, vocab_size=320, min_frequency=1, special_tokens=["<s>", "</s>", "<pad>"])
    path = tmp_path_factory.mktemp("bpe") / "tokenizer.json"
    trained.save(str(path))
    return PreTrainedTokenizerFast(tokenizer_file=str(path), bos_token="<s>", eos_token="</s>", pad_token="<pad>")


def written(tokenizer, ids: list[int]) -> str:
    return re.sub(r"\s|##", "", tokenizer.decode(ids))


def may_follow(tokenizer, ids: list[int]) -> tuple[set[int], bool]:
    """By decoding the sequence with each token after it, and looking for that in each text."""

    def stands(characters: str, end: str) -> bool:
        pattern = r"\s*".join(map(re.escape, characters)) + end
        starts = (rf"(?!{NUMBER}){start}" for start in (r"(?<![^\W_])", r"(?<=[^\W_])(?=[\W_])"))
        return bool(characters) and any(re.search(start + pattern, text) for start in starts for text in TEXTS)

    tokens = [t for t in range(len(tokenizer)) if t not in tokenizer.all_special_ids]
    before = written(tokenizer, ids)
    following = {
        t for t in tokens if written(tokenizer, [*ids, t]) != before and stands(written(tokenizer, [*ids, t]), "")
    }
    inside = bool(before) and before[-1].isalnum()
    return following, stands(before, (r"(?![^\W_])" if inside else "") + f"(?!{NUMBER})")


def test_next_tokens_of_a_cased_vocabulary_are_those_that_a_search_finds(cased):
    source, draw = Source(TEXTS, Vocabulary(cased, uncased=False)), random.Random(1)
    ended = 0
    for _ in range(15):
        sequence: list[int] = []
        for _ in range(8):
            following, may_end = source.next_tokens(sequence)
            wanted, end = may_follow(cased, sequence)
            following = {t for t in following if "\ufffd" not in cased.decode([t])}
            assert following == {t for t in wanted if "\ufffd" not in cased.decode([t])}
            assert may_end == (end and bool(sequence))
            ended += may_end
            if not following:
                break
            sequence.append(draw.choice(sorted(following)))
    assert ended > 2


@pytest.mark.parametrize("original", ["André-Marie Ampère", "US$1,729.50", "Grant's Tomb", "(since 1897)", "Ampere"])
def test_an_uncased_vocabulary_can_write_every_phrase_and_end_there(minilm, original):
    tokenizer = AutoTokenizer.from_pretrained(minilm)
    source, ids = Source(TEXTS, Vocabulary(tokenizer, uncased=True)), tokenizer(original, add_special_tokens=False)
    sequence = []
    for token in ids["input_ids"]:
        assert token in source.next_tokens(sequence)[0]
        sequence.append(token)
    assert source.next_tokens(sequence)[1]


def test_half_a_word_is_neither_beginning_nor_end(minilm):
    tokenizer = AutoTokenizer.from_pretrained(minilm)
    source = Source(["the steamboat"], Vocabulary(tokenizer, uncased=True))
    boat, steam = (tokenizer.convert_tokens_to_ids(piece) for piece in ("boat", "steam"))
    assert boat not in source.next_tokens([])[0]
    following, may_end = source.next_tokens([steam])
    assert boat in following
    assert not may_end
    assert source.next_tokens([steam, boat]) == (set(), True)
    assert source.next_tokens([boat]) == (set(), False)
    assert tokenizer.convert_tokens_to_ids("##s") not in Source(["s"], Vocabulary(tokenizer, True)).next_tokens([])[0]


def test_a_number_is_one_word(minilm):
    tokenizer = AutoTokenizer.from_pretrained(minilm)
    source = Source(["some 300,000 jobs, 46.5 of 24, 25"], Vocabulary(tokenizer, uncased=True))

    def ids(text: str) -> list[int]:
        return tokenizer(text, add_special_tokens=False)["input_ids"]

    beginnings = source.next_tokens([])[0]
    assert {ids("300")[0], ids("46")[0], ids("24")[0], ids("25")[0]} <= beginnings
    assert not {ids("000")[0], ids("5")[0]} & beginnings
    assert not source.next_tokens(ids("300"))[1]
    assert not source.next_tokens(ids("300,"))[1]
    assert source.next_tokens(ids("300,000"))[1]
    assert source.next_tokens(ids("24"))[1]


def test_where_no_token_is_left_the_answer_ends(tokenizer):
    source = Source(["", ""], Vocabulary(tokenizer, uncased=True))
    log_probs = torch.zeros(1, 2, len(tokenizer)).log_softmax(-1)
    allowed = Constraints(2, (3,), 5).apply(log_probs, torch.full((1, 2, 6), 2), 0, [source])
    assert allowed.isfinite().sum().item() == 2
    assert (allowed[0, :, 3] == log_probs[0, :, 3]).all()
