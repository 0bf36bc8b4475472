"""Extractive decoding: an answer stands, word for word, in one of its question's passages.

A generator may write "Steffias", half of one passage's name and half of another's, or a word that no passage has. Here
each next token has to go on at a place where the tokens so far stand, from the beginning of a word on, and the answer
ends where a word does. It is what transformers' `prefix_allowed_tokens_fn` is for. Places are compared by characters,
spaces left out, so that any tokenizer will do: where it splits words, and what it makes of a space, does not matter.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any

from rag_ops.generation.spelling import bare, between_words

APART = "\ufffd"  # between two texts: tokens with it, which are parts of a character, are left out


class Vocabulary:
    """The characters of each token of a vocabulary.

    Args:
        tokenizer: tokenizer of the generator.
        uncased: whether case and accents are left out of the comparison.
        spaced: whether spaces count: a token that begins with one comes where the text has one, and so may a token
            that is a space alone, before a number, say, where tokenizers keep digits apart.

    Attributes:
        uncased: as given.
        characters: characters of each token, without spaces; "" for special tokens and parts of a character.
        tokens: token ids by their characters.
        inner: ids of tokens that no answer begins with, such as "##ing".
        longest: number of characters of the longest token.
        spaces: ids of tokens that are a space alone, if spaces count.
        apart: ids of tokens that begin with a space and have more, if spaces count.
    """

    def __init__(self, tokenizer: Any, uncased: bool, spaced: bool = False):
        self.uncased = uncased
        letter = tokenizer("a", add_special_tokens=False)["input_ids"]  # after one, "##ing" is decoded as "ing"
        before = len(bare(tokenizer.decode(letter), uncased)[0])
        texts = tokenizer.batch_decode([[*letter, token] for token in range(len(tokenizer))])
        special = set(tokenizer.all_special_ids)
        self.characters = [
            "" if token in special or APART in text else bare(text, uncased)[0][before:]
            for token, text in enumerate(texts)
        ]
        alone = tokenizer.batch_decode([[token] for token in range(len(tokenizer))])
        self.inner = {token for token, text in enumerate(alone) if bare(text, uncased)[0] != self.characters[token]}
        self.spaces = {token for token, text in enumerate(alone) if spaced and text == " "} - special
        begun = {token for token, text in enumerate(alone) if spaced and text.startswith(" ")}
        self.apart = begun - self.spaces - special
        self.tokens: dict[str, list[int]] = {}
        for token, characters in enumerate(self.characters):
            if characters:
                self.tokens.setdefault(characters, []).append(token)
        self.longest = max(map(len, self.tokens), default=0)


class Source:
    """The texts that the answer to one question is to stand in.

    Args:
        texts: texts of the question's passages.
        vocabulary: vocabulary of the generator.
    """

    def __init__(self, texts: Iterable[str], vocabulary: Vocabulary):
        self._vocabulary = vocabulary
        parts, begins, ends, self._spaced = [], [], set(), set[int]()  # the last: characters behind a space
        length = 0
        for text in texts:
            characters, places = bare(text, vocabulary.uncased)
            for number, place in enumerate(places):
                if (number == 0 or places[number - 1] != place) and between_words(text, place):
                    begins.append(length + number)
                    ends.add(length + number)
                if number and text[place - 1].isspace():
                    self._spaced.add(length + number)
            length += len(characters) + len(APART)
            parts.append(characters)
            ends.add(length - len(APART))
        self._characters, self._ends = APART.join(parts), ends
        self._places: dict[tuple[int, ...], list[int]] = {(): begins}  # where a sequence may go on

    def next_tokens(self, sequence: Sequence[int]) -> tuple[set[int], bool]:
        """The tokens that may follow, and whether the answer may end here.

        Args:
            sequence: tokens so far, the start token left out.
        """
        places = self._where(tuple(sequence))
        tokens: set[int] = set()
        after_space = bool(sequence) and sequence[-1] in self._vocabulary.spaces
        longest = self._vocabulary.longest
        for ahead, spaced in {(self._characters[p : p + longest], p in self._spaced) for p in places}:
            found: set[int] = set()
            for length in range(1, len(ahead) + 1):
                found.update(self._vocabulary.tokens.get(ahead[:length], ()))
            tokens |= found if not sequence or (spaced and not after_space) else found - self._vocabulary.apart
        if not sequence or (after_space and len(sequence) == 1):
            tokens -= self._vocabulary.inner
        if not after_space and not (sequence and self._spaced.isdisjoint(places)):
            tokens |= self._vocabulary.spaces
        return tokens, bool(sequence) and not after_space and not self._ends.isdisjoint(places)

    def _where(self, sequence: tuple[int, ...]) -> list[int]:
        if sequence not in self._places:
            characters, is_space = self._vocabulary.characters[sequence[-1]], sequence[-1] in self._vocabulary.spaces
            before = self._where(sequence[:-1]) if characters or is_space else []
            if (is_space or sequence[-1] in self._vocabulary.apart) and len(sequence) > 1:
                before = [place for place in before if place in self._spaced]
            self._places[sequence] = [
                place + len(characters) for place in before if self._characters.startswith(characters, place)
            ]
        return self._places[sequence]
